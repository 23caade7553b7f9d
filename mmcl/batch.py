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
class HardNegatives:
    """Inputs of items that are wrong for the rows they were made for: hard captions, or mined images.

    Attributes:
        inputs: keyword inputs of the encoder, k items.
        owners: (k,) int64, ascending; the position in the batch of the row each was made for.
        group_ids: (k,) int64; the group that an item truly belongs to, -1 for none. Rows of that group leave it out.
    """

    inputs: dict[str, Tensor]
    owners: Tensor
    group_ids: Tensor

    def __len__(self) -> int:
        return len(self.owners)


@dataclass
class Batch:
    """Inputs of one step on one process.

    Attributes:
        image: keyword inputs of the image encoder: ``pixel_values`` (b, 3, h, w), or ``features`` (b, f) from a cache.
        text: keyword inputs of the text encoder: ``input_ids`` and ``attention_mask`` (b, t), or ``features`` (b, f).
        group_ids: (b,) int64; equal ids are positives of one another.
        rows: (b,) int64; row numbers in the data set.
        skipped: rows of this batch that could not be read, and are not in the tensors above.
        negative_text: hard captions; None where there are none.
        negative_image: hard images; None where there are none.
    """

    image: dict[str, Tensor]
    text: dict[str, Tensor]
    group_ids: Tensor
    rows: Tensor
    skipped: list[SkippedRow] = field(default_factory=list)
    negative_text: HardNegatives | None = None
    negative_image: HardNegatives | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: object) -> Batch:
        """The same batch with every tensor on ``device``."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, non_blocking=True)

        def move_negatives(negatives: HardNegatives | None) -> HardNegatives | None:
            if negatives is None:
                return None
            inputs = {key: move(value) for key, value in negatives.inputs.items()}
            return HardNegatives(inputs, move(negatives.owners), move(negatives.group_ids))

        return dataclasses.replace(
            self,
            image={key: move(value) for key, value in self.image.items()},
            text={key: move(value) for key, value in self.text.items()},
            group_ids=move(self.group_ids),
            rows=move(self.rows),
            negative_text=move_negatives(self.negative_text),
            negative_image=move_negatives(self.negative_image),
        )


@dataclass
class Embeddings:
    """What an objective's encoders made of a batch, and what its loss is computed from.

    Attributes:
        image, text: (b, d) unit rows of this process.
        group_ids: (b,) int64.
        logit_scale: () or (1,), the factor from scores to logits.
        logit_bias: () or (1,), or None.
        negative_text: (k, d) unit rows of hard captions, or None; ``negative_text_groups`` (k,) int64 goes with it.
        negative_image: (k, d) unit rows of hard images, or None; ``negative_image_groups`` (k,) int64 goes with it.
        key_image, key_text: (b, d) unit rows of a momentum encoder, without gradient, or None.
        gathered: the same of all processes together, in rank order, with gradient; None on one process.
        offset: the position of this process's first row inside ``gathered``.
    """

    image: Tensor
    text: Tensor
    group_ids: Tensor
    logit_scale: Tensor
    logit_bias: Tensor | None = None
    negative_text: Tensor | None = None
    negative_text_groups: Tensor | None = None
    negative_image: Tensor | None = None
    negative_image_groups: Tensor | None = None
    key_image: Tensor | None = None
    key_text: Tensor | None = None
    gathered: Embeddings | None = None
    offset: int = 0
