"""Runs that judge their pairs, and runs with mixed features: resumed bit for bit, on two processes as on one."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import pytest
import torch
from small_runs import (
    AtStep,
    differences,
    final_state,
    final_weights,
    in_child,
    in_children,
    rank_envs,
    small_recipe,
    small_run,
    step_records,
)

from mmcl.errors import ConfigError

DATA = "data.path=shapes?train=45&validation=24&test=24&image_size=32"
SHORT = ("train.max_steps=8", "checkpoint.every_steps=3", "evaluate.tasks=[]", DATA)
NOISE = ("noise={method: ema_agreement, warmup_epochs: 1, ema_momentum: 0.5, loss_momentum: 0.5}",)
MIXUP = ("train.feature_mixup=0.5",)
STEADY = "optimizer={name: adamw, learning_rate: 1e-3, options: {eps: 1e-3}}"


@pytest.mark.parametrize("method", [NOISE, MIXUP, (*NOISE, *MIXUP)], ids=["noise", "mixup", "both"])
def test_killed_and_resumed_equals_never_stopped(tmp_path: Path, method: tuple[str, ...]) -> None:
    whole = small_run(tmp_path / "whole", *SHORT, *method).folder
    run = tmp_path / "run"
    kill = AtStep(5, lambda: os.kill(os.getpid(), signal.SIGKILL))
    code, output = in_child(lambda: small_run(run, *SHORT, *method, display=kill))
    assert code == -signal.SIGKILL, output
    small_run(run, *SHORT, *method, resume=True)
    assert differences(final_state(run), final_state(whole)) == []
    off = final_weights(small_run(tmp_path / "off", *SHORT).folder)  # the control: it does something
    assert any(not torch.equal(value, final_weights(whole)[name]) for name, value in off.items())
    if method is NOISE:
        assert (run / "suspicious_pairs.csv").read_bytes() == (whole / "suspicious_pairs.csv").read_bytes()
        records = step_records(whole)
        assert ["noise/clean_share" in record for record in records] == [False] * 3 + [True] * 5


@pytest.mark.parametrize("pieces", [(), ("train.micro_batch_size=5",)], ids=["whole", "pieces"])
def test_two_processes_are_one(tmp_path: Path, pieces: tuple[str, ...]) -> None:
    overrides = (*SHORT, *NOISE, STEADY, "noise.weighting=drop", *pieces)
    small_run(tmp_path / "one", *overrides)
    for code, output in in_children(lambda: small_run(tmp_path / "two", *overrides), envs=rank_envs(2)):
        assert code == 0, output
    one, two = final_weights(tmp_path / "one"), final_weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_the_list_names_rows_by_id_with_their_captions(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", *SHORT, *NOISE).folder
    with (run / "suspicious_pairs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = final_weights(run)
    assert len(rows) == int((kept["trust.clean"] < 0.5).sum())
    assert all(float(row["clean_probability"]) < 0.5 and row["caption"] for row in rows)
    off = small_run(tmp_path / "off", *SHORT).folder
    assert not (off / "suspicious_pairs.csv").exists()
    assert not any(name.startswith(("trust", "mixup", "momentum")) for name in final_weights(off))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("noise.method=mixture", "loss.name=dcl"), "noise.method=mixture is not known to loss.name=dcl"),
        (("train.feature_mixup=0.2", "loss.name=vicreg"), "train.feature_mixup is not known to loss.name=vicreg"),
        (("noise.warmup_epochs=3",), "noise.warmup_epochs goes with a noise.method"),
        (
            ("noise.method=mixture", "train.feature_mixup=0.2"),
            "judges each alone.*take noise.method=cross_fit or ema_agreement",
        ),
        (("train.feature_mixup=0.2", "negatives.queue_size=8"), "negatives.queue_size knows nothing of"),
        (("noise.method=small_losses",), "noise.method"),
        (("train.feature_mixup=-1",), "train.feature_mixup"),
    ],
)
def test_what_does_not_fit_is_told_before_training(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_recipe(tmp_path / "run", *overrides)
