"""All pairs judged at once, by losses under models that were not trained on them."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.noise.claims import Claims
from mmcl.noise.selection import mean_by, smallest
from mmcl.noise.wrong_share import share_below, wrong_probability, wrong_share

FIT_TO_JUDGE = 0.6  # of the pairs, at least, a judge must find better than pairs made wrong; 0.5 is chance
LARGEST_SHARE = 0.9  # of the pairs that may be left out
FEWEST_OF_A_KIND = 100  # claims, from which on a kind is judged by itself


def judged_beforehand(
    claims: Claims, losses: Tensor, wrong_losses: Tensor, *, soft: bool
) -> tuple[float, Tensor, Tensor]:
    """How likely each pair is right, and what it weighs.

    How many claims are wrong is known by holding their losses against those of pairs made wrong: for each kind by
    itself, as claims that others of their group contradict are more often wrong than those a whole group makes. Which
    of a kind they are is told by their losses less those of their rivals.

    Args:
        claims: of the n pairs; a claim is judged by the mean loss of its pairs, and counts once.
        losses: (n,) of each pair; NaN: not known, and trusted.
        wrong_losses: (n,) of each image with the caption of another group; NaN where the loss is.
        soft: pairs weigh as likely as they are right; else as many as are wrong weigh 0, and all others 1.

    Returns:
        How often a pair has a smaller loss than one made wrong; (n,) chances; (n,) weights. Below ``FIT_TO_JUDGE`` the
        judge can hardly tell the two apart, and all is 1.

    Raises:
        ShapeError: there are not n of each.

    Source: Northcutt et al. 2021 (arXiv:1911.00068), pruned by noise rate; kinds apart: Sun et al. 2006, Stratified
    false discovery control. Rivals are not theirs.
    """
    shapes = tuple(losses.shape), tuple(wrong_losses.shape)
    if shapes != (claims.groups.shape, claims.groups.shape):
        raise ShapeError(f"losses need shape {tuple(claims.groups.shape)}, got {shapes[0]} and {shapes[1]}")
    clean, weights = torch.ones(len(losses)), torch.ones(len(losses))
    ours, wrong = (mean_by(values.float().cpu(), claims.ids) for values in (losses, wrong_losses))
    known = ~ours.isnan()
    first = _first_of_each(claims.ids[known])
    known_claims = Claims(claims.groups[known], claims.captions[known])
    own, made_wrong = ours[known][first], wrong[known][first]
    fitness = share_below(own, made_wrong)
    if fitness < FIT_TO_JUDGE:
        return fitness, clean, weights
    contested = known_claims.against_rivals(ours[known], float(made_wrong.median()))[first]
    kinds = known_claims.kinds()[first]
    whole = _judged(own, made_wrong, contested, soft=soft)
    of_claims = torch.empty_like(whole)
    for kind in kinds.unique():
        part = kinds == kind
        enough = int(part.sum()) >= FEWEST_OF_A_KIND
        of_part = _judged(own[part], made_wrong[part], contested[part], soft=soft) if enough else whole[:, part]
        of_claims[:, part] = of_part
    clean[known], weights[known] = of_claims[:, known_claims.ids].unbind(0)
    return fitness, clean, weights


def _judged(losses: Tensor, made_wrong: Tensor, contested: Tensor, *, soft: bool) -> Tensor:
    """(2, k) how likely claims are right, and what they weigh.

    How many of either there are is said by the losses, in which order by the contested ones.
    """
    chances = 1 - wrong_probability(losses, made_wrong)
    clean = torch.empty_like(chances)
    clean[contested.argsort(stable=True)] = chances.sort(descending=True).values
    if soft:
        return torch.stack([clean, clean])
    return torch.stack([clean, smallest(contested, min(wrong_share(losses, made_wrong), LARGEST_SHARE))])


def _first_of_each(ids: Tensor) -> Tensor:
    """The place of the first of each id, ids ascending."""
    _, inverse = ids.unique(return_inverse=True)
    places = torch.arange(len(ids))
    return torch.full((int(inverse.max()) + 1 if len(ids) else 0,), len(ids)).scatter_reduce(0, inverse, places, "amin")
