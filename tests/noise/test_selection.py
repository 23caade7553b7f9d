"""From losses to what pairs weigh."""

from __future__ import annotations

import pytest
import torch

from mmcl.errors import ShapeError
from mmcl.noise.selection import dropped_share, mean_by, smallest


def test_the_share_grows_to_its_end_and_stays() -> None:
    assert [dropped_share(0.4, epochs=n, ramp_epochs=4) for n in (1, 2, 4, 9)] == pytest.approx([0.1, 0.2, 0.4, 0.4])
    assert dropped_share(0.4, epochs=1, ramp_epochs=0) == 0.4


def test_the_smallest_losses_stay() -> None:
    losses = torch.tensor([3.0, 1.0, 2.0, 9.0, 5.0])
    assert smallest(losses, 0.4).tolist() == [1, 1, 1, 0, 0]
    assert smallest(losses, 0.39).tolist() == [1, 1, 1, 0, 1]  # rounded down
    assert smallest(losses, 0.0).tolist() == [1] * 5
    assert smallest(torch.zeros(4), 0.5).tolist() == [1, 1, 0, 0]
    assert smallest(torch.tensor([]), 0.5).tolist() == []
    with pytest.raises(ShapeError, match="share is 1"):
        smallest(losses, 1.0)


def test_means_by_id_leave_out_and_fill_what_is_unknown() -> None:
    nan = torch.nan
    found = mean_by(torch.tensor([1.0, 3.0, nan, nan, 8.0]), torch.tensor([0, 0, 0, 1, 4]))
    assert found[[0, 1, 2, 4]].tolist() == [2, 2, 2, 8]
    assert bool(found[3].isnan())
    assert mean_by(torch.tensor([]), torch.tensor([], dtype=torch.int64)).tolist() == []
