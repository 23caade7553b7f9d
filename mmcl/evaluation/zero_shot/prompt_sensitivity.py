"""How much a zero-shot figure hangs on the wording: the accuracy of every prompt template alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.evaluation.checks import check_ids
from mmcl.evaluation.retrieval.ranking import score_all

if TYPE_CHECKING:
    from mmcl.evaluation.zero_shot.text_classifier import PromptChunk

# Scores held at a time, 32 MiB.
_SCORES = 2**23


class TemplateAccuracy:
    """Top-1 of the classifiers that one template alone would make, from prompts that are embedded anyway.

    It is shown every `PromptChunk` of `class_weights` and keeps two numbers an image and template: the score of the
    true class and the best of the others. Memory is O(n * t), t templates.

    Args:
        images: (n, d) float32 embeddings, n at least 1.
        labels: (n,) integer, the true class.
        num_templates: t; every class has one prompt a template.

    Raises:
        ShapeError: there is no image, or labels do not fit.
    """

    def __init__(self, images: Tensor, labels: Tensor, num_templates: int) -> None:
        if not len(images):
            raise ShapeError("images needs at least one row to judge templates on, got none")
        self._images = images
        self._labels = check_ids("labels", labels, length=len(images), of="images")
        self._true = torch.full((len(images), num_templates), -torch.inf)
        self._rival = self._true.clone()

    def add(self, chunk: PromptChunk) -> None:
        """Score the images against some prompts."""
        unit = F.normalize(chunk.embeddings, dim=1)
        by_slot = [(chunk.slot == slot).nonzero()[:, 0] for slot in chunk.slot.unique()]
        step = max(64, _SCORES // max(1, len(unit)))
        for start in range(0, len(self._images), step):
            rows = slice(start, start + step)
            scores = score_all(self._images[rows], unit)  # (r, u)
            for uses in by_slot:
                mine = scores[:, chunk.row[uses]]
                is_true = chunk.owner[uses] == self._labels[rows, None]
                slot = int(chunk.slot[uses[0]])
                true, rival = self._true[rows, slot], self._rival[rows, slot]
                true.copy_(torch.maximum(true, mine.masked_fill(~is_true, -torch.inf).amax(1)))
                rival.copy_(torch.maximum(rival, mine.masked_fill(is_true, -torch.inf).amax(1)))

    def top1(self) -> list[float]:
        """The accuracy of each template, in [0, 1]; a tie counts against the model."""
        return (self._true > self._rival).double().mean(0).tolist()


def template_spread(top1: Mapping[str, float]) -> dict[str, float]:
    """The spread of an accuracy over templates.

    Args:
        top1: {template: accuracy}, each in [0, 1].

    Returns:
        ``template_top1_min``, ``_max``, ``_mean``, ``_std`` (of the templates at hand, divided by t) and
        ``num_templates``; empty for fewer than two templates: nothing spreads then.

    Example:
        >>> template_spread({"a {}.": 0.25, "the {}.": 0.75})["template_top1_std"]
        0.25
    """
    if len(top1) < 2:
        return {}
    values = torch.tensor(list(top1.values()), dtype=torch.float64)
    return {
        "template_top1_min": float(values.min()),
        "template_top1_max": float(values.max()),
        "template_top1_mean": float(values.mean()),
        "template_top1_std": float(values.std(correction=0)),
        "num_templates": float(len(values)),
    }
