"""Metrics of geometry against loops in float64, and `GeometryEvaluator`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.evaluation import GeometryEvaluator
from mmcl.evaluation.metrics.geometry import (
    alignment,
    dead_dimensions,
    effective_rank,
    k_occurrence,
    modality_gap,
    repeated_rows,
    skewness,
    uniformity,
)
from mmcl.evaluation.representations.geometry import mean_negative_cosine
from mmcl.evaluation.retrieval import ranking


def unit(n: int, width: int = 6, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def squared_distance(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b))


def naive_uniformity(points: Tensor, t: float) -> float:
    rows = points.tolist()
    values = [math.exp(-t * squared_distance(a, b)) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    return math.log(sum(values) / len(values))


def naive_occurrence(queries: Tensor, gallery: Tensor, k: int, *, own: bool) -> np.ndarray:
    counts = np.zeros(len(gallery))
    for i, query in enumerate(queries.tolist()):
        scores = {
            j: sum(a * b for a, b in zip(query, row)) for j, row in enumerate(gallery.tolist()) if not own or i != j
        }
        last = sorted(scores.values(), reverse=True)[min(k, len(scores)) - 1]
        above = [j for j, score in scores.items() if score > last]
        tied = [j for j, score in scores.items() if score == last]
        for j in above:
            counts[j] += 1
        for j in tied:
            counts[j] += (min(k, len(scores)) - len(above)) / len(tied)
    return counts


def test_alignment_and_gap_are_those_of_loops() -> None:
    a, b = unit(20), unit(20, seed=1)
    expected = [squared_distance(x, y) for x, y in zip(a.tolist(), b.tolist())]
    assert alignment(a, b).tolist() == pytest.approx(expected, abs=1e-6)
    assert alignment(a, a).tolist() == [0.0] * 20
    assert alignment(a, -a).tolist() == pytest.approx([4.0] * 20, abs=1e-6)
    gap = math.sqrt(sum((x - y) ** 2 for x, y in zip(a.double().mean(0).tolist(), b[:7].double().mean(0).tolist())))
    assert modality_gap(a, b[:7]) == pytest.approx(gap) != pytest.approx(modality_gap(a, b))
    assert modality_gap(a, a.flip(0)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity_is_that_of_a_loop(t: float, monkeypatch: pytest.MonkeyPatch) -> None:
    points = unit(90)
    assert uniformity(points, t=t) == pytest.approx(naive_uniformity(points, t), abs=1e-5)
    assert uniformity(points[torch.randperm(90)], t=t) == pytest.approx(uniformity(points, t=t), abs=1e-6)
    monkeypatch.setattr(ranking, "_CHUNK_SCORES", 64 * 90)
    assert uniformity(points, t=t) == pytest.approx(naive_uniformity(points, t), abs=1e-5)
    assert uniformity(points, t=t) != pytest.approx(naive_uniformity(points, t + 0.1), abs=1e-3)
    # Not of unit length: far points underflow no exponential.
    assert uniformity(100 * points[:2], t=t) == pytest.approx(
        -t * 1e4 * float((points[0] - points[1]).square().sum()), rel=1e-4
    )


def test_points_spread_evenly_are_more_uniform_than_a_cone() -> None:
    even, cone = unit(200, 16), F.normalize(unit(200, 16) + 2.0, dim=1)
    assert uniformity(even) < uniformity(cone) < uniformity(torch.ones(5, 3)) == pytest.approx(0.0, abs=1e-6)


def test_effective_rank_is_that_of_the_definition() -> None:
    for points in (unit(40), unit(4, 10), unit(30) @ torch.diag(torch.tensor([1.0, 0.5, 0.1, 0.01, 0.0, 0.0]))):
        values = np.linalg.svd(points.double().numpy(), compute_uv=False)
        shares = [value / values.sum() for value in values if value > 1e-12]
        expected = math.exp(-sum(share * math.log(share) for share in shares))
        assert effective_rank(points) == pytest.approx(expected, rel=1e-6)
        turn = torch.linalg.qr(torch.randn(points.shape[1], points.shape[1])).Q
        assert effective_rank(3 * points @ turn) == pytest.approx(expected, rel=1e-4)
    assert effective_rank(torch.eye(7)) == pytest.approx(7.0)
    assert effective_rank(unit(1).expand(50, -1)) == pytest.approx(1.0, abs=1e-6)
    assert effective_rank(torch.zeros(3, 2)) == 0.0


@pytest.mark.parametrize("own", [False, True])
def test_occurrences_are_those_of_a_loop(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    for gallery, queries in (
        (unit(70), unit(30, seed=1)),
        # Coordinates of few values: many ties, exact ones.
        (torch.randint(-1, 2, (70, 3), generator=g).float(), torch.randint(-1, 2, (130, 3), generator=g).float()),
    ):
        asking = gallery if own else queries
        for k in (1, 5, 10, 1000):
            expected = naive_occurrence(asking, gallery, k, own=own)
            assert np.abs(k_occurrence(asking, gallery, k=k, exclude_self=own).numpy() - expected).max() < 1e-9
            assert expected.sum() == pytest.approx(len(asking) * min(k, 70 - own))
        with monkeypatch.context() as patch:
            patch.setattr(ranking, "_CHUNK_SCORES", 64 * 70)
            blocks = k_occurrence(asking, gallery, k=5, exclude_self=own)
        assert torch.allclose(blocks, k_occurrence(asking, gallery, k=5, exclude_self=own))
        assert not torch.allclose(blocks, k_occurrence(asking, gallery, k=6, exclude_self=own))


def test_skewness_is_that_of_scipys_definition() -> None:
    from scipy.stats import skew

    counts = torch.tensor([0.0, 1.0, 1.0, 2.0, 9.0])
    assert skewness(counts) == pytest.approx(float(skew(counts.numpy())), rel=1e-6)
    assert skewness(9 - counts) == pytest.approx(-skewness(counts))
    assert skewness(torch.full((30,), 1 / 3, dtype=torch.float64) * 3.0) == 0.0
    # A hub: an item at the middle of all directions.
    gallery = torch.cat([unit(50, 32), F.normalize(unit(200, 32, seed=2).mean(0, keepdim=True), dim=1)])
    queries = F.normalize(unit(200, 32, seed=2) + 0.3 * gallery[-1], dim=1)
    hub = k_occurrence(queries, gallery, k=5)
    assert hub.argmax() == 50
    assert skewness(hub) > 2 > skewness(k_occurrence(queries, gallery[:50], k=5))


def test_dead_dimensions_and_repeated_rows() -> None:
    points = unit(50, 8)
    assert (dead_dimensions(points), repeated_rows(points)) == (0.0, 0.0)
    points[:, 2:4] = 0.5
    assert dead_dimensions(points) == 2 / 8
    assert repeated_rows(torch.cat([points, points[:10]])) == pytest.approx(10 / 60)
    assert (dead_dimensions(torch.ones(5, 4)), repeated_rows(torch.ones(5, 4))) == (1.0, 4 / 5)


def test_mean_negative_cosine_is_that_of_a_loop() -> None:
    images, texts = unit(12), unit(20, seed=1)
    image_groups, text_groups = torch.arange(12) % 5, torch.arange(20) % 7
    scores = [
        float(images[i].double() @ texts[j].double())
        for i in range(12)
        for j in range(20)
        if image_groups[i] != text_groups[j]
    ]
    assert mean_negative_cosine(images, texts, image_groups, text_groups) == pytest.approx(sum(scores) / len(scores))
    everything = float((images.double() @ texts.double().T).mean())
    assert mean_negative_cosine(images, texts, image_groups, text_groups) != pytest.approx(everything)
    zeros = torch.zeros(20, dtype=torch.int64)
    assert mean_negative_cosine(images, texts, zeros[:12], zeros) is None


def test_the_evaluator_by_hand(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(4)
    texts = [["a", "b"], ["c"], ["c", "b"], ["d"]]
    dataset = make_dataset(texts, group=["0", "1", "2", "3"], unreadable=[3])
    vectors = {"a": axes[0], "b": axes[1], "c": axes[1], "d": axes[3]}
    evaluator = GeometryEvaluator(dataset, k=1)
    metrics = evaluator(table_embedder(axes[[0, 1, 2, 3]], vectors))
    # Pairs: (0, a) 0, (0, b) 2, (1, c) 0, (2, c) 2, (2, b) 2. The gallery: a b, c, c b.
    assert [metrics[f"geometry/num_{name}"] for name in ("images", "texts", "pairs", "skipped")] == [3, 5, 5, 1]
    assert metrics["geometry/alignment"] == pytest.approx(6 / 5)
    low, high = metrics["geometry/alignment_ci95"]
    assert low < 6 / 5 < high
    assert metrics["geometry/positive_cosine"] == pytest.approx(2 / 5)
    # Of ten pairs of different groups, three of image 1 are at cosine 1: its axis is that of b, c and b.
    assert metrics["geometry/negative_cosine"] == pytest.approx(3 / 10)
    gap = (axes[:3].mean(0) - torch.tensor([1, 4, 0, 0]) / 5).norm()
    assert metrics["geometry/modality_gap"] == pytest.approx(float(gap))
    assert metrics["geometry/effective_rank_image"] == pytest.approx(3.0)
    assert metrics["geometry/uniformity_image"] == pytest.approx(-4.0)
    gathered = torch.stack([vectors[text] for text in "abccb"])
    assert metrics["geometry/uniformity_text"] == pytest.approx(naive_uniformity(gathered, 2.0), abs=1e-6)
    both = metrics["geometry/uniformity_image"] + metrics["geometry/uniformity_text"]
    assert metrics["geometry/uniformity"] == pytest.approx(both / 2)
    assert metrics["geometry/repeated_text"] == pytest.approx(3 / 5)
    assert metrics["geometry/hub_share_t2i"] == pytest.approx((4 + 0) / 5)
    assert evaluator.primary_metric in metrics
    assert all(np.isfinite(value).all() for value in metrics.values())


def test_a_collapsed_model_has_stated_values(make_dataset: Callable, table_embedder: type) -> None:
    texts = [[f"t{i}"] for i in range(80)]
    vector = unit(1, 64)[0]
    metrics = GeometryEvaluator(make_dataset(texts))(
        table_embedder(vector.expand(80, -1), {f"t{i}": vector for i in range(80)})
    )
    for name in ("alignment", "uniformity", "uniformity_image", "uniformity_text", "modality_gap"):
        assert metrics[f"geometry/{name}"] == pytest.approx(0.0, abs=1e-5), name
    for name in ("hubness_i2i", "hubness_i2t", "hubness_t2i"):
        assert metrics[f"geometry/{name}"] == 0.0
    for name in ("image", "text"):
        assert metrics[f"geometry/effective_rank_{name}"] == pytest.approx(1.0, abs=1e-5)
        assert metrics[f"geometry/dead_dimensions_{name}"] == 1.0
        assert metrics[f"geometry/repeated_{name}"] == 79 / 80
    assert metrics["geometry/hub_share_t2i"] == pytest.approx(10 / 80)
    assert all(np.isfinite(value).all() for value in metrics.values())
    with pytest.raises(ShapeError, match="image embeddings row 0"):
        GeometryEvaluator(make_dataset(texts))(table_embedder(vector.expand(80, -1) * float("nan"), {}))


def test_a_model_of_images_alone(make_dataset: Callable, table_embedder: type) -> None:
    embedder = table_embedder(unit(30), {})
    embedder.modalities = frozenset({"image"})
    metrics = GeometryEvaluator(make_dataset([["x"]] * 30))(embedder)
    assert metrics["geometry/uniformity_image"] < 0 < metrics["geometry/effective_rank_image"]
    assert "geometry/hubness_i2i" in metrics
    assert not any("text" in name or "2t" in name or "t2" in name or "alignment" in name for name in metrics)
    embedder.modalities = frozenset({"text"})
    with pytest.raises(ConfigError, match="geometry needs image embeddings"):
        GeometryEvaluator(make_dataset([["x"]] * 30))(embedder)


def test_more_rows_are_sampled(make_dataset: Callable, table_embedder: type) -> None:
    texts = [[f"t{i}"] for i in range(60)]
    embedder = table_embedder(unit(60), {f"t{i}": row for i, row in enumerate(unit(60, seed=1))})
    exact = GeometryEvaluator(make_dataset(texts))(embedder)
    some, again = (GeometryEvaluator(make_dataset(texts), max_rows=20)(embedder) for _ in range(2))
    assert some == again
    assert (some["geometry/num_sampled_images"], some["geometry/num_sampled_texts"]) == (20, 20)
    assert some["geometry/uniformity"] == pytest.approx(exact["geometry/uniformity"], abs=0.5)
    assert some["geometry/uniformity"] != exact["geometry/uniformity"]
    assert some["geometry/alignment"] == exact["geometry/alignment"]
    other = GeometryEvaluator(make_dataset(texts), max_rows=20, seed=1)(embedder)
    assert other["geometry/uniformity"] != some["geometry/uniformity"]


def test_wrong_input_is_named(make_dataset: Callable, table_embedder: type) -> None:
    a = unit(5)
    with pytest.raises(ShapeError, match="equal shapes"):
        alignment(a, a[:3])
    with pytest.raises(ShapeError, match="one width"):
        modality_gap(a, unit(5, 3))
    with pytest.raises(ShapeError, match="at least one row each"):
        modality_gap(a, a[:0])
    with pytest.raises(ShapeError, match="at least two rows"):
        uniformity(a[:1])
    with pytest.raises(ConfigError, match="t needs"):
        uniformity(a, t=0.0)
    for metric in (effective_rank, dead_dimensions, repeated_rows):
        with pytest.raises(ShapeError, match="at least one row"):
            metric(a[:0])
        with pytest.raises(ShapeError, match="points row 0"):
            metric(a * float("nan"))
    with pytest.raises(ConfigError, match="k needs to be at least 1"):
        k_occurrence(a, a, k=0)
    with pytest.raises(ShapeError, match="at least one neighbour"):
        k_occurrence(a, a[:0], k=1)
    with pytest.raises(ShapeError, match="counts needs"):
        skewness(torch.zeros(0))
    for wrong in ({"k": 0}, {"max_rows": 1}):
        with pytest.raises(ConfigError, match="at least"):
            GeometryEvaluator(make_dataset([["x"]]), **wrong)
    with pytest.raises(DataError, match="needs two"):
        GeometryEvaluator(make_dataset([["x"]]))(table_embedder(a, {}))
