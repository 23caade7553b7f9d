"""Checks of the pairs: whether images and captions belong together, all of them or a part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmcl.doctor.examination.agreement import Agreement, measure_agreement, word_features
from mmcl.doctor.examination.subject import Sample, Subject
from mmcl.doctor.finding import Finding

PLAIN = "colours and words"
TWINNED = 0.2  # share of rows that are a further one of their group
NO_AGREEMENT = 0.01  # p-value above which nothing speaks for the pairs
AGREEMENT = 0.002
# Standard errors of independent rows; folds that learn from the same rows spread 1.3 times as far (measured on drawn
# pictures with captions by lot), so that this is 2.5 of theirs.
WEAK = 3.25
FEWEST_GROUPS = 80  # below that a regression may see nothing where there is something
SHUFFLED_SHARE, SURELY = 0.15, 0.05  # of the pairs: told from here on, where it is surely above this
FEWEST_EASY = 40  # rows
STRATUM = 0.25  # share of rows that the regression should have been able to tell
STRONG = 0.06  # median rank of its hits
CARRIED = 0.5  # of the recall of training rows; below, the trained model has learnt wrong pairs by heart


def agreements(sample: Sample, *, seed: int = 0) -> list[Agreement]:
    """How far captions can be told from images: from plain figures of both, and from what pretrained towers make of
    them.

    Args:
        sample: rows of one split.
        seed: of folds and lots.

    Returns:
        The best first; empty where there is nothing to measure.
    """
    found = []
    if sample.pixels is not None and len(sample.pixels):
        words = word_features(sample.texts)
        found.append(measure_agreement(sample.pixels, words, sample.groups, features=PLAIN, seed=seed))
    features = (sample.image_features, sample.text_features)
    if all(part is not None and np.isfinite(part).all() for part in features):
        names = "the towers' features"
        found.append(
            measure_agreement(sample.image_features, sample.text_features, sample.groups, features=names, seed=seed)
        )
    return sorted((one for one in found if one is not None), key=lambda one: -one.fit.auc)


def pairs(subject: Subject) -> list[Finding]:
    """Captions that tell nothing of their images, or a share of them that belong to other images."""
    sample = subject.train
    if sample is None or len(set(sample.texts)) < 20:
        return []
    found = agreements(sample)
    groups = len(np.unique(sample.groups))
    if not found or groups < FEWEST_GROUPS:
        return []
    best, p_value = found[0], min(1.0, len(found) * min(one.p_value for one in found))
    if p_value > NO_AGREEMENT or best.fit.z < WEAK:
        return _shuffled(subject, best, p_value)
    if p_value > AGREEMENT:
        return []
    if groups < (1 - TWINNED) * len(sample):
        # Plain figures know a row's twin by sight when it is in another fold: the rest would look like strangers.
        found = [one for one in found if one.features != PLAIN]
    return _partly(subject, found) if found else []


def _shuffled(subject: Subject, best: Agreement, p_value: float) -> list[Finding]:
    held = [] if subject.validation is None else agreements(subject.validation)
    sound = bool(held) and min(one.p_value for one in held) <= AGREEMENT
    if not sound and subject.validation is not None and subject.has_learnt:
        return []  # the training pairs were good enough to learn from
    beside = ", while the validation pairs do agree" if sound else ""
    return [
        Finding(
            "pairs_shuffled",
            "fault",
            f"Nothing of the captions can be told from their images: of {len(subject.train):,} training pairs "
            f"{100 * best.fit.auc:.1f} % of comparisons with a strange caption are won (chance 50 %, p = "
            f"{p_value:.2g}, by {best.features}){beside}.",
            p_value,
            NO_AGREEMENT,
            "Look at pairs (mmcl data inspect), and at how the table joins images with captions: sorted one way and "
            "not the other, or an index off by one.",
        )
    ]


@dataclass(frozen=True)
class Share:
    """How many pairs are strangers, at most, by one way of scoring.

    Attributes:
        value: share of the pairs.
        error: its standard error.
        hits: median rank of the others.
        rows: that it was counted on.
    """

    value: float
    error: float
    hits: float
    rows: int


def strange_share(ranks: np.ndarray) -> Share:
    """Twice the share of rows whose partner ranks in the worse half: partners drawn by lot fall there every other time.

    Rows that score badly for another reason count too, so it is an upper bound; with rows that should score well, and
    hits far in front, it is near. Source: Storey 2002, "A direct approach to false discovery rates", with lambda 0.5.

    Args:
        ranks: (n,) in [0, 1], n at least 1.

    Example:
        >>> strange_share(np.array([0.0, 0.01, 0.02, 0.9])).value
        0.5
    """
    worse = float((ranks > 0.5).mean())
    hits = ranks[ranks <= 0.5]
    error = 2 * math.sqrt(max(worse * (1 - worse), 0.25 / len(ranks)) / len(ranks))
    return Share(min(1.0, 2 * worse), error, float(np.median(hits)) if len(hits) else 0.5, len(ranks))


def easy_rows(agreement: Agreement, *, share: float = STRATUM) -> np.ndarray:
    """Rows that a regression should be able to tell: a sure prediction of the image, a caption like others.

    Neither says whether the two belong together, so that strangers are as frequent among them as among all.
    """
    order = np.minimum(_positions(agreement.confident), _positions(agreement.usual))
    return np.flatnonzero(order >= np.quantile(order, 1 - share))


def _positions(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values)) / max(1, len(values) - 1)


def shares(subject: Subject, found: Sequence[Agreement]) -> list[Share]:
    """The share of strangers by every way of scoring there is, each an upper bound; none without enough easy rows."""
    bounds = [strange_share(one.fit.ranks[easy_rows(one)]) for one in found]
    if not bounds or bounds[0].rows < FEWEST_EASY:
        return []  # all rows together say how hard they are, too
    bounds += [strange_share(one.fit.ranks) for one in found]
    train, held = subject.train.fit, None if subject.validation is None else subject.validation.fit
    if train is not None and held is not None and subject.has_learnt and held.recall >= CARRIED * train.recall:
        bounds.append(strange_share(train.ranks))
    return bounds


def _partly(subject: Subject, found: Sequence[Agreement]) -> list[Finding]:
    bounds = shares(subject, found)
    if not bounds:
        return []
    least = min(bounds, key=lambda bound: bound.value + bound.error)
    if least.value - 2 * least.error < SURELY or least.value < SHUFFLED_SHARE or least.hits > STRONG:
        return []
    return [
        Finding(
            "pairs_partly_shuffled",
            "fault" if least.value >= 0.5 else "warning",
            f"About {100 * least.value:.0f} % (± {100 * least.error:.0f}) of the captions belong to other images: of "
            f"{least.rows:,} pairs that are easy to tell they rank as captions drawn by lot do, while the others are "
            f"among the best {100 * least.hits:.1f} %.",
            least.value,
            SHUFFLED_SHARE,
            f"List them (mmcl data audit {subject.recipe.data.path} --model {subject.recipe.run_dir}) and mend the "
            f"join of images and captions.",
        )
    ]
