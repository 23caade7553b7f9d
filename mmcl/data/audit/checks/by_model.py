"""Captions that do not belong to their image, and images that are almost alike, by a model's judgement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmcl.data.audit.audited import Audited
from mmcl.data.audit.check import Check, Found
from mmcl.data.audit.checks.caption_text import shown
from mmcl.data.audit.checks.duplicates import twin_lists

NAME = "mismatched_caption"
_CHUNK = 65536
_FAR_BELOW = 3.0  # standard deviations below the median fit: 1 in 1,000 of normally distributed fits
_NORMAL_QUARTER = 0.6745  # standard deviations from a normal distribution's median to its quarter
_LEAST_ROWS = 8  # fewer tell nothing of random pairs
_TILE = 16384


@dataclass(frozen=True)
class _Moments:
    """Mean and standard deviation of the cosine of vectors with all of some others, without computing any cosine."""

    mean: np.ndarray  # (d,)
    second: np.ndarray  # (d, d), of the uncentred second moments

    @classmethod
    def of(cls, vectors: np.ndarray, rows: np.ndarray) -> _Moments:
        dim = vectors.shape[1]
        total, square = np.zeros(dim), np.zeros((dim, dim))
        for start in range(0, len(rows), _CHUNK):
            part = np.asarray(vectors[rows[start : start + _CHUNK]], dtype=np.float64)
            total += part.sum(axis=0)
            square += part.T @ part
        return cls(total / len(rows), square / len(rows))

    def standardised(self, scores: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """(scores - mean) / standard deviation, each by the scores its vector has with all the others."""
        mean = vectors @ self.mean
        variance = np.einsum("nd,de,ne->n", vectors, self.second, vectors) - mean**2
        return (scores - mean) / np.sqrt(np.maximum(variance, 1e-12))


def _mismatched(audited: Audited) -> Iterator[Found]:
    embedded, captions = audited.embedded, audited.captions
    readable = np.flatnonzero(~np.isnan(embedded.images[:, 0]))
    pairs = np.flatnonzero(~np.isnan(embedded.images[captions.rows, 0]))
    if len(readable) < _LEAST_ROWS:
        audited.not_run[NAME] = (
            f"{len(readable)} readable images; {_LEAST_ROWS} are needed to tell what random pairs are"
        )
        return
    fit = _fits(audited, readable, pairs)
    quarter, median = (float(value) for value in np.quantile(fit, [0.25, 0.5]))
    spread = (median - quarter) / _NORMAL_QUARTER
    limit = min(audited.limits.mismatch_z, median - _FAR_BELOW * spread)
    if limit < 0:
        audited.not_run[NAME] = (
            f"the model cannot tell: its median pair fits by {median:.1f} standard deviations of random pairs and a "
            f"quarter by {quarter:.1f} or less, so fitting pairs and random ones overlap; give a better model"
        )
        return
    chosen, fit = pairs[fit < limit], fit[fit < limit]
    details, related = _better(audited, chosen, fit)
    yield Found(captions.rows[chosen], details, related)


def _fits(audited: Audited, readable: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """How far each caption fits its image better than a random one would, the better of both ways."""
    embedded, captions = audited.embedded, audited.captions
    with_texts = _Moments.of(embedded.texts, np.unique(captions.codes))
    with_images = _Moments.of(embedded.images, readable)
    fit = np.empty(len(pairs))
    for start in range(0, len(pairs), _CHUNK):
        part = pairs[start : start + _CHUNK]
        image = embedded.images[captions.rows[part]].astype(np.float64)
        text = embedded.texts[captions.codes[part]].astype(np.float64)
        score = (image * text).sum(axis=1)
        both = with_texts.standardised(score, image), with_images.standardised(score, text)
        fit[start : start + _CHUNK] = np.maximum(*both)
        audited.tell("comparing captions with images", start + len(part), len(pairs))
    return fit


def _better(audited: Audited, pairs: np.ndarray, fit: np.ndarray) -> tuple[list[str], list[list[int]]]:
    """What fits the images of these captions best, and whose it is."""
    embedded, captions = audited.embedded, audited.captions
    codes, first = np.unique(captions.codes, return_index=True)
    best = np.full(len(pairs), -np.inf)
    best_code = np.zeros(len(pairs), dtype=np.int64)
    for begin in range(0, len(pairs), _TILE):
        chosen = slice(begin, begin + _TILE)
        image = embedded.images[captions.rows[pairs[chosen]]]
        for start in range(0, len(codes), _TILE):
            scores = image @ embedded.texts[codes[start : start + _TILE]].T
            place = scores.argmax(axis=1)
            score = scores[np.arange(len(place)), place]
            better = score > best[chosen]
            best_code[chosen] = np.where(better, start + place, best_code[chosen])
            best[chosen] = np.where(better, score, best[chosen])
    details, related = [], []
    for pair, code, score, z in zip(pairs, best_code, best, fit):
        own = float(embedded.images[captions.rows[pair]] @ embedded.texts[captions.codes[pair]])
        text, other = (captions.texts[int(place)].as_py() for place in (pair, first[code]))
        details.append(f"{shown(text)}: cosine {own:.2f}, fit {z:.1f}; {shown(other)} has {score:.2f}")
        related.append([int(captions.rows[first[code]])])
    return details, related


def _close(audited: Audited) -> Iterator[Found]:
    pairs, cosines = audited.nearest
    wanted = cosines >= audited.limits.twin_cosine
    if audited.has_pixels:  # what looks the same is found as that already
        twins = audited.twins
        wanted &= (twins.same[pairs] < 0).any(axis=1) | (twins.same[pairs[:, 0]] != twins.same[pairs[:, 1]])
        span = len(audited)
        wanted &= ~np.isin(pairs @ [span, 1], twins.pairs @ [span, 1])
    pairs, cosines = pairs[wanted], cosines[wanted]
    rows, related, places = twin_lists(pairs)
    splits = audited.split_of(pairs[places])
    details = [
        f"cosine {cosine:.3f}" + ("" if one == other else f" with an image of {audited.names[one]}")
        for cosine, (one, other) in zip(cosines[places], splits)
    ]
    yield Found(rows, details, related)


CLOSE_EMBEDDINGS = Check(
    "close_embeddings", "note", "look",
    "Images that the model embeds almost alike (threshold twin_cosine, among the nearest neighbours of each), and that "
    "are no duplicates by their pixels: the same thing taken twice, or a model that does not tell such images apart.",
    _close, "model",
)  # fmt: skip

MISMATCHED_CAPTION = Check(
    NAME, "warning", "look",
    "Captions that fit their image no better than a random caption does, and the image no better than a random one: "
    "less than mismatch_z standard deviations above the mean of all pairs both ways (of pairs set up at random, 19 in "
    "20 lie below 1.64), and 3 standard deviations below the median of these data's own pairs, as 1 in 1,000 fitting "
    "pairs is. Named beside it: the row whose caption fits the image best. Not looked for with a model too weak to "
    "tell the two apart.",
    _mismatched, "model",
)  # fmt: skip
