"""What the watch over the loss says, and when."""

from __future__ import annotations

import math
import os
import signal
import threading

import pytest

from mmcl.training.loss_watch import LossWatch
from mmcl.training.stopping import StopSignals


def watch(batch_size: int = 64) -> LossWatch:
    return LossWatch(batch_size=batch_size)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_told_at_once(loss: float) -> None:
    assert f"the loss is {loss}" in watch().complaint(loss)
    assert watch().complaint(4.0) is None


def test_a_high_start_that_falls_is_no_divergence() -> None:
    own = watch()
    assert all(own.complaint(80.0 * 0.97**step) is None for step in range(400))


def test_a_loss_three_times_its_chance_and_its_best_has_diverged() -> None:
    own = watch()
    assert all(own.complaint(2.0) is None for step in range(100))
    told = [own.complaint(40.0) for step in range(100, 200)]
    assert "diverged" in next(filter(None, told))
    assert told[0] is None  # a single bad batch is none


def test_a_loss_without_a_chance_value_is_measured_by_its_start() -> None:
    losses = [10.0] + 300 * [1.0] + 300 * [20.0]
    own, with_chance = watch(), watch()
    own.chance = None
    assert all(own.complaint(loss) is None for loss in losses)
    told = [own.complaint(3000.0) for step in range(601, 700)]
    assert "it began at 10.00" in next(filter(None, told))
    # The control: three times ln(64) is less than 20.
    assert any(with_chance.complaint(loss) for loss in losses)


def test_a_watch_goes_on_from_its_state() -> None:
    own, other = watch(), watch()
    for step in range(60):
        own.complaint(2.0 + step / 100)
    other.load_state_dict(own.state_dict())
    own.complaint(3.0)
    other.complaint(3.0)
    assert other.state_dict() == own.state_dict()
    assert other.average != watch().average


def test_signals_are_noted_and_handlers_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert signals.number == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before
    assert StopSignals.name(15) == "SIGTERM"


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    failures = []

    def work() -> None:
        try:
            with StopSignals() as signals:
                assert signals.number == 0
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
