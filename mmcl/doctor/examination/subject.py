"""`Subject`: a run as the checks see it, opened: recipe, records, some rows, and what the model makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from mmcl.config import Recipe
from mmcl.doctor.examination.agreement import Fit, fit_of
from mmcl.doctor.live.course import Course
from mmcl.models.dual_encoder import DualEncoder


@dataclass(frozen=True)
class Sample:
    """Some rows of one split.

    Attributes:
        texts: n captions, one of each row, as a first epoch would take it.
        groups: (n,) int64, equal where rows belong together; see ``ImageTextDataset.group_ids``.
        images: n decoded images, uint8 (3, h, w); empty where there are none to look at.
        pixels: (n, p) float32, plain figures of the images: see ``pixel_features``.
        image_features, text_features: (n, f) float32 of the towers the run started from; None where those know
            nothing, being random.
        image, text: (n, d) float32 unit rows, embeddings of the trained model; None where there is none.
        labels: of the rows, None where one has none; None altogether where the data have no labels.
    """

    texts: list[str]
    groups: np.ndarray
    images: list[Tensor] = field(default_factory=list)
    pixels: np.ndarray | None = None
    image_features: np.ndarray | None = None
    text_features: np.ndarray | None = None
    image: np.ndarray | None = None
    text: np.ndarray | None = None
    labels: list[Any] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def fit(self) -> Fit | None:
        """How well the trained model finds each row's own partner; None without embeddings that are finite."""
        if self.image is None or not (np.isfinite(self.image).all() and np.isfinite(self.text).all()):
            return None
        return fit_of(self.image @ self.text.T, self.groups)


@dataclass(frozen=True)
class Damage:
    """A file of a run that is not what it should be.

    Attributes:
        path: within the run folder.
        found: what is there, with its size.
        wanted: what should be there.
        is_grave: whether what a run is for depends on it: its recipe, records, model and checkpoints.
    """

    path: str
    found: str
    wanted: str
    is_grave: bool = True

    def __str__(self) -> str:
        return f"{self.path} holds {self.found}, not {self.wanted}"


@dataclass(frozen=True)
class Leak:
    """Rows of the validation split that training rows give away.

    Attributes:
        kind: ``"caption"``, ``"group"``, ``"image"`` or ``"near image"``.
        rows: how many.
        example: the files of one such pair; may be empty.
        is_estimate: whether not all rows were looked at.
    """

    kind: str
    rows: int
    example: str = ""
    is_estimate: bool = False


@dataclass(frozen=True)
class Timing:
    """Seconds of one batch.

    Attributes:
        read: to read it, in this process.
        model: to run the model forward and back on it.
        workers: reader processes that the run has.
        died: what was said when a reader process died; empty: none did.
    """

    read: float
    model: float
    workers: int = 0
    died: str = ""


@dataclass(frozen=True)
class Ending:
    """How the run stands.

    Attributes:
        state: ``"finished"``, ``"interrupted"``, ``"stopped"`` (by an error), ``"broken off"`` (without a word), or
            ``"running"``.
        reason: what was said at the end; may be empty.
        rows: names of the rows of the batch it stopped at.
    """

    state: str = "finished"
    reason: str = ""
    rows: tuple[str, ...] = ()


@dataclass
class Subject:
    """A run, opened for examination; what could not be opened is None, and the checks that want it are not made.

    Attributes:
        recipe: what was run.
        records: the lines of ``metrics.jsonl``.
        rows: of the training split.
        batches: of an epoch.
        train, validation: some rows of each.
        validation_rows: of the validation split.
        leaks: rows of the validation split that training rows give away, of each kind that was looked for.
        captions: distinct captions of the training split as a whole; None: not counted.
        columns: further columns of text in the data, name -> distinct values in the training split.
        start: the model as it was before the first step, frozen as the recipe says; trained: as it was after the last.
        standard: mean and standard deviation that the image tower was trained with, as its library says; None: unknown.
        timing: of a few batches.
        ending: how the run stands.
        damages: files of the run that are not what they should be.
    """

    recipe: Recipe
    records: list[Mapping[str, Any]] = field(default_factory=list)
    rows: int = 0
    batches: int = 0
    train: Sample | None = None
    validation: Sample | None = None
    validation_rows: int = 0
    leaks: list[Leak] = field(default_factory=list)
    captions: int | None = None
    columns: dict[str, int] = field(default_factory=dict)
    start: DualEncoder | None = None
    trained: DualEncoder | None = None
    standard: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    timing: Timing | None = None
    ending: Ending = field(default_factory=Ending)
    damages: list[Damage] = field(default_factory=list)

    @cached_property
    def course(self) -> Course:
        """What the records say, in order."""
        course = Course(self.recipe)
        for record in self.records:
            course.add(record)
        course.finished = True
        return course

    @property
    def has_learnt(self) -> bool:
        """Whether the trained model finds partners of rows well above chance: of held-out rows where there are some."""
        sample = self.validation if self.validation is not None and len(self.validation) >= 20 else self.train
        if sample is None or sample.fit is None:
            return False
        sure = (sample.fit.auc - 0.5) * math.sqrt(12 * len(sample))  # standard errors of as many rows
        return sure > 4.5 and sample.fit.auc > 0.6

    @property
    def is_near_chance(self) -> bool:
        """Whether the newest losses, or else the recall, are those of a model that has learnt next to nothing."""
        course = self.course
        if course.steps and course.chance:
            return course.mean("loss") >= 0.93 * course.chance
        return self.train is not None and self.train.fit is not None and self.train.fit.auc < 0.6
