"""Linear models of raw pixels: what can be told from colours and their places alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.errors import DataError, ShapeError

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset

PIXELS = 16  # a side: 768 features
MAX_FIT_ROWS = 10_000
# The strength of regularisation is chosen on fewer rows; the order of a few strengths does not need them all.
MAX_CHOOSE_ROWS = 2_000
STRENGTHS = (1e-3, 1e-2, 1e-1)
PENALTIES = (1e2, 1e3, 1e4, 1e5)
HELD_OUT = 0.2


@dataclass(frozen=True)
class RawLinear:
    """A fitted logistic regression.

    Attributes:
        model: scikit-learn's, features standardised within it.
        strength: the inverse regularisation C that did best on held-out groups.
    """

    model: Any
    strength: float

    def log_probabilities(self, features: np.ndarray, num_classes: int) -> Tensor:
        """(n, c) float32; a class that was never seen in training is below every other.

        Args:
            features: (n, f).
            num_classes: c.
        """
        seen = np.log(np.clip(self.model.predict_proba(features), 1e-30, None))
        values = np.full((len(features), num_classes), np.log(1e-30) - 1.0, dtype=np.float32)
        values[:, self.model.classes_] = seen
        return torch.from_numpy(values)


def sample_rows(num_rows: int, at_most: int, *, seed: int = 0) -> np.ndarray:
    """Ascending positions in [0, num_rows): all of them, or ``at_most`` drawn at random.

    Example:
        >>> sample_rows(3, 5).tolist()
        [0, 1, 2]
    """
    if num_rows <= at_most:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, at_most, replace=False))


def raw_pixels(dataset: ImageTextDataset, *, size: int = PIXELS) -> tuple[np.ndarray, np.ndarray]:
    """Every readable image, shrunk to ``size`` x ``size`` and flattened.

    Args:
        dataset: any with pixels.
        size: of the shrunken image, in pixels.

    Returns:
        (n, 3 * size * size) float32 in [0, 1], and the (n,) rows they belong to; unreadable rows are left out.

    Raises:
        DataError: no image is readable, or the data set is empty.
    """
    features, rows, first = [], [], None
    for row in range(len(dataset)):
        try:
            image = dataset.images.read(row)
        except DataError as error:
            first = first or error
            continue
        small = F.interpolate(image[None].float(), size=(size, size), mode="bilinear", antialias=True)
        features.append(small.flatten().div_(255.0).clamp_(0.0, 1.0))
        rows.append(row)
    if not features:
        raise DataError(f"{dataset.name}: none of its {len(dataset)} images has pixels to read ({first})")
    return torch.stack(features).numpy(), np.array(rows, dtype=np.int64)


def fit_raw_linear(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> RawLinear:
    """Logistic regression on standardised features, its regularisation chosen on groups that were held out.

    Args:
        features: (n, f) floating.
        labels: (n,) integer, of at least two classes.
        groups: (n,) integer; rows of one group are held out together. Where the rest holds fewer than two classes,
            the middle strength is taken.
        seed: of the rows that are held out.

    Raises:
        ShapeError: shapes do not fit, or there are fewer than two classes.
    """
    if len(features) != len(labels) or len(labels) != len(groups) or len(np.unique(labels)) < 2:
        raise ShapeError(
            f"features, labels and groups need one row each and two classes, got {len(features)}, {len(labels)} and "
            f"{len(groups)} rows, {len(np.unique(labels))} classes"
        )
    strength = _choose(features, labels, groups, seed=seed)
    return RawLinear(_logistic(features, labels, strength), strength)


def fit_ridge(features: np.ndarray, targets: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> Any:
    """Ridge regression of several labels at once on standardised features, for labels that do not exclude each other.

    Args:
        features: (n, f) floating.
        targets: (n, c), 1 where the row has the label, else 0.
        groups: (n,) integer; a fifth of the groups is held out to choose the regularisation by squared error.
        seed: of the rows that are held out.

    Returns:
        A model whose ``predict(features)`` is (n, c).

    Raises:
        ShapeError: shapes do not fit, or there is no row.
    """
    if not len(features) == len(targets) == len(groups) or not len(features):
        raise ShapeError(f"features {features.shape}, targets {targets.shape} and groups {groups.shape} do not fit")
    fit, held = split_by_group(groups, seed=seed)
    chosen = PENALTIES[len(PENALTIES) // 2]
    if len(held):
        errors = [
            np.square(_ridge(features[fit], targets[fit], one).predict(features[held]) - targets[held]).sum()
            for one in PENALTIES
        ]
        chosen = PENALTIES[int(np.argmin(errors))]
    return _ridge(features, targets, chosen)


def split_by_group(groups: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions to fit on and positions held out, a fifth of the groups; a single group is fitted on, none held out.

    Args:
        groups: (n,) integer.
        seed: of the draw.
    """
    ids = np.unique(groups)
    held = np.random.default_rng(seed).permutation(ids)[: round(HELD_OUT * len(ids))]
    is_held = np.isin(groups, held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def _choose(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, *, seed: int) -> float:
    some = sample_rows(len(labels), MAX_CHOOSE_ROWS, seed=seed)
    fit, held = (some[part] for part in split_by_group(groups[some], seed=seed))
    if not len(held) or len(np.unique(labels[fit])) < 2:
        return STRENGTHS[len(STRENGTHS) // 2]
    right = [_logistic(features[fit], labels[fit], one).score(features[held], labels[held]) for one in STRENGTHS]
    return STRENGTHS[int(np.argmax(right))]


def _logistic(features: np.ndarray, labels: np.ndarray, strength: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=60, tol=1e-3))
    with warnings.catch_warnings():
        # A baseline that stops a little short of its optimum is as good a baseline.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)


def _ridge(features: np.ndarray, targets: np.ndarray, penalty: float) -> Any:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), Ridge(alpha=penalty)).fit(features, targets)
