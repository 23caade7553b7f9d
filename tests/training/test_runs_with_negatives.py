"""Runs with hard negatives, a queue and growing hardness: resumed bit for bit, on two processes as on one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
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
    small_run,
    step_records,
)

from mmcl.embedder import load
from mmcl.errors import ConfigError

ALL = (
    "negatives={captions_per_row: 2, queue_size: 40, queue_momentum: 0.7}",
    "loss={hardness: 0.5, hardness_schedule: loss}",
    "train.max_steps=8",
    "checkpoint.every_steps=3",
    "evaluate.tasks=[]",
)
DROPOUT = (
    "model.text.options={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, "
    "hidden_dropout_prob: 0.1}",
)
# Adam divides by the root of second moments, and so turns rounding of tiny gradients into steps; a larger eps does not.
STEADY = "optimizer={name: adamw, learning_rate: 1e-3, options: {eps: 1e-3}}"


def queue_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in final_weights(folder).items() if name.startswith("queue.")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("whole") / "run", *ALL, *DROPOUT).folder


def test_killed_and_resumed_equals_never_stopped(tmp_path: Path, uninterrupted: Path) -> None:
    run = tmp_path / "run"
    kill = AtStep(5, lambda: os.kill(os.getpid(), signal.SIGKILL))
    code, output = in_child(lambda: small_run(run, *ALL, *DROPOUT, display=kill))
    assert code == -signal.SIGKILL, output
    small_run(run, *ALL, *DROPOUT, resume=True)
    assert differences(final_state(run), final_state(uninterrupted)) == []
    state = final_state(run)
    assert int(state["/weights/queue.count"]) == 40  # 8 steps of 16 rows have gone round it
    assert int(state["/weights/queue.position"]) == 8 * 16 % 40
    assert float(state["/weights/hardness.average"]) > 0  # NaN before the first step
    assert any(name.startswith("/weights/momentum.encoders.image.") for name in state)


def test_a_queue_that_is_not_brought_back_gives_another_run(
    tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the equality above."""
    from mmcl.negatives.embedding_queue import EmbeddingQueue

    run = tmp_path / "run"
    kill = AtStep(5, lambda: os.kill(os.getpid(), signal.SIGKILL))
    in_child(lambda: small_run(run, *ALL, *DROPOUT, display=kill))
    monkeypatch.setattr(EmbeddingQueue, "_load_from_state_dict", lambda *_: None)
    small_run(run, *ALL, *DROPOUT, resume=True)
    changed = differences(final_state(run), final_state(uninterrupted))
    assert any(name.startswith("/weights/model.") for name in changed)


def test_the_model_that_is_saved_holds_no_queue_and_no_copy(uninterrupted: Path) -> None:
    from safetensors.torch import load_file

    names = load_file(uninterrupted / "model" / "model.safetensors")
    assert not any("queue" in name or "momentum" in name for name in names)
    assert load(uninterrupted / "model").embedding_dim == 16


def test_chance_counts_the_queue_and_the_hard_captions(uninterrupted: Path) -> None:
    for number, record in enumerate(step_records(uninterrupted)):
        queued = min(40, 16 * number)
        wanted = (torch.tensor([16.0 + queued, 16.0 + 32 + queued]).log().mean()).item()
        assert record["chance_loss"] == pytest.approx(wanted)
        assert ("hardness" in record) == (number >= 0)


@pytest.mark.parametrize("pieces", [(), ("train.micro_batch_size=5",)])
def test_two_processes_are_one(tmp_path: Path, pieces: tuple[str, ...]) -> None:
    overrides = (*ALL, STEADY, "data.path=shapes?train=45&validation=24&test=24&image_size=32", *pieces)
    for processes, name in ((1, "one"), (2, "two")):
        folder = tmp_path / name

        def work(folder: Path = folder) -> None:
            small_run(folder, *overrides)
            if os.environ["RANK"] == "1":
                torch.save(KEPT[-1].queue.state_dict(), folder.with_suffix(".pt"))

        for code, output in in_children(remembering_objectives(work), envs=rank_envs(processes)):
            assert code == 0, output
    one, two = final_weights(tmp_path / "one"), final_weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    assert (
        queue_of(tmp_path / "one")["queue.key_groups"].tolist()
        == queue_of(tmp_path / "two")["queue.key_groups"].tolist()
    )
    other = torch.load(tmp_path / "two.pt")
    assert all(torch.equal(value, two[f"queue.{name}"]) for name, value in other.items())
    # The controls: without the queue, and without hard captions, it is another run.
    for number, off in enumerate(("negatives.queue_size=0", "negatives.captions_per_row=0")):
        run = small_run(tmp_path / f"off{number}", *overrides, off).folder
        without = final_weights(run)
        assert max(float((without[n] - one[n]).abs().max()) for n in without if n.startswith("model.")) > 1e-4


KEPT: list = []


def remembering_objectives(work: Callable[[], None]) -> Callable[[], None]:
    """``work`` with every objective that a run builds kept in ``KEPT``."""

    def run() -> None:
        from mmcl import builders

        made = builders.training.build_objective

        def build_objective(*arguments: object) -> object:
            KEPT.append(made(*arguments))
            return KEPT[-1]

        builders.training.build_objective = build_objective
        work()

    return run


def test_micro_batches_are_the_whole_batch(tmp_path: Path) -> None:
    whole = final_weights(small_run(tmp_path / "whole", *ALL, STEADY).folder)
    parts = final_weights(small_run(tmp_path / "parts", *ALL, STEADY, "train.micro_batch_size=5").folder)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_frozen_towers_bring_features_of_hard_captions_and_thaw(tmp_path: Path) -> None:
    frozen = ("model.text.freeze=true", "model.image.freeze=true", f"train.feature_cache.dir={tmp_path / 'cache'}")
    cached = small_run(tmp_path / "cached", *ALL, STEADY, *frozen).folder
    plain = small_run(tmp_path / "plain", *ALL, STEADY, *frozen, "train.feature_cache.enabled=false").folder
    one, other = final_weights(cached), final_weights(plain)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-5, rtol=1e-4)
    assert not any(name.startswith("momentum.encoders.text.tower.") and name.endswith("weight") for name in one)
    thawing = (*frozen, "model.text.freeze_until_epoch=0.7")
    whole = small_run(tmp_path / "thawing", *ALL, *thawing).folder
    assert any(name.startswith("momentum.encoders.text.tower.") for name in final_weights(whole))
    run = tmp_path / "resumed"  # stopped behind the thaw, at step 5 of 6 an epoch; the checkpoint is of step 6
    kill = AtStep(7, lambda: os.kill(os.getpid(), signal.SIGKILL))
    in_child(lambda: small_run(run, *ALL, *thawing, display=kill))
    small_run(run, *ALL, *thawing, resume=True)
    assert differences(final_state(run), final_state(whole)) == []


def test_data_without_negatives_are_told_before_anything_is_computed(tmp_path: Path) -> None:
    from test_distributed import write_folder

    data = write_folder(tmp_path / "data", corrupt=set())
    overrides = (f"data.path={data}", "data.split.validation=null", "negatives.captions_per_row=2")
    with pytest.raises(ConfigError, match="captions_per_row is above 0.*data.columns.negatives"):
        small_run(tmp_path / "run", *overrides)


@pytest.mark.parametrize("name", ["sigmoid", "dcl", "nt_xent", "triplet", "barlow_twins", "vicreg"])
def test_every_loss_trains_on_two_processes_as_on_one(tmp_path: Path, name: str) -> None:
    overrides = (f"loss.name={name}", STEADY, "train.max_steps=3", "evaluate.tasks=[]", "train.max_grad_norm=0.1")
    overrides = (*overrides, "data.path=shapes?train=45&validation=24&test=24&image_size=32")
    small_run(tmp_path / "one", *overrides)
    for code, output in in_children(lambda: small_run(tmp_path / "two", *overrides), envs=rank_envs(2)):
        assert code == 0, output
    one, two = step_records(tmp_path / "one"), step_records(tmp_path / "two")
    assert [r["loss"] for r in one] == pytest.approx([r["loss"] for r in two], rel=1e-5)
    assert ("chance_loss" in one[0]) == (name in ("sigmoid", "dcl", "nt_xent"))
    mine, theirs = final_weights(tmp_path / "one"), final_weights(tmp_path / "two")
    assert max(float((mine[n] - theirs[n]).abs().max()) for n in mine) < 1e-5
