"""`mmcl eval zeroshot`: baselines, pages, several labels, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmcl import data

SCENES = "shapes?train=60&test=40:test"


def labelled(reference: str) -> int:
    """How many rows have a label: scenes of one shape."""
    return sum(label is not None for label in data.load(reference).column("label"))


def test_every_figure_stands_beside_baselines(tiny_run: Path, invoke, tmp_path: Path) -> None:
    file, page = tmp_path / "zeroshot.json", tmp_path / "page.html"
    done = invoke(
        "eval", "zeroshot", str(tiny_run), SCENES, "--templates", "plain", "--json", str(file), "--report", str(page)
    )  # fmt: skip
    assert done.code == 0, done.err
    metrics = json.loads(file.read_text())
    for baseline in ("chance", "majority", "random_weights", "raw_linear"):
        for figure in ("top1", "mean_per_class", "f1_macro", "roc_auc_macro"):
            assert 0 <= metrics[f"zeroshot/{baseline}_{figure}"] <= 1
    assert metrics["zeroshot/raw_linear_num_train"] == labelled("shapes?train=60&test=40:train")
    for figure in ("top1", "top5", "mean_per_class", "precision_macro", "f1_macro", "f1_weighted", "ece"):
        low, high = metrics[f"zeroshot/{figure}_ci95"]
        assert low <= metrics[f"zeroshot/{figure}"] <= high
    assert len(metrics["zeroshot/templates"]) == metrics["zeroshot/num_templates"] == 6
    assert sum(one["support"] for one in metrics["zeroshot/classes"].values()) == labelled(SCENES)
    assert "raw pixels, linear" in done.out
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") == 2
    assert f"{100 * metrics['zeroshot/random_weights_top1']:.1f} %" in html
    assert str(page) in done.out


def test_baselines_can_be_left_out_and_are_found_by_name(tiny_run: Path, invoke, tmp_path: Path) -> None:
    file = tmp_path / "zeroshot.json"
    plain = invoke("eval", "zeroshot", str(tiny_run), SCENES, "--no-baselines", "--json", str(file))
    assert plain.code == 0, plain.err
    assert not any("random" in name or "raw_linear" in name for name in json.loads(file.read_text()))
    given = invoke("eval", "zeroshot", str(tiny_run), "shapes?test=30:test", "--train", SCENES, "--json", str(file))
    assert given.code == 0, given.err
    assert json.loads(file.read_text())["zeroshot/raw_linear_num_train"] == labelled(SCENES)


def test_several_labels_an_image(tiny_run: Path, invoke, tmp_path: Path) -> None:
    file, page = tmp_path / "labels.json", tmp_path / "labels.html"
    done = invoke(
        "eval", "zeroshot", str(tiny_run), SCENES, "--labels", "tags", "--min-count", "3", "--json", str(file),
        "--report", str(page),
    )  # fmt: skip
    assert done.code == 0, done.err
    metrics = json.loads(file.read_text())
    for name in ("map", "chance_map", "random_weights_map", "raw_linear_map", "overlap@5"):
        assert 0 < metrics[f"multilabel/{name}"] <= 1
    assert "labels mAP" in done.out
    assert "average precision" in page.read_text(encoding="utf-8")


def test_embeddings_from_a_file_have_no_random_weights(invoke, tmp_path: Path) -> None:
    axes = np.eye(3, dtype=np.float32)
    image, names = np.tile(axes, (4, 1)), np.array(["cat", "dog", "owl"])
    file = tmp_path / "v.npz"
    np.savez(
        file, image=image, text=axes, text_id=names, label=np.tile(names, 4), image_group=np.tile(names, 4),
        text_group=names,
    )  # fmt: skip
    templates, out = tmp_path / "t.txt", tmp_path / "out.json"
    templates.write_text("{}\n")
    reference = f"vectors:{file}"
    done = invoke("eval", "zeroshot", reference, reference, "--templates", str(templates), "--json", str(out))
    assert done.code == 0, done.err
    metrics = json.loads(out.read_text())
    assert metrics["zeroshot/top1"] == 1.0
    assert metrics["zeroshot/chance_top1"] == pytest.approx(1 / 3)
    assert len(metrics["zeroshot/notes"]) == 2
    assert "cannot be built anew" in done.out
    assert "no training split" in done.out
    missing = invoke("eval", "zeroshot", reference, reference, "--templates", "photo")
    assert missing.code == 1
    assert "no text vector for" in missing.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--templates", "phtoo"], "did you mean 'photo'"),
        (["--labels", "label"], "wanted a list of labels"),
        (["--labels", "nothing"], "no column 'nothing'"),
        (["--train", "shapes?train=9:nowhere"], "nowhere"),
        (["--train", SCENES, "--no-baselines"], "give one of the two"),
        (["--report", "."], "it is a folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(tiny_run: Path, invoke, arguments: list[str], message: str) -> None:
    done = invoke("eval", "zeroshot", str(tiny_run), SCENES, *arguments)
    assert done.code in (1, 2)
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err
