"""Every metric against programs that share no code with it: loops, scikit-learn, torchmetrics; on hostile input too.

Scores are fed to `positive_ranks` as ``identity @ scores``, which gives them back bit for bit: so any matrix of scores
can be judged, ties included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor
from torchmetrics.functional import classification as torchmetrics_classification
from torchmetrics.functional import clustering as torchmetrics_clustering
from torchmetrics.functional import retrieval as torchmetrics_retrieval

from mmcl.errors import ShapeError
from mmcl.evaluation.metrics import (
    ari,
    average_precision,
    chance_hit_rate,
    class_average_precision,
    confusion_matrix,
    expected_calibration_error,
    f1_macro,
    hit_rate,
    hungarian_accuracy,
    mean_per_class,
    ndcg,
    nmi,
    predict,
    query_metrics,
    reciprocal_rank,
    roc_auc_macro,
    top_k_hits,
    true_recall,
)
from mmcl.evaluation.metrics.retrieval import r_precision
from mmcl.evaluation.retrieval.both_ways import rank_both_ways
from mmcl.evaluation.retrieval.ranking import Ranks, positive_ranks

KS = (1, 5, 10)


def ranks_of(scores: Tensor, query_groups: Tensor, gallery_groups: Tensor) -> Ranks:
    """The ranks of any scores (n, m)."""
    return positive_ranks(torch.eye(len(scores)), scores.T.contiguous(), query_groups, gallery_groups)


def retrieval_case(kind: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (40, 60) without ties, groups of the queries and of the gallery."""
    g = torch.Generator().manual_seed(seed)
    query_groups, gallery_groups = torch.arange(40) % 12, torch.randint(12, (60,), generator=g)
    gallery_groups[:12] = torch.arange(12)  # every query has a positive
    positive = query_groups[:, None] == gallery_groups
    scores = torch.randn(40, 60, generator=g) + 0.8 * positive
    if kind == "all negative":
        scores = scores - 10
    elif kind == "tiny cosines of both signs":
        scores = 1e-3 * scores
    elif kind == "more positives than k":
        gallery_groups = gallery_groups % 2
        query_groups = query_groups % 2
    elif kind == "the worst order":
        scores = scores.abs() * torch.where(positive, -1.0, 1.0)
    elif kind == "the best order":
        scores = scores.abs() * torch.where(positive, 1.0, -1.0)
    elif kind == "some queries without a positive":
        query_groups = query_groups + (torch.arange(40) % 3 == 0) * 100
    assert all(len(row.unique()) == 60 for row in scores)
    return scores, query_groups, gallery_groups


KINDS = (
    "random",
    "all negative",
    "tiny cosines of both signs",
    "more positives than k",
    "the worst order",
    "the best order",
    "some queries without a positive",
)


def recall_of_top_k(scores: Tensor, positive: Tensor, k: int) -> list[float]:
    """CLIP_benchmark's definition: true positives among the k highest scores, over all positives of the query."""
    found = []
    for row, mine in zip(scores.tolist(), positive.tolist()):
        best = sorted(range(len(row)), key=lambda item, row=row: -row[item])[:k]
        found.append(sum(mine[item] for item in best) / sum(mine))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_recall_is_that_of_clip_benchmark(kind: str) -> None:
    scores, query_groups, gallery_groups = retrieval_case(kind)
    ranks = ranks_of(scores, query_groups, gallery_groups)
    positive = query_groups[:, None] == gallery_groups
    answerable = positive.any(1)
    assert ranks.num_unanswerable == int((~answerable).sum()) == (14 if "without" in kind else 0)
    for k in KS:
        want = recall_of_top_k(scores[answerable], positive[answerable], k)
        assert true_recall(ranks, k).tolist() == pytest.approx(want, abs=1e-12)
        # Its recalls in the manner of CLIP's papers: a query counts whole where its recall is above 0.
        assert hit_rate(ranks, k).tolist() == [float(value > 0) for value in want]
    if "order" not in kind:
        assert true_recall(ranks, 5).tolist() != pytest.approx(
            recall_of_top_k(-scores[answerable], positive[answerable], 5)
        )


TORCHMETRICS: dict[str, tuple[Callable[[Ranks], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "hit rate": (lambda ranks: hit_rate(ranks, 5), lambda s, p: torchmetrics_retrieval.retrieval_hit_rate(s, p, 5)),
    "recall": (lambda ranks: true_recall(ranks, 5), lambda s, p: torchmetrics_retrieval.retrieval_recall(s, p, 5)),
    "mrr": (reciprocal_rank, torchmetrics_retrieval.retrieval_reciprocal_rank),
    "ndcg": (ndcg, lambda s, p: torchmetrics_retrieval.retrieval_normalized_dcg(s, p, 10)),
    # At a depth its mean is over the positives found only: another number. Over the whole gallery there is one.
    "map at 60": (lambda ranks: average_precision(ranks, 60), torchmetrics_retrieval.retrieval_average_precision),
    "map": (lambda ranks: average_precision(ranks, None), torchmetrics_retrieval.retrieval_average_precision),
    "r-precision": (r_precision, torchmetrics_retrieval.retrieval_r_precision),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", TORCHMETRICS)
def test_retrieval_equals_torchmetrics(kind: str, metric: str) -> None:
    scores, query_groups, gallery_groups = retrieval_case(kind)
    positive = query_groups[:, None] == gallery_groups
    mine, theirs = TORCHMETRICS[metric]
    got = mine(ranks_of(scores, query_groups, gallery_groups)).tolist()
    answerable = positive.any(1)
    above_zero = (scores - scores.min() + 1).double()[answerable]  # it drops relevant items that score 0 or less
    want = [float(theirs(row, hits)) for row, hits in zip(above_zero, positive[answerable])]
    assert got == pytest.approx(want, abs=1e-6)
    if max(want) - min(want) > 1e-3:
        assert got != pytest.approx(want[1:] + want[:1], abs=1e-6)  # a control


def test_torchmetrics_loses_what_scores_below_zero_and_mmcl_does_not() -> None:
    scores, query_groups, gallery_groups = retrieval_case("all negative")
    positive = query_groups[:, None] == gallery_groups
    theirs = [float(torchmetrics_retrieval.retrieval_reciprocal_rank(s, p)) for s, p in zip(scores, positive)]
    assert theirs == [0.0] * 40
    assert float(reciprocal_rank(ranks_of(scores, query_groups, gallery_groups)).mean()) > 0.3


@pytest.mark.parametrize(("scale", "shift"), [(1.0, -3.0), (1.0, 50.0), (1e-4, 0.0), (1e4, 0.0), (0.5, -0.25)])
def test_scale_and_shift_of_the_scores_change_nothing(scale: float, shift: float) -> None:
    g = torch.Generator().manual_seed(3)
    scores = torch.randint(-40, 40, (30, 50), generator=g).float() / 64  # steps that no shift rounds away; many ties
    groups = torch.arange(50) % 10
    before = query_metrics(ranks_of(scores, groups[:30], groups), KS)
    after = query_metrics(ranks_of(scores * scale + shift, groups[:30], groups), KS)
    other = query_metrics(ranks_of(-scores, groups[:30], groups), KS)
    for name, values in before.items():
        assert torch.equal(values, after[name]), name
        assert not torch.equal(values, other[name]), name


@pytest.mark.parametrize("kind", ["random", "all negative", "more positives than k"])
def test_ndcg_and_map_equal_scikit_learn(kind: str) -> None:
    scores, query_groups, gallery_groups = retrieval_case(kind)
    positive = query_groups[:, None] == gallery_groups
    ranks = ranks_of(scores, query_groups, gallery_groups)
    assert float(ndcg(ranks, 10).mean()) == pytest.approx(sklearn_metrics.ndcg_score(positive, scores, k=10), abs=1e-9)
    want = [sklearn_metrics.average_precision_score(p, s) for p, s in zip(positive, scores)]
    assert average_precision(ranks, 60).tolist() == pytest.approx(want, abs=1e-9)
    assert average_precision(ranks, 60).tolist() != pytest.approx(want[1:] + want[:1], abs=1e-9)


def of_order(found: list[bool], k: int) -> dict[str, float]:
    """A query's metrics, given which places of the ranking hold a positive; every one by a sum of its own."""
    total, top = sum(found), found[:k]
    gains = [1 / math.log2(place + 2) for place, hit in enumerate(top) if hit]
    precisions = [sum(found[: place + 1]) / (place + 1) for place, hit in enumerate(top) if hit]
    return {
        f"recall@{k}": float(any(top)),
        f"true_recall@{k}": sum(top) / total,
        "mrr": 1 / (found.index(True) + 1),
        "ndcg@10": sum(gains) / sum(1 / math.log2(place + 2) for place in range(min(total, k))),
        "map@10": sum(precisions) / min(total, k),
    }


@pytest.mark.parametrize("seed", range(4))
def test_ties_are_broken_against_the_model(seed: int) -> None:
    """Of all orders that the scores allow, a metric is that of the worst one."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(3, (8, 6), generator=g).float() - 1
    query_groups, gallery_groups = torch.arange(8) % 2, torch.tensor([0, 0, 1, 1, 0, 1])
    ranks = ranks_of(scores, query_groups, gallery_groups)
    got = query_metrics(ranks, (10,))
    better = 0
    for query, row in enumerate(scores.tolist()):
        mine = (gallery_groups == query_groups[query]).tolist()
        allowed = [
            of_order([mine[item] for item in order], 10)
            for order in permutations(range(6))
            if all(row[a] >= row[b] for a, b in pairwise(order))
        ]
        for name in allowed[0]:
            each = [one[name] for one in allowed]
            assert float(got[name][query]) == pytest.approx(min(each), abs=1e-12), name
            better += max(each) > min(each) + 1e-6
    assert better > 5  # ties did matter


def test_constant_embeddings_are_no_better_than_chance() -> None:
    images, texts = torch.ones(20, 8) / 8**0.5, torch.ones(100, 8) / 8**0.5
    image_groups, text_groups = torch.arange(20), torch.arange(20).repeat_interleave(5)
    for ranks in rank_both_ways(images, texts, image_groups, text_groups):
        for k in KS:
            chance = chance_hit_rate(ranks.num_positives, ranks.gallery_size, k)
            assert float(hit_rate(ranks, k).mean()) <= float(chance.mean()) < 1
        assert torch.equal(ranks.first() + ranks.num_positives, torch.full((len(ranks),), ranks.gallery_size))
    # A count of strictly higher scores, as some programs have it, calls the same embeddings perfect.
    scores = images @ texts.T
    assert not (scores > scores[:, :1]).any()


def test_random_embeddings_score_chance() -> None:
    g = torch.Generator().manual_seed(0)
    images, texts = torch.randn(200, 16, generator=g), torch.randn(1000, 16, generator=g)
    owners = torch.arange(200).repeat_interleave(5)
    for ranks in rank_both_ways(images, texts, torch.arange(200), owners):
        chance = float(chance_hit_rate(ranks.num_positives, ranks.gallery_size, 10).mean())
        error = math.sqrt(chance * (1 - chance) / len(ranks))
        assert abs(float(hit_rate(ranks, 10).mean()) - chance) < 4 * error


# -- classification --------------------------------------------------------------------------------------------------


def classification_case(kind: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores (300, 7) and labels."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(7, (300,), generator=g)
    if kind == "a class that does not occur":
        labels[labels == 5] = 2
    elif kind == "one class is nearly all":
        labels = torch.where(torch.rand(300, generator=g) < 0.95, 3, labels)
    scores = 0.1 * torch.randn(300, 7, generator=g) + 0.12 * torch.eye(7)[labels]
    if kind == "all negative":
        scores = scores - 5
    elif kind == "always wrong":
        scores = scores - torch.eye(7)[labels]
    return scores, labels


CLASS_KINDS = ("random", "a class that does not occur", "one class is nearly all", "all negative", "always wrong")


@pytest.mark.parametrize("kind", CLASS_KINDS)
def test_accuracy_and_f1_equal_scikit_learn_and_torchmetrics(kind: str) -> None:
    scores, labels = classification_case(kind)
    predicted = predict(scores, labels)
    confusion = confusion_matrix(predicted, labels, 7)
    occurs = labels.unique()
    f1 = sklearn_metrics.f1_score(labels, predicted, average="macro", labels=occurs.numpy(), zero_division=0)
    assert f1_macro(confusion) == pytest.approx(f1, abs=1e-12)
    per_class = torchmetrics_classification.multiclass_f1_score(scores, labels, 7, average="none")
    assert f1_macro(confusion) == pytest.approx(float(per_class[occurs].mean()), abs=1e-6)
    assert mean_per_class(confusion) == pytest.approx(
        sklearn_metrics.recall_score(labels, predicted, average="macro", labels=occurs.numpy()), abs=1e-12
    )
    for k in (1, 3, 5):
        mine = float(top_k_hits(scores, labels, k).double().mean())
        want = sklearn_metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(7))
        assert mine == pytest.approx(want, abs=1e-12)
        theirs = torchmetrics_classification.multiclass_accuracy(scores, labels, 7, average="micro", top_k=k)
        assert mine == pytest.approx(float(theirs), abs=1e-6)
    if kind != "always wrong":
        wrong = confusion_matrix(predicted.roll(1), labels, 7)
        assert f1_macro(wrong) != pytest.approx(f1, abs=1e-3)


@pytest.mark.parametrize("kind", CLASS_KINDS)
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_roc_auc_equals_scikit_learn_and_torchmetrics(kind: str, scale: float) -> None:
    scores, labels = classification_case(kind)
    probabilities = (scale * scores.double()).softmax(1)
    occurs = labels.unique()
    areas = [sklearn_metrics.roc_auc_score(labels == c, probabilities[:, c]) for c in occurs]
    got = roc_auc_macro(scores, labels, logit_scale=scale)
    assert got == pytest.approx(float(np.mean(areas)), abs=1e-6)
    theirs = torchmetrics_classification.multiclass_auroc(probabilities, labels, 7, average="none")
    assert got == pytest.approx(float(theirs[occurs].double().mean()), abs=1e-5)
    assert roc_auc_macro(scores.roll(1, 1), labels, logit_scale=scale) != pytest.approx(got, abs=1e-2)


@pytest.mark.parametrize("kind", CLASS_KINDS)
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_calibration_error_equals_torchmetrics(kind: str, scale: float) -> None:
    scores, labels = classification_case(kind)
    probabilities = (scale * scores.double()).softmax(1)
    theirs = torchmetrics_classification.multiclass_calibration_error(probabilities, labels, 7, n_bins=15, norm="l1")
    got = expected_calibration_error(scores, labels, logit_scale=scale)
    assert got == pytest.approx(float(theirs), abs=1e-6)
    assert expected_calibration_error(scores, labels, logit_scale=3 * scale) != pytest.approx(got, abs=1e-3)


def test_average_precision_of_labels_equals_scikit_learn_with_ties() -> None:
    g = torch.Generator().manual_seed(1)
    relevant = torch.rand(80, 6, generator=g) < 0.3
    for scores in (torch.randn(80, 6, generator=g), torch.randint(4, (80, 6), generator=g).float() - 2):
        want = [sklearn_metrics.average_precision_score(relevant[:, c], scores[:, c]) for c in range(6)]
        got = class_average_precision(scores, relevant).values.tolist()
        assert got == pytest.approx(want, abs=1e-12)
        assert got != pytest.approx(want[1:] + want[:1], abs=1e-3)


# -- clustering ------------------------------------------------------------------------------------------------------


def clustering_case(kind: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clusters and labels (200,), ids with gaps."""
    g = torch.Generator().manual_seed(seed)
    labels = 3 * torch.randint(5, (200,), generator=g)
    clusters = torch.where(torch.rand(200, generator=g) < 0.7, 10 - labels // 3, torch.randint(6, (200,), generator=g))
    if kind == "chance":
        clusters = torch.randint(5, (200,), generator=g)
    elif kind == "one cluster":
        clusters = torch.full((200,), 4)
    elif kind == "each row alone":
        clusters = torch.arange(200)
    elif kind == "renamed":
        clusters = 100 - labels
    return clusters, labels


def naive_nmi(clusters: list[int], labels: list[int]) -> float:
    """Mutual information over the mean entropy, from shares of rows."""

    def share(*columns: list[int]) -> dict[tuple[int, ...], float]:
        rows = list(zip(*columns))
        return {row: rows.count(row) / len(rows) for row in set(rows)}

    def entropy(shares: dict[tuple[int, ...], float]) -> float:
        return -sum(value * math.log(value) for value in shares.values())

    a, b, both = share(clusters), share(labels), share(clusters, labels)
    mutual = sum(value * math.log(value / (a[one,] * b[two,])) for (one, two), value in both.items())
    return mutual / ((entropy(a) + entropy(b)) / 2)


def naive_ari(clusters: list[int], labels: list[int]) -> float:
    """Pairs of rows that both group alike, against as many as chance gives."""
    pairs = [(clusters[i] == clusters[j], labels[i] == labels[j]) for i in range(len(labels)) for j in range(i)]
    both, a, b = sum(x and y for x, y in pairs), sum(x for x, _ in pairs), sum(y for _, y in pairs)
    expected = a * b / len(pairs)
    return (both - expected) / ((a + b) / 2 - expected)


@pytest.mark.parametrize("kind", ["noisy", "chance", "one cluster", "each row alone", "renamed"])
def test_clustering_equals_loops_and_torchmetrics(kind: str) -> None:
    clusters, labels = clustering_case(kind)
    want = naive_nmi(clusters.tolist(), labels.tolist()), naive_ari(clusters.tolist(), labels.tolist())
    got = nmi(clusters, labels), ari(clusters, labels)
    assert got == pytest.approx(want, abs=1e-9)
    theirs = torchmetrics_clustering.normalized_mutual_info_score(clusters, labels)
    assert got[0] == pytest.approx(float(theirs), abs=1e-5)
    dense = clusters.unique(return_inverse=True)[1], labels.unique(return_inverse=True)[1]
    assert got[1] == pytest.approx(float(torchmetrics_clustering.adjusted_rand_score(*dense)), abs=1e-5)
    if kind == "noisy":
        assert nmi(clusters.roll(1), labels) < got[0] / 2
        assert ari(clusters.roll(1), labels) < got[1] / 2
    if kind == "renamed":
        assert got == pytest.approx((1, 1))
    if kind == "one cluster":
        assert got == pytest.approx((0, 0), abs=1e-12)


def test_hungarian_accuracy_is_the_best_of_all_matchings() -> None:
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        clusters, labels = torch.randint(5, (40,), generator=g), torch.randint(4, (40,), generator=g)
        best = max(
            sum(names[cluster] == label for cluster, label in zip(clusters.tolist(), labels.tolist()))
            for names in permutations([0, 1, 2, 3, None])
        )
        assert hungarian_accuracy(clusters, labels) == pytest.approx(best / 40)
        assert hungarian_accuracy(clusters, labels) > float((clusters == labels).double().mean())


def test_constant_scores_are_no_better_than_chance() -> None:
    labels = torch.arange(60) % 6
    scores = torch.full((60, 6), 0.3)
    for k in (1, 3, 5):
        assert float(top_k_hits(scores, labels, k).double().mean()) <= k / 6
    confusion = confusion_matrix(predict(scores, labels), labels, 6)
    assert f1_macro(confusion) <= 1 / 6
    assert mean_per_class(confusion) <= 1 / 6
    assert roc_auc_macro(scores, labels, logit_scale=100.0) == 0.5
    relevant = torch.eye(6, dtype=torch.bool)[labels]
    assert class_average_precision(scores, relevant).values.tolist() == pytest.approx([1 / 6] * 6)
    # A control: argmax of equal scores is the first class, right for every sixth image.
    assert float((scores.argmax(1) == labels).double().mean()) == pytest.approx(1 / 6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_an_error_in_every_metric(value: float) -> None:
    labels = torch.arange(12) % 3
    scores = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    calls: dict[str, Callable[[Tensor], object]] = {
        "positive_ranks": lambda bad: positive_ranks(bad, torch.eye(3), labels, torch.arange(3)),
        "rank_both_ways": lambda bad: rank_both_ways(bad, torch.eye(3), labels, torch.arange(3)),
        "top_k_hits": lambda bad: top_k_hits(bad, labels, 1),
        "predict": lambda bad: predict(bad, labels),
        "roc_auc_macro": lambda bad: roc_auc_macro(bad, labels, logit_scale=1.0),
        "expected_calibration_error": lambda bad: expected_calibration_error(bad, labels, logit_scale=1.0),
        "class_average_precision": lambda bad: class_average_precision(bad, torch.eye(3, dtype=torch.bool)[labels]),
    }
    broken = scores.clone()
    broken[7, 1] = value
    for name, call in calls.items():
        call(scores)
        with pytest.raises(ShapeError, match="row 7 holds NaN"):
            pytest.fail(f"{name} returned {call(broken)}")
