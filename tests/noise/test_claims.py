"""Which pairs claim the same, and what stands against a claim."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.noise.claims import Claims

# Group 0 agrees, group 1 does not, group 2 has a majority, group 3 is one row.
GROUPS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])
CAPTIONS = torch.tensor([0, 0, 5, 6, 2, 2, 3, 4])


def test_a_claim_is_a_caption_of_a_group() -> None:
    found = Claims(GROUPS, torch.tensor([0, 0, 5, 6, 2, 2, 6, 4])).ids
    assert found.tolist() == [0, 0, 1, 2, 3, 3, 4, 5]
    assert Claims.alone(3).ids.tolist() == [0, 1, 2]
    assert Claims.alone(0).ids.tolist() == []
    with pytest.raises(ShapeError, match=r"one shape \(n,\), got \(8,\) and \(2,\)"):
        Claims(GROUPS, torch.zeros(2, dtype=torch.int64))


def test_kinds() -> None:
    assert Claims(GROUPS, CAPTIONS).kinds().tolist() == [1, 1, 2, 2, 3, 3, 2, 0]
    assert Claims.alone(3).kinds().tolist() == [0, 0, 0]


def naive(claims: Claims, losses: Tensor, limit: float) -> list[float]:
    groups, captions = claims.groups.tolist(), claims.captions.tolist()
    found = []
    for group, caption, loss in zip(groups, captions, losses.tolist()):
        everyone = list(zip(groups, captions, losses.tolist()))
        in_group = [other for g, c, other in everyone if g == group and c != caption]
        for_caption = [other for g, c, other in everyone if c == caption and g != group]
        found.append(loss - min([*in_group, limit]) / 2 - min([*for_caption, limit]) / 2)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_against_rivals_equals_the_loop(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    claims = Claims(torch.randint(0, 12, (60,), generator=draw), torch.randint(0, 15, (60,), generator=draw))
    of_claims = torch.randn(60, generator=draw).double()
    losses = of_claims[claims.ids]  # equal within a claim
    found = claims.against_rivals(losses, 0.7)
    torch.testing.assert_close(found, torch.tensor(naive(claims, losses, 0.7)).double())
    assert not torch.allclose(found, losses - 0.7)


def test_without_rivals_all_are_moved_alike() -> None:
    losses = torch.tensor([3.0, 1.0, 2.0])
    torch.testing.assert_close(Claims.alone(3).against_rivals(losses, 8.0), losses - 8)
    assert Claims.alone(0).against_rivals(torch.zeros(0), 8.0).tolist() == []
