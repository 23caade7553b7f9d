"""`VitalSigns`: the numbers that the doctor takes of a step, without changing what is trained."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from mmcl.batch import Batch, Embeddings
from mmcl.doctor.live.embedding_signs import embedding_signs, repetition_signs
from mmcl.doctor.live.weight_signs import WeightSample, gradient_norms, parts_of, trained_parts

# Losses to which rows of one group are strangers, whatever loss.positives says.
_LOSSES_OF_PAIRS_ALONE = ("dcl", "nt_xent", "barlow_twins", "vicreg")
# (up to this step, steps between two looks at least): most goes wrong early. A look takes a fifth of a step of the
# smallest models, so that these are below 2 % of the time.
SPACINGS = ((20, 10), (100, 20), (math.inf, 50))


def is_due(step: int, *, log_every: int, total_steps: int) -> bool:
    """Whether signs are taken of a step: of logged ones as far apart as ``SPACINGS`` says, of the first and the last.

    Args:
        step: from 1.
        log_every: steps between lines of ``metrics.jsonl``.
        total_steps: of the run.
    """
    spacing = next(spacing for until, spacing in SPACINGS if step <= until)
    every = log_every * -(-spacing // log_every)
    return step % every == 0 or step in (1, total_steps)


def loss_counts_groups(loss: Any) -> bool:
    """Whether a recipe's loss takes rows of one group for positives of one another.

    Args:
        loss: the recipe's ``loss`` section.
    """
    return loss.positives == "group" and not set(loss.names) & set(_LOSSES_OF_PAIRS_ALONE)


class VitalSigns:
    """Takes the signs of single steps: of embeddings, gradients and weights.

    Embeddings are looked at as they leave the objective, by a hook that is there only in the step whose signs are
    taken; nothing is computed twice, no random number is drawn and no other process is asked. On several processes the
    embeddings are those of this process's rows.

    Args:
        objective: with ``model``; its weights are those that the run starts from.
        groups_count: whether the loss takes rows of one group for positives of one another.
    """

    def __init__(self, objective: nn.Module, *, groups_count: bool) -> None:
        self._objective, self._groups_count = objective, groups_count
        self._parts = parts_of(objective.model)
        self._sample = WeightSample(self._parts)
        self._batch: Batch | None = None
        self._pieces: list[Embeddings] = []
        self._signs: dict[str, Any] = {}
        self._hook: Any = None

    def begin(self, batch: Batch) -> None:
        """Take the signs of the step that begins with this batch."""
        self.leave()
        self._batch, self._pieces, self._signs = batch, [], {}
        self._hook = self._objective.register_forward_hook(self._note)

    def leave(self) -> None:
        """Take no further signs of this step."""
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._batch, self._pieces = None, None, []

    def before_update(self, grad_norm: float) -> None:
        """Behind the backward pass and before the optimizer's step.

        Args:
            grad_norm: of all gradients, before clipping.
        """
        if self._batch is None:
            return
        self._signs |= gradient_norms(trained_parts(self._parts), whole=grad_norm)
        self._sample.before_update()
        if self._pieces:
            image, text = (torch.cat([getattr(part, side) for part in self._pieces]) for side in ("image", "text"))
            groups = self._batch.group_ids
            self._signs |= embedding_signs(image, text, groups.to(image.device))
            self._signs |= repetition_signs(
                self._batch.image, self._batch.text, groups, groups_count=self._groups_count
            )

    def after_update(self) -> dict[str, Any]:
        """Behind the optimizer's step: the step's signs; none where ``begin`` was not called."""
        if self._batch is None:
            return {}
        model = self._objective.model
        signs = {**self._signs, **self._sample.after_update()}
        if hasattr(model, "logit_scale_max"):
            at_max = float(model.logit_scale.detach().max()) >= 0.999 * model.logit_scale_max
            signs["logit_scale_at_max"] = float(at_max)
        self.leave()
        return signs

    def _note(self, module: nn.Module, arguments: tuple[Any, ...], output: Embeddings) -> None:
        """Keep a piece's embeddings; where a batch is embedded in pieces, those of the first pass over them."""
        if self._batch is None or sum(len(part.image) for part in self._pieces) >= len(self._batch):
            return
        rows = arguments[0].rows
        if len(rows) and len(self._batch) and int(rows[0]) == int(self._batch.rows[0]):
            self._pieces = []  # memory ran out, and the batch is begun again in smaller pieces
        kept = Embeddings(output.image.detach(), output.text.detach(), output.group_ids, output.logit_scale.detach())
        self._pieces.append(kept)
