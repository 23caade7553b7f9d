"""`GeometryEvaluator`: how a model's images and texts lie in the space they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.bootstrap import mean_ci95
from mmcl.evaluation.evaluator import Metrics, image_embeddings, text_embeddings
from mmcl.evaluation.metrics.geometry import (
    alignment,
    dead_dimensions,
    effective_rank,
    k_occurrence,
    modality_gap,
    repeated_rows,
    skewness,
    uniformity,
)
from mmcl.evaluation.representations.labelled import need_images
from mmcl.evaluation.retrieval.evaluator import distinct_captions

if TYPE_CHECKING:
    import numpy as np

    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder


class GeometryEvaluator:
    """Alignment, uniformity, modality gap, effective rank and hubs of a data set's embeddings.

    Of a model without texts, the figures of its images. The texts are the distinct captions of each group; the positive
    pairs are every image with each of its own row's captions.

    What looks at pairs of items or takes a decomposition (all but alignment, gap and mean cosines) is computed on at
    most ``max_rows`` images and as many texts, drawn with ``seed``; up to that number it is exact.

    Args:
        dataset: any.
        batch_size: items a forward pass.
        k: neighbours of the hubness.
        max_rows: of the sample, at least 2.
        seed: of the sample.

    Raises:
        ConfigError: ``k`` is below 1 or ``max_rows`` below 2.

    Source:
        see `mmcl.evaluation.metrics.geometry`.
    """

    # Higher is better: how much of the space the images use. Alignment and uniformity are better the lower they are.
    primary_metric = "geometry/effective_rank_image"

    def __init__(
        self, dataset: ImageTextDataset, *, batch_size: int = 64, k: int = 10, max_rows: int = 10_000, seed: int = 0
    ) -> None:
        if k < 1 or max_rows < 2:
            raise ConfigError(f"k needs to be at least 1 and max_rows at least 2, got {k} and {max_rows}")
        self.dataset, self.batch_size, self.k, self.max_rows, self.seed = dataset, batch_size, k, max_rows, seed

    def __call__(self, embedder: Embedder) -> Metrics:
        """Embed and measure.

        Args:
            embedder: of images, and of texts for what compares the two.

        Returns:
            For ``image`` and ``text``: ``geometry/uniformity_<m>``, ``effective_rank_<m>``, ``dead_dimensions_<m>``,
            ``repeated_<m>`` (the share of embeddings that equal another before them). ``hubness_i2i``, ``i2t`` and
            ``t2i``: the skewness of how often an item is among the k nearest of a query (t2i: images as neighbours of
            texts), ``hub_share_*``: the share of queries that have the most frequent one among their k nearest, and
            ``never_found_*``: the share of items that are among nobody's k nearest.
            ``alignment`` with ``alignment_ci95``; ``uniformity``, the mean of the two; ``modality_gap``;
            ``positive_cosine``, ``negative_cosine`` (over all images and texts of different groups; left out where
            there are none). ``num_images``, ``num_texts``, ``num_pairs``, ``num_sampled_images``,
            ``num_sampled_texts``, ``num_skipped``.

            All embeddings equal: alignment, uniformity, gap and hubness 0, effective rank 1, dead dimensions 1.

        Raises:
            ConfigError: the embedder lacks images.
            DataError: fewer than two images are readable.
            ShapeError: an embedding is not finite.
        """
        need_images(embedder, "geometry")
        images, rows, skipped = image_embeddings(embedder, self.dataset, batch_size=self.batch_size)
        if len(images) < 2:
            raise DataError(f"{self.dataset.name}: geometry compares images; it needs two that can be read")
        sample = self._sample(images)
        metrics = _of_one(sample, "image") | self._hubs("i2i", sample, sample, exclude_self=True)
        metrics |= {
            "geometry/num_images": float(len(images)),
            "geometry/num_sampled_images": float(len(sample)),
            "geometry/num_skipped": float(len(skipped)),
        }
        if "text" in embedder.modalities:
            metrics |= self._with_texts(embedder, images, rows, sample)
        if "geometry/uniformity_text" in metrics:
            both = [metrics["geometry/uniformity_image"], metrics["geometry/uniformity_text"]]
            metrics["geometry/uniformity"] = sum(both) / 2
        return metrics

    def _with_texts(self, embedder: Embedder, images: Tensor, rows: np.ndarray, sample: Tensor) -> Metrics:
        """What takes texts; ``sample`` is of the images."""
        groups = self.dataset.group_ids()[torch.from_numpy(rows)]
        captions, caption_rows = distinct_captions(self.dataset, rows, groups)
        column = self.dataset.column("texts")
        own = [(position, text) for position, row in enumerate(rows.tolist()) for text in column[row]]
        distinct, index = text_embeddings(
            embedder, captions + [text for _, text in own], batch_size=self.batch_size
        )  # the captions again under their own rows: no more distinct ones
        texts = distinct[torch.tensor(index[: len(captions)])]
        position = torch.tensor([place for place, _ in own], dtype=torch.int64)
        distances = alignment(images[position], distinct[torch.tensor(index[len(captions) :])])

        sampled = self._sample(texts)
        metrics: Metrics = {
            "geometry/alignment": float(distances.mean()),
            "geometry/alignment_ci95": mean_ci95(distances, groups[position]),
            "geometry/modality_gap": modality_gap(images, texts),
            "geometry/positive_cosine": 1.0 - float(distances.mean()) / 2,
            "geometry/num_texts": float(len(texts)),
            "geometry/num_pairs": float(len(distances)),
            "geometry/num_sampled_texts": float(len(sampled)),
        }
        negative = mean_negative_cosine(images, texts, groups, groups[caption_rows])
        if negative is not None:
            metrics["geometry/negative_cosine"] = negative
        if len(sampled) > 1:
            metrics |= _of_one(sampled, "text")
        metrics |= self._hubs("i2t", sample, sampled)
        return metrics | self._hubs("t2i", sampled, sample)

    def _hubs(self, way: str, queries: Tensor, gallery: Tensor, *, exclude_self: bool = False) -> Metrics:
        occurrence = k_occurrence(queries, gallery, k=self.k, exclude_self=exclude_self)
        return {
            f"geometry/hubness_{way}": skewness(occurrence),
            f"geometry/hub_share_{way}": float(occurrence.max() / len(queries)),
            f"geometry/never_found_{way}": float((occurrence == 0).double().mean()),
        }

    def _sample(self, points: Tensor) -> Tensor:
        """At most ``max_rows`` of the rows, in their order."""
        if len(points) <= self.max_rows:
            return points
        chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(self.seed))[: self.max_rows]
        return points[chosen.sort().values]


def mean_negative_cosine(images: Tensor, texts: Tensor, image_groups: Tensor, text_groups: Tensor) -> float | None:
    """The mean score of all images with all texts of other groups, from sums: no pair is looked at.

    Args:
        images: (n, d) floating.
        texts: (m, d) floating.
        image_groups: (n,) integer.
        text_groups: (m,) integer.

    Returns:
        None where every text is of every image's group.

    Example:
        >>> mean_negative_cosine(torch.eye(2), torch.eye(2), torch.arange(2), torch.arange(2))
        0.0
    """
    ids, group = torch.cat([image_groups, text_groups]).unique(return_inverse=True)
    sums = torch.zeros(2, len(ids), images.shape[1], dtype=torch.float64)
    sums[0].index_add_(0, group[: len(images)], images.double())
    sums[1].index_add_(0, group[len(images) :], texts.double())
    counts = [torch.bincount(part, minlength=len(ids)) for part in (group[: len(images)], group[len(images) :])]
    number = len(images) * len(texts) - int((counts[0] * counts[1]).sum())
    if not number:
        return None
    total = float(sums[0].sum(0) @ sums[1].sum(0)) - float((sums[0] * sums[1]).sum())
    return total / number


def _of_one(points: Tensor, modality: str) -> Metrics:
    return {
        f"geometry/uniformity_{modality}": uniformity(points),
        f"geometry/effective_rank_{modality}": effective_rank(points),
        f"geometry/dead_dimensions_{modality}": dead_dimensions(points),
        f"geometry/repeated_{modality}": repeated_rows(points),
    }
