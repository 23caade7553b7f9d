"""What travels between data, objectives and the trainer: one batch of inputs, one batch of embeddings."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
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

    def of_rows(self, start: int, stop: int) -> HardNegatives | None:
        """The items of the rows from ``start`` to before ``stop``, their owners counted from ``start``; None: none."""
        bounds = self.owners.new_tensor([start, stop])
        first, last = torch.searchsorted(self.owners.contiguous(), bounds).tolist()
        if first == last:
            return None
        inputs = {key: value[first:last] for key, value in self.inputs.items()}
        return HardNegatives(inputs, self.owners[first:last] - start, self.group_ids[first:last])


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

    def split(self, size: int) -> list[Batch]:
        """The same rows in order, as the fewest batches of at most ``size`` rows; their lengths differ by 1 at most.

        Hard negatives go with the row they were made for. A batch without rows comes back as it is.
        """
        count = max(1, -(-len(self) // size))
        bounds = [len(self) * number // count for number in range(count + 1)]
        return [self] if count == 1 else [self.of_rows(*ends) for ends in itertools.pairwise(bounds)]

    def of_rows(self, start: int, stop: int) -> Batch:
        """The rows from ``start`` to before ``stop``, with their hard negatives."""
        return Batch(
            image={key: value[start:stop] for key, value in self.image.items()},
            text={key: value[start:stop] for key, value in self.text.items()},
            group_ids=self.group_ids[start:stop],
            rows=self.rows[start:stop],
            negative_text=None if self.negative_text is None else self.negative_text.of_rows(start, stop),
            negative_image=None if self.negative_image is None else self.negative_image.of_rows(start, stop),
        )

    def to(self, device: object) -> Batch:
        """The same batch with every tensor on ``device``."""
        return self._with(lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory, from which a GPU copies while it computes; torch's loader calls this."""
        return self._with(lambda value: value.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with every tensor changed."""

        def change_negatives(negatives: HardNegatives | None) -> HardNegatives | None:
            if negatives is None:
                return None
            inputs = {key: change(value) for key, value in negatives.inputs.items()}
            return HardNegatives(inputs, change(negatives.owners), change(negatives.group_ids))

        return dataclasses.replace(
            self,
            image={key: change(value) for key, value in self.image.items()},
            text={key: change(value) for key, value in self.text.items()},
            group_ids=change(self.group_ids),
            rows=change(self.rows),
            negative_text=change_negatives(self.negative_text),
            negative_image=change_negatives(self.negative_image),
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
        image_features, text_features: (b, f) what the towers made of each row, before any mixing, without gradient,
            where a loss looks at it; or None.
        rows: (b,) int64 row numbers in the data set, where pairs are judged one by one; or None.
        mixed_ids: (b, 2) int64 ids of the two parts of each row, where rows are mixtures; or None.
        mixed_rows: (b, 2) int64 their row numbers; or None.
        mixed_shares: (b,) what the first part counts, in [0.5, 1]; or None.
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
    image_features: Tensor | None = None
    text_features: Tensor | None = None
    rows: Tensor | None = None
    mixed_ids: Tensor | None = None
    mixed_rows: Tensor | None = None
    mixed_shares: Tensor | None = None
    gathered: Embeddings | None = None
    offset: int = 0

    def leaves(self) -> Embeddings:
        """The same values without history; each tensor that a loss may send a gradient to collects it in ``.grad``."""
        names = (*EMBEDDED, *SHARED)
        tensors = {name: value for name in names if (value := getattr(self, name)) is not None}
        return dataclasses.replace(
            self, **{name: value.detach().requires_grad_() for name, value in tensors.items()}, gathered=None, offset=0
        )


# Fields of ``Embeddings`` with a row for every item: what encoders made, and what goes with it (for every pair, or for
# every hard negative). Then what is shared.
EMBEDDED = ("image", "text", "negative_text", "negative_image")
CONSTANT_OF_ROWS = ("group_ids", "key_image", "key_text", "image_features", "text_features", "rows")
CONSTANT_OF_ROWS += ("mixed_ids", "mixed_rows", "mixed_shares")
CONSTANT = (*CONSTANT_OF_ROWS, "negative_text_groups", "negative_image_groups")
SHARED = ("logit_scale", "logit_bias")


@torch.no_grad()
def join_embeddings(parts: Sequence[Embeddings]) -> Embeddings:
    """Embeddings of a batch from those of its parts, in order, without history; what is shared is the last one's.

    Parts without hard negatives may stand beside parts with some.
    """
    columns = {name: [getattr(part, name) for part in parts] for name in (*EMBEDDED, *CONSTANT)}
    given = {name: [value for value in column if value is not None] for name, column in columns.items()}
    joined = {name: torch.cat(values) for name, values in given.items() if values}
    return Embeddings(**joined, **{name: getattr(parts[-1], name) for name in SHARED})
