"""Whether images and captions belong together, without training: a ridge regression from one to the other, judged on
rows it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

FOLDS = 4
RIDGES = (0.1, 1.0, 10.0)  # of the mean variance of a dimension
IMAGE_DIMS, TEXT_DIMS = 200, 64  # principal components kept, at most
NEIGHBOURS = 5  # captions of the other folds that say how usual a caption is
PERMUTATIONS = 999
SIDE, CELLS, ANGLES = 32, 4, 8  # of the pictures that pixel features are taken of


@dataclass(frozen=True)
class Fit:
    """How well scores find the partner of each row.

    Attributes:
        ranks: (n,) float64 in (0, 1): the share of other groups' partners that score at least as high as the own.
        auc: how often the own partner scores above a strange one; 0.5 is chance.
        z: ``auc``'s distance from chance in standard errors, of as many independent rows as there are groups.
        recall: share of rows whose own partner scores above all strange ones.
        chance: what ``recall`` is expected to be by chance.
    """

    ranks: np.ndarray
    auc: float
    z: float
    recall: float
    chance: float


@dataclass(frozen=True)
class Agreement:
    """What the regression found.

    Attributes:
        fit: of predicted captions with those that stand beside the images.
        p_value: how likely partners drawn by lot would agree as much: of a permutation test.
        confident: (n,) float64: how far a prediction is from the mean caption; by the image alone.
        usual: (n,) float64: how near captions of other folds are; by the caption alone.
        features: what it was made with.
    """

    fit: Fit
    p_value: float
    confident: np.ndarray
    usual: np.ndarray
    features: str


def fit_of(scores: np.ndarray, groups: np.ndarray) -> Fit:
    """Rank each row's own partner among those of other groups; ties count against it by half.

    Args:
        scores: (n, n) floating; row i's own partner is column i.
        groups: (n,) integer; items of one group are no strangers to one another.

    Returns:
        The fit; ``auc`` 0.5 and ``z`` 0 where there is no stranger at all.

    Example:
        >>> fit_of(np.eye(4), np.arange(4)).auc
        1.0
    """
    strange = groups[:, None] != groups[None, :]
    own = scores.diagonal()[:, None]
    above = ((scores > own) & strange).sum(1) + 0.5 * ((scores == own) & strange).sum(1)
    others = strange.sum(1)
    counted = others > 0
    if not counted.any():
        return Fit(np.full(len(groups), 0.5), 0.5, 0.0, 0.0, 0.0)
    shares = above[counted] / others[counted]
    ranks = np.full(len(groups), 0.5)
    ranks[counted] = shares
    auc = float(1 - shares.mean())
    z = (auc - 0.5) * math.sqrt(12 * len(np.unique(groups)))
    hits = float((above[counted] == 0).mean())
    return Fit(ranks, auc, z, hits, float((1 / (1 + others[counted])).mean()))


def pixel_features(images: Sequence[Tensor]) -> np.ndarray:
    """Plain figures of pictures: 8 x 8 mean colours, a histogram of 64 colours, and 4 x 4 histograms of 8 directions.

    No network has a part in it, so that it says the same whatever was trained.

    Args:
        images: uint8 (3, h, w) each, of any size.

    Returns:
        (n, 387) float32; (0, 387) for none.
    """
    rows = [_pixel_row(image) for image in images]
    return np.stack(rows) if rows else np.zeros((0, 387), dtype=np.float32)


def _pixel_row(image: Tensor) -> np.ndarray:
    small = F.adaptive_avg_pool2d(image.float()[None] / 255, SIDE)[0]  # (3, 32, 32)
    levels = (small * 3.999).long().clamp(0, 3)
    codes = (levels[0] * 16 + levels[1] * 4 + levels[2]).flatten()
    colours = torch.bincount(codes, minlength=64).float() / codes.numel()
    grey = small.mean(0)
    across, down = (grey[:, 1:] - grey[:, :-1])[:-1], (grey[1:] - grey[:-1])[:, :-1]
    strength = (across.square() + down.square()).sqrt()
    angle = ((torch.atan2(down, across) / math.pi + 1) * ANGLES / 2).long().clamp(0, ANGLES - 1)
    cell = torch.arange(SIDE - 1) * CELLS // (SIDE - 1)
    place = (cell[:, None] * CELLS + cell[None, :]) * ANGLES + angle
    edges = torch.zeros(CELLS * CELLS * ANGLES).index_add_(0, place.flatten(), strength.flatten())
    rest = torch.stack([strength.mean(), strength.std(), grey.std()])
    # Factors that bring the three kinds to about one spread.
    return torch.cat([F.adaptive_avg_pool2d(small, 8).flatten(), 3 * colours.sqrt(), edges / 4, rest]).numpy()


def word_features(texts: Sequence[str], *, most: int = 300) -> np.ndarray:
    """Which of the frequent words a caption has; words of nearly all or of a single caption say nothing.

    Args:
        texts: n captions.
        most: words.

    Returns:
        (n, w) float64 of 0 and 1; w may be 0.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    if not any(any(letter.isalnum() for letter in text) for text in texts):
        return np.zeros((len(texts), 0))
    counted = CountVectorizer(binary=True, max_features=most, token_pattern=r"\w+").fit_transform(texts)
    matrix = counted.toarray().astype(np.float64)
    share = matrix.mean(0)
    return matrix[:, (share >= 2 / max(1, len(texts))) & (share <= 0.98)]


def measure_agreement(
    image: np.ndarray, text: np.ndarray, groups: np.ndarray, *, features: str = "features", seed: int = 0
) -> Agreement | None:
    """Predict captions from images by ridge regression and look which captions the predictions are near to.

    Both sides are reduced to principal components, the captions' whitened half way; of four folds each is predicted
    from the three others, so that nothing can be learnt by heart; scores are the mean over three ridges. The p-value is
    that of a permutation test: within each fold, predictions are given captions by lot.

    Args:
        image: (n, f) floating, features that know nothing of the run's captions.
        text: (n, g) floating.
        groups: (n,) integer; items of one group are no strangers.
        features: what they are called.
        seed: of folds and lots.

    Returns:
        None where there is nothing to measure: fewer than 40 rows, or a side that does not vary.

    Source: Gretton et al. 2005 test dependence by a kernel statistic and permutations in the same way; regression on
    held-out rows in its place tells of each row how well it fits.
    """
    count = len(groups)
    x, y = _components(image, min(IMAGE_DIMS, count // 4)), _components(text, min(TEXT_DIMS, count // 8))
    if count < 40 or not x.shape[1] or not y.shape[1] or len(np.unique(groups)) < 2:
        return None
    y = y / np.sqrt(y.std(0))
    generator = np.random.default_rng(seed)
    folds = generator.permutation(count) % FOLDS
    scale = np.square(x).sum() / x.shape[1]
    tries = [_held_out(x, y, folds, ridge * scale) for ridge in RIDGES]
    # The mean of all ridges: the best of them, chosen by its result, would make chance look like agreement.
    folded = zip(*(tried[0] for tried in tries))
    scores = [(same[0][0], np.mean([part for _, part in same], axis=0)) for same in folded]
    confident, usual = np.mean([tried[1] for tried in tries], axis=0), tries[0][2]
    fit = _fold_fit(scores, groups)
    return Agreement(fit, _p_value(scores, generator), confident, usual, features)


def _components(values: np.ndarray, most: int) -> np.ndarray:
    """Principal components of standardised columns; those without variance are left out."""
    values = np.asarray(values, dtype=np.float64)
    if not values.size or most < 1:
        return np.zeros((len(values), 0))
    values = values - values.mean(0)
    spread = values.std(0)
    if not spread.max() > 1e-9:
        return np.zeros((len(values), 0))
    values = values / np.maximum(spread, 1e-3 * spread.max())
    left, sizes, _ = np.linalg.svd(values, full_matrices=False)
    kept = min(most, int((sizes > 1e-6 * sizes[0]).sum()))
    return left[:, :kept] * sizes[:kept]


Held = list[tuple[np.ndarray, np.ndarray]]  # of each fold its rows, and scores of predictions with captions


def _held_out(x: np.ndarray, y: np.ndarray, folds: np.ndarray, ridge: float) -> tuple[Held, np.ndarray, np.ndarray]:
    confident, usual, scores = np.zeros(len(x)), np.zeros(len(x)), []
    for fold in range(FOLDS):
        inside = folds == fold
        mean_x, mean_y = x[~inside].mean(0), y[~inside].mean(0)
        known, answers = x[~inside] - mean_x, y[~inside] - mean_y
        weights = np.linalg.solve(known.T @ known + ridge * np.eye(x.shape[1]), known.T @ answers)
        predicted, wanted = (x[inside] - mean_x) @ weights, _unit(y[inside] - mean_y)
        confident[inside] = np.linalg.norm(predicted, axis=1)
        usual[inside] = np.sort(wanted @ _unit(answers).T, axis=1)[:, -NEIGHBOURS:].mean(1)
        scores.append((np.flatnonzero(inside), _unit(predicted) @ wanted.T))
    return scores, confident, usual


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _fold_fit(scores: Held, groups: np.ndarray) -> Fit:
    ranks = np.full(len(groups), 0.5)
    fits = [fit_of(part, groups[rows]) for rows, part in scores]
    for (rows, _), fit in zip(scores, fits):
        ranks[rows] = fit.ranks
    auc = float(1 - ranks.mean())
    z = (auc - 0.5) * math.sqrt(12 * len(np.unique(groups)))
    return Fit(ranks, auc, z, float(np.mean([f.recall for f in fits])), float(np.mean([f.chance for f in fits])))


def _p_value(scores: Held, generator: np.random.Generator) -> float:
    """Share of lots, the true pairing counted as one, whose mean score is at least the true one's."""
    true = sum(part.diagonal().sum() for _, part in scores)
    drawn = np.zeros(PERMUTATIONS)
    for rows, part in scores:
        places = np.arange(len(rows))
        for number in range(PERMUTATIONS):
            drawn[number] += part[places, generator.permutation(len(rows))].sum()
    return float((1 + (drawn >= true - 1e-12).sum()) / (1 + PERMUTATIONS))
