"""The loss of heads that stand side by side: each member's own part of the embeddings, judged by its own loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmcl.batch import Embeddings
from mmcl.objectives.whole_batch import PairLoss

# Arguments of a loss that hold embeddings, beside image and text.
_FURTHER = ("negative_image", "negative_text")


def on_members(losses: Sequence[PairLoss]) -> PairLoss:
    """The mean over members of each one's loss of its own embeddings, ``d / n`` of the d values.

    The members of a ``MemberHeads`` learn side by side, not against one another: what one gets right does not spare
    another its work, as it would with a loss of the whole row.

    Args:
        losses: one a member.

    Returns:
        The loss as an objective calls it.

    Raises:
        ShapeError: see the losses.
    """

    def call(
        image: Tensor, text: Tensor, logit_scale: Tensor, *, gathered: Embeddings | None = None, **options: Any
    ) -> Tensor:
        total = image.new_zeros(())
        further = {key: options[key] for key in _FURTHER if options.get(key) is not None}
        for place, loss in enumerate(losses):
            own = options | {key: _part(rows, place, len(losses)) for key, rows in further.items()}
            total = total + loss(
                _part(image, place, len(losses)),
                _part(text, place, len(losses)),
                logit_scale,
                gathered=None if gathered is None else _part_of_all(gathered, place, len(losses)),
                **own,
            )
        return total / len(losses)

    return call


def _part(rows: Tensor, place: int, count: int) -> Tensor:
    """One member's unit rows (b, d / n) of rows (b, d) that are unit together."""
    width = rows.shape[-1] // count
    return rows[:, place * width : (place + 1) * width] * count**0.5


def _part_of_all(gathered: Embeddings, place: int, count: int) -> Embeddings:
    names = ("image", "text", *_FURTHER)
    parts = {name: getattr(gathered, name) for name in names}
    return dataclasses.replace(
        gathered, **{name: _part(rows, place, count) for name, rows in parts.items() if rows is not None}
    )
