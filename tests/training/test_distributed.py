"""Several processes are one process on the concatenated batch: losses, gradients, weights, stops and skipped rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import (
    ROOT,
    AtStep,
    final_weights,
    in_children,
    metric_records,
    rank_envs,
    script_arguments,
    small_run,
    step_records,
    train_script,
)
from torch import Tensor, nn
from torch.nn import functional as F

from mmcl.batch import Embeddings
from mmcl.training import gather

# 22 rows in batches of 8: 8, 7 and 7 rows, which neither 2 nor 3 processes share evenly. Gradients are read off the
# weights: one step of plain SGD at rate 1 takes the gradient away.
ONE_GRADIENT = (
    "data.path=shapes?train=22&validation=24&test=24&image_size=32",
    "train.batch_size=8",
    "train.max_steps=1",
    "train.max_grad_norm=null",
    "optimizer={name: sgd, learning_rate: 1.0, betas: null, weight_decay: 0.0}",
    "schedule={name: constant, warmup_steps: 0}",
    "model.logit_bias=-3.0",
    "loss.label_smoothing=0.1",
)


# Adam divides by the root of second moments, and so turns rounding of tiny gradients into steps; a larger eps does not.
STEADY = "optimizer={name: adamw, learning_rate: 1e-3, options: {eps: 1e-3}}"


def run_in_processes(world_size: int, function: Callable[[], object]) -> None:
    for code, output in in_children(function, envs=rank_envs(world_size)):
        assert code == 0, output


def sharp_loss(*args: object, logit_bias: Tensor, **kwargs: object) -> Tensor:
    """InfoNCE with a term that gives the bias a gradient, as a sigmoid loss would."""
    from mmcl.losses import info_nce

    image, text = args[:2]
    return info_nce(*args, logit_bias=logit_bias, **kwargs) + F.softplus((image * text).sum(1) + logit_bias).mean()


def trained(folder: Path, *overrides: str, processes: int, change: Callable[[], None] = lambda: None) -> Path:
    def work() -> None:
        from mmcl import build

        change()
        build.LOSSES["info_nce"] = sharp_loss
        small_run(folder, *overrides)

    run_in_processes(processes, work)
    return folder


def changes(folder: Path, other: Path) -> dict[str, float]:
    """Largest difference by weight."""
    mine, theirs = final_weights(folder), final_weights(other)
    return {name: float((mine[name] - theirs[name]).abs().max()) for name in mine if mine[name].is_floating_point()}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("one") / "run", *ONE_GRADIENT, processes=1)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = (*ONE_GRADIENT, "optimizer.learning_rate=1e-30")
    return trained(tmp_path_factory.mktemp("start") / "run", *overrides, processes=1)


@pytest.mark.parametrize(("processes", "micro"), [(2, "null"), (3, "null"), (1, "3"), (2, "3"), (3, "auto")])
def test_gradients_equal_one_process_on_the_whole_batch(
    tmp_path: Path, one_process: Path, untrained: Path, processes: int, micro: str
) -> None:
    run = trained(tmp_path / "run", *ONE_GRADIENT, f"train.micro_batch_size={micro}", processes=processes)
    moved = changes(one_process, untrained)
    for part in ("model.image.tower", "model.image.head", "model.text.tower", "model.text.head"):
        assert max(size for name, size in moved.items() if name.startswith(part)) > 1e-3, part
    assert moved["model.log_logit_scale"] > 1e-3
    assert moved["model.logit_bias"] > 1e-3
    apart = changes(run, one_process)
    assert max(apart.values()) < 1e-5, max(apart, key=apart.get)


def without_negatives_of_others() -> None:
    import mmcl.training.gradients as module

    module.gather_embeddings = lambda embeddings, sizes: embeddings


def without_gradient_through_the_gather() -> None:
    gather._GatherWithGradient.backward = staticmethod(
        lambda ctx, gradient: (gradient[sum(ctx.sizes[: gather.rank()]) :][: ctx.sizes[gather.rank()]], None)
    )


@pytest.mark.parametrize("change", [without_negatives_of_others, without_gradient_through_the_gather])
def test_a_lesser_gather_gives_other_gradients(tmp_path: Path, one_process: Path, change: Callable[[], None]) -> None:
    run = trained(tmp_path / "run", *ONE_GRADIENT, processes=2, change=change)
    assert max(changes(run, one_process).values()) > 1e-3


@pytest.mark.parametrize(
    ("micro", "more"), [("null", ()), ("3", ("negatives={queue_size: 20, captions_per_row: 1}",))], ids=["plain", "all"]
)
def test_a_run_of_two_processes_is_the_run_of_one(tmp_path: Path, micro: str, more: tuple[str, ...]) -> None:
    """The script itself: uneven batches, EMA, a tower that thaws in the middle of an epoch, evaluations, clipping."""
    overrides = (
        *more,
        "data.path=shapes?train=45&validation=24&test=24&image_size=32",
        "train.ema.enabled=true",
        "evaluate.every_steps=2",
        "evaluate.at_end=true",
        "model.text.freeze=true",
        "model.text.freeze_until_epoch=1.4",
        "model.image.freeze=true",
        "model.image.freeze_until_epoch=0.3",
        "schedule.min_factor=0.5",
        STEADY,
    )
    for processes, name in ((1, "one"), (2, "two")):
        pieces = f"train.micro_batch_size={micro if name == 'two' else 'null'}"
        results = in_children(
            train_script, *script_arguments(tmp_path / name, *overrides, pieces), envs=rank_envs(processes)
        )
        for code, output in results:
            assert code == 0, output
    one, two = metric_records(tmp_path / "one"), metric_records(tmp_path / "two")
    assert [record["step"] for record in one] == [record["step"] for record in two]
    assert len(step_records(tmp_path / "two")) == 6
    for mine, theirs in zip(one, two):
        for key in ("loss", "logit_scale", "chance_loss", "lr", "epoch"):
            assert mine.get(key) == pytest.approx(theirs.get(key), abs=1e-5), (mine["step"], key)
        if "grad_norm" in mine:
            assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
        else:
            assert mine["retrieval/mean_recall@5"] == theirs["retrieval/mean_recall@5"]
    assert max(changes(tmp_path / "one", tmp_path / "two").values()) < 1e-5
    start = small_run(tmp_path / "start", *overrides, "optimizer.learning_rate=1e-30").folder
    moved = changes(tmp_path / "two", start)
    for tower in ("model.text.tower", "model.image.tower"):
        assert max(size for name, size in moved.items() if name.startswith(tower)) > 1e-4, f"{tower} never thawed"
    assert json.loads((tmp_path / "two" / "evaluation.json").read_text())["test"]["retrieval/num_images"] == 24


def test_all_processes_stop_at_the_same_step_and_go_on(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    run_in_processes(2, lambda: small_run(whole))

    def one_is_told() -> None:
        told = AtStep(4, lambda: os.kill(os.getpid(), signal.SIGTERM)) if os.environ["RANK"] == "1" else None
        result = small_run(run, display=told).result
        assert result.stopped_by == "SIGTERM"
        assert result.progress.step == 4

    run_in_processes(2, one_is_told)
    run_in_processes(2, lambda: small_run(run, resume=True))
    assert [record["step"] for record in step_records(run)] == list(range(1, 13))
    mine, theirs = final_weights(run), final_weights(whole)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def write_folder(folder: Path, *, corrupt: set[int], rows: int = 20) -> Path:
    from PIL import Image

    folder.mkdir()
    lines = []
    for row in range(rows):
        name = f"{row:02d}.png"
        Image.new("RGB", (32, 32), (row * 12, 255 - row * 12, 90)).save(folder / name)
        if row in corrupt:
            (folder / name).write_bytes(b"not a picture")
        lines.append(json.dumps({"file_name": name, "text": f"picture number {row}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("micro", ["null", "2"])
def test_rows_skipped_on_one_process_are_skipped_for_all(tmp_path: Path, micro: str) -> None:
    data = write_folder(tmp_path / "data", corrupt={3})
    overrides = (
        f"data.path={data}",
        "data.split.validation=null",
        "train.batch_size=10",
        "train.max_steps=3",  # into the second epoch; more steps only grow what rounding began
        STEADY,
    )
    run_in_processes(1, lambda: small_run(tmp_path / "one", *overrides))
    run_in_processes(2, lambda: small_run(tmp_path / "two", *overrides, f"train.micro_batch_size={micro}"))
    for name in ("one", "two"):
        skipped = [json.loads(line) for line in (tmp_path / name / "skipped.jsonl").read_text().splitlines()]
        assert [row["source"] for row in skipped] == [str(data / "03.png")]
    losses = [[record["loss"] for record in step_records(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert max(changes(tmp_path / "one", tmp_path / "two").values()) < 1e-5


def test_a_process_without_a_readable_row_leaves_the_batch_out_for_all(tmp_path: Path) -> None:
    # Two rows a batch, one a process: a corrupt row leaves a process empty-handed.
    data = write_folder(tmp_path / "data", corrupt={3}, rows=12)
    overrides = (f"data.path={data}", "data.split.validation=null", "train.batch_size=2", "train.epochs=2")
    run_in_processes(2, lambda: small_run(tmp_path / "run", *overrides))
    steps = step_records(tmp_path / "run")
    # Twelve steps are trained whatever is left out: the run goes on into a third epoch.
    assert [record["step"] for record in steps] == list(range(1, 13))
    assert steps[-1]["epoch"] > 2


@pytest.mark.parametrize("micro", ["null", "4"])
def test_batch_norms_are_the_main_processs_on_all(tmp_path: Path, micro: str) -> None:
    overrides = ("model.image.head={name: mlp, norm: batch}", "train.max_steps=3", f"train.micro_batch_size={micro}")

    def work() -> None:
        seen = []

        def note(objective: nn.Module, **told: float) -> None:
            seen.append((told, [buffer.clone() for buffer in objective.buffers()]))

        from mmcl.objectives.image_text import ImageTextObjective

        ImageTextObjective.after_step = note
        small_run(tmp_path / "run", *overrides)
        torch.save(seen, tmp_path / f"{os.environ['RANK']}.pt")

    run_in_processes(2, work)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    losses = [record["loss"] for record in step_records(tmp_path / "run")]
    assert [told for told, _ in first] == [told for told, _ in second]
    assert [told["loss"] for told, _ in first] == losses
    assert [told["done"] for told, _ in first] == pytest.approx([1 / 3, 2 / 3, 1])
    for (_, mine), (_, theirs) in zip(first, second):
        assert mine
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs))
    assert not all(torch.equal(a, b) for a, b in zip(first[0][1], first[2][1]))


def test_fewer_rows_than_processes_is_refused(tmp_path: Path) -> None:
    small = "data.path=shapes?train=2&validation=24&test=24&image_size=32"
    for code, output in in_children(lambda: small_run(tmp_path / "run", small), envs=rank_envs(3)):
        assert code == 1
        assert "leave some of 3 processes without a row" in output


def test_a_diverged_loss_names_the_rows_of_all_processes(tmp_path: Path) -> None:
    def work() -> None:
        from mmcl import build

        build.LOSSES["info_nce"] = lambda image, *_, **__: image.sum() * float("nan")
        small_run(tmp_path / "run")

    for code, output in in_children(work, envs=rank_envs(2)):
        assert code == 1
        assert "TrainingError: step 1: the loss is nan" in output
    assert len(json.loads((tmp_path / "run" / "stopped_batch.json").read_text())["rows"]) == 16


# -- the gather by itself ------------------------------------------------------------------------------------------


class Toy(nn.Module):
    """Two linear encoders, a scale and a bias, under a sigmoid loss: the bias has a gradient of its own."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.image = nn.Parameter(torch.randn(6, 4, generator=draw))
        self.text = nn.Parameter(torch.randn(6, 4, generator=draw))
        self.logit_scale = nn.Parameter(torch.tensor([5.0]))
        self.logit_bias = nn.Parameter(torch.tensor([-2.0]))

    def forward(self, inputs: Tensor, groups: Tensor) -> Embeddings:
        image, text = F.normalize(inputs @ self.image, dim=1), F.normalize(inputs.flip(1) @ self.text, dim=1)
        return Embeddings(image, text, groups, self.logit_scale * 1.0, self.logit_bias * 1.0)


def sigmoid_loss(embeddings: Embeddings) -> Tensor:
    """The mean over this process's rows of a sigmoid loss against everyone's texts."""
    everyone = embeddings.gathered or embeddings
    logits = embeddings.logit_scale * embeddings.image @ everyone.text.T + embeddings.logit_bias
    signs = 2.0 * (embeddings.group_ids[:, None] == everyone.group_ids[None, :]).float() - 1
    return -F.logsigmoid(signs * logits).sum(1).mean()


def toy_gradients(sizes: list[int]) -> dict[str, Tensor]:
    """Of this process's share, averaged over the processes with the trainer's weight."""
    from torch.nn.parallel import DistributedDataParallel

    inputs = torch.randn(sum(sizes), 6, generator=torch.Generator().manual_seed(1))
    groups = torch.arange(sum(sizes)) // 2
    toy = Toy()
    start = sum(sizes[: gather.rank()])
    mine = slice(start, start + sizes[gather.rank()])
    wrapped = DistributedDataParallel(toy) if gather.world_size() > 1 else toy
    embeddings = gather.gather_embeddings(wrapped(inputs[mine], groups[mine]), sizes)
    (sigmoid_loss(embeddings) * gather.world_size() * sizes[gather.rank()] / sum(sizes)).backward()
    return {name: parameter.grad for name, parameter in toy.named_parameters()}


@pytest.mark.parametrize("sizes", [[4, 4], [5, 2], [1, 4, 3]])
def test_the_gather_is_exact_for_any_shares(tmp_path: Path, sizes: list[int]) -> None:
    def work() -> None:
        torch.distributed.init_process_group("gloo")
        torch.save(toy_gradients(sizes), tmp_path / f"{gather.rank()}.pt")
        torch.distributed.destroy_process_group()

    run_in_processes(len(sizes), work)
    whole = toy_gradients([sum(sizes)])
    for rank in range(len(sizes)):
        got = torch.load(tmp_path / f"{rank}.pt")
        for name, gradient in whole.items():
            assert gradient.abs().max() > 1e-3, name
            torch.testing.assert_close(got[name], gradient, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


# -- real launchers ------------------------------------------------------------------------------------------------


def launcher_env() -> dict[str, str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    if env.pop("PYTHONDONTWRITEBYTECODE", None):  # each process would compile all its imports anew
        env.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / "mmcl-test-bytecode"))
    return env


def test_torchrun_starts_two_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = script_arguments(tmp_path / "run", "train.max_steps=2", "run.num_processes=2", "evaluate.tasks=[]")
    done = subprocess.run(
        [*command, str(ROOT / "recipes" / "train.py"), *arguments],
        env=launcher_env(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    small_run(tmp_path / "one", "train.max_steps=2", "evaluate.tasks=[]")
    losses = [[record["loss"] for record in step_records(tmp_path / name)] for name in ("run", "one")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


STARTER = """
import logging
from pathlib import Path
logging.basicConfig()
from mmcl.config import RunSection
from mmcl.training.launch import start_accelerator
print("processes:", start_accelerator(RunSection(), precision="fp32", folder=Path(".")).num_processes)
"""


@pytest.mark.parametrize("launcher", [["-m", "accelerate.commands.launch"]])
def test_a_launcher_that_starts_one_process_instead_of_two_is_told_on(tmp_path: Path, launcher: list[str]) -> None:
    script = tmp_path / "start.py"
    script.write_text(STARTER)
    command = [sys.executable, *launcher, "--cpu", "--num_processes", "2", str(script)]
    done = subprocess.run(command, env=launcher_env(), capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "processes: 1" in done.stdout
    assert "asked for 2 processes, but 1 runs" in done.stderr
    assert "torchrun" in done.stderr


def test_batch_norm_is_pointed_out(tmp_path: Path) -> None:
    def work(*overrides: str) -> str:
        def noted() -> None:
            import logging

            logging.basicConfig(force=True)
            small_run(tmp_path / f"run{len(overrides)}", "train.max_steps=1", *overrides)

        return in_children(noted, envs=rank_envs(2))[0][1]

    assert "batch norm sees the rows of its own process alone" in work("model.image.head={name: mlp, norm: batch}")
    assert "batch norm" not in work()
