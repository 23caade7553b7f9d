"""The line through measured peaks, and the batch at which it meets a limit."""

from __future__ import annotations

import numpy as np
import pytest

from mmcl.plan.fitting import Growth, fit_growth

MIB = 2**20


def test_the_line_is_numpys() -> None:
    points = [(8, 130 * MIB), (32, 171 * MIB), (64, 240 * MIB)]
    slope, start = np.polyfit(*zip(*points), 1)
    growth = fit_growth(points)
    assert (growth.per_row, growth.fixed) == (pytest.approx(slope), pytest.approx(start))
    control = fit_growth([*points[:2], (64, 300 * MIB)])
    assert control.per_row != pytest.approx(slope, rel=0.05)


def test_a_known_square_is_found_again() -> None:
    truth = Growth(100 * MIB, 2 * MIB, 500.0)
    growth = fit_growth([(rows, truth.at(rows)) for rows in (16, 128)], per_row_squared=500.0)
    assert growth.at(4096) == pytest.approx(truth.at(4096))
    assert fit_growth([(rows, truth.at(rows)) for rows in (16, 128)]).at(4096) < 0.9 * truth.at(4096)


@pytest.mark.parametrize("squared", [0.0, 700.0])
def test_the_largest_batch_fits_and_the_next_does_not(squared: float) -> None:
    growth = Growth(300 * MIB, 1.5 * MIB, squared)
    rows = growth.largest(2048 * MIB)
    assert growth.at(rows) <= 2048 * MIB < growth.at(rows + 1)


def test_nothing_fits_and_everything_fits() -> None:
    assert Growth(300.0, 1.0).largest(200.0) == 0
    assert Growth(300.0, 1.0).raised(500.0).largest(400.0) == 0
    assert Growth(300.0, 0.0).largest(400.0) is None


def test_growth_that_does_not_show_is_counted_but_never_more_than_that() -> None:
    flat = fit_growth([(16, 400 * MIB), (32, 400 * MIB)], counted=1000.0)
    assert (flat.per_row, flat.at(24)) == (1000.0, pytest.approx(400 * MIB))
    falling = fit_growth([(16, 410 * MIB), (32, 400 * MIB)], counted=1000.0)
    assert falling.per_row == 1000.0
    assert fit_growth([(16, 400 * MIB), (32, 420 * MIB)], counted=1000.0).per_row > 1000.0
    assert fit_growth([(16, 400 * MIB)], counted=1000.0).at(16) == pytest.approx(400 * MIB)


def test_a_line_needs_a_point() -> None:
    with pytest.raises(ValueError, match="needs a point"):
        fit_growth([])
