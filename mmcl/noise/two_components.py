"""How likely each pair is right, from a mixture of two Gaussians over the pairs' losses."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ShapeError

FEWEST = 10  # losses, below which there is nothing to tell apart
MOST_FITTED = 100_000  # losses the mixture is fitted to; more say nothing new
START_QUANTILES = (0.25, 0.9)  # of the losses, where the two means start
REGULARIZATION = 5e-4  # added to variances of losses scaled to [0, 1]


def clean_probability(losses: Tensor) -> Tensor:
    r"""The posterior of the component with the smaller mean, of two Gaussians fitted to the losses.

    A loss below the smaller mean gets the posterior of that mean, one above the larger mean that of the larger: with
    unequal variances the posterior itself would turn back outside of the two, and call the smallest losses wrong.
    Between them it falls, so the result never grows with the loss.

    Args:
        losses: (n,) finite. Fewer than 10, or all alike: nothing can be told apart, and all are taken to be right.

    Returns:
        (n,) float32 in [0, 1]; deterministic.

    Raises:
        ShapeError: not one-dimensional, or not finite.

    Source: Li et al. 2020, DivideMix (arXiv:2002.07394) section 3.1. Deviations: the clamp to the means; the start,
    which is fixed and not random.

    Example:
        >>> import torch
        >>> found = clean_probability(torch.cat([torch.linspace(0, 1, 70), torch.linspace(5, 6, 30)]))
        >>> bool((found[:70] > 0.9).all()), bool((found[70:] < 0.1).all())
        (True, True)
    """
    if losses.ndim != 1 or not bool(losses.isfinite().all()):
        raise ShapeError(f"losses need shape (n,) and finite values, got {tuple(losses.shape)}; leave out unseen pairs")
    values = losses.detach().double().cpu().numpy()
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    if len(values) < FEWEST or not high > low:
        return torch.ones(len(values))
    from sklearn.exceptions import ConvergenceWarning  # heavy, and wanted only where this is called
    from sklearn.mixture import GaussianMixture

    scaled = ((values - low) / (high - low))[:, None]
    fitted = np.sort(scaled, axis=0)  # so that the order of the pairs plays no part
    if len(fitted) > MOST_FITTED:  # evenly spread: their distribution is the same
        fitted = fitted[np.linspace(0, len(fitted) - 1, MOST_FITTED).astype(np.int64)]
    start = np.quantile(fitted, START_QUANTILES, axis=0)
    mixture = GaussianMixture(2, means_init=start, reg_covar=REGULARIZATION, random_state=0, tol=1e-4, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # where it stops is near enough
        mixture.fit(fitted)
    means = mixture.means_[:, 0]
    clamped = np.clip(scaled, means.min(), means.max())
    posterior = mixture.predict_proba(clamped)[:, int(means.argmin())]
    return torch.from_numpy(posterior).float()
