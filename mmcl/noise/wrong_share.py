"""How many pairs are wrong, and which, held against pairs that were made wrong."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ShapeError

FEWEST = 20  # losses, below which nothing is told apart
SMALLEST = 1e-6  # probability that isotonic regression may answer


def wrong_share(losses: Tensor, wrong_losses: Tensor) -> float:
    r"""The share of pairs that are wrong.

    A right pair seldom has a loss above the median :math:`m` of pairs that were made wrong, and of wrong ones half do:

    .. math:: \pi = \min\big(1, 2 \, P(\ell > m)\big)

    The right pairs that do are counted too, so the share is rather too large than too small.

    Args:
        losses: (n,) finite.
        wrong_losses: (k,) finite; of pairs made wrong, judged alike.

    Returns:
        In [0, 1]; 0 for fewer than 20 of either.

    Raises:
        ShapeError: not one-dimensional, or not finite.

    Source: Storey 2002, A direct approach to false discovery rates, eq. 6, with lambda = 1/2.

    Example:
        >>> import torch
        >>> wrong_share(torch.cat([torch.zeros(70), torch.linspace(5, 6, 30)]), torch.linspace(5, 6, 100))
        0.3
    """
    ours, wrong = (_checked(values) for values in (losses, wrong_losses))
    if min(len(ours), len(wrong)) < FEWEST:
        return 0.0
    return float(min(1.0, 2 * np.mean(ours > np.median(wrong))))


def wrong_probability(losses: Tensor, wrong_losses: Tensor) -> Tensor:
    r"""How likely each pair is wrong, by its loss: the local false discovery rate.

    .. math:: P(\text{wrong} \mid \ell) = \pi \, \frac{f_0(\ell)}{f(\ell)}

    with the densities :math:`f` of the losses and :math:`f_0` of pairs made wrong, whose ratio an isotonic regression
    of "was made wrong" on the loss gives, so that it never falls with the loss. Where the two are alike, as under a
    model that has learnt nothing, all are as likely wrong as :math:`\pi` says.

    Args:
        losses: (n,) finite.
        wrong_losses: (k,) finite.

    Returns:
        (n,) float32 in [0, 1]; 0 for fewer than 20 of either.

    Raises:
        ShapeError: not one-dimensional, or not finite.

    Source: Efron et al. 2001, Empirical Bayes analysis of a microarray experiment, eq. 3.6; its null distribution is
    drawn here and not assumed.

    Example:
        >>> import torch
        >>> losses = torch.cat([torch.zeros(70), torch.linspace(5, 6, 30)])
        >>> found = wrong_probability(losses, torch.linspace(5, 6, 100))
        >>> round(float(found[:70].sum())), round(float(found[70:].sum()))
        (0, 29)
    """
    ours, wrong = (_checked(values) for values in (losses, wrong_losses))
    if min(len(ours), len(wrong)) < FEWEST:
        return torch.zeros(len(ours))
    from sklearn.isotonic import IsotonicRegression  # heavy, and wanted only where this is called

    values = np.concatenate([ours, wrong])
    made_wrong = np.repeat([0.0, 1.0], [len(ours), len(wrong)])
    weights = np.repeat([1 / len(ours), 1 / len(wrong)], [len(ours), len(wrong)])
    regression = IsotonicRegression(y_min=SMALLEST, y_max=1 - SMALLEST, out_of_bounds="clip")
    share = regression.fit(values, made_wrong, sample_weight=weights).predict(ours)
    return torch.from_numpy(np.clip(wrong_share(losses, wrong_losses) * share / (1 - share), 0, 1)).float()


def share_below(losses: Tensor, others: Tensor) -> float:
    """How often a loss is smaller than one of the others, ties by half: the area under the ROC curve.

    Args:
        losses: (n,) finite.
        others: (k,) finite.

    Returns:
        In [0, 1]; 0.5 where one of them is empty.

    Example:
        >>> import torch
        >>> share_below(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 2.0]))
        0.625
    """
    ours, theirs = (_checked(values) for values in (losses, others))
    if min(len(ours), len(theirs)) == 0:
        return 0.5
    theirs = np.sort(theirs)
    below, upto = (np.searchsorted(theirs, ours, side=side) for side in ("left", "right"))
    return float(1 - (below + upto).mean() / (2 * len(theirs)))


def _checked(values: Tensor) -> np.ndarray:
    if values.ndim != 1 or not bool(values.isfinite().all()):
        raise ShapeError(f"losses need shape (n,) and finite values, got {tuple(values.shape)}; leave out unseen pairs")
    return values.detach().double().cpu().numpy()
