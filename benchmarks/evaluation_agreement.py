"""Whether mmcl's metrics are the numbers that other packages compute, on random and on awkward input."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import evaluation_peers as peers
import torch
from measuring import Row, Settings, bounded, say, unmeasured
from torch import Tensor

EQUAL = 1e-6
SEEDS = 3


@dataclass(frozen=True)
class Retrieval:
    """Scores that differ all from one another, and which of them are of positives; every query has one."""

    scores: Tensor
    positive: Tensor
    ranks: Any


@dataclass(frozen=True)
class Classification:
    """Scores of classes, the true ones, and what is made of them."""

    scores: Tensor
    labels: Tensor
    predicted: Tensor
    confusion: Tensor
    scale: float = 20.0

    @property
    def probabilities(self) -> Tensor:
        """Their softmax, in float64."""
        return (self.scale * self.scores.double()).softmax(1)

    @property
    def classes(self) -> Tensor:
        """Those that occur."""
        return self.labels.unique()


@dataclass(frozen=True)
class Check:
    """One metric beside one reference.

    Attributes:
        metric: as the table has it.
        peer: whose.
        package: what is to be installed.
        ours: of a case.
        theirs: of a case.
    """

    metric: str
    peer: str
    package: str
    ours: Callable[[Any], float]
    theirs: Callable[[Any], float]


def retrieval_cases(*, quick: bool) -> Iterator[Retrieval]:
    """Random scores; all of them below zero; more positives than any cut-off."""
    from mmcl.evaluation.retrieval.ranking import positive_ranks

    queries, items = (30, 80) if quick else (300, 1000)
    for seed in range(SEEDS):
        for groups, shift in ((queries, 0.0), (queries, -10.0), (4, 0.0)):
            draw = torch.Generator().manual_seed(seed)
            of_query, of_item = torch.arange(queries) % groups, torch.arange(items) % groups
            positive = of_query[:, None] == of_item
            # A step of 2^-12 apart, so that neither shift nor float32 makes two of them equal.
            order = torch.argsort(torch.randn(queries, items, generator=draw) + 1.5 * positive, dim=1).argsort(dim=1)
            scores = order / 4096 + shift
            # The identity times the scores gives them back, bit for bit.
            yield Retrieval(scores, positive, positive_ranks(torch.eye(queries), scores.T, of_query, of_item))


def classification_cases(*, quick: bool) -> Iterator[Classification]:
    """Random scores; one class that nobody has; one that nearly all have."""
    from mmcl.evaluation.metrics import confusion_matrix, predict

    count, classes = (200, 6) if quick else (5000, 50)
    for seed in range(SEEDS):
        draw = torch.Generator().manual_seed(seed)
        even = torch.randint(classes, (count,), generator=draw)
        mostly = torch.where(torch.rand(count, generator=draw) < 0.9, 0, even)
        for labels in (even, even.clamp(max=classes - 2), mostly):
            scores = 0.1 * torch.randn(count, classes, generator=draw) + 0.2 * torch.eye(classes)[labels] - 0.5
            predicted = predict(scores, labels)
            yield Classification(scores, labels, predicted, confusion_matrix(predicted, labels, classes))


def _queries(function: Callable[..., Any], *more: object) -> Callable[[Retrieval], float]:
    """The mean of a function of one query; torchmetrics calls nothing relevant that scores 0 or less."""

    def mean(case: Retrieval) -> float:
        rows = zip((case.scores - case.scores.min() + 1).double(), case.positive)
        return float(torch.stack([torch.as_tensor(function(*row, *more), dtype=torch.float64) for row in rows]).mean())

    return mean


def retrieval_checks() -> Iterator[Check]:
    """R@k, MRR, nDCG, mAP."""
    from mmcl.evaluation.metrics import average_precision, hit_rate, ndcg, reciprocal_rank, true_recall

    def clip_benchmark(k: int, *, hits: bool) -> Callable[[Retrieval], float]:
        def mean(case: Retrieval) -> float:
            recall = peers.clip_benchmark_module().recall_at_k(case.scores, case.positive, k)
            return float(((recall > 0) if hits else recall).double().mean())

        return mean

    def of_torchmetrics(name: str, *more: object) -> Callable[[Retrieval], float]:
        def mean(case: Retrieval) -> float:
            from torchmetrics.functional import retrieval

            return _queries(getattr(retrieval, f"retrieval_{name}"), *more)(case)

        return mean

    def sklearn_ndcg(case: Retrieval) -> float:
        from sklearn.metrics import ndcg_score

        return float(ndcg_score(case.positive, case.scores, k=10))

    def sklearn_map(case: Retrieval) -> float:
        from sklearn.metrics import average_precision_score

        return _queries(lambda scores, positive: average_precision_score(positive, scores))(case)

    def ours(metric: Callable[..., Tensor], *more: object) -> Callable[[Retrieval], float]:
        return lambda case: float(metric(case.ranks, *more).mean())

    for k in (1, 5, 10):
        hits, recall = ours(hit_rate, k), ours(true_recall, k)
        yield Check(f"recall@{k}", "CLIP_benchmark", "clip_benchmark", hits, clip_benchmark(k, hits=True))
        yield Check(f"recall@{k}", "torchmetrics", "torchmetrics", hits, of_torchmetrics("hit_rate", k))
        yield Check(f"true_recall@{k}", "CLIP_benchmark", "clip_benchmark", recall, clip_benchmark(k, hits=False))
    mrr, gain, precision = ours(reciprocal_rank), ours(ndcg, 10), ours(average_precision, 10**6)
    yield Check("mrr", "torchmetrics", "torchmetrics", mrr, of_torchmetrics("reciprocal_rank"))
    yield Check("ndcg@10", "scikit-learn", "sklearn", gain, sklearn_ndcg)
    yield Check("ndcg@10", "torchmetrics", "torchmetrics", gain, of_torchmetrics("normalized_dcg", 10))
    yield Check("map, whole gallery", "scikit-learn", "sklearn", precision, sklearn_map)
    yield Check("map, whole gallery", "torchmetrics", "torchmetrics", precision, of_torchmetrics("average_precision"))


def classification_checks() -> Iterator[Check]:
    """Accuracy, F1, ROC AUC, calibration error; labels are averaged over the classes that occur."""
    from mmcl.evaluation.metrics import expected_calibration_error, f1_macro, roc_auc_macro, top_k_hits

    def sklearn_f1(case: Classification) -> float:
        from sklearn.metrics import f1_score

        classes = case.classes.numpy()
        return float(f1_score(case.labels, case.predicted, average="macro", labels=classes, zero_division=0))

    def sklearn_auc(case: Classification) -> float:
        from sklearn.metrics import roc_auc_score

        areas = [roc_auc_score(case.labels == c, case.probabilities[:, c]) for c in case.classes.tolist()]
        return sum(areas) / len(areas)

    def sklearn_top5(case: Classification) -> float:
        from sklearn.metrics import top_k_accuracy_score

        classes = range(case.scores.shape[1])
        return float(top_k_accuracy_score(case.labels, case.scores, k=5, labels=classes))

    def of_torchmetrics(name: str, *, each: bool = False, **more: object) -> Callable[[Classification], float]:
        def value(case: Classification) -> float:
            from torchmetrics.functional import classification

            function = getattr(classification, f"multiclass_{name}")
            options = {"average": "none", **more} if each else more
            found = function(case.probabilities, case.labels, case.scores.shape[1], **options)
            return float(found[case.classes].double().mean() if each else found)

        return value

    def auc(case: Classification) -> float:
        return roc_auc_macro(case.scores, case.labels, logit_scale=case.scale)

    def ece(case: Classification) -> float:
        return expected_calibration_error(case.scores, case.labels, logit_scale=case.scale)

    def f1(case: Classification) -> float:
        return f1_macro(case.confusion)

    def top5(case: Classification) -> float:
        return float(top_k_hits(case.scores, case.labels, 5).double().mean())

    yield Check("top5", "scikit-learn", "sklearn", top5, sklearn_top5)
    yield Check("f1_macro", "scikit-learn", "sklearn", f1, sklearn_f1)
    yield Check("f1_macro", "torchmetrics", "torchmetrics", f1, of_torchmetrics("f1_score", each=True))
    yield Check("roc_auc_macro", "scikit-learn", "sklearn", auc, sklearn_auc)
    yield Check("roc_auc_macro", "torchmetrics", "torchmetrics", auc, of_torchmetrics("auroc", each=True))
    yield Check("ece", "torchmetrics", "torchmetrics", ece, of_torchmetrics("calibration_error", n_bins=15))


def clustering_cases(*, quick: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Clusters and labels: related; by chance; every row a cluster of its own."""
    count = 200 if quick else 3000
    for seed in range(SEEDS):
        draw = torch.Generator().manual_seed(seed)
        labels, other = (torch.randint(10, (count,), generator=draw) for _ in range(2))
        related = torch.where(torch.rand(count, generator=draw) < 0.7, labels, other)
        yield from ((clusters, labels) for clusters in (related, other, torch.arange(count)))


def clustering_checks() -> Iterator[Check]:
    """NMI and ARI, which mmcl takes from scikit-learn."""
    from mmcl.evaluation.metrics import ari, nmi

    def of_torchmetrics(name: str) -> Callable[[tuple[Tensor, Tensor]], float]:
        def value(case: tuple[Tensor, Tensor]) -> float:
            from torchmetrics.functional import clustering

            return float(getattr(clustering, name)(*case))

        return value

    normalised = of_torchmetrics("normalized_mutual_info_score")
    yield Check("nmi", "torchmetrics", "torchmetrics", lambda case: nmi(*case), normalised)
    yield Check("ari", "torchmetrics", "torchmetrics", lambda case: ari(*case), of_torchmetrics("adjusted_rand_score"))


def agreement(settings: Settings) -> Iterator[Row]:
    """The largest difference of each metric from each reference over all cases."""
    for name, checks, cases in (
        ("retrieval", retrieval_checks(), list(retrieval_cases(quick=settings.quick))),
        ("classification", classification_checks(), list(classification_cases(quick=settings.quick))),
        ("clustering", clustering_checks(), list(clustering_cases(quick=settings.quick))),
    ):
        say(f"{name} metrics ...")
        for check in checks:
            if not settings.wants(check.package):
                continue
            what = f"{check.metric}: difference, of {len(cases)} cases"
            if importlib.util.find_spec(check.package) is None:
                yield unmeasured("agreement", what, check.peer, "not installed")
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torchmetrics warns of classes that do not occur; they are left out
                pairs = [(check.ours(case), check.theirs(case)) for case in cases]
            gap = max(abs(mine - theirs) for mine, theirs in pairs)
            yield bounded("agreement", what, gap, check.peer, unit="error", at_most=EQUAL, values=pairs)
    yield _ties(quick=settings.quick)
    yield from _hostile()


def _worst_order(scores: list[float], positive: list[bool]) -> dict[str, float]:
    """Recall@5, MRR, nDCG@10 and mAP of one query by a loop over its ranking; of equal scores, positives come last."""
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], positive[item]))
    places = [place for place, item in enumerate(order) if positive[item]]
    gain = sum(1 / math.log2(place + 2) for place in places if place < 10)
    return {
        "recall@5": float(places[0] < 5),
        "mrr": 1 / (places[0] + 1),
        "ndcg@10": gain / sum(1 / math.log2(place + 2) for place in range(min(10, len(places)))),
        "map": sum((number + 1) / (place + 1) for number, place in enumerate(places)) / len(places),
    }


def _ties(*, quick: bool) -> Row:
    """Scores of eight values only, so that nearly every positive is tied with a negative."""
    from mmcl.evaluation.metrics import average_precision, hit_rate, ndcg, reciprocal_rank
    from mmcl.evaluation.retrieval.ranking import positive_ranks

    queries, items = (20, 60) if quick else (300, 1000)
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(8, (queries, items), generator=draw).float() - 4
    of_query, of_item = torch.arange(queries) % 10, torch.arange(items) % 10
    ranks = positive_ranks(torch.eye(queries), scores.T, of_query, of_item)
    mine = {
        "recall@5": hit_rate(ranks, 5), "mrr": reciprocal_rank(ranks), "ndcg@10": ndcg(ranks, 10),
        "map": average_precision(ranks, items),
    }  # fmt: skip
    rows = zip(scores.tolist(), (of_query[:, None] == of_item).tolist())
    loop = [_worst_order(*row) for row in rows]
    gap = max(abs(float(mine[name][query]) - value) for query, one in enumerate(loop) for name, value in one.items())
    what = "recall@5, mrr, ndcg@10, map with ties: difference"
    return bounded("agreement", what, gap, "a loop, ties against the model", unit="error", at_most=EQUAL)


def _hostile() -> Iterator[Row]:
    """Embeddings that are all the same, and one that is NaN: what a program makes of them."""
    from mmcl.errors import ShapeError

    one = torch.nn.functional.normalize(torch.ones(1, 16), dim=1)
    owners = torch.arange(60).repeat_interleave(peers.CAPTIONS)
    gallery = peers.Gallery(one.expand(60, -1).contiguous(), one.expand(300, -1).contiguous(), owners)
    mine, theirs = peers.mmcl_recalls(gallery), peers.top_k_recalls(gallery)
    yield Row(
        "agreement", "t2i recall@1 of constant embeddings, 60 images (chance 0.0167)", peers.TOP_K.name,
        ours=mine["t2i R@1"], theirs=theirs["t2i R@1"], unit="fraction",
        must_be="<= chance", holds=mine["t2i R@1"] <= 1 / 60,
    )  # fmt: skip
    gallery = peers.planted(60, 16)
    gallery.texts[7, 3] = torch.nan
    answered = []
    for call in (peers.mmcl_recalls, peers.top_k_recalls):
        try:
            call(gallery)
            answered.append(1)
        except ShapeError:
            answered.append(0)
    yield Row(
        "agreement", "answers, not an error, of embeddings with a NaN", peers.TOP_K.name, ours=answered[0],
        theirs=answered[1], unit="count", must_be="0", holds=answered[0] == 0,
    )  # fmt: skip
