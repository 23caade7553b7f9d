"""The metrics of ranks against loops in float64 and scikit-learn, and their bootstrap intervals."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.bootstrap import bootstrap_means, bootstrap_medians, ci95
from mmcl.evaluation.metrics.retrieval import (
    average_precision,
    best_rank,
    chance_hit_rate,
    hit_rate,
    median_rank,
    ndcg,
    query_metrics,
    r_precision,
    reciprocal_rank,
    true_recall,
)
from mmcl.evaluation.retrieval.ranking import Ranks, positive_ranks


def random_case(seed: int) -> tuple[Ranks, Tensor, Tensor]:
    """Ranks, their scores (n, m) float64 and which of them are positives; every query has one."""
    g = torch.Generator().manual_seed(seed)
    queries, gallery = torch.randn(30, 5, generator=g), torch.randn(45, 5, generator=g)
    gallery_groups = torch.cat([torch.arange(9), torch.randint(9, (36,), generator=g) ** 2 // 9])
    query_groups = torch.randint(9, (30,), generator=g)
    ranks = positive_ranks(queries, gallery, query_groups, gallery_groups)
    return ranks, queries.double() @ gallery.double().T, query_groups[:, None] == gallery_groups


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, 10])
def test_metrics_equal_naive_loops(seed: int, k: int) -> None:
    ranks, scores, positive = random_case(seed)
    want: dict[str, list[float]] = {
        name: [] for name in ("hit", "recall", "mrr", "ndcg", "ap", "whole_ap", "r_precision", "best_rank")
    }
    for row, mine in zip(scores, positive):
        found = mine[row.argsort(descending=True)].tolist()
        total = sum(found)
        want["hit"].append(float(any(found[:k])))
        want["recall"].append(sum(found[:k]) / total)
        want["mrr"].append(1 / (found.index(True) + 1))
        gain = sum(1 / math.log2(place + 2) for place in range(k) if found[place])
        want["ndcg"].append(gain / sum(1 / math.log2(place + 2) for place in range(min(total, k))))
        precision = sum(sum(found[: place + 1]) / (place + 1) for place in range(k) if found[place])
        want["ap"].append(precision / min(total, k))
        whole = sum(sum(found[: place + 1]) / (place + 1) for place in range(len(found)) if found[place])
        want["whole_ap"].append(whole / total)
        want["r_precision"].append(sum(found[:total]) / total)
        want["best_rank"].append(found.index(True) + 1)
    got = {
        "hit": hit_rate(ranks, k),
        "recall": true_recall(ranks, k),
        "mrr": reciprocal_rank(ranks),
        "ndcg": ndcg(ranks, k),
        "ap": average_precision(ranks, k),
        "whole_ap": average_precision(ranks, None),
        "r_precision": r_precision(ranks),
        "best_rank": best_rank(ranks),
    }
    for name, values in want.items():
        assert got[name].tolist() == pytest.approx(values, abs=1e-12), name
        assert got[name].flip(0).tolist() != pytest.approx(values, abs=1e-12), name
    assert median_rank(ranks) == float(np.median([1 / value for value in want["mrr"]]))


@pytest.mark.parametrize("seed", range(3))
def test_ndcg_and_average_precision_equal_scikit_learn(seed: int) -> None:
    ranks, scores, positive = random_case(seed)
    assert float(ndcg(ranks, 10).mean()) == pytest.approx(ndcg_score(positive, scores, k=10), abs=1e-12)
    assert float(ndcg(ranks, 9).mean()) != pytest.approx(ndcg_score(positive, scores, k=10), abs=1e-12)
    # Over the whole gallery every definition of average precision is the same.
    want = [average_precision_score(mine, row) for mine, row in zip(positive, scores)]
    assert average_precision(ranks, scores.shape[1]).tolist() == pytest.approx(want, abs=1e-12)
    assert average_precision(ranks, 3).tolist() != pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_torchmetrics_once_scores_are_positive(seed: int) -> None:
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval")
    ranks, scores, positive = random_case(seed)
    shifted = scores - scores.min() + 1  # it takes items of score 0 and below for irrelevant ones
    peers = {
        "hit": (retrieval.retrieval_hit_rate, {"top_k": 5}, hit_rate(ranks, 5)),
        "recall": (retrieval.retrieval_recall, {"top_k": 5}, true_recall(ranks, 5)),
        "mrr": (retrieval.retrieval_reciprocal_rank, {}, reciprocal_rank(ranks)),
        "ndcg": (retrieval.retrieval_normalized_dcg, {"top_k": 10}, ndcg(ranks, 10)),
        "map": (retrieval.retrieval_average_precision, {}, average_precision(ranks, None)),
        "r_precision": (retrieval.retrieval_r_precision, {}, r_precision(ranks)),
    }
    for name, (peer, options, ours) in peers.items():
        want = [float(peer(row.float(), mine, **options)) for row, mine in zip(shifted, positive)]
        assert ours.tolist() == pytest.approx(want, abs=1e-6), name
        assert ours.roll(1).tolist() != pytest.approx(want, abs=1e-6), name


def test_r_precision_counts_the_first_r_alone() -> None:
    # Positives at ranks 0, 2 and 3: two of the first three places.
    gallery = torch.tensor([[1.0], [0.9], [0.8], [0.7]])
    ranks = positive_ranks(torch.ones(1, 1), gallery, torch.tensor([0]), torch.tensor([0, 1, 0, 0]), depth=1)
    assert ranks.ranks.tolist() == [0]  # all that a depth of 1 keeps
    assert r_precision(ranks).tolist() == [2 / 3]
    assert average_precision(ranks, None).tolist() == pytest.approx([(1 + 2 / 3 + 3 / 4) / 3])
    assert best_rank(ranks).tolist() == [1.0]


def test_hit_rate_and_true_recall_are_two_numbers() -> None:
    # One query with two positives, at ranks 0 and 3.
    gallery = torch.tensor([[1.0], [0.9], [0.8], [0.7]])
    ranks = positive_ranks(torch.ones(1, 1), gallery, torch.tensor([0]), torch.tensor([0, 1, 2, 0]))
    assert hit_rate(ranks, 1).tolist() == [1.0]
    assert true_recall(ranks, 1).tolist() == [0.5]
    assert true_recall(ranks, 4).tolist() == [1.0]
    assert average_precision(ranks, 10).tolist() == [(1 + 2 / 4) / 2]
    assert average_precision(ranks, 1).tolist() == [1.0]


def test_perfect_embeddings_score_one_and_collapsed_ones_zero() -> None:
    ids = torch.arange(60) // 3
    directions = torch.eye(20)[ids]
    for name, values in query_metrics(positive_ranks(directions, directions, ids, ids), (3, 5)).items():
        assert values.min() == 1.0, name
    collapsed = torch.ones(60, 4)
    worst = {"map": (1 / 58 + 2 / 59 + 3 / 60) / 3, "mean_rank": 58.0, "mrr": 1 / 58}
    for name, values in query_metrics(positive_ranks(collapsed, collapsed, ids, ids), (1, 5, 10)).items():
        assert values.tolist() == pytest.approx([worst.get(name, 0.0)] * 60), name


def test_depth_gives_the_same_metrics_and_refuses_a_larger_k() -> None:
    g = torch.Generator().manual_seed(0)
    vectors, ids = torch.randn(80, 6, generator=g), torch.arange(80) % 8
    whole, cut = (positive_ranks(vectors[:40], vectors, ids[:40], ids, depth=depth) for depth in (None, 10))
    want = query_metrics(whole, (1, 5, 10))
    for name, values in query_metrics(cut, (1, 5, 10)).items():
        assert torch.equal(values, want[name]), name
    assert median_rank(cut) == median_rank(whole)
    for metric in (true_recall, ndcg, average_precision):
        with pytest.raises(ConfigError, match="depth=10"):
            metric(cut, 11)
        with pytest.raises(ConfigError, match="at least 1"):
            metric(whole, 0)


def test_chance_hit_rate_counts_all_draws() -> None:
    m = 6
    for positives in range(1, m + 1):
        for k in range(1, m + 1):
            draws = list(combinations(range(m), k))
            share = sum(min(draw) < positives for draw in draws) / len(draws)
            assert chance_hit_rate(torch.tensor([positives]), m, k).tolist() == pytest.approx([share])
    assert chance_hit_rate(torch.tensor([1]), 3, 10).tolist() == [1.0]


def test_no_answerable_query_gives_nothing_to_average() -> None:
    ranks = positive_ranks(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.tensor([2, 3]))
    assert all(len(values) == 0 for values in query_metrics(ranks, (1,)).values())
    with pytest.raises(ShapeError, match="at least one query"):
        median_rank(ranks)


def naive_replicates(values: list[float], groups: list[int], resamples: int, seed: int) -> list[list[float]]:
    """Resample the groups with the same generator, one list at a time."""
    generator = torch.Generator().manual_seed(seed)
    ids = sorted(set(groups))
    members = [[value for value, group in zip(values, groups) if group == one] for one in ids]
    picks = [torch.randint(len(ids), (len(ids),), generator=generator).tolist() for _ in range(resamples)]
    return [sorted(value for pick in row for value in members[pick]) for row in picks]


@pytest.mark.parametrize("budget", [1, 2**22])
def test_bootstrap_equals_resampling_one_by_one(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcl.evaluation.bootstrap._BUDGET", budget)
    g = torch.Generator().manual_seed(5)
    values = torch.randint(1, 30, (41,), generator=g).double()
    groups = torch.randint(3, 15, (41,), generator=g)
    samples = naive_replicates(values.tolist(), groups.tolist(), 50, seed=7)
    medians = bootstrap_medians(values, groups, resamples=50, seed=7)
    assert medians.tolist() == [float(np.median(sample)) for sample in samples]
    means = bootstrap_means(torch.stack([values, values**2], 1), groups, resamples=50, seed=7)
    assert means[:, 0].tolist() == pytest.approx([float(np.mean(sample)) for sample in samples])
    assert means[:, 1].tolist() == pytest.approx([float(np.mean(np.square(sample))) for sample in samples])
    assert bootstrap_medians(values, groups, resamples=50, seed=8).tolist() != medians.tolist()


def test_queries_of_one_group_widen_the_interval() -> None:
    hits = (torch.arange(200) % 4 == 0).double().repeat_interleave(5)[:, None]
    alone = ci95(bootstrap_means(hits, torch.arange(1000))[:, 0])
    together = ci95(bootstrap_means(hits, torch.arange(200).repeat_interleave(5))[:, 0])
    assert together[1] - together[0] > 1.8 * (alone[1] - alone[0])
    assert ci95(bootstrap_means(hits, torch.zeros(1000, dtype=torch.int64))[:, 0]) == [0.25, 0.25]


def test_bootstrap_refuses_nan_and_nothing() -> None:
    with pytest.raises(ShapeError, match="NaN"):
        bootstrap_means(torch.tensor([[float("nan")]]), torch.tensor([0]))
    with pytest.raises(ShapeError, match="at least one query"):
        bootstrap_medians(torch.empty(0), torch.empty(0, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"groups needs shape \(2,\)"):
        bootstrap_medians(torch.ones(2), torch.tensor([0]))
