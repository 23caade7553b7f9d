"""`Trainer`: one loop for every objective, on one process or many, exact when it is stopped and resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mmcl.batch import Batch
from mmcl.config import Recipe
from mmcl.doctor.finding import Finding
from mmcl.doctor.live.not_finite import Source, find_source
from mmcl.errors import ConfigError, DataError, ShapeError, TrainingError
from mmcl.logs import get_logger
from mmcl.models.averages import build_average
from mmcl.training.batch_norms import BatchNorms
from mmcl.training.checkpoint import set_random_state
from mmcl.training.gather import (
    gather_integers,
    gather_objects,
    process_weight,
    rank,
    world_size,
)
from mmcl.training.grad_cache import MicroBatches
from mmcl.training.gradients import Gradients, WholeBatch
from mmcl.training.judging import Judging
from mmcl.training.keeping import Keeper
from mmcl.training.loading import deaths_examined, start_readers
from mmcl.training.loss_watch import LossWatch
from mmcl.training.progress import Progress, TrainingResult, peak_memory_mb
from mmcl.training.protocols import Batches, Hooks, Objective, Reader
from mmcl.training.runs import RunFolder
from mmcl.training.schedules import Schedule
from mmcl.training.sharpness import SharpnessAware
from mmcl.training.skips import SkipLedger
from mmcl.training.stopping import StopSignals
from mmcl.training.watching import Watching

log = get_logger(__name__)


class Trainer:
    """Trains an objective on batches of rows.

    Args:
        objective: the method, on the CPU or already on the device.
        optimizer: over the objective's parameters, each group with its ``base_lr``.
        reader: row numbers to batches.
        batches: which rows meet.
        recipe: its ``train``, ``schedule``, ``evaluate``, ``checkpoint`` and ``data`` sections are read.
        run: the run folder, opened.
        skips: rows left out so far.
        accelerator: device, processes, precision and trackers.
        hooks: what is done with the model on the way.

    Raises:
        ConfigError: a batch has fewer rows than there are processes.
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
        skips: SkipLedger,
        accelerator: Accelerator,
        hooks: Hooks,
    ) -> None:
        smallest = len(reader) // len(batches)
        if smallest < world_size():
            raise ConfigError(
                f"{len(reader)} rows in {len(batches)} batch(es) an epoch leave some of {world_size()} processes "
                f"without a row; raise train.batch_size or start fewer processes"
            )
        self.objective = objective.to(accelerator.device).train()
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self.reader, self.batches, self.recipe, self.run, self.skips = reader, batches, recipe, run, skips
        self.accelerator, self.hooks = accelerator, hooks
        self.progress = Progress()
        self.total_steps = recipe.train.max_steps or math.ceil(recipe.train.epochs * len(batches))
        self.schedule = Schedule(recipe.schedule, self.total_steps, maximise=recipe.evaluate.mode == "max")
        self.average = build_average(recipe.train, objective.model, total_steps=self.total_steps)
        largest = -(-len(reader) // len(batches))
        self.watch = LossWatch(batch_size=largest)
        self.watching = Watching(recipe, run, self.objective, total_steps=self.total_steps)
        self.judging = Judging(
            recipe.evaluate,
            hooks,
            objective.model,
            self.average,
            folder=run.model,
            total_steps=self.total_steps,
            batches_per_epoch=len(batches),
        )
        parts = {"optimizer": self.optimizer, "schedule": self.schedule, "watch": self.watch}
        parts |= {"ema": self.average, "scaler": accelerator.scaler}
        self.keeper = Keeper(recipe.checkpoint, run, accelerator, self.objective, parts)
        self.evaluations: list[dict[str, Any]] = []
        norms = [part for part in objective.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        if world_size() > 1 and any(p.requires_grad for norm in norms if norm.training for p in norm.parameters()):
            log.warning("batch norm sees the rows of its own process alone: the run differs from one on one process")
        self._norms = BatchNorms(objective)
        size = recipe.train.micro_batch_size
        self.gradients: Gradients = WholeBatch(self.objective, accelerator)
        if size is not None:
            share = -(-largest // world_size())
            self.gradients = MicroBatches(self.objective, accelerator, size=size, share=share)
        if recipe.optimizer.sam_rho is not None:
            self.gradients = SharpnessAware(self.gradients, self.objective, rho=recipe.optimizer.sam_rho)
        self._trained: list[nn.Parameter] = []
        self._readers: Any = None  # started with the first epoch

    # -- the loop ------------------------------------------------------------------------------------------------

    def fit(self, *, resume: bool = False) -> TrainingResult:
        """Train to the end, or until a signal, the clock or early stopping.

        Args:
            resume: go on from the run's newest checkpoint; the weights then equal, bit for bit, those of a run that
                was never stopped. A run that was stopped before its first checkpoint starts again.

        Raises:
            TrainingError: the loss is not finite or has diverged.
            DataError: too many rows cannot be read.
        """
        random = self._restore() if resume else None
        self.skips.note(self.reader.unreadable, seen=len(self.reader))
        self._thaw()
        self._prepare()
        if random is not None:
            set_random_state(random)
        if not self.progress.finished:
            try:
                with StopSignals() as signals, deaths_examined(lambda: self._readers, self._tell):
                    self.progress.stopped_by = self._train(signals)
            finally:
                self._let_readers_go()
            self._close()
        seconds = self.progress.train_seconds
        return TrainingResult(
            self.progress,
            self.progress.stopped_by,
            skipped=self.skips.rows,
            pairs_per_second=self.progress.rows_seen / seconds if seconds else 0.0,
            peak_memory_mb=peak_memory_mb(),
            evaluations=self.evaluations,
            chance_loss=self.watch.chance,
            findings=self.watching.findings,
        )

    def _train(self, signals: StopSignals) -> str:
        progress = self.progress
        if self._evaluate_if_due():  # the run was stopped between a step and its evaluation
            return "early stopping"
        if progress.step >= self.total_steps:
            return "done"
        began, before = time.perf_counter(), progress.seconds
        mark = saved = began
        self.watching.wait()
        for batch, size in self._batches():
            record = self._step(batch, size)
            now = time.perf_counter()
            progress.seconds, progress.train_seconds = before + now - began, progress.train_seconds + now - mark
            if record is not None:
                self._log({**record, "pairs_per_second": round(size / (now - mark), 2)})
            due = self.keeper.is_due(progress.step, now - saved)
            asked, save, late = self._agree(signals.number, due, self._out_of_time())
            if asked:
                self.keeper.save(progress)
                return StopSignals.name(asked)
            if self._evaluate_if_due():
                return "early stopping"
            if progress.step >= self.total_steps:
                return "done"
            if save or late:
                self.keeper.save(progress)
                saved = time.perf_counter()
            if late:
                return "max_minutes"
            mark = time.perf_counter()
            self.watching.wait()
        raise DataError(f"no batch of epoch {progress.epoch} can be read on every process; see {self.run.skipped}")

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        """This process's batches from where the run stands, each with its rows over all processes.

        Ends only when a whole epoch has no usable batch.
        """
        progress = self.progress
        while True:
            before = progress.step if progress.batch == 0 else -1
            while progress.batch < len(self.batches):
                yield from self._rest_of_epoch()
            if progress.step == before:
                return
            progress.epoch, progress.batch = progress.epoch + 1, 0

    def _rest_of_epoch(self) -> Iterator[tuple[Batch, int]]:
        """Ends early when what trains has changed: the reader may bring other inputs from then on."""
        self.reader.epoch = self.progress.epoch
        whole = self.batches.epoch(self.progress.epoch)[self.progress.batch :]
        shares = (self.batches.share(rows, rank=rank(), world_size=world_size()).tolist() for rows in whole)
        if self._readers is None:
            self._readers = start_readers(self.reader, self.recipe.data, self.accelerator.device)
        for rows, batch in zip(whole, self._readers.read(self.progress.epoch, shares)):
            yield batch, len(rows)
            if self._thaw():
                self._let_readers_go()
                return

    def _let_readers_go(self) -> None:
        """End the reader processes; the next batch is read by others, with the reader as it then is."""
        if self._readers is not None:
            self._readers.close()
            self._readers = None

    # -- one step ------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, size: int) -> dict[str, Any] | None:
        """One update of the weights; None where some process has no readable row and all leave the batch out."""
        progress = self.progress
        everyone = gather_integers([len(batch), len(batch.skipped)], self.accelerator.device)
        sizes = [part[0] for part in everyone]
        progress.batch, progress.rows_seen = progress.batch + 1, progress.rows_seen + size
        if any(part[1] for part in everyone):
            skipped = [row for rows in gather_objects(batch.skipped) for row in rows]
            self.skips.note(skipped, seen=progress.rows_seen)
        if min(sizes) == 0:
            log.warning("a batch is left out: none of some process's %d rows can be read", size // world_size())
            return None
        factor = self.schedule.apply(self.optimizer, progress.step)
        self.optimizer.zero_grad(set_to_none=True)
        self.watching.begin(batch, step=progress.step + 1)
        try:
            terms = self.gradients(batch, sizes)
        except ShapeError as error:  # the shapes are ours: what a loss refuses here is a value, such as a scale of 0
            self._stop_on(f"{error}.", math.nan, batch)
            raise
        # What stands beside the loss between pairs is logged apart: chance is of that between pairs alone.
        loss = self._average((terms["loss"] - terms.get("structure", 0)) * process_weight(sizes))
        chance = self.watch.chance = self.objective.chance_loss(sum(sizes))
        self._stop_on(self.watch.complaint(loss), loss, batch, diverged=math.isfinite(loss))
        limit = self.recipe.train.max_grad_norm
        grad_norm = float(self.accelerator.clip_grad_norm_(self._trained, math.inf if limit is None else limit))
        if not math.isfinite(grad_norm) and self.accelerator.scaler is None:  # a scaler leaves such a step out itself
            self._stop_on(f"the loss is {loss:.4g}, but its gradient is {grad_norm}.", loss, batch)
        self.watching.before_update(grad_norm)
        self.optimizer.step()
        self.watching.skipped_updates += self.optimizer.step_was_skipped
        self._norms.share()
        self.objective.after_step(loss=loss, done=(progress.step + 1) / self.total_steps)
        if self.average is not None:
            self.average.update(self.objective.model)
        progress.step += 1
        progress.last_loss, progress.smooth_loss = loss, self.watch.average
        if progress.first_loss is None:
            progress.first_loss = loss
        record = {
            "step": progress.step,
            "epoch": round(progress.fractional_epoch(len(self.batches)), 4),
            "loss": loss,
            **({} if chance is None else {"chance_loss": chance}),
            **{name: float(value) for name, value in terms.items() if name != "loss"},
            "lr": self.optimizer.param_groups[0]["base_lr"] * factor,
            "grad_norm": grad_norm,
            **self.watching.after_update(),
        }
        if progress.micro_batch_size != self.gradients.size:  # said once, and kept for a resumed run
            record["micro_batch_size"] = progress.micro_batch_size = self.gradients.size
        return record

    def _stop_on(self, complaint: str | None, loss: float, batch: Batch, *, diverged: bool = False) -> None:
        """Raise with the step, its rows and, where it has not merely diverged, the source; alike on every process."""
        if complaint is None:
            return
        step = self.progress.step + 1
        names = [self.hooks.row_name(int(row)) for rows in gather_objects(batch.rows.tolist()) for row in rows]
        details: dict[str, Any] = {"step": step, "loss": str(loss), "rows": names}
        source = None if diverged else self._source(batch)
        self.watching.stopped(complaint, loss=loss, source=source, step=step)
        if source is not None:
            complaint, details = f"{complaint} {source.sentence}", {**details, "source": source.to_dict()}
        listing = self.run.write_json("stopped_batch.json", details)
        optimizer, train = self.recipe.optimizer, self.recipe.train
        advice = [f"a lower optimizer.learning_rate (now {optimizer.learning_rate:g})"]
        advice.append(f"a longer schedule.warmup_steps (now {self.schedule.warmup_steps})")
        if train.max_grad_norm is None:
            advice.append("train.max_grad_norm=1.0")
        if train.precision != "fp32":
            advice.append("train.precision=fp32")
        raise TrainingError(
            f"step {step}: {complaint} Rows of the batch: {', '.join(names[:6])}{' ...' if len(names) > 6 else ''} "
            f"(all in {listing}). Try {', '.join(advice)}; look at these rows if it happens at the same step again"
        )

    def _source(self, batch: Batch) -> Source:
        """Where what is not finite came from; the first process that finds it says so."""
        source = find_source(
            self.objective,
            batch.to(self.accelerator.device),
            size=self.gradients.size,
            autocast=self.accelerator.autocast,
        )
        return next((found for found in gather_objects(source) if found.kind != "unknown"), source)

    def _tell(self, finding: Finding) -> None:
        self.watching.tell(finding, step=self.progress.step)

    def _average(self, value: Tensor) -> float:
        return float(self.accelerator.reduce(value, "mean")) if world_size() > 1 else float(value)

    def _agree(self, *numbers: int) -> list[int]:
        """The largest of each number over the processes: all act on the same at the same step."""
        return [max(column) for column in zip(*gather_integers([*numbers], self.accelerator.device))]

    # -- around the step -----------------------------------------------------------------------------------------

    def _thaw(self) -> bool:
        """Whether what trains has changed."""
        if self.hooks.thaw is None:
            return False
        changed = self.hooks.thaw(self.progress.fractional_epoch(len(self.batches)))
        if changed and self._trained:
            self._prepare()
        return changed

    def _prepare(self) -> None:
        """Before the first step, and whenever what trains has changed."""
        self.objective.train()
        self._trained = [p for p in self.objective.parameters() if p.requires_grad]
        self._norms = BatchNorms(self.objective)
        self.gradients.prepare(self._trained)

    def _log(self, record: dict[str, Any]) -> None:
        progress = self.progress
        if self.hooks.display is not None:
            self.hooks.display.step(record, total_steps=self.total_steps)
        due = progress.step % self.recipe.train.log_every == 0 or progress.step in (1, self.total_steps)
        if not due and "micro_batch_size" not in record:
            return
        record = {**record, "seconds": round(progress.seconds, 3), "peak_memory_mb": round(peak_memory_mb(), 1)}
        record |= self.watching.times()
        self.watching.observe(self.run.append_metrics(record))
        self._track(record)

    def _track(self, record: dict[str, Any]) -> None:
        numbers = {key: value for key, value in record.items() if isinstance(value, (int, float))}
        self.accelerator.log(numbers, step=self.progress.step)

    def _evaluate_if_due(self) -> bool:
        """Judge the model where it is time to; whether early stopping ends the run."""
        if not self.judging.is_due(self.progress):
            return False
        self._evaluate()
        return self.judging.has_stalled(self.progress)

    def _evaluate(self) -> None:
        progress = self.progress
        metrics = self.judging.judge(progress)
        self.schedule.saw_metric(metrics[self.recipe.evaluate.metric])
        record = {"step": progress.step, "epoch": round(progress.fractional_epoch(len(self.batches)), 4), **metrics}
        self.evaluations.append(record)
        self.watching.observe(self.run.append_metrics(record))
        self._track(metrics)
        if self.hooks.display is not None:
            self.hooks.display.evaluation(metrics, step=progress.step)

    def _close(self) -> None:
        """Leave a model and, where training is over, a checkpoint that says so."""
        progress = self.progress
        if progress.stopped_by.startswith("SIG"):
            return
        self.watching.finish(step=progress.step)
        progress.finished = progress.stopped_by != "max_minutes"
        if not progress.finished and self.judging.is_on and progress.evaluated_step != progress.step:
            # Judged behind the checkpoint: a resumed run is the same as one that was never stopped.
            with self.keeper.best_set_aside(progress):
                self._evaluate()
        if progress.best_step == 0:
            self.judging.save_model()
            progress.best_step = progress.step
        if progress.finished:
            self.keeper.save(progress)
        self.accelerator.wait_for_everyone()

    def _out_of_time(self) -> bool:
        limit = self.recipe.train.max_minutes
        return limit is not None and self.progress.seconds >= 60 * limit

    def _restore(self) -> dict[str, Tensor] | None:
        """Go back to the newest checkpoint; this process's RNG state, to be set when all else is ready."""
        checkpoint = self.keeper.restore()
        if checkpoint is None:
            return None
        self.progress = Progress(**checkpoint.progress)
        if self.recipe.train.micro_batch_size == "auto":
            self.gradients.size = self.progress.micro_batch_size
        self.watching.resume(step=self.progress.step)
        # A step has a loss; the judgement before and after training has no epoch.
        records = self.run.read_metrics()
        self.evaluations = [record for record in records if "epoch" in record and "loss" not in record]
        self.accelerator.wait_for_everyone()
        return checkpoint.random[rank()]
