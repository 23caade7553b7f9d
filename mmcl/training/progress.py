"""Where a training stands, and how it ended."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch

from mmcl.batch import SkippedRow
from mmcl.doctor.finding import Finding


@dataclass
class Progress:
    """Where a training is; the plain numbers of a checkpoint."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch already done
    rows_seen: int = 0
    evaluated_step: int = 0  # the newest step that was judged
    best: float | None = None  # of evaluate.metric; None: nothing judged yet
    best_step: int = 0
    stale_evaluations: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0  # without evaluations and checkpoints
    first_loss: float | None = None
    last_loss: float | None = None
    smooth_loss: float | None = None
    micro_batch_size: int | None = None  # in use; resume draws the same dropout only with the same
    finished: bool = False
    stopped_by: str = ""

    def fractional_epoch(self, batches_per_epoch: int) -> float:
        """Epochs done, with the share of the present one."""
        return self.epoch + self.batch / batches_per_epoch


@dataclass
class TrainingResult:
    """How a training ended.

    Attributes:
        progress: its last state.
        stopped_by: "done", "early stopping", "max_minutes", or the signal's name.
        skipped: rows that could not be read.
        pairs_per_second: over the whole run, reading included, evaluations and checkpoints left out.
        peak_memory_mb: of the main process (CPU), or allocated (GPU).
        evaluations: every evaluation, in order, with its step.
        chance_loss: the loss of a model that cannot tell pairs apart, at the last step; None where the loss has none.
        findings: what the doctor said on the way.
    """

    progress: Progress
    stopped_by: str
    skipped: list[SkippedRow] = field(default_factory=list)
    pairs_per_second: float = 0.0
    peak_memory_mb: float = 0.0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    chance_loss: float | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it: a checkpoint was written and nothing more."""
        return self.stopped_by.startswith("SIG")


def peak_memory_mb() -> float:
    """Largest memory so far: allocated on the GPU, or resident on the CPU (MiB); 0 where the system does not tell."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
