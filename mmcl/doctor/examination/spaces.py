"""Checks of the trained model's embeddings: whether they vary, how many dimensions they use, and the two sides' gap."""

from __future__ import annotations

import numpy as np
import torch

from mmcl.doctor.examination.subject import Sample, Subject
from mmcl.doctor.finding import Finding
from mmcl.evaluation.metrics.geometry import effective_rank, modality_gap

ALIKE = 0.99  # mean cosine of two different embeddings
RANK = 0.04  # of the dimensions that the rows could fill
LINE, PLANE = 1.5, 2.2  # dimensions: embeddings on a line, on a plane
GAP = 1.2  # of 2


def constant(subject: Subject) -> list[Finding]:
    """One side's embeddings are all the same."""
    found = _worst_side(subject)
    if found is None or found[1] < ALIKE:
        return []
    side, cosine = found
    loss = subject.recipe.loss
    spread = loss.name in ("vicreg", "barlow_twins", "triplet")
    advice = (
        f"Change the loss: loss.name={loss.name} as it is set lets all embeddings become one (vicreg needs "
        f"loss.variance and loss.covariance, triplet a loss.margin above 0); or loss.name=info_nce."
        if spread
        else "Lower optimizer.learning_rate, and look at what the tower is given (images, tokens, normalisation)."
    )
    text = f"The mean cosine of two different {side} embeddings is {cosine:.4f}: all {side} embeddings are one."
    return [Finding("constant_embeddings", "fault", text, cosine, ALIKE, advice)]


def _worst_side(subject: Subject) -> tuple[str, float] | None:
    sample = subject.train
    if sample is None or sample.fit is None or len(sample) < 8:
        return None
    cosines = {"image": mean_cosine(sample.image), "text": mean_cosine(sample.text[_first_of_each(sample.texts)])}
    side = max(cosines, key=lambda name: cosines[name])
    return side, cosines[side]


def _first_of_each(texts: list[str]) -> np.ndarray:
    """Rows of distinct captions: equal ones are embedded alike by right."""
    return np.unique(np.array(texts, dtype=object).astype(str), return_index=True)[1]


def mean_cosine(rows: np.ndarray) -> float:
    """Mean cosine of two different unit rows; 0 for fewer than two.

    Example:
        >>> mean_cosine(np.eye(3))
        0.0
    """
    count = len(rows)
    total = np.square(rows.astype(np.float64).sum(0)).sum() - count
    return float(total / (count * (count - 1))) if count > 1 else 0.0


def collapse(subject: Subject) -> list[Finding]:
    """Embeddings that lie in few dimensions."""
    sample = subject.train
    if sample is None or sample.fit is None or len(sample) < 32:
        return []
    ranks = _ranks(sample)
    if not ranks:
        return []
    side = min(ranks, key=lambda name: ranks[name][0] / ranks[name][1])
    rank, possible = ranks[side]
    # A model that is about to leave chance begins with two or three dimensions.
    limit = max(PLANE if subject.has_learnt else LINE, RANK * min(possible, 64))
    if rank >= limit:
        return []
    return [
        Finding(
            "dimensional_collapse",
            "warning",
            f"The effective rank of the {side} embeddings is {rank:.1f} of {possible} dimensions that "
            f"{len(sample):,} rows could fill.",
            rank,
            limit,
            f"Widen what they pass through (model.{side}.head), lower optimizer.learning_rate, raise "
            f"train.batch_size, or take loss.name=info_nce, which spreads embeddings.",
        )
    ]


def _ranks(sample: Sample) -> dict[str, tuple[float, int]]:
    """Of each side that could fill many dimensions the effective rank, and how many those are."""
    texts = sample.text[_first_of_each(sample.texts)]
    ranks = {}
    for side, rows in (("image", sample.image), ("text", texts)):
        centred = rows - rows.mean(0)
        possible = min(rows.shape)
        if possible >= 16:
            ranks[side] = (effective_rank(torch.from_numpy(np.ascontiguousarray(centred))), possible)
    return ranks


def gap(subject: Subject) -> list[Finding]:
    """Images and captions as two clouds far apart."""
    sample = subject.train
    if sample is None or sample.fit is None or len(sample) < 8:
        return []
    distance = modality_gap(torch.from_numpy(sample.image), torch.from_numpy(sample.text))
    if distance < GAP:
        return []
    text = f"The centres of image and text embeddings are {distance:.2f} apart (2 is the most)."
    advice = "Search with queries of one side only, or start from a lower model.logit_scale, which closes the gap."
    return [Finding("modality_gap", "note", text, distance, GAP, advice)]
