"""What travels between data, objectives and the trainer: one batch of inputs, one batch of embeddings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class SkippedRow:
    """A row of a data set that could not be used: where it stands and why."""

    row: int
    source: str  # the file, or the file and line
    reason: str


@dataclass
class Batch:
    """Inputs of one step on one process.

    Attributes:
        image: keyword inputs of the image encoder: ``pixel_values`` (b, 3, h, w), or ``features`` (b, f) from a cache.
        text: keyword inputs of the text encoder: ``input_ids`` and ``attention_mask`` (b, t), or ``features`` (b, f).
        group_ids: (b,) int64; equal ids are positives of one another.
        rows: (b,) int64; row numbers in the data set.
        skipped: rows of this batch that could not be read, and are not in the tensors above.
    """

    image: dict[str, Tensor]
    text: dict[str, Tensor]
    group_ids: Tensor
    rows: Tensor
    skipped: list[SkippedRow] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: object) -> Batch:
        """The same batch with every tensor on ``device``."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, non_blocking=True)

        return dataclasses.replace(
            self,
            image={key: move(value) for key, value in self.image.items()},
            text={key: move(value) for key, value in self.text.items()},
            group_ids=move(self.group_ids),
            rows=move(self.rows),
        )


@dataclass
class Embeddings:
    """What an objective's encoders made of a batch, and what its loss is computed from.

    Attributes:
        image, text: (b, d) unit rows of this process.
        group_ids: (b,) int64.
        logit_scale: () or (1,), the factor from scores to logits.
        logit_bias: () or (1,), or None.
        gathered: the same of all processes together, in rank order, with gradient; None on one process.
        offset: the position of this process's first row inside ``gathered``.
    """

    image: Tensor
    text: Tensor
    group_ids: Tensor
    logit_scale: Tensor
    logit_bias: Tensor | None = None
    gathered: Embeddings | None = None
    offset: int = 0
