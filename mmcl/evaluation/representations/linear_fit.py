"""`fit_linear` and `sweep_linear`: multinomial logistic regression on features that do not change."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.checks import check_finite_rows, check_ids
from mmcl.evaluation.metrics import top_k_hits

# Of the sum of losses against the squared weights, as scikit-learn's C; a decade apart, refined by half a decade.
DEFAULT_CS = (0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
MAX_ITERATIONS = 1000
# Largest entry of the mean loss's gradient at which the solver stops; scikit-learn's own 1e-4 leaves 1 % in places.
_TOLERANCE = 1e-5
# The sweep ends after this many values in a row that are worse than the best one.
_PATIENCE = 2


@dataclass(frozen=True)
class LinearClassifier:
    """Scores ``features @ weights.T + biases`` of the classes it was fitted on.

    Attributes:
        weights: (k, d) float32.
        biases: (k,) float32.
        classes: (k,) int64, ascending: the class each row is for.
        c: the regularisation it was fitted with.
        converged: whether the solver came to rest before its last iteration.
    """

    weights: Tensor
    biases: Tensor
    classes: Tensor
    c: float
    converged: bool

    def scores(self, features: Tensor, *, num_classes: int) -> Tensor:
        """The logits of every class; those of a class it was not fitted on are below all others of the result.

        Args:
            features: (n, d) floating.
            num_classes: c, above the highest of ``classes``.

        Returns:
            (n, num_classes) float32.

        Raises:
            ShapeError: another width than it was fitted on, or a row is not finite.
        """
        features = check_finite_rows("features", features)
        if features.shape[1] != self.weights.shape[1]:
            raise ShapeError(f"features needs {self.weights.shape[1]} columns, got shape {tuple(features.shape)}")
        known = torch.addmm(self.biases, features, self.weights.T)  # (n, k)
        floor = float(known.min()) - 1.0 if known.numel() else 0.0
        return torch.full((len(known), num_classes), floor).index_copy_(1, self.classes, known)


@dataclass(frozen=True)
class LinearSweep:
    """What a sweep over the regularisation chose.

    Attributes:
        classifier: the best one; of equals the one with the strongest regularisation.
        accuracy: its share of right answers on the validation rows.
        trail: (c, accuracy) of every value that was tried, in that order.
    """

    classifier: LinearClassifier
    accuracy: float
    trail: tuple[tuple[float, float], ...]


def fit_linear(features: Tensor, labels: Tensor, *, c: float) -> LinearClassifier:
    """Multinomial logistic regression: ``min c * sum of cross-entropies + |weights|^2 / 2``, biases free.

    Args:
        features: (n, d) floating.
        labels: (n,) integer; at least two different ones.
        c: above 0; the larger, the weaker the regularisation.

    Raises:
        ShapeError: shapes or dtypes do not fit, a row is not finite, or there are fewer than two classes.
        ConfigError: ``c`` is not above 0.

    Source:
        ``sklearn.linear_model.LogisticRegression`` with L-BFGS, as the linear probe of Radford et al. 2021,
        "Learning Transferable Visual Models From Natural Language Supervision", appendix A.3. The features are centred
        for the solver, which changes neither minimum nor weights and saves a third of its steps on embeddings that lie
        in a narrow cone. Two classes have one logit, as scikit-learn has it.

    Example:
        >>> classifier = fit_linear(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1]), c=10.0)
        >>> classifier.scores(torch.tensor([[0.0], [3.0]]), num_classes=2).argmax(1)
        tensor([0, 1])
    """
    return _Path(features, labels).fit(c)


def sweep_linear(
    features: Tensor,
    labels: Tensor,
    validation_features: Tensor,
    validation_labels: Tensor,
    *,
    cs: Sequence[float] = DEFAULT_CS,
) -> LinearSweep:
    """Fit with one regularisation after the other, and keep what is best on the validation rows.

    The values are gone through in ascending order, each fit started from the one before, until two in a row are worse
    than the best; then the two values half way (in the logarithm) to the best one's neighbours are tried.

    Args:
        features: (n, d) floating, to fit on.
        labels: (n,) integer.
        validation_features: (v, d) floating, v at least 1.
        validation_labels: (v,) integer; a class that is not fitted on is a wrong answer whatever the regularisation.
        cs: values above 0, at least one.

    Raises:
        ShapeError: as `fit_linear`, or there is no validation row.
        ConfigError: ``cs`` is empty or holds a value that is not above 0.

    Source:
        Radford et al. 2021, appendix A.3: a search from coarse to fine over the logarithm of the L2 regularisation, on
        validation data. Theirs has seven values and then up to eight steps a decade; this one stops at two.
    """
    if not cs or min(cs) <= 0:
        raise ConfigError(f"cs needs at least one value, each above 0, got {tuple(cs)}")
    if not len(validation_labels):
        raise ShapeError("validation_features needs at least one row to choose a regularisation by, got none")
    path = _Path(features, labels)
    num_classes = 1 + int(max(labels.max(), validation_labels.max()))
    grid = sorted(set(cs))
    tried: dict[float, tuple[float, LinearClassifier]] = {}

    def attempt(c: float) -> float:
        classifier = path.fit(c)
        scores = classifier.scores(validation_features, num_classes=num_classes)
        tried[c] = (float(top_k_hits(scores, validation_labels, 1).double().mean()), classifier)
        return tried[c][0]

    best, behind = -1.0, 0
    for c in grid:
        accuracy = attempt(c)
        behind = 0 if accuracy >= best else behind + 1
        best = max(best, accuracy)
        if behind == _PATIENCE:
            break
    place = grid.index(_chosen(tried))
    for neighbour in (place - 1, place + 1):
        if 0 <= neighbour < len(grid):
            attempt(float(np.sqrt(grid[place] * grid[neighbour])))
    accuracy, classifier = tried[_chosen(tried)]
    return LinearSweep(classifier, accuracy, tuple((c, accuracy) for c, (accuracy, _) in tried.items()))


def _chosen(tried: dict[float, tuple[float, LinearClassifier]]) -> float:
    """The value of the highest accuracy, of equals the smallest."""
    return min(tried, key=lambda c: (-tried[c][0], c))


class _Path:
    """Fits of the same rows with one regularisation after the other, each started from the one before."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        features = check_finite_rows("features", features)
        labels = check_ids("labels", labels, length=len(features), of="features")
        self._classes = labels.unique()
        if len(self._classes) < 2:
            raise ShapeError(f"labels needs at least two classes to tell apart, got {len(self._classes)}")
        self._mean = features.mean(0)
        self._features, self._labels = (features - self._mean).numpy(), labels.numpy()
        self._estimator: Any = None

    def fit(self, c: float) -> LinearClassifier:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        if not 0 < c < float("inf"):
            raise ConfigError(f"c needs to be a finite number above 0, got {c}")
        if self._estimator is None:
            self._estimator = LogisticRegression(warm_start=True, max_iter=MAX_ITERATIONS, tol=_TOLERANCE)
        self._estimator.set_params(C=c)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._estimator.fit(self._features, self._labels)
        converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        weights = torch.from_numpy(np.asarray(self._estimator.coef_, dtype=np.float32))
        biases = torch.from_numpy(np.asarray(self._estimator.intercept_, dtype=np.float32))
        if len(self._classes) == 2:  # one logit: the second class against a first that always has 0
            weights = torch.cat([torch.zeros_like(weights), weights])
            biases = torch.cat([torch.zeros_like(biases), biases])
        return LinearClassifier(weights.clone(), biases - weights @ self._mean, self._classes, c, converged)
