"""What the trainer is handed, seen from its side: objective, reader, batches, display and hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from mmcl.batch import Batch, Embeddings, SkippedRow


class Objective(Protocol):
    """One training method: ``embed`` (here ``__call__``) runs the encoders, ``loss`` runs none.

    Both may be called several times in one step, ``embed`` on parts of its batch: what a step changes, such as a queue
    or a teacher, ``after_step`` changes. It is told the step's mean loss over all rows, and the share of the run's
    steps that is done with it.
    """

    model: nn.Module

    def __call__(self, batch: Batch) -> Embeddings: ...

    def loss(self, embeddings: Embeddings) -> dict[str, Tensor]: ...

    def after_step(self, *, loss: float, done: float) -> None: ...

    def chance_loss(self, batch_size: int) -> float | None:
        """The last loss's value if the model could not tell pairs apart; None where it has none."""
        ...


class Reader(Protocol):
    """Row numbers to a batch.

    Attributes:
        epoch: set before each epoch.
        is_cheap: whether a batch is a mere look-up, not worth a worker process.
        unreadable: rows known to be unreadable before the first step.
    """

    epoch: int
    is_cheap: bool
    unreadable: list[SkippedRow]

    def __len__(self) -> int: ...

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
        save_model: write the model in its final form to a folder.
        judge: metrics of the model as it stands; called on the main process. None: no evaluation.
        thaw: told the fractional epoch after each step; true when what trains has changed.
        display: progress bar and log lines.
        row_name: the name of a row for messages, such as its id.
    """

    save_model: Callable[[Path], object]
    judge: Callable[[], dict[str, Any]] | None = None
    thaw: Callable[[float], bool] | None = None
    display: Display | None = None
    row_name: Callable[[int], str] = str
