"""A plan: what a training will take, as numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PartParameters:
    """Parameters of one part of the model.

    Attributes:
        name: such as "image tower".
        total, trained: how many; those that train when the run begins.
        cached: whether the part never runs in training, because its features are kept.
    """

    name: str
    total: int
    trained: int
    cached: bool = False


@dataclass(frozen=True)
class DataForecast:
    """The data of a training.

    Attributes:
        train: rows trained on.
        judged: rows of each split that is judged on, by name.
        captions_a_row: on average.
        batch_size, batches_per_epoch, total_steps: as the recipe gives them with these data.
        repeated_captions: the share of rows that meet, in their batch, a row with the same caption as a negative.
    """

    train: int
    judged: dict[str, int]
    captions_a_row: float
    batch_size: int
    batches_per_epoch: int
    total_steps: int
    repeated_captions: float

    @property
    def rows_a_step(self) -> int:
        """Rows of the largest batch."""
        return -(-self.train // self.batches_per_epoch)

    @property
    def epochs(self) -> float:
        """Passes over the training split."""
        return self.total_steps / self.batches_per_epoch


@dataclass(frozen=True)
class MemoryForecast:
    """Memory of the whole process at its peak, in bytes: resident on a CPU, allocated on a GPU.

    Attributes:
        peak: of the run as the recipe says it.
        stages: the peak of each stage, by name.
        fixed, per_row, per_row_squared: of a step's peak, by the batch: the fitted line.
        points: (rows, bytes) that were measured and fitted.
        measured_rows: rows of the further measurement that the line was checked by.
        measured: bytes of a step there; ``line`` what the line says there.
        extrapolated: whether the wanted batch itself was too large to be measured.
        limit: what there is, or what ``--memory`` says.
        largest_plain, largest_cached: the largest batches that fit, at once and with gradient caching in pieces of
            ``micro_batch_size``; None: as large as the data.
        micro_batch_size: see there.
    """

    peak: float
    stages: dict[str, float]
    fixed: float
    per_row: float
    per_row_squared: float
    points: list[tuple[int, float]]
    measured_rows: int
    measured: float
    line: float
    extrapolated: bool
    limit: float
    largest_plain: int | None
    largest_cached: int | None
    micro_batch_size: int

    @property
    def fits(self) -> bool:
        """Whether the peak is within the limit."""
        return self.peak <= self.limit


@dataclass(frozen=True)
class PhaseForecast:
    """Part of a run in which the same parameters train.

    Attributes:
        from_epoch: where it begins.
        steps: how many.
        step_seconds: of one.
        evaluations, evaluation_seconds: how many, and of one.
    """

    from_epoch: float
    steps: int
    step_seconds: float
    evaluations: int
    evaluation_seconds: float


@dataclass(frozen=True)
class TimeForecast:
    """Seconds from the command to its end.

    Attributes:
        start: imports, data, model, tokens.
        features: computing those of frozen towers that no file holds yet.
        warm_up: what the first step and the first evaluation take above the others.
        phases: steps and evaluations.
        saving: models (at most: one behind every evaluation) and checkpoints.
        final: the judgement on the test splits.
        stopped_after: ``train.max_minutes`` in seconds, where that ends the run.
        folds: the steps of the models that ``noise.method=cross_fit`` trains beforehand, which that does not end.
    """

    start: float
    features: float
    warm_up: float
    phases: list[PhaseForecast]
    saving: float
    final: float
    stopped_after: float | None = None
    folds: float = 0.0

    @property
    def training(self) -> float:
        """Of all steps."""
        return sum(phase.steps * phase.step_seconds for phase in self.phases)

    @property
    def evaluations(self) -> float:
        """Of all evaluations during training."""
        return sum(phase.evaluations * phase.evaluation_seconds for phase in self.phases)

    @property
    def total(self) -> float:
        """To the end; a run that ``train.max_minutes`` stops is judged at its end all the same."""
        loop = self.warm_up + self.training + self.evaluations + self.saving
        if self.stopped_after is not None:
            loop = min(loop, self.stopped_after)
        return self.start + self.features + self.folds + loop + self.final


@dataclass(frozen=True)
class DiskForecast:
    """Bytes on disk.

    Attributes:
        checkpoint, checkpoints_kept: of one, and how many stay.
        model: of the best model; ``models_beside``: how many like it stay beside it, such as the starting one.
        metrics: of ``metrics.jsonl``, about.
        features, tokens: that will be added to the caches.
        free: where the run writes; ``free_for_features`` where the cache is.
    """

    checkpoint: int
    checkpoints_kept: int
    model: int
    metrics: int
    features: int
    tokens: int
    free: int
    free_for_features: int
    models_beside: int = 0

    @property
    def run(self) -> int:
        """Of the run folder, with the checkpoint and the model that are being written beside the old ones."""
        models = (2 + self.models_beside) * self.model
        return self.checkpoint * (self.checkpoints_kept + 1) + models + self.metrics


@dataclass(frozen=True)
class FeatureForecast:
    """Features of one kind of item that a training will ask for.

    Attributes:
        title: such as "image features of emoji:train".
        total, missing: items; those that no file holds.
        seconds: to compute the missing ones.
    """

    title: str
    total: int
    missing: int
    seconds: float


@dataclass(frozen=True)
class Advice:
    """Something to think about before the training.

    Attributes:
        about: a word for it, such as "batch_larger_than_data".
        text: what was found, with the number.
        next_step: what to do, with the recipe's key.
    """

    about: str
    text: str
    next_step: str


@dataclass(frozen=True)
class Plan:
    """What a training will take.

    Attributes:
        recipe: its name; ``run_dir`` the folder it would write.
        device: "cpu" or "cuda"; ``device_name`` of a GPU.
        parameters: by part.
        data, memory, time, disk, features: see there.
        advice: warnings, each with a next step.
        unknown: what cannot be known here, such as the memory of a GPU where there is none.
        said: what the training itself warned of while it started.
        chosen: what ``recipe: auto`` chose, and why; empty for any other recipe.
    """

    recipe: str
    run_dir: str
    device: str
    device_name: str
    parameters: list[PartParameters]
    data: DataForecast
    memory: MemoryForecast
    time: TimeForecast
    disk: DiskForecast
    features: list[FeatureForecast] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    chosen: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all fields, and the sums that the plan says."""
        values = dataclasses.asdict(self)
        values["time"] |= {
            "training": self.time.training,
            "evaluations": self.time.evaluations,
            "total": self.time.total,
        }
        values["disk"]["run"] = self.disk.run
        values["memory"]["fits"] = self.memory.fits
        values["data"]["rows_a_step"] = self.data.rows_a_step
        return values

    def sentences(self) -> list[str]:
        """What ``mmcl plan`` prints, one sentence or two a line."""
        from mmcl.plan.sentences import sentences

        return sentences(self)
