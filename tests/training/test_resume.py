"""Stopped at any moment and resumed, a run is the one that was never stopped: bit for bit."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_runs import (
    AtStep,
    differences,
    final_state,
    in_child,
    metric_records,
    script_arguments,
    small_recipe,
    small_run,
    step_records,
    train_script,
)

from mmcl.errors import ConfigError
from mmcl.training import keeping
from mmcl.training.checkpoint import Checkpoint, has_checkpoint, read_checkpoint, write_checkpoint
from mmcl.training.judging import Judging
from mmcl.training.runs import RunFolder
from mmcl.training.trainer import Trainer

# All that draws random numbers, and all that keeps a state.
EVERYTHING = (
    "model.text.options={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, "
    "hidden_dropout_prob: 0.1}",
    "model.image.head={name: mlp, hidden_dims: [24], dropout: 0.2, norm: batch}",
    "data.augment={crop_scale: [0.6, 1.0], flip: 0.5, color_jitter: 0.3}",
    "data.captions.tags_probability=0.3",
    "train.ema.enabled=true",
    "evaluate.every_steps=4",
    "checkpoint.every_steps=3",
)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    small_run(folder, *EVERYTHING)
    return folder


@pytest.mark.parametrize(("step", "workers"), [(5, 0), (8, 0), (8, 2)])
def test_killed_and_resumed_equals_never_stopped(tmp_path: Path, uninterrupted: Path, step: int, workers: int) -> None:
    run, overrides = tmp_path / "run", (*EVERYTHING, f"data.workers={workers}")

    def killed() -> None:
        os.setpgrp()
        small_run(run, *overrides, display=AtStep(step, lambda: os.killpg(0, signal.SIGKILL)))

    code, output = in_child(killed)
    assert code == -signal.SIGKILL, output
    assert read_checkpoint(run / "checkpoints").progress["step"] == step // 3 * 3
    result = small_run(run, *overrides, resume=True).result
    assert result.stopped_by == "done"
    assert differences(final_state(run), final_state(uninterrupted)) == []
    assert [record["step"] for record in step_records(run)] == list(range(1, 13))
    for mine, theirs in zip(metric_records(run), metric_records(uninterrupted)):
        clocks = ("seconds", "pairs_per_second", "peak_memory_mb", "loader_seconds", "step_seconds")
        assert {k: v for k, v in mine.items() if k not in clocks} == {
            k: v for k, v in theirs.items() if k not in clocks
        }
    assert [record["step"] for record in result.evaluations] == [4, 8, 12]
    model = (run / "model" / "model.safetensors").read_bytes()
    assert model == (uninterrupted / "model" / "model.safetensors").read_bytes()


def test_another_seed_is_another_run(tmp_path: Path, uninterrupted: Path) -> None:
    small_run(tmp_path / "run", *EVERYTHING, "run.seed=1")
    changed = differences(final_state(tmp_path / "run"), final_state(uninterrupted))
    assert any(name.startswith("/weights/") for name in changed)
    assert any(name.startswith("/states/optimizer/") for name in changed)
    assert any(name.startswith("/states/ema/") for name in changed)
    assert any(name.startswith("/random/") for name in changed)


def test_a_resumed_generator_matters(tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the equality above: dropout drawn from a generator that was not brought back."""
    run = tmp_path / "run"
    in_child(lambda: small_run(run, *EVERYTHING, display=AtStep(5, kill_self)))
    monkeypatch.setattr("mmcl.training.trainer.set_random_state", lambda state: None)
    small_run(run, *EVERYTHING, resume=True)
    assert differences(final_state(run), final_state(uninterrupted)) != []


def memory_for(rows: int) -> None:
    """Text encoders run out of memory above some rows, in this process."""
    from mmcl.models.dual_encoder import DualEncoder

    own = DualEncoder.encode_text

    def encode_text(self: DualEncoder, **inputs: torch.Tensor) -> torch.Tensor:
        if len(next(iter(inputs.values()))) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(self, **inputs)

    DualEncoder.encode_text = encode_text


def test_an_automatic_micro_batch_is_the_same_when_resumed(tmp_path: Path) -> None:
    """Found once, told once, kept: dropout depends on it, and the machine may have more memory the second time."""
    overrides = (*EVERYTHING, "train.micro_batch_size=auto", "train.max_steps=7", "evaluate.tasks=[]")
    whole, run, other = tmp_path / "whole", tmp_path / "run", tmp_path / "other"

    def limited(folder: Path, display: AtStep | None = None) -> None:
        memory_for(5)
        small_run(folder, *overrides, display=display)

    code, output = in_child(limited, whole)
    assert code == 0, output
    for folder in (run, other):
        code, output = in_child(limited, folder, AtStep(5, kill_self))
        assert code == -signal.SIGKILL, output
    small_run(run, *overrides, resume=True)
    assert differences(final_state(run), final_state(whole)) == []
    assert final_state(run)["/progress/micro_batch_size"] == 4
    for folder in (whole, run):
        assert [r["step"] for r in step_records(folder)] == list(range(1, 8))
        assert {r["step"]: r["micro_batch_size"] for r in step_records(folder) if "micro_batch_size" in r} == {1: 4}
    # A control: the size matters. It may be changed, too.
    small_run(other, *overrides, "train.micro_batch_size=16", resume=True)
    assert any(name.startswith("/weights") for name in differences(final_state(other), final_state(whole)))
    assert [r["step"] for r in step_records(other) if r.get("micro_batch_size") == 16] == [4]


def test_memory_that_runs_out_later_is_told_when_it_does(tmp_path: Path) -> None:
    def limited_from_step_3() -> None:
        small_run(
            tmp_path / "run",
            "train.micro_batch_size=auto",
            "train.log_every=5",
            display=AtStep(2, lambda: memory_for(8)),
        )

    code, output = in_child(limited_from_step_3)
    assert code == 0, output
    told = [(record["step"], record.get("micro_batch_size")) for record in step_records(tmp_path / "run")]
    assert told == [(1, 16), (3, 8), (5, None), (10, None), (12, None)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_exits_cleanly(
    tmp_path: Path, uninterrupted: Path, number: signal.Signals
) -> None:
    # Step 4 is judged: the stop comes between the step and its evaluation.
    run = tmp_path / "run"
    result = small_run(run, *EVERYTHING, display=AtStep(4, lambda: os.kill(os.getpid(), number))).result
    assert result.interrupted
    assert result.stopped_by == number.name
    assert read_checkpoint(run / "checkpoints").progress["step"] == 4
    assert not (run / "model").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the handlers are gone again
    assert not small_run(run, *EVERYTHING, resume=True).result.interrupted
    assert differences(final_state(run), final_state(uninterrupted)) == []
    assert [record["step"] for record in metric_records(run)] == [r["step"] for r in metric_records(uninterrupted)]


def test_a_signal_to_the_whole_group_spares_the_readers(tmp_path: Path, uninterrupted: Path) -> None:
    """Ctrl-C in a terminal and batch systems signal reader processes too."""
    run, overrides = tmp_path / "run", (*EVERYTHING, "data.workers=2")

    def signalled() -> None:
        os.setpgrp()
        small_run(run, *overrides, display=AtStep(2, lambda: os.killpg(0, signal.SIGINT)))

    code, output = in_child(signalled)
    assert code == 0, output
    small_run(run, *overrides, resume=True)
    assert differences(final_state(run), final_state(uninterrupted)) == []


def test_the_command_says_how_it_ended_and_how_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def stopped() -> None:
        from mmcl.cli.display import TrainingDisplay

        own = TrainingDisplay.step

        def step(self: TrainingDisplay, record: dict, *, total_steps: int) -> None:
            own(self, record, total_steps=total_steps)
            if record["step"] == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        TrainingDisplay.step = step
        train_script(*script_arguments(run))

    code, output = in_child(stopped)
    assert code == 0, output
    assert "SIGTERM" in output
    assert "--resume" in output
    code, output = in_child(train_script, *script_arguments(run), "--resume")
    assert code == 0, output
    assert [record["step"] for record in step_records(run)] == list(range(1, 13))
    # Finished: it says the same again.
    code, output = in_child(train_script, *script_arguments(run), "--resume")
    assert code == 0, output
    assert "done" in output
    assert [record["step"] for record in step_records(run)] == list(range(1, 13))


def test_killed_before_the_first_checkpoint_it_starts_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    small_run(whole)
    code, _ = in_child(lambda: small_run(run, display=AtStep(3, kill_self)))
    assert code == -signal.SIGKILL
    assert len(step_records(run)) == 2  # the display is told before the file
    assert not has_checkpoint(run / "checkpoints")
    small_run(run, resume=True)
    assert "before its first checkpoint" in caplog.text
    assert differences(final_state(run), final_state(whole)) == []
    assert [record["step"] for record in step_records(run)] == list(range(1, 13))


def test_a_finished_run_resumes_to_its_result(tmp_path: Path) -> None:
    overrides = ("evaluate.at_end=true", "train.max_steps=3")
    first = small_run(tmp_path / "run", *overrides)
    before = final_state(tmp_path / "run")
    again = small_run(tmp_path / "run", *overrides, resume=True)
    assert again.result.stopped_by == first.result.stopped_by == "done"
    assert again.metrics == first.metrics
    assert first.metrics["test"]["retrieval/num_images"] == 24
    assert differences(final_state(tmp_path / "run"), before) == []


def test_a_run_out_of_time_leaves_a_judged_model_and_goes_on_exactly(tmp_path: Path, uninterrupted: Path) -> None:
    run = tmp_path / "run"
    result = small_run(run, *EVERYTHING, "train.max_minutes=0.0000001", "evaluate.at_end=true")
    assert result.result.stopped_by == "max_minutes"
    assert result.result.progress.step == 1
    assert "test" in result.metrics
    assert (run / "model" / "mmcl.json").exists()
    assert [record["step"] for record in result.result.evaluations] == [1]
    small_run(run, *EVERYTHING, resume=True)  # without the limit
    assert differences(final_state(run), final_state(uninterrupted)) == []


def test_what_is_judged_out_of_time_is_no_part_of_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    overrides = (*EVERYTHING, "train.max_steps=8", "evaluate.every_steps=4", "evaluate.metric=retrieval/mean_recall@1")
    quality = {4: 0.5, 5: 0.9, 8: 0.4}  # best out of time, then best at the first that is due

    def measured(self: Judging, step: int) -> dict[str, float]:
        return {"retrieval/mean_recall@1": quality[step]}

    monkeypatch.setattr(Judging, "_measure", measured)
    small_run(whole, *overrides)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_out_of_time", lambda self: self.progress.step >= 5)
        assert small_run(run, *overrides).result.progress.best_step == 5
    late = load_file(run / "model" / "model.safetensors")
    with monkeypatch.context() as patched:
        patched.setattr(keeping, "world_size", lambda: 2)
        with pytest.raises(ConfigError, match="saved by 1 process"):
            small_run(run, *overrides, resume=True)
    assert differences(load_file(run / "model" / "model.safetensors"), late) == []  # what is refused changes nothing
    small_run(run, *overrides, resume=True)
    best = load_file(run / "model" / "model.safetensors")
    assert differences(best, load_file(whole / "model" / "model.safetensors")) == []
    assert differences(best, late) != []
    assert [record["step"] for record in metric_records(run) if "loss" not in record] == [4, 8]
    assert sorted(path.name for path in (run / "checkpoints").iterdir() if path.name.startswith("best")) == []


def test_resume_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        small_run(tmp_path / "run", resume=True)


def test_resume_with_a_config_that_is_cut_short(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small_run(run, "train.max_steps=2")
    config = run / "config.yaml"
    config.write_text(config.read_text()[:300])
    with pytest.raises(ConfigError, match=r"config.yaml is cut short: .* environment, is not there"):
        small_run(run, "train.max_steps=2", resume=True)


def test_resume_with_another_recipe_names_the_keys(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small_run(run, "train.max_steps=2")
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate: 0.0015 -> 0.5.*train.batch_size: 16 -> 8"):
        small_run(run, "train.max_steps=2", "optimizer.learning_rate=0.5", "train.batch_size=8", resume=True)
    # How long and how it is watched may change.
    small_run(run, "train.max_steps=2", "train.log_every=5", "evaluate.every_steps=1", resume=True)


def test_resume_on_more_processes_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small_run(run, "train.max_steps=2")
    last = (run / "checkpoints" / "last").resolve()
    states = torch.load(last / "random.pt")
    torch.save(states * 2, last / "random.pt")
    with pytest.raises(ConfigError, match=r"saved by 2 process\(es\) and goes on with 1"):
        small_run(run, "train.max_steps=2", resume=True)


# -- checkpoints on disk -------------------------------------------------------------------------------------------


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint({"step": step}, {"weight": torch.full((3,), float(step))}, {"ema": {"decay": step}}, [{}])


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept_and_last_points_at_the_newest(tmp_path: Path) -> None:
    for step in (5, 10, 15, 15):
        write_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert steps_in(tmp_path) == ["last", "step_00000010", "step_00000015"]
    assert (tmp_path / "last").resolve().name == "step_00000015"
    read = read_checkpoint(tmp_path)
    assert read.progress == {"step": 15}
    assert torch.equal(read.weights["weight"], torch.full((3,), 15.0))
    assert read.states == {"ema": {"decay": 15}}


def test_a_kill_while_writing_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, checkpoint(1), keep=2)
    monkeypatch.setattr("mmcl.training.checkpoint.torch.save", lambda *_: kill_self())
    code, _ = in_child(lambda: write_checkpoint(tmp_path, checkpoint(2), keep=2))
    assert code == -signal.SIGKILL
    monkeypatch.undo()
    assert ".step_00000002.partial" in steps_in(tmp_path)
    assert read_checkpoint(tmp_path).progress == {"step": 1}
    write_checkpoint(tmp_path, checkpoint(3), keep=2)
    assert steps_in(tmp_path) == ["last", "step_00000001", "step_00000003"]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_while_replacing_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The same step again, as at the end of a run; killed before any of the renames."""
    from mmcl.training.checkpoint import mend_run

    write_checkpoint(tmp_path, checkpoint(4), keep=1)
    own, done = os.replace, []

    def replace(old: Path, new: Path) -> None:
        if len(done) == renames:
            kill_self()
        done.append(own(old, new))

    monkeypatch.setattr("mmcl.training.checkpoint.os.replace", replace)
    code, output = in_child(lambda: write_checkpoint(tmp_path, checkpoint(4), keep=1))
    assert code == -signal.SIGKILL, output
    monkeypatch.undo()
    assert has_checkpoint(tmp_path)
    mend_run(tmp_path, tmp_path / "model")
    assert read_checkpoint(tmp_path).progress == {"step": 4}


def test_whatever_was_being_replaced_is_put_back(tmp_path: Path) -> None:
    from mmcl.training.checkpoint import mend_run

    for name in ("model", "adapters"):
        (tmp_path / f".{name}.old").mkdir()
        (tmp_path / f".{name}.old" / "weights").touch()
    (tmp_path / "model").mkdir()  # the new one was in place already
    mend_run(tmp_path / "checkpoints", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapters", "model"]
    assert (tmp_path / "adapters" / "weights").exists()
    assert not (tmp_path / "model" / "weights").exists()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, checkpoint(step), keep=2)
    for name in ("weights.safetensors", "states.pt", "progress.json"):
        whole = (tmp_path / "step_00000002" / name).read_bytes()
        (tmp_path / "step_00000002" / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ConfigError, match="step_00000002 is damaged"):
            read_checkpoint(tmp_path)
        (tmp_path / "step_00000002" / name).write_bytes(whole)
    for path in (tmp_path / "step_00000002").iterdir():
        path.unlink()
    (tmp_path / "step_00000002").rmdir()
    assert read_checkpoint(tmp_path).progress == {"step": 1}  # as the message said


def test_config_holds_the_recipe_and_where_it_ran(tmp_path: Path) -> None:
    small_run(tmp_path / "run", "train.max_steps=1")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["train"]["batch_size"] == 16
    assert torch.__version__.startswith(config["environment"]["packages"]["torch"])


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path / "run").model_dump(mode="json")
    earlier = copy.deepcopy(recipe)
    del earlier["noise"]["folds"], earlier["loss"]["text_structure"]  # keys it did not have
    earlier["noise"]["weighting"] = "soft"  # its default
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.begin(earlier)
    folder.prepare(recipe, resume=True)
    for key, value in (("folds", 3), ("weighting", "drop")):
        folder.begin({**recipe, "noise": {**recipe["noise"], "method": "cross_fit", key: value}})
        with pytest.raises(ConfigError, match=rf"begun with another recipe \(noise.*{key}: "):
            folder.prepare(recipe, resume=True)
    folder.begin({**recipe, "noise": {**recipe["noise"], "weighting": "drop"}})
    with pytest.raises(ConfigError, match="config.yaml: noise.weighting goes with a noise.method"):
        folder.prepare(recipe, resume=True)
