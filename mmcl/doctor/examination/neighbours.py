"""Checks of each training row against the rows whose images are most like its own: their labels and captions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from mmcl.doctor.examination.pairing import strange_share
from mmcl.doctor.examination.subject import Sample, Subject
from mmcl.doctor.finding import Finding

NEIGHBOURS = 10
FEWEST_ROWS, FEWEST_CLEAR = 200, 40  # rows; rows whose neighbours agree
FEWEST_CAPTIONS = 20  # distinct ones
CLEAR = 0.6  # share of the neighbours that have one label, for them to agree
VISIBLE = 0.05  # by which a row's label is commoner among its neighbours than among all rows
# Shares of rows that disagree with their neighbours: sound emoji show 0.15 to 0.22 of labels and 0.02 to 0.08 of
# captions, with 30 % noise 0.31 to 0.33 and 0.27 to 0.45 (300 to 1,000 rows, EfficientNet-Lite0 and MiniLM).
ODD, STRANGE, ERRORS = 0.25, 0.2, 1.5  # of labels, of captions; told where so many standard errors above
COHERENT = 0.25  # share of rows, whose neighbours' captions are most alike


@dataclass(frozen=True)
class LabelNoise:
    """How labels fit those of like images.

    Attributes:
        share: of the rows whose neighbours agree, those with another label.
        error: its standard error.
        clear: rows whose neighbours agree.
        own: share of all neighbours that have the row's own label.
        chance: the same of rows drawn by lot.
        example: "LABEL among NEIGHBOURS' LABEL", of the commonest such pair; empty where there is none.
    """

    share: float
    error: float
    clear: int
    own: float
    chance: float
    example: str


def nearest(features: np.ndarray, groups: np.ndarray, number: int = NEIGHBOURS) -> np.ndarray:
    """The rows most like each, by cosine of standardised features; rows of its own group are left out.

    Args:
        features: (n, f) floating.
        groups: (n,) integer; each row needs at least ``number`` rows of other groups.
        number: of neighbours.

    Returns:
        (n, number) int64, the nearest first.

    Example:
        >>> nearest(np.array([[0.0, 1.0], [0.1, 1.0], [5.0, -1.0], [5.1, -1.0]]), np.arange(4), 1).ravel().tolist()
        [1, 0, 3, 2]
    """
    values = np.asarray(features, dtype=np.float64)
    values = values - values.mean(0)
    spread = values.std(0)
    values = values / np.maximum(spread, 1e-3 * spread.max() + 1e-12)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    scores = values @ values.T
    scores[groups[:, None] == groups[None, :]] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :number]


def label_noise(sample: Sample) -> LabelNoise | None:
    """How labels fit those of the nearest images, in the features of towers that know something.

    Args:
        sample: with labels and image features.

    Returns:
        None where there are too few labelled rows, too few labels or too few rows whose neighbours agree.

    Source: Wilson 1972, "Asymptotic properties of nearest neighbor rules using edited data" (which rows to look at),
    with rows of one group left out, and rows whose neighbours do not agree among themselves not counted.
    """
    if sample.labels is None or not _is_finite(sample.image_features):
        return None
    rows = np.array([row for row, label in enumerate(sample.labels) if label is not None], dtype=np.int64)
    names = [str(sample.labels[row]) for row in rows]
    if len(rows) < FEWEST_ROWS or len(set(names)) < 2 or len(set(names)) > len(rows) / (2 * NEIGHBOURS):
        return None
    kinds, codes = np.unique(names, return_inverse=True)
    found = codes[nearest(sample.image_features[rows], sample.groups[rows])]  # (n, k)
    counts = np.stack([(found == kind).mean(1) for kind in range(len(kinds))], axis=1)
    most = counts.argmax(1)
    clear = counts.max(1) >= CLEAR
    number = int(clear.sum())
    if number < FEWEST_CLEAR:
        return None
    odd = clear & (most != codes)
    share = float(odd.sum() / number)
    own = float((found == codes[:, None]).mean())
    chance = float(np.square(np.bincount(codes) / len(codes)).sum())
    usual = Counter((kinds[codes[row]], kinds[most[row]]) for row in np.flatnonzero(odd)).most_common(1)
    example = f"{usual[0][0][0]!r} among {usual[0][0][1]!r}" if usual else ""
    return LabelNoise(share, float(np.sqrt(share * (1 - share) / number)), number, own, chance, example)


def _is_finite(features: np.ndarray | None) -> bool:
    return features is not None and bool(np.isfinite(features).all())


def caption_ranks(sample: Sample) -> np.ndarray | None:
    """How well each row's caption goes with those of the nearest images, among captions of other rows.

    Args:
        sample: with features of images and captions.

    Returns:
        (k,) in [0, 1] of the rows whose neighbours' captions are most like one another: the share of strange captions
        that go better with them than the row's own; None where there are too few rows or captions, or no features.
    """
    if not _is_finite(sample.image_features) or not _is_finite(sample.text_features):
        return None
    if len(sample) < FEWEST_ROWS or len(set(sample.texts)) < FEWEST_CAPTIONS:
        return None
    texts = np.asarray(sample.text_features, dtype=np.float64)
    texts = texts - texts.mean(0)
    texts /= np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), 1e-12)
    middles = texts[nearest(sample.image_features, sample.groups)].mean(1)  # (n, f)
    alike = np.linalg.norm(middles, axis=1)
    rows = np.flatnonzero(alike >= np.quantile(alike, 1 - COHERENT))
    scores = middles[rows] @ texts.T  # (k, n)
    own = scores[np.arange(len(rows)), rows][:, None]
    strange = sample.groups[rows][:, None] != sample.groups[None, :]
    above = ((scores > own) & strange).sum(1) + 0.5 * ((scores == own) & strange).sum(1)
    return above / np.maximum(1, strange.sum(1))


def disagreement(subject: Subject) -> list[Finding]:
    """Labels, or captions, that are not like those of the nearest images, where these agree among themselves."""
    if subject.train is None:
        return []
    return [found for found in (_labels(subject), _captions(subject)) if found is not None][:1]


def _labels(subject: Subject) -> Finding | None:
    noise = label_noise(subject.train)
    if noise is None or noise.own < noise.chance + VISIBLE or noise.share - ERRORS * noise.error < ODD:
        return None  # labels that like images share no more than others do are of something that images do not show
    path = subject.recipe.data.path
    return Finding(
        "neighbours_disagree",
        "warning",
        f"{100 * noise.share:.0f} % (± {100 * noise.error:.0f}) of {noise.clear:,} training rows whose nearest images "
        f"agree on a label have another one, most often {noise.example}.",
        noise.share,
        ODD,
        f"Look at these rows (mmcl data inspect {path}) and mend the column of labels (data.columns.label); judge "
        f"by retrieval until then.",
    )


def _captions(subject: Subject) -> Finding | None:
    ranks = caption_ranks(subject.train)
    if ranks is None:
        return None
    share = strange_share(ranks)
    if share.value - ERRORS * share.error < STRANGE:
        return None
    return Finding(
        "neighbours_disagree",
        "note",
        f"Of {share.rows:,} training rows whose nearest images have like captions, about {100 * share.value:.0f} % "
        f"(± {100 * share.error:.0f}) have a caption that goes with them no better than one drawn by lot.",
        share.value,
        STRANGE,
        f"List the pairs that fit least (mmcl data audit {subject.recipe.data.path} --model {subject.recipe.run_dir}), "
        f"or train with noise.method, which trusts such pairs less.",
    )
