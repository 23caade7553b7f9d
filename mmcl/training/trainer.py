"""`Trainer`: one loop for every objective, on one process or many, exact when it is stopped and resumed."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mmcl.batch import Batch, Embeddings, SkippedRow
from mmcl.config import Recipe
from mmcl.errors import ConfigError, DataError, TrainingError
from mmcl.logs import get_logger
from mmcl.models.ema import ExponentialMovingAverage
from mmcl.training.checkpoint import (
    Checkpoint,
    random_state,
    read_checkpoint,
    set_random_state,
    write_checkpoint,
)
from mmcl.training.gather import gather_embeddings, gather_integers, rank, world_size
from mmcl.training.loss_watch import LossWatch
from mmcl.training.runs import RunFolder
from mmcl.training.schedules import Schedule
from mmcl.training.stopping import StopSignals

log = get_logger(__name__)

NO_BEST = -math.inf


class Objective(Protocol):
    """One training method: ``embed`` runs the encoders, ``loss`` runs none."""

    model: nn.Module

    def __call__(self, batch: Batch) -> Embeddings: ...

    def loss(self, embeddings: Embeddings) -> dict[str, Tensor]: ...

    def after_step(self) -> None: ...


class Reader(Protocol):
    """Row numbers to a batch; ``epoch`` is set before each epoch."""

    epoch: int

    def __getitems__(self, rows: Any) -> Batch: ...


class Batches(Protocol):
    """Which rows meet: whole batches of an epoch, and the part of each that one process reads."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int) -> list[Any]: ...

    def share(self, batch: Any, *, rank: int, world_size: int) -> Any: ...


class Display(Protocol):
    """Where a run is watched."""

    def step(self, record: dict[str, Any], *, total_steps: int) -> None: ...

    def evaluation(self, metrics: dict[str, Any], *, step: int) -> None: ...


@dataclass(frozen=True)
class Hooks:
    """What the trainer calls and does not know.

    Attributes:
        judge: metrics of the model as it stands; called on the main process. None: no evaluation.
        save_model: write the model in its final form to a folder.
        thaw: told the fractional epoch before each step; true when what trains has changed.
        display: progress bar and log lines.
        seed_of: the name of a row for messages, such as its id.
    """

    save_model: Callable[[Path], object]
    judge: Callable[[], dict[str, Any]] | None = None
    thaw: Callable[[float], bool] | None = None
    display: Display | None = None
    row_name: Callable[[int], str] = str


@dataclass
class Progress:
    """Where a training is; the plain numbers of a checkpoint."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch already trained on
    best: float = NO_BEST
    best_step: int = 0
    stale_evaluations: int = 0
    seconds: float = 0.0
    rows_seen: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    smooth_loss: float | None = None
    finished: bool = False


@dataclass
class TrainingResult:
    """How a training ended.

    Attributes:
        progress: its last state.
        stopped_by: "done", "early stopping", "max_minutes", or the signal's name.
        skipped: rows that could not be read.
        pairs_per_second: over the whole run, evaluation left out.
        peak_memory_mb: of the main process (CPU), or allocated (GPU).
        evaluations: every evaluation, in order, with its step.
    """

    progress: Progress
    stopped_by: str
    skipped: list[SkippedRow] = field(default_factory=list)
    pairs_per_second: float = 0.0
    peak_memory_mb: float = 0.0
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def interrupted(self) -> bool:
        """Whether a signal or the clock ended it, and ``--resume`` goes on."""
        return not self.progress.finished


class Trainer:
    """Trains an objective on batches of rows.

    Args:
        objective: the method, on the CPU or already on the device.
        optimizer: over the objective's parameters, each group with its ``base_lr``.
        reader: row numbers to batches.
        batches: which rows meet.
        recipe: its ``train``, ``schedule``, ``evaluate``, ``checkpoint`` and ``data`` sections are read.
        run: the run folder, opened.
        accelerator: device, processes, precision and trackers.
        hooks: what is done with the model on the way.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        reader: Reader,
        batches: Batches,
        recipe: Recipe,
        run: RunFolder,
        accelerator: Accelerator,
        hooks: Hooks,
    ) -> None:
        self.objective = objective.to(accelerator.device)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self.reader, self.batches, self.recipe, self.run = reader, batches, recipe, run
        self.accelerator, self.hooks = accelerator, hooks
        self.progress = Progress()
        self.total_steps = recipe.train.max_steps or math.ceil(recipe.train.epochs * len(batches))
        self.schedule = Schedule(recipe.schedule, self.total_steps, maximise=recipe.evaluate.mode == "max")
        ema = recipe.train.ema
        self.ema = ExponentialMovingAverage(objective.model, ema.decay) if ema.enabled else None
        self.watch = LossWatch(batch_size=recipe.train.batch_size, warmup_steps=self.schedule.warmup_steps)
        self.skipped: dict[int, SkippedRow] = {}
        self.evaluations: list[dict[str, Any]] = []
        self._wrapped: nn.Module | None = None
        self._trained_rows, self._train_seconds = 0, 0.0

    # -- the loop ------------------------------------------------------------------------------------------------

    def fit(self, *, resume: bool = False) -> TrainingResult:
        """Train to the end, or until a signal, the clock or early stopping.

        Args:
            resume: go on from the run's newest checkpoint; the weights then equal, bit for bit, those of a run that
                was never stopped.

        Raises:
            TrainingError: the loss is not finite or has diverged.
            DataError: too many rows cannot be read.
        """
        random = self._restore() if resume else None
        self._thaw()
        self._wrap()
        if random is not None:
            set_random_state(random)
        with StopSignals() as signals:
            stopped_by = "done" if self.progress.finished else self._train(signals)
        if stopped_by in ("done", "early stopping"):
            self._finish()
        return TrainingResult(
            self.progress,
            stopped_by,
            skipped=list(self.skipped.values()),
            pairs_per_second=self._trained_rows / self._train_seconds if self._train_seconds else 0.0,
            peak_memory_mb=peak_memory_mb(),
            evaluations=self.evaluations,
        )

    def _train(self, signals: StopSignals) -> str:
        began, before = time.perf_counter(), self.progress.seconds
        last_checkpoint = began
        while self.progress.step < self.total_steps:
            for batch, size in self._epoch():
                self._thaw()
                step_began = time.perf_counter()
                record = self._step(batch, size)
                self._train_seconds += time.perf_counter() - step_began
                self.progress.seconds = before + time.perf_counter() - began
                self._log(record)
                stop = self._evaluate_if_due()
                asked = self._agree(signals.number)
                if asked:
                    self._checkpoint()
                    return StopSignals.name(asked)
                if stop:
                    return "early stopping"
                if self._checkpoint_due(time.perf_counter() - last_checkpoint):
                    self._checkpoint()
                    last_checkpoint = time.perf_counter()
                if self._out_of_time():
                    self._checkpoint()
                    return "max_minutes"
                if self.progress.step >= self.total_steps:
                    return "done"
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
        return "done"

    def _epoch(self) -> Iterator[tuple[Batch, int]]:
        """This process's batches of the present epoch, from where the run stands, with the whole batch's row count."""
        self.reader.epoch = self.progress.epoch
        whole = self.batches.epoch(self.progress.epoch)[self.progress.batch :]
        shares = [self.batches.share(rows, rank=rank(), world_size=world_size()).tolist() for rows in whole]
        loader = torch.utils.data.DataLoader(
            self.reader,
            batch_sampler=shares,
            collate_fn=_as_it_is,
            num_workers=self._workers(),
            pin_memory=self.accelerator.device.type == "cuda",
            generator=torch.Generator().manual_seed(self.recipe.run.seed),  # leaves the global generator alone
        )
        for rows, batch in zip(whole, loader):
            yield batch, len(rows)

    def _workers(self) -> int:
        asked = self.recipe.data.workers
        if asked != "auto":
            return asked
        import os

        return min(8, max(1, (os.cpu_count() or 2) - 1)) if self.accelerator.device.type == "cuda" else 0

    # -- one step ------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, size: int) -> dict[str, Any]:
        progress = self.progress
        factor = self.schedule.apply(self.optimizer, progress.step)
        self._note_skipped(batch.skipped)
        began = time.perf_counter()
        sizes = [part[0] for part in gather_integers([len(batch)], self.accelerator.device)]
        batch = batch.to(self.accelerator.device)
        self.objective.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.accelerator.autocast():
            embeddings = self._wrapped(batch)
        terms = self.objective.loss(gather_embeddings(embeddings, sizes))
        # Each process's loss is the mean over its rows; data parallelism averages processes. The weight makes the two
        # together the mean over all rows, however unevenly they are spread.
        weight = world_size() * len(batch) / sum(sizes)
        loss = self._average(terms["loss"].detach() * weight)
        self._check_loss(loss, batch)
        self.accelerator.backward(terms["loss"] * weight)
        limit = self.recipe.train.max_grad_norm
        grad_norm = self.accelerator.clip_grad_norm_(self.objective.parameters(), math.inf if limit is None else limit)
        self.optimizer.step()
        self.objective.after_step()
        if self.ema is not None:
            self.ema.update(self.objective.model)
        progress.step, progress.batch = progress.step + 1, progress.batch + 1
        progress.rows_seen += size
        progress.last_loss = loss
        if progress.first_loss is None:
            progress.first_loss = loss
        progress.smooth_loss = self.watch.average
        self._trained_rows += sum(sizes)
        extra = {name: float(value) for name, value in terms.items() if name != "loss"}
        return {
            "step": progress.step,
            "epoch": round(progress.epoch + progress.batch / len(self.batches), 4),
            "loss": loss,
            "chance_loss": math.log(sum(sizes)),
            **extra,
            "lr": self.optimizer.param_groups[0]["base_lr"] * factor,
            "grad_norm": float(grad_norm),
            "pairs_per_second": round(sum(sizes) / (time.perf_counter() - began), 2),
        }

    def _check_loss(self, loss: float, batch: Batch) -> None:
        complaint = self.watch.complaint(loss, step=self.progress.step)
        if complaint is None:
            return
        names = [self.hooks.row_name(int(row)) for row in batch.rows.cpu()]
        listing = self.run.write_json(
            "stopped_batch.json", {"step": self.progress.step, "loss": str(loss), "rows": names}
        )
        raise TrainingError(
            f"step {self.progress.step}: {complaint} Rows of the batch: {', '.join(names[:6])}"
            f"{' ...' if len(names) > 6 else ''} (all in {listing}). Try a lower optimizer.learning_rate "
            f"(now {self.recipe.optimizer.learning_rate}), a longer schedule.warmup_steps (now "
            f"{self.schedule.warmup_steps}), train.max_grad_norm=1.0, or train.precision=fp32"
        )

    def _average(self, value: Tensor) -> float:
        return float(self.accelerator.reduce(value, "mean")) if world_size() > 1 else float(value)

    def _agree(self, signal_number: int) -> int:
        """The largest signal number any process has seen: all stop at the same step."""
        return max(part[0] for part in gather_integers([signal_number], self.accelerator.device))

    def _note_skipped(self, rows: list[SkippedRow]) -> None:
        everyone = rows
        if world_size() > 1:
            from accelerate.utils import gather_object

            # Only when some process has something to tell: an object gather every step would cost.
            if max(part[0] for part in gather_integers([len(rows)], self.accelerator.device)):
                everyone = gather_object(list(rows))
        new = [row for row in everyone if row.row not in self.skipped]
        if not new:
            return
        self.skipped |= {row.row: row for row in new}
        self.run.append_skipped(new)
        total = len(self.reader)
        seen = min(total, max(self.progress.rows_seen, 100))
        share = self.recipe.data.max_skipped_share
        for row in new[:3]:
            log.warning("skipped row %d: %s: %s", row.row, row.source, row.reason)
        if len(self.skipped) > share * seen:
            first = "; ".join(row.reason for row in list(self.skipped.values())[:3])
            raise DataError(
                f"{len(self.skipped)} of the first {seen} rows cannot be used, more than data.max_skipped_share="
                f"{share}; they are listed in {self.run.path / 'skipped.jsonl'} (first: {first})"
            )

    # -- around the step -----------------------------------------------------------------------------------------

    def _thaw(self) -> None:
        if self.hooks.thaw is None:
            return
        changed = self.hooks.thaw(self.progress.epoch + self.progress.batch / len(self.batches))
        if changed and self._wrapped is not None:
            self._wrap()

    def _wrap(self) -> None:
        """Wrap for data parallelism, anew whenever what trains has changed."""
        self.accelerator._models.clear()  # a stale wrapper would keep its gradient buckets
        if world_size() == 1:
            self._wrapped = self.objective
            return
        self._wrapped = self.accelerator.prepare_model(self.objective)

    def _log(self, record: dict[str, Any]) -> None:
        progress = self.progress
        if self.hooks.display is not None:
            self.hooks.display.step(record, total_steps=self.total_steps)
        if progress.step % self.recipe.train.log_every and progress.step not in (1, self.total_steps):
            return
        record = {**record, "seconds": round(progress.seconds, 3), "peak_memory_mb": round(peak_memory_mb(), 1)}
        self.run.append_metrics(record)
        self._track(record, progress.step)

    def _track(self, record: dict[str, Any], step: int) -> None:
        numbers = {key: value for key, value in record.items() if isinstance(value, (int, float))}
        self.accelerator.log(numbers, step=step)

    def _evaluation_due(self) -> bool:
        section, progress = self.recipe.evaluate, self.progress
        if self.hooks.judge is None:
            return False
        if progress.step == self.total_steps:
            return True
        every = section.every_steps
        if every is None:
            every = max(1, round((section.every_epochs or 1.0) * len(self.batches)))
        return progress.step % every == 0

    def _evaluate_if_due(self) -> bool:
        """Judge, keep the best model; whether early stopping ends the run."""
        if not self._evaluation_due():
            return False
        section, progress = self.recipe.evaluate, self.progress
        metrics = self._judge()
        value = metrics.get(section.metric)
        if not isinstance(value, (int, float)):
            numbers = ", ".join(sorted(k for k, v in metrics.items() if isinstance(v, (int, float))))
            raise ConfigError(f"evaluate.metric is {section.metric!r}; this evaluation measures {numbers}")
        self.schedule.saw_metric(value)
        signed = value if section.mode == "max" else -value
        if signed > progress.best:
            progress.best, progress.best_step, progress.stale_evaluations = signed, progress.step, 0
            self._save_model()
        else:
            progress.stale_evaluations += 1
        record = {"step": progress.step, "epoch": round(progress.epoch + progress.batch / len(self.batches), 4)}
        self.evaluations.append({**record, **metrics})
        self.run.append_metrics({**record, **metrics})
        self._track(metrics, progress.step)
        if self.hooks.display is not None:
            self.hooks.display.evaluation(metrics, step=progress.step)
        patience = section.early_stopping
        return patience is not None and progress.stale_evaluations >= patience

    def _judge(self) -> dict[str, Any]:
        """Metrics from the main process, on every process; the global generator is left as it was."""
        metrics: list[Any] = [None]
        if self.accelerator.is_main_process:
            with torch.random.fork_rng(), self._final_weights():
                self.objective.eval()
                metrics = [self.hooks.judge()]
        if world_size() > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(metrics)
        return metrics[0]

    def _final_weights(self) -> Any:
        """Within it, the model is what would be shipped: the averaged weights where there are any."""
        from contextlib import nullcontext

        return nullcontext() if self.ema is None else self.ema.swapped_in(self.objective.model)

    def _save_model(self) -> None:
        if self.accelerator.is_main_process:
            with self._final_weights():
                self.hooks.save_model(self.run.model)

    def _finish(self) -> None:
        if self.hooks.judge is None or not self.run.model.exists():
            self._save_model()
            self.progress.best_step = self.progress.step
        if not self.progress.finished:
            self.progress.finished = True
            self._checkpoint()
        self.accelerator.wait_for_everyone()

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def _checkpoint_due(self, seconds_since: float) -> bool:
        section = self.recipe.checkpoint
        if section.every_steps is not None and self.progress.step % section.every_steps == 0:
            return True
        due = section.every_minutes is not None and seconds_since >= 60 * section.every_minutes
        return bool(self._agree(int(due))) if world_size() > 1 else due

    def _out_of_time(self) -> bool:
        limit = self.recipe.train.max_minutes
        if limit is None:
            return False
        return bool(self._agree(int(self.progress.seconds >= 60 * limit)))

    def _checkpoint(self) -> None:
        own = random_state()
        states = [own]
        if world_size() > 1:
            from accelerate.utils import gather_object

            states = gather_object([own])
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            extra = {
                "schedule": self.schedule.state_dict(),
                "watch": self.watch.state_dict(),
                "ema": self.ema.state_dict() if self.ema is not None else None,
                "scaler": scaler.state_dict() if scaler is not None else None,
            }
            checkpoint = Checkpoint(
                dataclasses.asdict(self.progress),
                self.objective.state_dict(),
                self.optimizer.state_dict(),
                extra,
                states,
            )
            write_checkpoint(self.run.checkpoints, checkpoint, keep=self.recipe.checkpoint.keep)
        self.accelerator.wait_for_everyone()

    def _restore(self) -> dict[str, Tensor]:
        """Load the newest checkpoint; returns this process's RNG state, to be set when all else is ready."""
        checkpoint = read_checkpoint(self.run.checkpoints)
        self.progress = Progress(**checkpoint.progress)
        if len(checkpoint.random) != world_size():
            raise ConfigError(
                f"--resume: the run was saved by {len(checkpoint.random)} process(es) and goes on with {world_size()}; "
                f"start as many"
            )
        self.objective.load_state_dict(checkpoint.weights)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.schedule.load_state_dict(checkpoint.extra["schedule"])
        self.watch.load_state_dict(checkpoint.extra["watch"])
        if self.ema is not None:
            self.ema.load_state_dict(checkpoint.extra["ema"])
        if self.accelerator.scaler is not None and checkpoint.extra["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.extra["scaler"])
        self.run.drop_metrics_after(self.progress.step)
        self.skipped = {row.row: row for row in self.run.read_skipped() if row.row >= 0}
        return checkpoint.random[rank()]


def _as_it_is(batch: Batch) -> Batch:
    return batch


def peak_memory_mb() -> float:
    """Largest memory so far: allocated on the GPU, or resident on the CPU (MiB)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
