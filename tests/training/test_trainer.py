"""What a training does and refuses: divergence, stopping, best checkpoint, precision, trackers, run folders."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import (
    AtStep,
    differences,
    final_state,
    final_weights,
    in_child,
    metric_records,
    script_arguments,
    small_recipe,
    small_run,
    step_records,
    train_script,
)

import mmcl
from mmcl import build, builders
from mmcl.errors import ConfigError, MissingDependencyError, TrainingError
from mmcl.losses import info_nce
from mmcl.training.checkpoint import read_checkpoint

# -- the loss ------------------------------------------------------------------------------------------------------


def test_the_loss_starts_at_chance_and_falls(tmp_path: Path) -> None:
    rows = "data.path=shapes?train=16&validation=24&test=24&image_size=32"
    run = small_run(tmp_path / "run", rows, "train.epochs=60", "optimizer.learning_rate=3e-3", "evaluate.tasks=[]")
    losses = [record["loss"] for record in step_records(run.folder)]
    assert losses[0] < 2 * math.log(16)
    assert sum(losses[-6:]) / 6 < 0.9 * math.log(16)
    assert run.result.progress.first_loss == losses[0]
    assert run.result.pairs_per_second > 0
    assert all(record["chance_loss"] == pytest.approx(math.log(16)) for record in step_records(run.folder))


def test_a_nan_loss_stops_with_step_rows_and_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def breaks_at_third(image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(len(image))
        return info_nce(image, *args, **kwargs) * (math.nan if len(calls) == 3 else 1.0)

    monkeypatch.setitem(build.LOSSES, "info_nce", breaks_at_third)
    with pytest.raises(TrainingError, match=r"step 3: the loss is nan.*train-0000.*optimizer.learning_rate") as told:
        small_run(tmp_path / "run", "train.precision=bf16", "train.max_grad_norm=null")
    assert "train.precision=fp32" in str(told.value)
    assert "train.max_grad_norm=1.0" in str(told.value)
    listing = json.loads((tmp_path / "run" / "stopped_batch.json").read_text())
    assert listing["step"] == 3
    assert len(listing["rows"]) == 16
    assert len(step_records(tmp_path / "run")) == 2


@pytest.mark.parametrize("rate", ["1e20", "1e36"])
def test_an_absurd_learning_rate_is_a_training_error(tmp_path: Path, rate: str) -> None:
    with pytest.raises(TrainingError, match=r"step \d+: .*optimizer.learning_rate"):
        small_run(tmp_path / "run", f"optimizer.learning_rate={rate}", "schedule.warmup_steps=0", "evaluate.tasks=[]")


def test_weights_that_are_not_finite_fail_the_evaluation_with_the_step(tmp_path: Path) -> None:
    overrides = ("optimizer.learning_rate=1e36", "schedule.warmup_steps=0", "evaluate.every_steps=1")
    with pytest.raises(TrainingError, match=r"step 1\b.*optimizer.learning_rate"):
        small_run(tmp_path / "run", *overrides)


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * math.inf

    monkeypatch.setitem(
        build.LOSSES, "info_nce", lambda image, *args, **kwargs: info_nce(Infinite.apply(image), *args, **kwargs)
    )
    with pytest.raises(TrainingError, match=r"step 1: the loss is \d\.\d+, but its gradient is (inf|nan)"):
        small_run(tmp_path / "run")


def test_a_loss_that_climbs_is_called_diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def climbs(image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(1)
        return image.sum() * 0 + 2.0 * len(seen)

    monkeypatch.setitem(build.LOSSES, "info_nce", climbs)
    with pytest.raises(TrainingError, match=r"step 5\d: the loss has diverged: .* chance is 2.77"):
        small_run(tmp_path / "run", "train.max_steps=100")


# -- micro-batches -------------------------------------------------------------------------------------------------

NO_NOISE = ("optimizer.options={eps: 1e-3}", "train.max_steps=3")


@pytest.mark.parametrize(
    "more",
    [
        ("train.ema.enabled=true", "model.logit_bias=-1.0"),
        ("train.gradient_checkpointing=true",),
        ("model.image.freeze=true", "model.text.freeze=true", "train.max_steps=4"),
        ("model.image.freeze=true", "model.image.freeze_until_epoch=0.3"),
        ("negatives.queue_size=40", "negatives.queue_momentum=0.5"),
        ("negatives.captions_per_row=2",),
    ],
    ids=["ema", "checkpointing", "cached", "thaw", "queue", "captions"],
)
def test_micro_batches_change_no_weight(tmp_path: Path, more: tuple[str, ...]) -> None:
    small_run(tmp_path / "plain", *NO_NOISE, *more)
    small_run(tmp_path / "pieces", *NO_NOISE, *more, "train.micro_batch_size=5")
    small_run(tmp_path / "start", *NO_NOISE, *more, "optimizer.learning_rate=1e-30")
    plain, pieces, start = (final_weights(tmp_path / name) for name in ("plain", "pieces", "start"))
    apart = max(float((plain[name] - pieces[name]).abs().max()) for name in plain)
    assert apart < 1e-6
    assert max(float((plain[name] - start[name]).abs().max()) for name in plain) > 1e-3


def test_micro_batches_in_bf16_are_as_near_as_bf16_is(tmp_path: Path) -> None:
    small_run(tmp_path / "full", *NO_NOISE)
    small_run(tmp_path / "plain", *NO_NOISE, "train.precision=bf16")
    small_run(tmp_path / "pieces", *NO_NOISE, "train.precision=bf16", "train.micro_batch_size=5")
    full, plain, pieces = (
        torch.cat([w.flatten() for w in final_weights(tmp_path / name).values()])
        for name in ("full", "plain", "pieces")
    )
    assert 0 < float((plain - pieces).norm()) < float((plain - full).norm())
    assert float((pieces - full).norm()) < 1.2 * float((plain - full).norm())


def test_micro_batches_take_hard_losses_and_bad_values_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(build.LOSSES, "info_nce", lambda image, *_, **__: image.sum() * math.nan)
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan.*train-0000"):
        small_run(tmp_path / "nan", "train.micro_batch_size=4")
    monkeypatch.undo()
    with pytest.raises(TrainingError, match=r"step \d+: .*optimizer.learning_rate"):
        small_run(tmp_path / "rate", "optimizer.learning_rate=1e36", "train.micro_batch_size=4", "evaluate.tasks=[]")


@pytest.mark.parametrize("value", ["0", "-4", "2.5", "true", "most", "[4]"])
def test_a_micro_batch_size_that_is_none(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"train.micro_batch_size is .*; want a number of pairs from 1, auto"):
        small_recipe(tmp_path, f"train.micro_batch_size={value}")


def test_a_micro_batch_too_small_for_a_batch_norm_is_told_before_the_run_begins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train.micro_batch_size is 2, and the model has a batch norm"):
        small_run(tmp_path / "run", "train.micro_batch_size=2", "model.image.head={name: mlp, norm: batch}")
    small_run(tmp_path / "run", "train.micro_batch_size=2", "train.max_steps=1")  # the folder is not taken


def test_memory_that_runs_out_names_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.models.dual_encoder import DualEncoder

    def encode_image(self: DualEncoder, **inputs: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DualEncoder, "encode_image", encode_image)
    for size, advice in (("null", "set train.micro_batch_size=auto"), ("8", "set a smaller one, or auto")):
        with pytest.raises(TrainingError, match=f"memory ran out.*{advice}"):
            small_run(tmp_path / size, f"train.micro_batch_size={size}", "evaluate.tasks=[]")


# -- sizes and ends ------------------------------------------------------------------------------------------------


def test_data_smaller_than_a_batch_train(tmp_path: Path) -> None:
    data = "data.path=shapes?train=6&validation=24&test=24&image_size=32"
    result = small_run(tmp_path / "run", data, "train.batch_size=64").result
    assert result.progress.step == 2
    assert [record["chance_loss"] for record in step_records(tmp_path / "run")] == pytest.approx([math.log(6)] * 2)


def test_max_steps_overrides_epochs(tmp_path: Path) -> None:
    assert small_run(tmp_path / "long", "train.max_steps=15").result.progress.epoch == 2
    assert small_run(tmp_path / "short", "train.max_steps=1").result.progress.step == 1
    assert small_run(tmp_path / "half", "train.epochs=0.5").result.progress.step == 3


class Scripted:
    """Evaluations with given values."""

    def __init__(self, values: list[float]) -> None:
        self._values = iter(values)

    def __call__(self, *_: Any) -> dict[str, float]:
        return {"retrieval/mean_recall@1": next(self._values), "retrieval/other": 0.5}


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    judge = Scripted(values)
    monkeypatch.setattr(builders.judging, "_check_metric", lambda *_: None)
    monkeypatch.setattr(builders.judging, "run_evaluators", judge)


@pytest.mark.parametrize(("mode", "best"), [("max", 6), ("min", 4)])
def test_the_best_checkpoint_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, best: int) -> None:
    scripted(monkeypatch, [0.2, 0.1, 0.7, 0.7, 0.5, 0.3])
    saved = []
    own = builders.training._replace_model
    monkeypatch.setattr(
        builders.training, "_replace_model", lambda model, folder: saved.append(1) or own(model, folder)
    )
    run = small_run(tmp_path / "run", "evaluate.every_steps=2", f"evaluate.mode={mode}")
    assert run.result.progress.best_step == best  # an equal value is no gain
    assert len(saved) == 2
    assert (run.model / "mmcl.json").exists()


def test_early_stopping_counts_evaluations_without_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.2, 0.3, 0.3, 0.2, 0.9])
    result = small_run(tmp_path / "run", "evaluate.every_steps=1", "evaluate.early_stopping=2").result
    assert result.stopped_by == "early stopping"
    assert result.progress.step == 4
    assert result.progress.best_step == 2
    again = small_run(tmp_path / "run", "evaluate.every_steps=1", "evaluate.early_stopping=2", resume=True).result
    assert again.stopped_by == "early stopping"


def test_a_metric_that_is_nan_is_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [math.nan, math.nan])
    run = small_run(tmp_path / "run", "evaluate.every_steps=6")
    assert run.result.progress.best is None
    assert metric_records(run.folder)[-1]["retrieval/mean_recall@1"] is None  # JSON has no NaN
    assert run.result.progress.best_step == 12  # the last model stands in
    assert (run.model / "mmcl.json").exists()


def test_plateau_lowers_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.5, 0.4, 0.4, 0.4, 0.4, 0.4])
    overrides = ("schedule={name: plateau, patience: 1, warmup_steps: 0, gamma: 0.1}", "evaluate.every_steps=2")
    small_run(tmp_path / "run", *overrides)
    rates = [record["lr"] / 1.5e-3 for record in step_records(tmp_path / "run")]
    assert rates == pytest.approx([1.0] * 6 + [0.1] * 4 + [0.01] * 2)


@pytest.mark.parametrize(
    "overrides", [("evaluate.metric=retrieval/mean_recal@1",), ("evaluate.metric=zeroshot/top1",)], ids=["typo", "task"]
)
def test_an_unknown_metric_is_told_before_the_first_step(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"evaluate.metric is .*retrieval/i2t_recall@1.*retrieval/mean_recall@1"):
        small_run(tmp_path / "run", *overrides)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    small_run(tmp_path / "run", "train.max_steps=1")  # the folder is not taken by a run that never began


@pytest.mark.parametrize("override", ["schedule.name=plateau", "evaluate.early_stopping=1"])
def test_what_needs_evaluations_says_so(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=f"{override.partition('=')[0]}.*needs evaluations"):
        small_run(tmp_path / "run", override, "data.split.validation=null")


def test_without_evaluation_the_last_model_is_the_model(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", "data.split.validation=null")
    assert run.result.evaluations == []
    assert run.result.progress.best_step == 12
    embedder = mmcl.load(run.folder)
    assert embedder.encode_text(["a red circle"]).shape == (1, 16)
    assert embedder.logit_scale == pytest.approx(step_records(run.folder)[-1]["logit_scale"], rel=0.05)


def test_the_shipped_model_is_the_average_where_there_is_one(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", "train.ema.enabled=true", "optimizer.learning_rate=1e-2")
    average = read_checkpoint(run.folder / "checkpoints").states["ema"]
    weights = final_weights(run.folder)
    shipped = float(torch.tensor(mmcl.load(run.folder).logit_scale).log())
    assert shipped == pytest.approx(float(average["log_logit_scale"]), abs=1e-6)
    assert abs(shipped - float(weights["model.log_logit_scale"])) > 1e-4


def test_evaluation_leaves_no_trace_in_the_training(tmp_path: Path) -> None:
    dropout = (
        "model.text.options={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, "
        "hidden_dropout_prob: 0.2}"
    )
    small_run(tmp_path / "often", dropout, "evaluate.every_steps=2")
    small_run(tmp_path / "never", dropout, "data.split.validation=null")
    one, other = final_weights(tmp_path / "often"), final_weights(tmp_path / "never")
    assert all(torch.equal(one[name], other[name]) for name in one)
    small_run(tmp_path / "dry", "data.split.validation=null")
    dry = final_weights(tmp_path / "dry")
    assert any(not torch.equal(one[name], dry[name]) for name in one)


# -- checkpoints ---------------------------------------------------------------------------------------------------


def test_checkpoints_by_steps_and_how_many_stay(tmp_path: Path) -> None:
    small_run(tmp_path / "run", "checkpoint.every_steps=2", "checkpoint.keep=3")
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["last", "step_00000008", "step_00000010", "step_00000012"]


def test_checkpoints_by_minutes(tmp_path: Path) -> None:
    small_run(tmp_path / "run", "checkpoint.every_minutes=0.0000001", "checkpoint.keep=100")
    assert len(list((tmp_path / "run" / "checkpoints").glob("step_*"))) == 12
    small_run(tmp_path / "rare", "checkpoint.every_minutes=10", "checkpoint.keep=100")
    assert len(list((tmp_path / "rare" / "checkpoints").glob("step_*"))) == 1


def test_a_full_disk_is_named_with_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmcl.training.keeping.write_checkpoint", full)
    with pytest.raises(TrainingError, match="step 2: the checkpoint cannot be written.*No space left"):
        small_run(tmp_path / "run", "checkpoint.every_steps=2")


# -- precision, memory, trackers -----------------------------------------------------------------------------------


def test_bf16_trains_with_full_precision_weights(tmp_path: Path) -> None:
    run = small_run(tmp_path / "bf16", "train.precision=bf16", "train.max_steps=3")
    full = small_run(tmp_path / "fp32", "train.max_steps=3")
    one, other = (step_records(folder.folder) for folder in (run, full))
    assert one[0]["loss"] == pytest.approx(other[0]["loss"], abs=0.05)
    assert one[0]["loss"] != other[0]["loss"]
    assert {tensor.dtype for tensor in final_weights(run.folder).values() if tensor.is_floating_point()} == {
        torch.float32
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has fp16")
def test_fp16_without_a_gpu_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train.precision is 'fp16'"):
        small_run(tmp_path / "run", "train.precision=fp16")


@pytest.mark.parametrize("freeze", ["false", "1"])
def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path, freeze: str) -> None:
    two_layers = "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64}"
    overrides = [f"model.{side}.options={two_layers}" for side in ("image", "text")]
    overrides += [f"model.{side}.freeze={freeze}" for side in ("image", "text")]
    overrides += ["train.max_steps=3", "optimizer.options={eps: 1e-3}"]
    small_run(tmp_path / "plain", *overrides)
    small_run(tmp_path / "saving", *overrides, "train.gradient_checkpointing=true")
    one, other = final_weights(tmp_path / "plain"), final_weights(tmp_path / "saving")
    start = small_run(tmp_path / "start", *overrides, "optimizer.learning_rate=1e-30").folder
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-6
    moved = {name for name, tensor in final_weights(start).items() if not torch.equal(tensor, other[name])}
    assert any(name.startswith("model.image.tower") for name in moved)
    assert any(name.startswith("model.text.tower") for name in moved)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_towers_train_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The graph is captured and run as it is; generating C++ for it would take half a minute.
    own = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: own(module, backend="eager"))
    overrides = ("train.max_steps=2", "data.path=shapes?train=16&validation=24&test=24&image_size=32")
    small_run(tmp_path / "plain", *overrides)
    run = small_run(tmp_path / "compiled", *overrides, "train.compile=true")
    losses = [[record["loss"] for record in step_records(tmp_path / name)] for name in ("plain", "compiled")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert mmcl.load(run.folder).encode_text(["a red circle"]).shape == (1, 16)


def test_tensorboard_gets_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    small_run(tmp_path / "run", "run.tracker=tensorboard", "evaluate.every_steps=6")
    events = list((tmp_path / "run" / "logs").rglob("events*"))
    assert events
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = {}
    for event in events:
        accumulator = EventAccumulator(str(event.parent))
        accumulator.Reload()
        for tag in accumulator.Tags()["scalars"]:
            read[tag] = [(item.step, item.value) for item in accumulator.Scalars(tag)]
    steps = step_records(tmp_path / "run")
    assert [step for step, _ in read["loss"]] == [record["step"] for record in steps]
    assert [value for _, value in read["loss"]] == pytest.approx([record["loss"] for record in steps], rel=1e-5)
    assert [step for step, _ in read["retrieval/mean_recall@1"]] == [6, 12]


def test_a_tracker_that_is_not_installed_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(MissingDependencyError, match=r"trackio is not installed.*mmcl\[trackio\]"):
        small_run(tmp_path / "run", "run.tracker=trackio")


def test_an_accumulation_that_a_launcher_asks_for_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_run(tmp_path / "plain", "train.max_steps=2")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    small_run(tmp_path / "asked", "train.max_steps=2")
    assert differences(final_state(tmp_path / "asked"), final_state(tmp_path / "plain")) == []


def test_log_every_thins_the_lines(tmp_path: Path) -> None:
    small_run(tmp_path / "run", "train.log_every=5")
    assert [record["step"] for record in step_records(tmp_path / "run")] == [1, 5, 10, 12]


# -- the run folder ------------------------------------------------------------------------------------------------


def test_a_folder_with_a_run_is_left_alone(tmp_path: Path) -> None:
    small_run(tmp_path / "run", "train.max_steps=1")
    before = final_state(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"already holds a run \(config.yaml.*--resume.*run.dir"):
        small_run(tmp_path / "run", "train.max_steps=2")
    assert differences(final_state(tmp_path / "run"), before) == []


def test_a_folder_with_someone_elses_model_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "precious.bin").write_text("years of work")
    with pytest.raises(ConfigError, match=r"already holds a run \(model\)"):
        small_run(tmp_path / "run", "train.max_steps=1")
    assert (tmp_path / "run" / "model" / "precious.bin").exists()


def test_an_unwritable_folder_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(builders.training, "load_splits", lambda recipe: pytest.fail("data were loaded first"))
    for folder in (tmp_path / "file" / "run", Path("/proc/mmcl/run")):
        with pytest.raises(ConfigError, match=rf"run folder {folder} cannot be written.*run.dir"):
            small_run(folder)


def test_two_processes_asked_for_and_one_running(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run.num_processes is 2, but 1 process\(es\) run.*torchrun"):
        small_run(tmp_path / "run", "run.num_processes=2")
    code, output = in_child(train_script, *script_arguments(tmp_path / "run", "run.num_processes=2"))
    assert code == 2, output
    assert "run.num_processes is 2" in output


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["python", "/usr/bin/accelerate", "launch", "--cpu", "--num_processes", "4", "x.py"], 4),
        (["python", "/usr/bin/accelerate", "launch", "--num_processes=3", "x.py"], 3),
        (["python", "/usr/bin/accelerate-launch", "--num-processes", "2", "x.py"], 2),
        (["python", "-m", "accelerate.commands.launch", "--num_processes", "2", "x.py"], 2),
        (["bash", "run.sh"], None),
        (["python", "launch.py", "--num_processes", "2"], None),
    ],
)
def test_what_a_launcher_was_asked_for(monkeypatch: pytest.MonkeyPatch, arguments: list[str], asked: int) -> None:
    import psutil

    from mmcl.training.launch import processes_asked_of_launcher

    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: arguments)
    assert processes_asked_of_launcher() == asked


def test_a_launchers_config_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import psutil

    from mmcl.training.launch import processes_asked_of_launcher

    config = tmp_path / "two.yaml"
    config.write_text("distributed_type: MULTI_CPU\nnum_processes: 2\n")
    command = ["python", "/usr/bin/accelerate", "launch", "--config_file", str(config), "x.py"]
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: command)
    assert processes_asked_of_launcher() == 2


def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    import signal

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    code, output = in_child(
        lambda: small_run(tmp_path / "run", display=AtStep(2, twice)),
    )
    assert code == 1
    assert "KeyboardInterrupt" in output


def test_recipe_and_run_share_the_seed(tmp_path: Path) -> None:
    small_run(tmp_path / "a", "train.max_steps=2")
    small_run(tmp_path / "b", "train.max_steps=2")
    small_run(tmp_path / "c", "train.max_steps=2", "run.seed=5")
    assert differences(final_state(tmp_path / "a"), final_state(tmp_path / "b")) == []
    assert differences(final_state(tmp_path / "a"), final_state(tmp_path / "c")) != []
    assert small_recipe(tmp_path / "a").run.seed == 0
    assert len(metric_records(tmp_path / "a")) == 3
