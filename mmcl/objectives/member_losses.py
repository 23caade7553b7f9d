"""The loss of heads that stand side by side: each member's own part of the embeddings, judged by its own loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmcl.batch import Embeddings
from mmcl.objectives.whole_batch import PairLoss

# Arguments of a loss that hold embeddings, beside image and text.
_FURTHER = ("negative_image", "negative_text")


def on_members(losses: Sequence[PairLoss], scales: Sequence[float | None] = ()) -> PairLoss:
    """The mean over members of each one's loss of its own embeddings, ``d / n`` of the d values.

    The members of a ``MemberHeads`` learn side by side, not against one another: what one gets right does not spare
    another its work, as it would with a loss of the whole row.

    Args:
        losses: one a member.
        scales: a fixed scale of each member's logits, None for the model's; none given: the model's for all. A lower
            scale asks less of a member: it ranks worse and keeps more of what its towers knew.

    Returns:
        The loss as an objective calls it.

    Raises:
        ShapeError: see the losses.
    """

    def call(
        image: Tensor, text: Tensor, logit_scale: Tensor, *, gathered: Embeddings | None = None, **options: Any
    ) -> Tensor:
        total = 0 * logit_scale.sum()  # which has a gradient where every member has a scale of its own
        further = {key: options[key] for key in _FURTHER if options.get(key) is not None}
        for place, (loss, scale) in enumerate(zip(losses, scales or [None] * len(losses))):
            own = options | {key: part_of_member(rows, place, len(losses)) for key, rows in further.items()}
            total = total + loss(
                part_of_member(image, place, len(losses)),
                part_of_member(text, place, len(losses)),
                logit_scale if scale is None else torch.full_like(logit_scale.detach(), scale),
                gathered=None if gathered is None else _part_of_all(gathered, place, len(losses)),
                **own,
            )
        return total / len(losses)

    return call


def part_of_member(rows: Tensor, place: int, count: int) -> Tensor:
    """One member's unit rows (b, d / n) of rows (b, d) that are unit together."""
    width = rows.shape[-1] // count
    return rows[:, place * width : (place + 1) * width] * count**0.5


def _part_of_all(gathered: Embeddings, place: int, count: int) -> Embeddings:
    names = ("image", "text", *_FURTHER)
    parts = {name: getattr(gathered, name) for name in names}
    return dataclasses.replace(
        gathered, **{name: part_of_member(rows, place, count) for name, rows in parts.items() if rows is not None}
    )
