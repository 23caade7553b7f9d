"""`mmcl plan` as a person runs it: what it refuses before anything is measured; tests/plan has what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest

SMALL = Path(__file__).parents[1] / "training" / "small.yaml"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.batchsize=4"], "unknown key 'train.batchsize'; did you mean 'train.batch_size'?"),
        (["--memory", "much"], "--memory is 'much'; want a size such as 16GiB"),
        (["--memory", "0"], "--memory is '0'; want a size such as 16GiB"),
        (["--json", "/nowhere/plan.json"], "there is no folder /nowhere"),
    ],
)
def test_what_cannot_be_planned_is_said_at_once(arguments: list[str], message: str, invoke) -> None:
    done = invoke("plan", str(SMALL), *arguments)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_sizes_are_read_as_people_write_them() -> None:
    from mmcl.cli.plan import _bytes

    sizes = {"16GiB": 16 * 2**30, "8g": 8 * 2**30, "512 MiB": 512 * 2**20, "2": 2 * 2**30, "1.5GB": 1.5 * 2**30}
    assert {text: _bytes(text) for text in sizes} == sizes
