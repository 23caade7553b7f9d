"""`TopHits`: whether the first answer is right, for the images and captions of one data set under many conditions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmcl.evaluation.metrics import chance_hit_rate, hit_rate, top_k_hits
from mmcl.evaluation.retrieval.ranking import Ranks, positive_ranks, score_all

ZERO_SHOT = "zeroshot_top1"
IMAGE_TO_TEXT = "i2t_recall@1"
TEXT_TO_IMAGE = "t2i_recall@1"


@dataclass(frozen=True)
class TopHits:
    """What is asked of a model under each condition; the queries and their order are always the same.

    Attributes:
        image_groups: (n,) int64.
        text_groups: (m,) int64, of the captions; fewer than two distinct ones leave retrieval out.
        weights: (c, d) float32 unit rows of the classes; None leaves zero-shot out.
        labelled: (l,) int64 positions of the images that have a label.
        labels: (l,) int64 in [0, c).
    """

    image_groups: Tensor
    text_groups: Tensor
    weights: Tensor | None
    labelled: Tensor
    labels: Tensor

    @property
    def has_retrieval(self) -> bool:
        """Whether there is more than one thing to find."""
        return len(self.text_groups.unique()) > 1

    def classified(self, images: Tensor) -> Tensor:
        """Whether each labelled image (l, d) is nearest to its class: (l,) float64, ties being wrong."""
        return top_k_hits(score_all(images, self.weights), self.labels, 1).double()

    def retrieved(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Whether images (n, d) and captions (m, d) find each other first: (q,) float64 for both directions."""
        return {name: hit_rate(ranks, 1) for name, ranks in self._ranks(images, texts).items()}

    def hits(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Everything that is asked.

        Args:
            images: (n, d) embeddings.
            texts: (m, d) embeddings.

        Returns:
            ``zeroshot_top1``, ``i2t_recall@1`` and ``t2i_recall@1``, as far as they are asked: (q,) float64, 0 or 1.

        Raises:
            ShapeError: an embedding is not finite.
        """
        zero_shot = {} if self.weights is None else {ZERO_SHOT: self.classified(images[self.labelled])}
        return {**zero_shot, **(self.retrieved(images, texts) if self.has_retrieval else {})}

    def groups(self, measure: str) -> Tensor:
        """(q,) int64: the group of each query, for intervals."""
        if measure == ZERO_SHOT:
            return self.image_groups[self.labelled]
        return self.image_groups if measure == IMAGE_TO_TEXT else self.text_groups

    def chance(self) -> dict[str, float]:
        """What one scores who answers at random, for everything that is asked."""
        found = {} if self.weights is None else {ZERO_SHOT: 1.0 / len(self.weights)}
        if self.has_retrieval:
            blank = torch.zeros(len(self.image_groups), 1), torch.zeros(len(self.text_groups), 1)
            for name, ranks in self._ranks(*blank).items():
                found[name] = float(chance_hit_rate(ranks.num_positives, ranks.gallery_size, 1).mean())
        return found

    def _ranks(self, images: Tensor, texts: Tensor) -> dict[str, Ranks]:
        return {
            IMAGE_TO_TEXT: positive_ranks(images, texts, self.image_groups, self.text_groups, depth=1),
            TEXT_TO_IMAGE: positive_ranks(texts, images, self.text_groups, self.image_groups, depth=1),
        }
