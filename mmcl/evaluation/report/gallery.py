"""`retrieval_page`: what a retrieval got wrong, with pictures: the worst queries, and what they found instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import DataError
from mmcl.evaluation.metrics.retrieval import best_rank
from mmcl.evaluation.report.retrieval_rows import WAYS, correction_notes
from mmcl.evaluation.report.terminal import retrieval_lines
from mmcl.evaluation.retrieval.ranking import score_all
from mmcl.pages.figures import draw_lines
from mmcl.pages.page import Item, Page

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.evaluation.retrieval.evaluator import RetrievalResult
    from mmcl.evaluation.retrieval.galleries import Galleries
    from mmcl.evaluation.retrieval.ranking import Ranks

SHOWN_QUERIES = 24
SHOWN_ANSWERS = 5


@dataclass(frozen=True)
class Failure:
    """One query that found its answers late.

    Attributes:
        query: its number among the images or the captions.
        rank: from 1, of its best answer.
        margin: how much higher the best wrong item scored than the best answer.
        found: items of the gallery, best first.
        scores: of ``found``.
        right: which of ``found`` are answers.
        answers: the query's answers, best first, at most as many as are found.
        answer_scores: of ``answers``.
    """

    query: int
    rank: int
    margin: float
    found: list[int]
    scores: list[float]
    right: list[bool]
    answers: list[int]
    answer_scores: list[float]


def worst_queries(
    ranks: Ranks,
    queries: Tensor,
    gallery: Tensor,
    query_groups: Tensor,
    gallery_groups: Tensor,
    *,
    number: int = SHOWN_QUERIES,
) -> list[Failure]:
    """The queries whose best answer stands furthest back, and what stands before it.

    Queries that find an answer first are no failures. Of equal ranks the larger margin is worse. Only the scores of the
    chosen queries and of those that tie with the last of them, at most four times ``number``, are computed.

    Args:
        ranks: from `positive_ranks` of these arguments.
        queries: (n, d) floating.
        gallery: (m, d) floating.
        query_groups: (n,) integer.
        gallery_groups: (m,) integer.
        number: how many, at most.

    Returns:
        The worst first; empty where every query finds an answer first.
    """
    first = ranks.first()
    order = first.argsort(descending=True, stable=True)
    order = order[first[order] > 0]
    if len(order) > number:
        order = order[: max(number, int((first[order] >= first[order[number - 1]]).sum()))][: 4 * number]
    failures = []
    for place in order.tolist():
        query = int(ranks.queries[place])
        scores = score_all(queries[query : query + 1], gallery)[0]  # (m,)
        right = gallery_groups == query_groups[query]
        # Ties count against the model: of equal scores, wrong items come first.
        by_score = torch.from_numpy(np.lexsort((right.numpy(), -scores.numpy())))
        found = by_score[:SHOWN_ANSWERS]
        answers = by_score[right[by_score]][:SHOWN_ANSWERS]
        margin = float(scores[~right].max() - scores[answers[0]])
        failures.append(
            Failure(
                query=query,
                rank=int(first[place]) + 1,
                margin=margin,
                found=found.tolist(),
                scores=scores[found].tolist(),
                right=right[found].tolist(),
                answers=answers.tolist(),
                answer_scores=scores[answers].tolist(),
            )
        )
    return sorted(failures, key=lambda one: (-one.rank, -one.margin))[:number]


def retrieval_page(
    result: RetrievalResult, dataset: ImageTextDataset, metrics: Mapping[str, float | list[float]], *, title: str
) -> Page:
    """A page of a retrieval: its table, where the best answers stand, and the worst queries of both directions.

    Args:
        result: from `RetrievalEvaluator.rank`.
        dataset: that it was of; only pictures that are shown are read.
        metrics: what the table shows.
        title: of the page.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    galleries = result.galleries
    page = Page(title)
    page.table(["metric", "value", "95 % interval", "chance"], [list(line) for line in retrieval_lines(metrics)])
    for note in correction_notes(metrics):
        page.paragraph(note)
    page.figure(
        draw_lines(
            {WAYS["i2t"]: rank_curve(result.i2t), WAYS["t2i"]: rank_curve(result.t2i)},
            x_label="log10 of the rank of the best answer (from 0 for first)",
            y_label="share of queries found so far",
            y_range=(0, 1.02),
        ),
        caption="How far down the best answer stands: the share of queries that have found one by each rank.",
    )
    pictures = _Pictures(galleries, dataset)
    for way, words in WAYS.items():
        ranks = getattr(result, way)
        sides = [(galleries.images, galleries.image_groups), (galleries.texts, galleries.text_groups)]
        (queries, query_groups), (gallery, gallery_groups) = sides if way == "i2t" else sides[::-1]
        _add_histogram(page, ranks, words)
        failures = worst_queries(ranks, queries, gallery, query_groups, gallery_groups)
        page.heading(f"{words}: the {len(failures)} worst of {len(ranks):,} queries" if failures else f"{words}: none")
        if not failures:
            page.paragraph("Every query finds one of its answers first.")
        for failure in failures:
            _add_failure(page, failure, pictures, way=way)
    return page


def rank_curve(ranks: Ranks) -> tuple[list[float], list[float]]:
    """log10 of each rank at which a best answer stands, and the share of queries that have found one by then."""
    if not len(ranks):
        return [], []
    values, counts = best_rank(ranks).unique(return_counts=True)
    return values.log10().tolist(), (counts.cumsum(0) / len(ranks)).tolist()


def rank_histogram(ranks: Ranks) -> list[tuple[str, int]]:
    """How many queries have their best answer at rank 1, 2-3, 4-10, 11-30, 31-100, ... as far as there are any."""
    best = best_rank(ranks)
    ends = [1]
    while len(best) and ends[-1] < int(best.max()):
        ends.append(ends[-1] * 3 if str(ends[-1])[0] == "1" else ends[-1] // 3 * 10)
    counts = []
    for low, high in zip([1, *(end + 1 for end in ends)], ends):
        name = f"{low:,}" if low == high else f"{low:,} – {high:,}"
        counts.append((name, int(((best >= low) & (best <= high)).sum())))
    return counts


def _add_histogram(page: Page, ranks: Ranks, words: str) -> None:
    rows = [[name, f"{count:,}", f"{100 * count / len(ranks):.1f} %"] for name, count in rank_histogram(ranks)]
    page.table(["rank of the best answer", "queries", "share"], rows, caption=words)


def _add_failure(page: Page, failure: Failure, pictures: _Pictures, *, way: str) -> None:
    """A card: the query with its answers, then what was found."""
    show_query, show_item = (pictures.image, pictures.caption) if way == "i2t" else (pictures.caption, pictures.image)
    found = [
        show_item(item, score=score, right=right)
        for item, score, right in zip(failure.found, failure.scores, failure.right)
    ]
    answers = [
        show_item(item, score=score, right=True)
        for item, score in zip(failure.answers, failure.answer_scores)
        if item not in failure.found
    ]
    note = f"best answer at rank {failure.rank:,}, {failure.margin:.3f} below the best wrong one; first what was found"
    page.card(show_query(failure.query), [*found, *answers], note=note)


class _Pictures:
    """Images and captions of galleries as items of a page; an image is read when it is shown."""

    def __init__(self, galleries: Galleries, dataset: ImageTextDataset) -> None:
        self._galleries, self._dataset = galleries, dataset

    def image(self, number: int, *, score: float | None = None, right: bool | None = None) -> Item:
        row = int(self._galleries.rows[number])
        text = " · ".join(self._dataset.texts(row))
        try:
            picture = self._dataset.images.read(row)
        except DataError:  # vectors have no pictures; what they stand for is said all the same
            picture = None
        return Item(text=text, image=picture, score=score, right=right)

    def caption(self, number: int, *, score: float | None = None, right: bool | None = None) -> Item:
        return Item(text=self._galleries.captions[number], score=score, right=right)
