"""`RetrievalEvaluator`: images find their captions and captions their images, several captions an image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.evaluation.evaluator import Metrics
from mmcl.evaluation.metrics.retrieval import NDCG_DEPTH, query_metrics
from mmcl.evaluation.retrieval.both_ways import rank_both_ways
from mmcl.evaluation.retrieval.corrected import judge_csls, judge_querybank
from mmcl.evaluation.retrieval.directions import judge_both_ways
from mmcl.evaluation.retrieval.folds import check_folds, judge_folds
from mmcl.evaluation.retrieval.galleries import Galleries, distinct_captions, embed_galleries
from mmcl.evaluation.retrieval.ranking import Ranks
from mmcl.evaluation.retrieval.same_modality import judge_same_modality

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

__all__ = [
    "QueryValues",
    "RetrievalEvaluator",
    "RetrievalResult",
    "appearance_reader",
    "distinct_captions",
    "values_of_queries",
]


@dataclass(frozen=True)
class RetrievalResult:
    """What a retrieval found.

    Attributes:
        galleries: the n images and m captions that were ranked.
        i2t: the ranks of the captions of each image.
        t2i: the ranks of the images of each caption.
        bank: what querybank normalisation takes its queries from; None: nothing.
    """

    galleries: Galleries
    i2t: Ranks
    t2i: Ranks
    bank: Galleries | None = None


@dataclass(frozen=True)
class QueryValues:
    """Metrics of one direction, one number a query.

    Attributes:
        name: of the direction, ``i2t`` or ``t2i``; or of a task whose items are no queries.
        values: metric -> (q,) float64.
        groups: (q,) int64.
    """

    name: str
    values: dict[str, Tensor]
    groups: Tensor


class RetrievalEvaluator:
    """Retrieval both ways, i2t and t2i, and within each modality, over the whole of a data set.

    The image gallery is every readable image; the text gallery every caption of those rows, identical captions of one
    group standing once. A hit is any item of the query's group (``dataset.group_ids()``). Ties count against the
    model. A query without any hit to find is in no metric, and counted (``unanswerable``). Memory is O(n * k), never
    O(images * captions).

    Args:
        dataset: rows with captions; with a column ``appearance``, `appearance_reader` is scored on it too.
        ks: cut-offs of recall.
        batch_size: items a forward pass.
        confidence: also give 95 % intervals (``*_ci95``), by a bootstrap over groups.
        same_modality: also rank images among images (``i2i``) and captions among captions (``t2t``), where an item is
            no answer to itself and groups hold several; as long again as the rest, and longer with many captions.
        folds: also give the means over so many folds of the rows; 5 for COCO's 1K figures. See `judge_folds`.
        csls: also rank with hubness corrected by CSLS over so many neighbours (10 is usual), under names of its own:
            see `judge_csls`. None: no.
        querybank: other data whose images and captions correct hubness, under names of its own: see
            `judge_querybank`. None: no.

    Raises:
        ConfigError: ``ks`` is empty or holds a number below 1, ``folds`` is below 2 or above the number of rows,
            ``csls`` is below 1, or ``querybank`` holds the very data that are judged.
    """

    def __init__(
        self,
        dataset: ImageTextDataset,
        *,
        ks: Sequence[int] = (1, 5, 10),
        batch_size: int = 64,
        confidence: bool = True,
        same_modality: bool = True,
        folds: int | None = None,
        csls: int | None = None,
        querybank: ImageTextDataset | None = None,
    ) -> None:
        if not ks or min(ks) < 1:
            raise ConfigError(f"ks needs at least one cut-off, each at least 1, got {tuple(ks)}")
        if folds is not None and len(dataset):
            check_folds(folds, len(dataset), dataset.name)
        if csls is not None and csls < 1:
            raise ConfigError(f"csls is a number of neighbours, at least 1, got {csls}; 10 is usual")
        if querybank is not None and querybank.fingerprint() == dataset.fingerprint():
            raise ConfigError(
                f"querybank {querybank.name} holds the data that are judged, whose queries would correct themselves; "
                f"give other data, such as the split train, or csls, which says that it looks at all queries"
            )
        self.dataset = dataset
        self.ks = tuple(sorted(set(ks)))
        self.batch_size = batch_size
        self.confidence = confidence
        self.same_modality = same_modality
        self.folds = folds
        self.csls, self.querybank = csls, querybank
        self.primary_metric = f"retrieval/mean_recall@{self.ks[0]}"

    def __call__(self, embedder: Embedder) -> Metrics:
        """Embed the data set and rank it: `rank`, then `judge`."""
        return self.judge(self.rank(embedder))

    def rank(self, embedder: Embedder) -> RetrievalResult:
        """Embed the data set and rank it, both ways.

        Args:
            embedder: of images and texts.

        Raises:
            ConfigError: the embedder lacks images or texts.
            DataError: no image is readable.
            ShapeError: an embedding is not finite.
        """
        galleries = embed_galleries(embedder, self.dataset, batch_size=self.batch_size)
        result = rank_galleries(galleries, self.ks)
        if self.querybank is None:
            return result
        return replace(result, bank=embed_galleries(embedder, self.querybank, batch_size=self.batch_size))

    def per_query(self, embedder: Embedder) -> list[QueryValues]:
        """Every metric that is a mean over queries, query by query; i2t, then t2i. Raises what `rank` does."""
        return values_of_queries(self.rank(embedder), self.ks)

    def judge(self, result: RetrievalResult) -> Metrics:
        """The metrics of what was found.

        Args:
            result: from `rank`.

        Returns:
            For both directions ``retrieval/i2t_*`` and ``t2i_*``: ``recall@k`` (at least one hit), ``true_recall@k``,
            ``mrr``, ``ndcg@10``, ``map@10``, ``map`` (over the whole gallery), ``r_precision``, ``mean_rank`` and
            ``median_rank`` (from 1), ``chance_recall@k``, ``unanswerable``; the mean recall of the directions as
            ``retrieval/mean_recall@k``; ``num_images``, ``num_texts``, ``num_skipped``; the same for ``i2i`` and
            ``t2t`` where it was asked for and some item has another of its group; and those of `judge_folds`,
            `judge_csls` and `judge_querybank`.
        """
        galleries = result.galleries
        metrics: Metrics = {
            "retrieval/num_images": float(len(galleries.images)),
            "retrieval/num_texts": float(len(galleries.captions)),
            "retrieval/num_skipped": float(galleries.num_skipped),
        }
        options: dict[str, Any] = {"ks": self.ks, "confidence": self.confidence}
        metrics |= judge_both_ways(result.i2t, result.t2i, galleries.image_groups, galleries.text_groups, **options)
        if self.same_modality:
            metrics |= judge_same_modality(galleries.images, galleries.image_groups, name="i2i", **options)
            metrics |= judge_same_modality(galleries.texts, galleries.text_groups, name="t2t", **options)
        if self.folds is not None:
            metrics |= judge_folds(galleries, self.dataset, folds=self.folds, ks=self.ks)
        if self.csls is not None:
            metrics |= judge_csls(result, k=self.csls, **options)
        if result.bank is not None:
            metrics |= judge_querybank(result, result.bank, **options)
        if self.dataset.has("appearance"):
            metrics |= self._read_appearance(galleries)
        return metrics

    def _read_appearance(self, galleries: Galleries) -> Metrics:
        """What a reader of the column ``appearance`` alone would score, both ways."""
        cells = self.dataset.column("appearance")
        seen = [_hashable(cells[row]) for row in galleries.rows.tolist()]
        images = list(zip(seen, galleries.image_groups.tolist()))
        texts = list(zip([seen[position] for position in galleries.text_rows.tolist()], galleries.text_groups.tolist()))
        return {
            "retrieval/appearance_reader_i2t_recall@1": appearance_reader(images, texts),
            "retrieval/appearance_reader_t2i_recall@1": appearance_reader(texts, images),
        }


def rank_galleries(galleries: Galleries, ks: Sequence[int]) -> RetrievalResult:
    """Rank galleries both ways, as deep as the metrics with these cut-offs need."""
    i2t, t2i = rank_both_ways(
        galleries.images,
        galleries.texts,
        galleries.image_groups,
        galleries.text_groups,
        depth=max(*ks, NDCG_DEPTH),
    )
    return RetrievalResult(galleries, i2t, t2i)


def values_of_queries(result: RetrievalResult, ks: Sequence[int]) -> list[QueryValues]:
    """Every metric that is a mean over queries, query by query; i2t, then t2i.

    Args:
        result: ranks with a depth of at least ``max(10, *ks)``.
        ks: cut-offs of recall.
    """
    galleries = result.galleries
    ways = (("i2t", result.i2t, galleries.image_groups), ("t2i", result.t2i, galleries.text_groups))
    return [QueryValues(name, query_metrics(ranks, ks), groups[ranks.queries]) for name, ranks, groups in ways]


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
