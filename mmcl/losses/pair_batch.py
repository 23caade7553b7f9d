"""A batch of pairs as the tiled losses see it: who is compared with whom, and which negatives count."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.batch import Embeddings
from mmcl.errors import ShapeError
from mmcl.losses.arguments import (
    check_gathered,
    check_pair,
    check_range,
    check_rows,
    one_number,
    positive_number,
)
from mmcl.losses.candidates import Candidates, Window, distinct

MINING = ("hardest", "semi_hard", "margin")


@dataclass(frozen=True)
class Comparison:
    """Rows against columns: one direction of a loss, or its rows against extra negatives."""

    rows: Tensor
    columns: Tensor
    candidates: Candidates


@dataclass(frozen=True)
class PairBatch:
    """The arguments that ``info_nce`` and ``sigmoid`` share; see there. Checked when it is made.

    Raises:
        ShapeError: what does not fit, with the value found and the value wanted.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor | None
    group_ids: Tensor | None
    positives: Tensor | None
    negative_text: Tensor | None
    negative_text_groups: Tensor | None
    negative_image: Tensor | None
    negative_image_groups: Tensor | None
    exclude_ids: Tensor | None
    gathered: Embeddings | None
    offset: int

    @classmethod
    def of(
        cls,
        image: Tensor,
        text: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None,
        *,
        group_ids: Tensor | None,
        exclude_ids: Tensor | None,
        gathered: Embeddings | None,
        offset: int,
        **others: Tensor | None,
    ) -> PairBatch:
        """Check and widen the arguments of a loss."""
        check_pair(image, text)
        check_rows("group_ids", group_ids, len(image))
        check_gathered(image, group_ids, gathered, offset)
        scale = positive_number("logit_scale", logit_scale, image, meaning="it is 1 / temperature")
        bias = None if logit_bias is None else one_number("logit_bias", logit_bias, image)
        if exclude_ids is not None and exclude_ids.ndim == 1:
            exclude_ids = exclude_ids[:, None]
        batch = cls(
            image, text, scale, bias, group_ids=group_ids, exclude_ids=exclude_ids, gathered=gathered, offset=offset,
            **others,
        )  # fmt: skip
        batch._check()
        return batch

    def _check(self) -> None:
        count = self.num_columns
        if self.positives is not None and (
            self.positives.shape != (count, count) or self.positives.dtype != torch.bool
        ):
            raise ShapeError(
                f"positives need shape ({count}, {count}) and dtype bool (image i with text j, of all processes), got "
                f"{tuple(self.positives.shape)} {self.positives.dtype}"
            )
        if self.exclude_ids is not None and (self.exclude_ids.ndim != 2 or len(self.exclude_ids) != count):
            raise ShapeError(
                f"exclude_ids need shape ({count},) or ({count}, m), one row a pair of all processes, got "
                f"{tuple(self.exclude_ids.shape)}"
            )
        for name in ("negative_text", "negative_image"):
            extra, groups = getattr(self, name), getattr(self, f"{name}_groups")
            if extra is None:
                continue
            if extra.ndim != 2 or extra.shape[1] != self.image.shape[1]:
                raise ShapeError(f"{name} needs shape (k, {self.image.shape[1]}), got {tuple(extra.shape)}")
            check_rows(f"{name}_groups", groups, len(extra))

    @property
    def num_columns(self) -> int:
        """Pairs of all processes."""
        return len(self.image) if self.gathered is None else len(self.gathered.image)

    @property
    def mine(self) -> slice:
        """Where this process's pairs stand among all of them."""
        return slice(self.offset, self.offset + len(self.image))

    def own_logits(self) -> Tensor:
        """(b,) logits of the own pairs, without gradient."""
        with torch.no_grad(), torch.autocast(self.image.device.type, enabled=False):
            dtype = self.scale.dtype
            logits = self.scale * (self.image.to(dtype) * self.text.to(dtype)).sum(1)
            return logits if self.bias is None else logits + self.bias

    def truncated(self, dim: int) -> PairBatch:
        """The same with embeddings cut to their first ``dim`` values and normalised again."""

        def cut(values: Tensor | None) -> Tensor | None:
            return None if values is None else F.normalize(values[:, :dim].to(self.scale.dtype), dim=1).to(values.dtype)

        gathered = self.gathered
        if gathered is not None:
            gathered = replace(gathered, image=cut(gathered.image), text=cut(gathered.text))
        names = ("image", "text", "negative_text", "negative_image")
        return replace(self, gathered=gathered, **{name: cut(getattr(self, name)) for name in names})

    # -- who is compared with whom -------------------------------------------------------------------------------

    def _all(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images, texts and groups of all processes."""
        if self.gathered is None:
            return self.image, self.text, self.group_ids
        return self.gathered.image, self.gathered.text, self.gathered.group_ids

    def image_to_text(self) -> Comparison:
        """This process's images against all texts; without ``gathered`` its columns are the other direction."""
        _, texts, groups = self._all()
        return Comparison(self.image, texts, self._candidates(groups, self.positives))

    def text_to_image(self) -> Comparison:
        """This process's texts against all images."""
        images, _, groups = self._all()
        turned = None if self.positives is None else self.positives.T
        return Comparison(self.text, images, self._candidates(groups, turned))

    def _candidates(self, groups: Tensor | None, positives: Tensor | None) -> Candidates:
        # Where no group stands twice there is nothing to compare tile by tile.
        compare = self.group_ids is not None and not distinct(groups)
        return Candidates(
            device=self.image.device,
            own=self.mine,
            row_groups=self.group_ids if compare else None,
            column_groups=groups if compare else None,
            positives=None if positives is None else positives[self.mine],
            row_ids=None if self.exclude_ids is None else self.exclude_ids[self.mine],
            column_ids=self.exclude_ids,
        )

    def extra(self, side: str) -> Comparison | None:
        """This process's images against the extra texts (side "text"), or its texts against the extra images."""
        columns, groups = getattr(self, f"negative_{side}"), getattr(self, f"negative_{side}_groups")
        if columns is None or len(columns) == 0:
            return None
        compare = self.group_ids is not None and groups is not None
        candidates = Candidates(
            device=self.image.device,
            row_groups=self.group_ids if compare else None,
            column_groups=groups if compare else None,
            groups_are="nothing",
        )
        return Comparison(self.image if side == "text" else self.text, columns, candidates)


def check_mining(mining: str | None, margin: float, count: int) -> None:
    """Refuse an unknown rule of choosing negatives, a negative margin, or a count below 1.

    Raises:
        ShapeError: names the argument.
    """
    if mining is not None and mining not in MINING:
        near = difflib.get_close_matches(str(mining), MINING, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ShapeError(f"mining is {mining!r}; want None or one of {', '.join(MINING)}{hint}")
    check_range("mining_margin", margin, 0)
    check_range("mining_count", count, 1)


def matryoshka_sizes(dims: Sequence[int], full: int) -> list[int]:
    """The sizes asked for in falling order, the full one first.

    Raises:
        ShapeError: one is below 1 or above the full size.
    """
    for dim in dims:
        if not 1 <= dim <= full:
            raise ShapeError(f"matryoshka_dims holds {dim}; want sizes from 1 to the embeddings' own, {full}")
    return sorted({full, *dims}, reverse=True)


def relative_window(
    own: Tensor, scale: Tensor, *, false_negative_margin: float | None, mining: str | None, mining_margin: float
) -> Window | None:
    """What the rules relative to the own pair's score let count as a negative; None where they let all.

    A false negative scores above positive + margin. Semi-hard ones score between positive - margin and positive
    (Schroff et al. 2015, arXiv:1503.03832, section 3.2, in similarities); "margin" ones above positive - margin.
    """
    scale = scale.detach()
    window = Window()
    if false_negative_margin is not None:
        window = window.intersected(Window(high=own + scale * false_negative_margin))
    if mining in ("semi_hard", "margin"):
        window = window.intersected(Window(low=own - scale * mining_margin))
    if mining == "semi_hard":
        window = window.intersected(Window(high=own))
    return None if window == Window() else window
