"""`KNNEvaluator` and its votes, against loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.evaluation import KNNEvaluator
from mmcl.evaluation.representations.knn import knn_votes
from mmcl.evaluation.retrieval import ranking


def unit(n: int, width: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def naive_votes(
    queries: Tensor, train: Tensor, train_labels: Tensor, labels: Tensor, k: int, temperature: float, *, own: bool
) -> np.ndarray:
    """Python loops in float64, wrong classes first where rows are equally near."""
    votes = np.zeros((len(queries), int(train_labels.max()) + 1))
    for i, query in enumerate(queries.tolist()):
        near = []
        for j, row in enumerate(train.tolist()):
            if own and i == j:
                continue
            score = sum(a * b for a, b in zip(query, row))
            label = int(train_labels[j])
            near.append((-score, label == int(labels[i]), label))
        near.sort()
        for score, _, label in near[:k]:
            votes[i, label] += math.exp((near[0][0] - score) / temperature)
    return votes


@pytest.mark.parametrize("own", [False, True])
def test_votes_are_those_of_a_loop(own: bool) -> None:
    train, train_labels = unit(90, 6), torch.arange(90) % 5
    queries, labels = (train, train_labels) if own else (unit(40, 6, seed=1), torch.arange(40) % 7)
    votes = knn_votes(queries, train, train_labels, labels, ks=(1, 3, 20, 500), temperature=0.07, exclude_self=own)
    for k, found in votes.items():
        expected = naive_votes(queries, train, train_labels, labels, k, 0.07, own=own)
        assert np.abs(found.numpy() - expected).max() < 1e-4
    assert (votes[3] - votes[20]).abs().max() > 0.01
    warmer = knn_votes(queries, train, train_labels, labels, ks=(20,), temperature=1.0, exclude_self=own)[20]
    assert (warmer - votes[20]).abs().max() > 0.1


def test_ties_for_the_last_place_go_to_other_classes() -> None:
    # Coordinates of few values: many scores are equal, and exactly so.
    g = torch.Generator().manual_seed(0)
    train, queries = (torch.randint(-1, 2, (n, 3), generator=g).float() for n in (70, 30))
    train_labels, labels = torch.randint(4, (70,), generator=g), torch.randint(5, (30,), generator=g)
    for k in (1, 2, 5, 17, 69):
        votes = knn_votes(queries, train, train_labels, labels, ks=(k,), temperature=0.5)[k]
        expected = naive_votes(queries, train, train_labels, labels, k, 0.5, own=False)
        assert np.abs(votes.numpy() - expected).max() < 1e-9
    order = torch.randperm(70, generator=g)
    again = knn_votes(queries, train[order], train_labels[order], labels, ks=(5,), temperature=0.5)[5]
    assert torch.allclose(again, knn_votes(queries, train, train_labels, labels, ks=(5,), temperature=0.5)[5])
    other = knn_votes(queries, train, train_labels, (labels + 1) % 4, ks=(5,), temperature=0.5)[5]
    assert not torch.allclose(again, other)


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train, queries = unit(100, 8), unit(200, 8, seed=1)
    labels = torch.arange(200) % 3
    arguments = (queries, train, labels[:100], labels)
    whole = knn_votes(*arguments, ks=(7,), temperature=0.07)[7]
    monkeypatch.setattr(ranking, "_CHUNK_SCORES", 64 * 100)
    parts = knn_votes(*arguments, ks=(7,), temperature=0.07)[7]
    assert torch.allclose(whole, parts, rtol=1e-5, atol=0)


def test_small_temperatures_do_not_overflow() -> None:
    votes = knn_votes(unit(5, 4), unit(9, 4, seed=1), torch.arange(9) % 2, torch.zeros(5).long(), ks=(3,),
                      temperature=1e-6)[3]  # fmt: skip
    assert votes.isfinite().all()
    assert torch.allclose(votes.sum(1), torch.ones(5).double())


def test_by_hand(make_dataset: Callable, table_embedder: type) -> None:
    angles = torch.tensor([0.0, 10.0, 20.0, 90.0, 100.0, 5.0, 95.0, 50.0]) * math.pi / 180
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = ["a", "a", "b", "b", "b", "a", "b", "z"]
    whole = make_dataset([[f"t{i}"] for i in range(8)], label=labels)
    train, test = whole.select(range(5)), whole.select([5, 6, 7])
    metrics = KNNEvaluator(test, train=train, k=3, further_k=(1,), temperature=0.07)(table_embedder(points, {}))
    assert metrics["knn/top1"] == pytest.approx(2 / 3)  # z has no neighbour of its kind
    assert metrics["knn/top1_k1"] == pytest.approx(2 / 3)
    assert metrics["knn/top1_k3"] == metrics["knn/top1"]
    assert metrics["knn/mean_per_class"] == pytest.approx((1 + 1 + 0) / 3)
    assert metrics["knn/top5"] == pytest.approx(2 / 3)
    assert (metrics["knn/chance"], metrics["knn/majority"]) == (1 / 3, 1 / 3)
    assert (metrics["knn/num_unseen_classes"], metrics["knn/num_unseen_images"]) == (1, 1)
    assert (metrics["knn/num_train"], metrics["knn/num_images"], metrics["knn/num_classes"]) == (5, 3, 3)
    low, high = metrics["knn/top1_ci95"]
    assert low <= 2 / 3 <= high


def test_no_image_is_its_own_neighbour(make_dataset: Callable, table_embedder: type) -> None:
    # Pairs of equal images with different labels: the nearest neighbour is always wrong, the image itself right.
    points = torch.eye(6).repeat_interleave(2, 0)
    whole = make_dataset([[f"t{i}"] for i in range(12)], label=["a", "b"] * 6)
    embedder = table_embedder(points, {})
    assert KNNEvaluator(whole, train=whole, k=1)(embedder)["knn/top1"] == 0.0
    again = whole.select(range(12), name="other name")
    assert KNNEvaluator(whole, train=again, k=1)(embedder)["knn/top1"] == 0.0
    # Other rows are no such case: here they are the same pictures with their own labels, shifted by one row.
    other = whole.select([*range(1, 12), 0])
    assert KNNEvaluator(whole, train=other, k=1)(embedder)["knn/num_train"] == 12


def test_collapsed_models_score_nothing_and_nan_raises(make_dataset: Callable, table_embedder: type) -> None:
    whole = make_dataset([[f"t{i}"] for i in range(120)], label=[str(i % 4) for i in range(120)])
    train, test = whole.select(range(80)), whole.select(range(80, 120))
    same = unit(1, 32).expand(120, -1)
    metrics = KNNEvaluator(test, train=train)(table_embedder(same, {}))
    assert metrics["knn/top1"] <= metrics["knn/chance"]
    assert metrics["knn/top1_k1"] == 0.0
    with pytest.raises(ShapeError, match="image embeddings row 0"):
        KNNEvaluator(test, train=train)(table_embedder(same * float("nan"), {}))
    random = KNNEvaluator(test, train=train)(table_embedder(unit(120, 32), {}))
    assert 0.05 < random["knn/top1"] < 0.5


def test_wrong_settings_are_named(make_dataset: Callable, table_embedder: type) -> None:
    whole = make_dataset([[f"t{i}"] for i in range(8)], label=["a", "b"] * 4)
    train, test = whole.select(range(4)), whole.select(range(4, 8))
    for wrong, message in (({"k": 0}, "at least 1"), ({"further_k": (0,)}, "at least 1"),
                           ({"temperature": 0.0}, "finite number above 0")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            KNNEvaluator(test, train=train, **wrong)
    with pytest.raises(DataError, match="no row has a label"):
        KNNEvaluator(make_dataset([["x"]], label=[None]), train=train)
    with pytest.raises(DataError, match="one class alone, 'a'"):
        KNNEvaluator(test, train=whole.select([0, 2]))(table_embedder(unit(8, 3), {}))
    embedder = table_embedder(unit(8, 3), {})
    embedder.modalities = frozenset({"text"})
    with pytest.raises(ConfigError, match="kNN needs image embeddings"):
        KNNEvaluator(test, train=train)(embedder)
    points, ids = unit(4, 3), torch.arange(4)
    with pytest.raises(ShapeError, match="one width"):
        knn_votes(points, unit(4, 2), ids, ids, ks=(1,), temperature=1.0)
    with pytest.raises(ShapeError, match="at least one neighbour"):
        knn_votes(points[:1], points[:1], ids[:1], ids[:1], ks=(1,), temperature=1.0, exclude_self=True)
    with pytest.raises(ConfigError, match="ks needs"):
        knn_votes(points, points, ids, ids, ks=(), temperature=1.0)
