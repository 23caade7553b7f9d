"""`ImageTextObjective`: pairs of images and captions, two encoders, a loss between their embeddings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmcl.batch import Batch, Embeddings
from mmcl.config import NegativesSection
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.momentum import MomentumEncoders
from mmcl.negatives.embedding_queue import EmbeddingQueue
from mmcl.negatives.hardness import HardnessSchedule
from mmcl.noise.feature_mixup import FeatureMixup
from mmcl.noise.trust import PairTrust
from mmcl.objectives.kept_structure import KeptStructure
from mmcl.objectives.pair_losses import pair_losses


class ImageTextObjective(nn.Module):
    """Embed both sides of a batch of pairs, and judge the pairs against one another and against further negatives.

    Further negatives are the batch's hard captions and images (Yuksekgonul et al. 2023, arXiv:2210.01936), and pairs of
    earlier steps: a momentum encoder embeds each batch, and the queue takes that in behind the step (He et al. 2020,
    arXiv:1911.05722; both modalities: Li et al. 2021, arXiv:2107.07651). The batch's own embeddings, with gradient, are
    the positives and the negatives within the batch; a negative of a row's own group is left out.

    Where data are noisy, each pair's own loss is kept, and a pair weighs as far as it is trusted, in proportion to the
    others of the batch. A pair that is not trusted is no positive of the rest of its group, and no negative either.

    Args:
        model: the dual encoder.
        loss: ``loss(image, text, logit_scale, *, logit_bias, group_ids, gathered, offset, **loss_options) -> ()``;
            where there are further negatives, of any process, also ``negative_text``, ``negative_text_groups`` and the
            same of images.
        use_groups: whether rows of one group are positives of one another.
        negatives: the size of the queue, and the momentum of its encoders.
        hardness_schedule: of the loss's option ``hardness``, where that changes over the run.
        trust: which pairs are trusted; None: all.
        mixup: mixes features before the heads; None: they stay as they are.
        structure: of the towers' features, which the embeddings are to keep; None: they need not.
        chance: the loss of a model that cannot tell a number of rows, further captions and further images apart; None:
            there is no such loss.
        loss_options: further keyword arguments of the loss.
    """

    def __init__(
        self,
        model: DualEncoder,
        loss: Callable[..., Tensor],
        *,
        use_groups: bool = True,
        negatives: NegativesSection | None = None,
        hardness_schedule: HardnessSchedule | None = None,
        trust: PairTrust | None = None,
        mixup: FeatureMixup | None = None,
        structure: KeptStructure | None = None,
        chance: Callable[[int, int, int], float] | None = None,
        **loss_options: Any,
    ) -> None:
        super().__init__()
        self.model = model
        self._loss, self._use_groups, self._loss_options, self._chance = loss, use_groups, loss_options, chance
        self.hardness, self.trust, self.mixup, self.structure = hardness_schedule, trust, mixup, structure
        self.queue = self.momentum = None
        if negatives is not None and negatives.queue_size > 0:
            self.queue = EmbeddingQueue(negatives.queue_size, model.embedding_dim)
            self.momentum = MomentumEncoders(model, negatives.queue_momentum)
        elif trust is not None and trust.needs_ema:
            self.momentum = MomentumEncoders(model, trust.section.ema_momentum)
        self._keys: tuple[Tensor, Tensor, Tensor] | None = None  # what the queue takes in behind the step
        self._judged: tuple[Tensor, Tensor] | None = None  # rows and losses of pairs, taken in behind the step
        self._rows, self._further = 1, (0, 0)  # of the last loss: rows; further captions and images

    def embed(self, batch: Batch) -> Embeddings:
        """Run the encoders: the only place where they run."""
        inputs: dict[str, dict[str, Tensor]] = {"image": batch.image, "text": batch.text}
        parts: dict[str, Tensor] = {}
        if self.structure is not None:
            for name in self.structure.weights:
                inputs[name] = self._with_features(name, inputs[name])
                parts[f"{name}_features"] = inputs[name]["features"].detach()
        if self.mixup is not None:
            inputs, of_mixtures = self._mixed(inputs, batch)
            parts |= of_mixtures
        embeddings = Embeddings(
            image=self.model.encode_image(**inputs["image"]),
            text=self.model.encode_text(**inputs["text"]),
            group_ids=batch.group_ids,
            logit_scale=self.model.logit_scale,
            logit_bias=self.model.logit_bias,
            rows=None if self.trust is None else batch.rows,
            **parts,
        )
        if batch.negative_text is not None:
            embeddings.negative_text = self.model.encode_text(**batch.negative_text.inputs)
            embeddings.negative_text_groups = batch.negative_text.group_ids
        if batch.negative_image is not None:
            embeddings.negative_image = self.model.encode_image(**batch.negative_image.inputs)
            embeddings.negative_image_groups = batch.negative_image.group_ids
        if self.momentum is not None:
            embeddings.key_image, embeddings.key_text = self.momentum(batch.image, batch.text)
        return embeddings

    # Data-parallel wrappers synchronise what goes through ``forward``.
    forward = embed

    def loss(self, embeddings: Embeddings) -> dict[str, Tensor]:
        """Judge embeddings; runs no encoder.

        Returns:
            ``{"loss": (), "logit_scale": ()}``; also ``hardness`` where it changes, ``structure``, the part of the loss
            that is none between pairs, where there is one, and ``noise/...`` where pairs are judged.
        """
        everyone = embeddings.gathered or embeddings
        negatives = self._negatives_of(everyone)
        if self.queue is not None:
            self._keys = (everyone.key_image, everyone.key_text, everyone.group_ids)
        self._rows = len(everyone.image)
        self._further = (len(negatives.get("negative_text", ())), len(negatives.get("negative_image", ())))
        options = dict(self._loss_options)
        if self.hardness is not None:
            options["hardness"] = float(self.hardness.value)
        groups = embeddings.group_ids if self._use_groups else None
        if embeddings.mixed_ids is not None:
            groups, options["exclude_ids"] = None, everyone.mixed_ids
        gathered = embeddings.gathered
        if self.trust is not None:
            if self.trust.looks_on:
                self._judged = (everyone.rows, self._pair_losses(everyone))
            if self.trust.has_begun:
                groups, gathered, further = self._trusted(embeddings, everyone)
                options |= further
        value = self._loss(
            embeddings.image,
            embeddings.text,
            embeddings.logit_scale,
            logit_bias=embeddings.logit_bias,
            group_ids=groups,
            gathered=gathered,
            offset=embeddings.offset,
            **negatives,
            **options,
        )
        terms = {"loss": value, "logit_scale": embeddings.logit_scale.detach().reshape(())}
        if self.hardness is not None:
            terms["hardness"] = self.hardness.value.clone()
        if self.structure is not None:
            kept = self.structure(embeddings, everyone)
            terms |= {"loss": value + kept, "structure": kept.detach()}
        return terms if self.trust is None else {**terms, **self.trust.summary()}

    @torch.no_grad()
    def after_step(self, *, loss: float = math.nan, done: float = 0.0) -> None:
        """Keep the scale below its ceiling, let the momentum encoder follow, put the step's keys into the queue.

        Args:
            loss: of the step, the mean over all processes.
            done: share of the run's steps that are done.
        """
        self.model.clamp_logit_scale()
        if self.hardness is not None:
            self.hardness.update(loss=loss, chance=self.chance_loss(self._rows), done=done)
        if self.momentum is not None:
            if self.queue is None:
                self.momentum.momentum = self.trust.ema_momentum
            self.momentum.update()
        if self._keys is not None:
            self.queue.put(*self._keys)
            self._keys = None
        if self._judged is not None:
            self.trust.take(*self._judged)
            self._judged = None
        if self.mixup is not None:
            self.mixup.after_step()

    def chance_loss(self, batch_size: int) -> float | None:
        """The loss of a model that cannot tell pairs apart, with as many further negatives as the last loss had.

        Args:
            batch_size: rows of the step, over all processes.
        """
        return None if self._chance is None else self._chance(batch_size, *self._further)

    def _negatives_of(self, everyone: Embeddings) -> dict[str, Tensor]:
        """The loss's arguments for further negatives: those of all processes, and the queue, which all have alike."""
        found = {}
        for side in ("text", "image"):
            for suffix, queued in (("", f"{side}"), ("_groups", "group_ids")):
                name = f"negative_{side}{suffix}"
                rows = getattr(everyone, name)
                parts = [] if rows is None else [rows]
                if self.queue is not None and len(self.queue) > 0:
                    parts.append(getattr(self.queue, queued))
                if parts:
                    found[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
        return found

    def _mixed(
        self, inputs: dict[str, dict[str, Tensor]], batch: Batch
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
        """Inputs of both encoders, with mixed features in place of what they were made from; of what they are made."""
        mixing = self.mixup(batch.rows)
        mixed = {
            modality: {"features": mixing.of(self._with_features(modality, own)["features"])}
            for modality, own in inputs.items()
        }
        ids = batch.group_ids if self._use_groups else batch.rows
        parts = {"mixed_ids": mixing.components(ids), "mixed_rows": mixing.components(batch.rows)}
        return mixed, {**parts, "mixed_shares": mixing.shares}

    def _with_features(self, modality: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the head takes: the features among the inputs, or those that the tower makes of them."""
        if "features" in inputs:
            return inputs
        return {"features": self.model.encoder(modality).features(**inputs)}

    def _pair_losses(self, everyone: Embeddings) -> Tensor:
        """(n,) of the pairs of all processes, the same on each of them."""
        image, text = everyone.image, everyone.text
        if self.trust.needs_ema:
            image, text = everyone.key_image, everyone.key_text
        groups = everyone.group_ids if self._use_groups else None
        return pair_losses(image.detach(), text.detach(), everyone.logit_scale.detach(), group_ids=groups)

    def _trusted(
        self, embeddings: Embeddings, everyone: Embeddings
    ) -> tuple[Tensor | None, Embeddings | None, dict[str, Tensor]]:
        """Groups without pairs that are not trusted, here and of all processes; the loss's further options."""
        mean = self._weights(everyone).mean()
        options = {"weights": self._weights(embeddings) / torch.where(mean > 0, mean, 1.0)}
        if not self._use_groups or embeddings.mixed_ids is not None:
            return None, embeddings.gathered, options

        def alone(part: Embeddings) -> Tensor:
            # A group of its own, beside -1, which stands for none.
            return torch.where(self.trust.trusted(part.rows), part.group_ids, -2 - part.rows)

        options["exclude_ids"] = everyone.group_ids  # of its former group it is no negative either
        gathered = embeddings.gathered
        if gathered is not None:
            gathered = dataclasses.replace(gathered, group_ids=alone(gathered))
        return alone(embeddings), gathered, options

    def _weights(self, part: Embeddings) -> Tensor:
        """(b,) how far pairs are trusted; of a mixed one its own part must be right, and the partner's by its share."""
        if part.mixed_rows is None:
            return self.trust.of_rows(part.rows)
        own, partner = self.trust.of_rows(part.mixed_rows).unbind(1)
        return own * (part.mixed_shares + (1 - part.mixed_shares) * partner)
