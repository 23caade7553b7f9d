"""`mmcl plan` as a person runs it: what it prints and writes, and what it refuses before anything is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SMALL = Path(__file__).parents[1] / "training" / "small.yaml"


def test_it_prints_the_plan_and_writes_it(run_mmcl, tmp_path: Path) -> None:
    done = run_mmcl("plan", str(SMALL), "train.max_steps=4", "--steps", "1", "--json", "plan.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert plan["data"]["total_steps"] == 4
    assert 0 < plan["time"]["training"] < plan["time"]["total"]
    assert plan["memory"]["peak"] > 100 * 2**20  # a process with torch
    heads = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert heads[:3] == ["parameters", "data", "memory"]
    assert {"memory of a step", "largest batch that fits", "time", "time of a step", "disk"} <= set(heads)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"], "a plan writes nothing else"


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
