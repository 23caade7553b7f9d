"""What a person sees of a training: a progress bar on a terminal, lines elsewhere, and a table at the end."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mmcl.build import TrainingRun
from mmcl.cli.console import make_console
from mmcl.config import Recipe
from mmcl.doctor.finding import by_severity
from mmcl.evaluation import render_table
from mmcl.hub.merging.training_effect import HEADER, TrainingEffect
from mmcl.logs import is_main_process

SECONDS_BETWEEN_LINES = 5.0


class TrainingDisplay:
    """Progress bar (terminal) or lines (elsewhere) with the loss, the chance line, the scale and the speed.

    Args:
        recipe: what is run.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.console = make_console(quiet=not is_main_process())
        self.recipe = recipe
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._work_task: TaskID | None = None
        self._last_line, self._last_title = 0.0, ""
        self._began = time.perf_counter()
        self._first_step: int | None = None

    def __enter__(self) -> TrainingDisplay:
        where = f" on {self.recipe.data.path} -> {self.recipe.run_dir}"
        self.console.print(Text.assemble((self.recipe.name, "bold"), where), soft_wrap=True)
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def announce(self, text: str) -> None:
        """What was chosen before training, and why."""
        self.console.print(text, markup=False, highlight=False)

    def step(self, record: dict[str, Any], *, total_steps: int) -> None:
        """One step of training."""
        status = (
            f"loss {record['loss']:.3f}{_chance(record.get('chance_loss'))}  scale {record['logit_scale']:.1f}  "
            f"{record['pairs_per_second']:.0f} pairs/s"
        )
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task("training", total=total_steps, status="")
            self._bar.update(self._task, completed=record["step"], status=status)
            return
        now = time.perf_counter()
        if self._first_step is None:
            self._first_step, self._began = record["step"] - 1, now
        last = record["step"] == total_steps
        if now - self._last_line >= SECONDS_BETWEEN_LINES or last:
            self._last_line = now
            done = record["step"] - self._first_step
            left = (now - self._began) / done * (total_steps - record["step"]) if done > 1 else math.nan
            time_left = "" if math.isnan(left) or last else f"  {left:.0f} s left"
            self.console.print(f"step {record['step']}/{total_steps}  {status}{time_left}", soft_wrap=True)

    def evaluation(self, metrics: dict[str, Any], *, step: int) -> None:
        """One evaluation during training."""
        shown = [
            ("R@1 i2t", "retrieval/i2t_recall@1"),
            ("R@1 t2i", "retrieval/t2i_recall@1"),
            ("zero-shot", "zeroshot/top1"),
            ("foils", "foils/mean"),
        ]
        parts = [f"{label} {100 * metrics[name]:.1f} %" for label, name in shown if name in metrics]
        self.console.print(f"validation at step {step}: " + ", ".join(parts), soft_wrap=True)

    def work_progress(self, title: str, done: int, total: int) -> None:
        """How far the work before training is: drawing scenes, computing features of a frozen tower."""
        if self._bar is not None:
            if self._work_task is None:
                self._work_task = self._bar.add_task(title, total=total, status="")
            self._bar.update(self._work_task, description=title, completed=done, total=total, visible=done < total)
            return
        now = time.perf_counter()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or (done == total and title == self._last_title):
            self._last_line, self._last_title = now, title
            self.console.print(f"{title}: {done}/{total}", markup=False, soft_wrap=True)


def _chance(loss: float | None) -> str:
    return "" if loss is None else f" (chance {loss:.2f})"


def closing_table(run: TrainingRun, console: Console) -> None:
    """Print how a run ended and what its best model is worth."""
    progress = run.result.progress
    table = Table(title=f"{escape(run.recipe.name)}: {run.result.stopped_by}", show_header=False)
    first, last = progress.first_loss, progress.smooth_loss
    if first is not None and last is not None:
        table.add_row("loss", f"{first:.3f} -> {last:.3f}{_chance(run.result.chance_loss)}")
    table.add_row(
        "steps, time", f"{progress.step}, {progress.seconds:.0f} s ({run.result.pairs_per_second:.0f} pairs/s)"
    )
    table.add_row("peak memory", f"{run.result.peak_memory_mb:.0f} MiB")
    table.add_row("parameters", f"{run.num_parameters:,} ({run.num_trainable:,} trained)")
    if run.result.skipped:
        table.add_row("skipped rows", Text(f"{len(run.result.skipped)}, listed in {run.folder / 'skipped.jsonl'}"))
    for finding in by_severity(run.result.findings):
        table.add_row(f"doctor: {finding.severity}", Text(f"{finding.title}. {finding.evidence} {finding.next_step}"))
    if run.result.interrupted:
        table.add_row("go on with", "the same command and --resume")
    else:
        judged = "" if progress.best is None else f" ({run.recipe.evaluate.metric} {progress.best:.4g} on validation)"
        table.add_row("best step", f"{progress.best_step}{judged}")
        table.add_row("model", Text(str(run.model)))
    console.print(table)
    if run.effect is not None:
        console.print(effect_table(run.effect))
        for line in [*run.effect.forgetting.verdict(), run.effect.sentence(), *run.effect.notes]:
            if line:
                console.print(line, markup=False, soft_wrap=True)
    for split, metrics in run.metrics.items():
        console.print(render_table(metrics, title=f"{split} split, best model"))


def effect_table(effect: TrainingEffect) -> Table:
    """What training did to the model it started from, a row a metric of each data set."""
    shown = [number for number, name in enumerate(HEADER) if name != "p"]  # the corrected one says it
    table = Table(title="before and after training", caption="p by paired permutation of groups, adjusted after Holm")
    for number in shown:
        table.add_column(HEADER[number], justify="left" if number < 2 else "right", overflow="fold")
    for row in effect.rows():
        table.add_row(*(escape(row[number]) for number in shown))
    return table
