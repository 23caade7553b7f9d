"""`Keeper`: when a training writes checkpoints, what is in them, and how it goes on from the newest."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator

from mmcl.config import CheckpointSection
from mmcl.errors import ConfigError, TrainingError
from mmcl.logs import get_logger
from mmcl.training.checkpoint import (
    Checkpoint,
    forget_best_aside,
    has_checkpoint,
    mend_run,
    put_best_back,
    random_state,
    read_checkpoint,
    set_best_aside,
    write_checkpoint,
)
from mmcl.training.gather import gather_objects, world_size
from mmcl.training.progress import Progress
from mmcl.training.protocols import Objective
from mmcl.training.runs import RunFolder

log = get_logger(__name__)


class Keeper:
    """Keeps a training's state in its run folder; called by all processes alike.

    Args:
        section: the recipe's ``checkpoint``.
        run: the run folder, opened.
        accelerator: processes; the main one writes.
        objective: whose weights are kept.
        parts: name -> what else has a state: optimizer, schedule and so on; None: left out.
    """

    def __init__(
        self,
        section: CheckpointSection,
        run: RunFolder,
        accelerator: Accelerator,
        objective: Objective,
        parts: dict[str, Any],
    ) -> None:
        self._section, self._run, self._accelerator, self._objective = section, run, accelerator, objective
        self._parts = {name: part for name, part in parts.items() if part is not None}

    def is_due(self, step: int, seconds_since: float) -> bool:
        """Whether a checkpoint is to be written behind this step.

        Args:
            step: steps done.
            seconds_since: the last one was written, or training began.
        """
        if self._section.every_steps is not None and step % self._section.every_steps == 0:
            return True
        return self._section.every_minutes is not None and seconds_since >= 60 * self._section.every_minutes

    def save(self, progress: Progress) -> None:
        """Write a checkpoint.

        Raises:
            TrainingError: it cannot be written.
        """
        random = gather_objects(random_state())
        if self._accelerator.is_main_process:
            states = {name: part.state_dict() for name, part in self._parts.items()}
            checkpoint = Checkpoint(dataclasses.asdict(progress), self._objective.state_dict(), states, random)
            try:
                write_checkpoint(self._run.checkpoints, checkpoint, keep=self._section.keep)
            except OSError as error:
                raise TrainingError(
                    f"step {progress.step}: the checkpoint cannot be written to {self._run.checkpoints} "
                    f"({error.strerror or error}); mend that and go on with --resume"
                ) from error
        self._accelerator.wait_for_everyone()

    def restore(self) -> Checkpoint | None:
        """Load the newest checkpoint into the objective and the parts; None where there is none yet.

        Records that the run will write again are dropped; the random state is the caller's to set, last of all.

        Raises:
            ConfigError: it is damaged, or of another number of processes.
        """
        run = self._run
        if not has_checkpoint(run.checkpoints):
            log.warning("%s was stopped before its first checkpoint: it starts from the first step", run.path)
            run.drop_metrics_after(0)
            return None
        if self._accelerator.is_main_process:
            mend_run(run.checkpoints, run.model)
        self._accelerator.wait_for_everyone()
        checkpoint = read_checkpoint(run.checkpoints)
        if len(checkpoint.random) != world_size():
            raise ConfigError(
                f"--resume: the run was saved by {len(checkpoint.random)} process(es) and goes on with {world_size()}; "
                f"start as many"
            )
        if self._accelerator.is_main_process:  # behind all that may refuse to go on
            put_best_back(run.checkpoints, run.model)
        self._objective.load_state_dict(checkpoint.weights)
        for name, part in self._parts.items():
            part.load_state_dict(checkpoint.states[name])
        run.drop_metrics_after(checkpoint.progress["step"], judged=checkpoint.progress["evaluated_step"])
        return checkpoint

    @contextmanager
    def best_set_aside(self, progress: Progress) -> Iterator[None]:
        """Within it the model may be judged out of turn: a run that goes on has the best one of its schedule again."""
        if self._accelerator.is_main_process:
            set_best_aside(self._run.checkpoints, self._run.model)
        yield
        if self._accelerator.is_main_process and progress.best_step != progress.step:
            forget_best_aside(self._run.checkpoints)
