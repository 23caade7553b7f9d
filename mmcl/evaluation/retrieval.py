"""`RetrievalEvaluator`: images find their captions and captions their images, several captions an image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.evaluation.bootstrap import bootstrap_means, bootstrap_medians, ci95
from mmcl.evaluation.evaluator import Metrics, image_embeddings, need_both_modalities, text_embeddings
from mmcl.evaluation.metrics.retrieval import NDCG_DEPTH, chance_hit_rate, median_rank, query_metrics
from mmcl.evaluation.ranking import Ranks, positive_ranks

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder


class RetrievalEvaluator:
    """Retrieval both ways, i2t and t2i, over the whole of a data set.

    The image gallery is every readable image; the text gallery every caption of those rows, identical captions of one
    group standing once. A hit is any item of the query's group (``dataset.group_ids()``). Ties count against the
    model. Memory is O(n * k), never O(images * captions).

    Args:
        dataset: rows with captions; with a column ``appearance``, `appearance_reader` is scored on it too.
        ks: cut-offs of recall.
        batch_size: items a forward pass.
        confidence: also give 95 % intervals (``*_ci95``), by a bootstrap over groups.

    Raises:
        ConfigError: ``ks`` is empty or holds a number below 1.
    """

    def __init__(
        self,
        dataset: ImageTextDataset,
        *,
        ks: Sequence[int] = (1, 5, 10),
        batch_size: int = 64,
        confidence: bool = True,
    ) -> None:
        if not ks or min(ks) < 1:
            raise ConfigError(f"ks needs at least one cut-off, each at least 1, got {tuple(ks)}")
        self.dataset = dataset
        self.ks = tuple(sorted(set(ks)))
        self.batch_size = batch_size
        self.confidence = confidence
        self.primary_metric = f"retrieval/mean_recall@{self.ks[0]}"

    def __call__(self, embedder: Embedder) -> Metrics:
        """Embed the data set and rank it.

        Args:
            embedder: of images and texts.

        Returns:
            For both directions ``retrieval/i2t_*`` and ``t2i_*``: ``recall@k`` (at least one hit), ``true_recall@k``,
            ``mrr``, ``ndcg@10``, ``map@10``, ``median_rank`` (from 1), ``chance_recall@k``; their mean over the
            directions as ``retrieval/mean_recall@k``; ``num_images``, ``num_texts``, ``num_skipped``.

        Raises:
            ConfigError: the embedder lacks images or texts.
            DataError: no image is readable.
            ShapeError: an embedding is not finite.
        """
        need_both_modalities(embedder, "retrieval")
        images, rows, skipped = image_embeddings(embedder, self.dataset, batch_size=self.batch_size)
        image_groups = self.dataset.group_ids()[torch.from_numpy(rows)]
        texts, text_rows = distinct_captions(self.dataset, rows, image_groups)
        text_groups = image_groups[text_rows]
        distinct, index = text_embeddings(embedder, texts, batch_size=self.batch_size)

        depth = max(*self.ks, NDCG_DEPTH)
        text = distinct[torch.tensor(index)]  # (m, d)
        i2t = positive_ranks(images, text, image_groups, text_groups, depth=depth)
        t2i = positive_ranks(text, images, text_groups, image_groups, depth=depth)
        metrics: Metrics = {
            "retrieval/num_images": float(len(images)),
            "retrieval/num_texts": float(len(texts)),
            "retrieval/num_skipped": float(len(skipped)),
        }
        metrics |= self._judge(i2t, t2i, image_groups, text_groups)
        if self.dataset.has("appearance"):
            metrics |= self._read_appearance(rows, text_rows, image_groups, text_groups)
        return metrics

    def _read_appearance(
        self, rows: np.ndarray, text_rows: Tensor, image_groups: Tensor, text_groups: Tensor
    ) -> Metrics:
        """What a reader of the column ``appearance`` alone would score, both ways."""
        cells = self.dataset.column("appearance")
        seen = [_hashable(cells[row]) for row in rows.tolist()]
        images = list(zip(seen, image_groups.tolist()))
        texts = list(zip([seen[position] for position in text_rows.tolist()], text_groups.tolist()))
        return {
            "retrieval/appearance_reader_i2t_recall@1": appearance_reader(images, texts),
            "retrieval/appearance_reader_t2i_recall@1": appearance_reader(texts, images),
        }

    def _judge(self, i2t: Ranks, t2i: Ranks, image_groups: Tensor, text_groups: Tensor) -> Metrics:
        """All metrics of both directions and their means."""
        metrics: Metrics = {}
        replicates: dict[str, dict[str, Tensor]] = {}
        for way, ranks, groups in (("i2t", i2t, image_groups), ("t2i", t2i, text_groups)):
            values = query_metrics(ranks, self.ks)
            for k in self.ks:
                chance = chance_hit_rate(ranks.num_positives, ranks.gallery_size, k)
                metrics[f"retrieval/{way}_chance_recall@{k}"] = float(chance.mean())
            metrics |= {f"retrieval/{way}_{name}": float(value.mean()) for name, value in values.items()}
            metrics[f"retrieval/{way}_median_rank"] = median_rank(ranks)
            if self.confidence:
                groups = groups[ranks.queries]
                means = bootstrap_means(torch.stack(list(values.values()), dim=1), groups)
                replicates[way] = dict(zip(values, means.unbind(1)))
                replicates[way]["median_rank"] = bootstrap_medians((ranks.first() + 1).double(), groups)
                metrics |= {f"retrieval/{way}_{name}_ci95": ci95(value) for name, value in replicates[way].items()}
        for k in self.ks:
            both = [float(metrics[f"retrieval/{way}_recall@{k}"]) for way in ("i2t", "t2i")]
            metrics[f"retrieval/mean_recall@{k}"] = sum(both) / 2
            if self.confidence:
                # Both directions hold the same groups, so that their n-th resamples drew the same ones.
                mean = (replicates["i2t"][f"recall@{k}"] + replicates["t2i"][f"recall@{k}"]) / 2
                metrics[f"retrieval/mean_recall@{k}_ci95"] = ci95(mean)
        return metrics


def distinct_captions(dataset: ImageTextDataset, rows: np.ndarray, groups: Tensor) -> tuple[list[str], Tensor]:
    """The text gallery: every caption of ``rows``, identical captions of one group once.

    Args:
        dataset: whose captions they are.
        rows: (n,) row numbers.
        groups: (n,) int64, the group of each.

    Returns:
        m captions, and (m,) int64 positions in ``rows`` where each stood first.
    """
    column = dataset.column("texts")
    first: dict[tuple[int, str], int] = {}
    for position, (row, group) in enumerate(zip(rows.tolist(), groups.tolist())):
        for caption in column[row]:
            first.setdefault((group, caption), position)
    return [caption for _, caption in first], torch.tensor(list(first.values()), dtype=torch.int64)


def appearance_reader(queries: Sequence[tuple[Hashable, int]], gallery: Sequence[tuple[Hashable, int]]) -> float:
    """The expected recall@1 of one who sees nothing of an item but its appearance, and guesses among equal ones.

    ``mean over queries of (gallery items of the query's appearance and group) / (gallery items of its appearance)``.
    A query whose appearance the gallery lacks is guessed among the whole gallery.

    Args:
        queries: (appearance, group) of each query, at least one.
        gallery: (appearance, group) of each item.

    Returns:
        A fraction in [0, 1].

    Example:
        >>> appearance_reader([("red", 0), ("red", 1)], [("red", 0), ("red", 1)])
        0.5
    """
    alike = Counter(appearance for appearance, _ in gallery)
    alike_and_right = Counter(gallery)
    right = Counter(group for _, group in gallery)
    total = 0.0
    for appearance, group in queries:
        if alike[appearance]:
            total += alike_and_right[(appearance, group)] / alike[appearance]
        else:
            total += right[group] / len(gallery)
    return total / len(queries)


def _hashable(cell: Any) -> Hashable:
    """A cell of any column type as something to compare by: lists and structs by their JSON."""
    return json.dumps(cell, sort_keys=True, default=str) if isinstance(cell, list | dict) else cell
