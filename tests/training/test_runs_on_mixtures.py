"""Runs on two sources by weight: resumed bit for bit, judged on both."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import yaml
from PIL import Image
from small_runs import AtStep, differences, final_state, in_child, small_run, step_records


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty scenes, and twelve files of pictures as often."""
    folder = tmp_path_factory.mktemp("data")
    lines = ["path,text"]
    for row in range(12):
        Image.new("RGB", (30, 40), (row * 20, 90, 255 - row * 20)).save(folder / f"{row}.png")
        lines.append(f"{row}.png,colour number {row}")
    (folder / "pictures.csv").write_text("\n".join(lines))
    scenes = "shapes?train=40&validation=12&test=12&image_size=32"
    sources = [{"path": scenes, "name": "scenes", "weight": 1}, {"path": "pictures.csv", "weight": 1}]
    for name, mixing in (("mix", {}), ("apart", {"mixing": "per_source"})):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"sources": sources, **mixing}))
    return str(folder / "mix.yaml")


ALL = ("train.epochs=3", "checkpoint.every_steps=3", "evaluate.tasks=[]", "data.augment={crop_scale: [0.6, 1.0]}")


def test_killed_in_mid_epoch_and_resumed_equals_never_stopped(data: str, tmp_path: Path) -> None:
    overrides = (f"data.path={data}", *ALL)
    whole = small_run(tmp_path / "whole", *overrides).folder
    assert len(step_records(whole)) == 12  # 52 rows in batches of 16, three times
    run = tmp_path / "run"
    kill = AtStep(8, lambda: os.kill(os.getpid(), signal.SIGKILL))
    code, output = in_child(lambda: small_run(run, *overrides, display=kill))
    assert code == -signal.SIGKILL, output
    small_run(run, *overrides, resume=True)
    assert differences(final_state(run), final_state(whole)) == []
    other = small_run(tmp_path / "other", f"data.path={data.replace('mix', 'apart')}", *ALL).folder
    assert differences(final_state(other), final_state(whole)) != [], "control: other batches, another model"


def test_the_best_model_is_judged_on_all_sources(data: str, tmp_path: Path) -> None:
    overrides = ("train.max_steps=2", "evaluate.at_end=true", "evaluate.every_steps=2")
    done = small_run(tmp_path / "run", f"data.path={data}", *overrides)
    assert 0 <= done.metrics["test"]["retrieval/mean_recall@1"] <= 1
