"""`DomainShiftEvaluator`: probes against plain scikit-learn, retrieval by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.evaluation import DomainShiftEvaluator, fit_linear

WIDTH = 12


def drawn(n: int, *, shift: float, seed: int = 0) -> tuple[Tensor, dict[str, list]]:
    """Items drawn in two domains, row by row; the second one's pictures are shifted, class by class, by ``shift``."""
    g = torch.Generator().manual_seed(seed)
    item = torch.arange(n) // 2
    domain, label = torch.arange(n) % 2, item % 3
    centres, moves = torch.randn(3, WIDTH, generator=g), torch.randn(3, WIDTH, generator=g)
    own = torch.randn(n // 2, WIDTH, generator=g)[item]
    points = centres[label] + own + 0.3 * torch.randn(n, WIDTH, generator=g) + shift * domain[:, None] * moves[label]
    columns = {
        "domain": [("photo", "line art")[i] for i in domain.tolist()],
        "label": [f"c{i}" for i in label.tolist()],
        "group": [f"g{i}" for i in item.tolist()],
    }
    return F.normalize(points, dim=1), columns


@pytest.fixture
def setting(make_dataset: Callable, table_embedder: type) -> Callable:
    """setting(shift) -> embedder, train (240 rows), test (160 rows), and the points."""

    def make(shift: float) -> tuple:
        points, columns = drawn(400, shift=shift)
        whole = make_dataset([[f"caption {i // 2}"] for i in range(400)], **columns)
        texts = {f"caption {i}": row for i, row in enumerate(points[::2])}
        return table_embedder(points, texts), whole.select(range(240)), whole.select(range(240, 400)), points

    return make


def test_cells_are_plain_probes(setting: Callable) -> None:
    embedder, train, test, points = setting(1.5)
    metrics = DomainShiftEvaluator(test, train=train, cs=(10.0,))(embedder)
    labels = torch.tensor([int(label[1]) for label in train.column("label") + test.column("label")])
    cells = {}
    for a, source in enumerate(("photo", "line_art")):
        plain = fit_linear(points[a:240:2], labels[a:240:2], c=10.0)
        right = plain.scores(points[240:], num_classes=3).argmax(1) == labels[240:]
        for b, target in enumerate(("photo", "line_art")):
            cells[source, target] = float(right[b::2].double().mean())
            assert metrics[f"domains/probe_{source}_to_{target}"] == pytest.approx(cells[source, target])
    inside = (cells["photo", "photo"] + cells["line_art", "line_art"]) / 2
    outside = (cells["photo", "line_art"] + cells["line_art", "photo"]) / 2
    assert metrics["domains/in_domain_top1"] == pytest.approx(inside)
    assert metrics["domains/out_of_domain_top1"] == pytest.approx(outside)
    assert metrics["domains/gap"] == pytest.approx(inside - outside)
    for name in ("in_domain_top1", "out_of_domain_top1", "gap"):
        low, high = metrics[f"domains/{name}_ci95"]
        assert low < metrics[f"domains/{name}"] < high
    assert metrics["domains/gap_ci95"][0] > 0.05
    assert (metrics["domains/num_domains"], metrics["domains/num_images"]) == (2, 160)
    # A control: without a shift there is no gap.
    embedder, train, test, _ = setting(0.0)
    even = DomainShiftEvaluator(test, train=train)(embedder)
    assert abs(even["domains/gap"]) < 0.05
    assert even["domains/gap_ci95"][0] < 0.02


def test_one_source(setting: Callable) -> None:
    embedder, train, test, _ = setting(1.5)
    every = DomainShiftEvaluator(test, train=train)(embedder)
    one = DomainShiftEvaluator(test, train=train, source="photo")(embedder)
    assert one["domains/in_domain_top1"] == every["domains/probe_photo_to_photo"]
    assert one["domains/out_of_domain_top1"] == every["domains/probe_photo_to_line_art"]
    assert not any("probe_line_art" in name for name in one)
    with pytest.raises(ConfigError, match="source is 'oil'; made:test has the domains line art, photo"):
        DomainShiftEvaluator(test, train=train, source="oil")


def test_the_judged_domain_has_no_say(setting: Callable) -> None:
    embedder, train, test, points = setting(1.0)
    before = DomainShiftEvaluator(test, train=train, source="photo")(embedder)
    # Of the data to fit on, the other domain's pictures are replaced by anything.
    other = points.clone()
    other[1:240:2] = F.normalize(torch.randn(120, WIDTH, generator=torch.Generator().manual_seed(9)), dim=1)
    embedder.images = other
    assert DomainShiftEvaluator(test, train=train, source="photo")(embedder) == before
    turned = DomainShiftEvaluator(test, train=train, source="line art")(embedder)
    assert turned["domains/in_domain_top1"] < 0.8 * before["domains/in_domain_top1"]


def test_retrieval_by_hand(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(4)
    # Group 2 is drawn in a alone, group 3 in b alone; in b, groups 0 and 1 look like one another.
    domains, groups = ["a", "a", "a", "b", "b", "b", None], ["0", "1", "2", "0", "1", "3", "0"]
    dataset = make_dataset([[f"t{g}"] for g in groups], domain=domains, group=groups)
    images = axes[torch.tensor([0, 1, 2, 0, 0, 3, 0])]
    embedder = table_embedder(images, {f"t{i}": axes[i] for i in range(4)})
    evaluator = DomainShiftEvaluator(dataset, train=dataset)
    metrics = evaluator(embedder)
    assert metrics["domains/i2i_a_to_b_recall@1"] == 0.0  # 0 ties with 1, and 1 is nowhere near
    assert metrics["domains/i2i_b_to_a_recall@1"] == 1 / 2  # 0 is found; 1 takes 0's place
    assert metrics["domains/mean_i2i_recall@1"] == 1 / 4
    assert metrics["domains/chance_i2i_recall@1"] == pytest.approx(1 / 3)
    assert metrics["domains/i2t_a_recall@1"] == 1.0
    assert metrics["domains/i2t_b_recall@1"] == pytest.approx(2 / 3)
    assert metrics["domains/mean_i2t_recall@1"] == pytest.approx(5 / 6)
    assert metrics["domains/min_i2t_recall@1"] == pytest.approx(2 / 3)
    assert metrics["domains/num_without_domain"] == 1
    assert not any("probe" in name or "top1" in name for name in metrics)  # there are no labels
    assert evaluator.primary_metric in metrics
    embedder.modalities = frozenset({"image"})
    assert not any("i2t" in name for name in evaluator(embedder))


def test_many_domains_have_means_alone(make_dataset: Callable, table_embedder: type) -> None:
    points, columns = drawn(400, shift=0.0)
    columns["domain"] = [f"d{i % 8}" for i in range(400)]
    whole = make_dataset([["x"]] * 400, **columns)
    metrics = DomainShiftEvaluator(whole.select(range(240, 400)), train=whole.select(range(240)), cs=(10.0,))(
        table_embedder(points, {"x": points[0]})
    )
    assert not any("_d0" in name for name in metrics)
    assert metrics["domains/num_domains"] == 8
    assert 0 < metrics["domains/out_of_domain_top1"] <= 1
    assert "domains/mean_i2i_recall@1" in metrics


def test_collapsed_models_and_nan(setting: Callable, table_embedder: type) -> None:
    _, train, test, points = setting(1.0)
    texts = {f"caption {i}": points[0] for i in range(200)}
    metrics = DomainShiftEvaluator(test, train=train)(table_embedder(points[:1].expand(400, -1), texts))
    assert metrics["domains/in_domain_top1"] <= metrics["domains/majority"]
    assert metrics["domains/mean_i2i_recall@1"] == 0.0
    assert metrics["domains/mean_i2t_recall@1"] == 0.0
    with pytest.raises(ShapeError, match="image embeddings row 0"):
        DomainShiftEvaluator(test, train=train)(table_embedder(points * float("nan"), texts))


def test_wrong_data_are_named(setting: Callable, make_dataset: Callable) -> None:
    embedder, train, test, _ = setting(1.0)
    with pytest.raises(DataError, match="no column 'domain'"):
        DomainShiftEvaluator(make_dataset([["x"]]), train=train)
    one = make_dataset([["x"]] * 3, domain=["a"] * 3)
    with pytest.raises(DataError, match=r"at least two domains, got \['a'\]"):
        DomainShiftEvaluator(one, train=one)
    with pytest.raises(DataError, match="no row has both a label and a domain"):
        DomainShiftEvaluator(test, train=make_dataset([["x"]], domain=["a"], label=[None]))
    with pytest.raises(ConfigError, match="which is judged on too"):
        DomainShiftEvaluator(test, train=test)
    same = make_dataset([["x"]] * 2, domain=["a b", "a/b"])
    with pytest.raises(DataError, match="punctuation alone"):
        DomainShiftEvaluator(same, train=same)
    with pytest.raises(ConfigError, match="above 0"):
        DomainShiftEvaluator(test, train=train, cs=())
    single = train.select(np.flatnonzero(np.array(train.column("label")) == "c0"))
    with pytest.raises(DataError, match="domain 'line art': a probe needs two classes"):
        DomainShiftEvaluator(test, train=single)(embedder)
    embedder.modalities = frozenset({"text"})
    with pytest.raises(ConfigError, match="domain shift needs image embeddings"):
        DomainShiftEvaluator(test, train=train)(embedder)
