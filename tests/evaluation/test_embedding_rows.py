"""The terminal's table of probes, kNN, clusters, geometry and domains."""

from __future__ import annotations

import io

from rich.console import Console

from mmcl.evaluation import render_table


def shown(metrics: dict[str, float | list[float]]) -> tuple[dict[str, list[str]], str]:
    """The cells behind each name, and all that is printed."""
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(render_table(metrics, title="made"))
    text = console.export_text()
    lines = [[cell.strip() for cell in line.split("│")[1:5]] for line in text.splitlines() if line.count("│") == 5]
    return {cells[0]: cells[1:] for cells in lines}, text


def test_probes_and_neighbours() -> None:
    cells, text = shown({
        "probe/top1": 0.5, "probe/top1_ci95": [0.4, 0.6], "probe/top5": 0.9, "probe/chance": 0.1, "probe/majority": 0.2,
        "probe/c": 31.6, "probe/top1_1shot": 0.3, "probe/top1_1shot_std": 0.0123, "probe/top1_16shot": 0.4,
        "probe/num_images": 1234.0, "probe/num_train": 99.0, "probe/num_unseen_images": 3.0,
        "knn/top1": 0.6, "knn/top1_k5": 0.7, "knn/chance": 0.1,
    })  # fmt: skip
    assert cells["linear probe top-1"] == ["50.0 %", "40.0 % – 60.0 %", "10.0 %"]
    assert cells["linear probe top-5"] == ["90.0 %", "", ""]
    assert cells["linear probe largest class"] == ["20.0 %", "", ""]
    assert cells["linear probe, 1 a class (± 1.2 %)"] == ["30.0 %", "", "10.0 %"]
    assert cells["linear probe, 16 a class"] == ["40.0 %", "", "10.0 %"]
    assert cells["linear probe C, chosen on validation"][0] == "31.600"
    assert cells["kNN top-1, k = 5"] == ["70.0 %", "", "10.0 %"]
    assert "probe: 1,234 images, 99 train, 3 unseen images" in " ".join(text.split())


def test_clusters_geometry_and_domains() -> None:
    cells, _ = shown({
        "clusters/nmi": 0.25, "clusters/nmi_std": 0.005, "clusters/chance_nmi": 0.02, "clusters/hdbscan_ari": 0.1,
        "geometry/alignment": 1.25, "geometry/alignment_ci95": [1.2, 1.3], "geometry/uniformity_image": -3.0,
        "geometry/hubness_t2i": 1.5, "geometry/hub_share_t2i": 0.05,
        "domains/probe_a_to_b": 0.5, "domains/i2i_a_to_b_recall@1": 0.6, "domains/i2t_a_recall@1": 0.7,
        "domains/mean_i2t_recall@1": 0.7, "domains/gap": 0.1, "domains/gap_ci95": [0.05, 0.15],
    })  # fmt: skip
    assert cells["k-means NMI (± 0.005)"] == ["0.250", "", "0.020"]
    assert cells["HDBSCAN ARI"] == ["0.100", "", ""]
    assert cells["alignment (0 best)"] == ["1.250", "1.200 – 1.300", ""]
    assert cells["uniformity of images"][0] == "-3.000"
    assert (cells["hubness, images of texts"][0], cells["largest hub, images of texts"][0]) == ("1.500", "5.0 %")
    assert cells["probe, a → b"][0] == "50.0 %"
    assert cells["image → image R@1, a → b"][0] == "60.0 %"
    assert cells["image → text R@1 within a"][0] == "70.0 %"
    assert cells["probe, loss out of the domain"] == ["10.0 %", "5.0 % – 15.0 %", ""]
    assert sum(name.startswith("image → text R@1 within") for name in cells) == 2


def test_nothing_known_has_no_row() -> None:
    assert shown({"probe/num_images": 3.0, "elsewhere/top1": 1.0})[0] == {}
