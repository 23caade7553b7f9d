"""Runs that keep their towers' structure: on two processes as on one, in pieces as whole; logged apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import final_weights, in_children, rank_envs, small_run, step_records

DATA = "data.path=shapes?train=45&validation=24&test=24&image_size=32"
KEPT = (
    "loss={text_structure: 20, image_structure: 5}",
    "train.max_steps=6",
    "evaluate.tasks=[]",
    "optimizer={name: adamw, learning_rate: 1e-3, options: {eps: 1e-3}}",
    DATA,
)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("one") / "run", *KEPT).folder


@pytest.mark.parametrize("pieces", ["null", "5"])
def test_two_processes_are_one(tmp_path: Path, one_process: Path, pieces: str) -> None:
    run = tmp_path / "run"
    overrides = (*KEPT, f"train.micro_batch_size={pieces}")
    for code, output in in_children(lambda: small_run(run, *overrides), envs=rank_envs(2)):
        assert code == 0, output
    two = final_weights(run)
    for name, value in final_weights(one_process).items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_the_logged_loss_is_that_between_pairs(tmp_path: Path, one_process: Path) -> None:
    plain = small_run(tmp_path, *KEPT[1:]).folder
    kept, without = step_records(one_process), step_records(plain)
    assert kept[0]["loss"] == pytest.approx(without[0]["loss"], rel=1e-6)  # before the first update
    assert kept[0]["structure"] > 0
    assert all("structure" not in record for record in without)
    assert kept[-1]["structure"] < kept[0]["structure"]
    assert kept[-1]["loss"] != pytest.approx(without[-1]["loss"], rel=1e-4)  # the control: it does something
