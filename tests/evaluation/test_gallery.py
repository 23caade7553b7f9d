"""The page of a retrieval's failures: which queries are on it, and what they found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from mmcl.evaluation import RetrievalEvaluator, positive_ranks
from mmcl.evaluation.report import retrieval_page
from mmcl.evaluation.report.gallery import rank_curve, rank_histogram, worst_queries


def test_the_worst_queries_by_rank_then_margin() -> None:
    # Scores are the coordinates: query 0 finds its answer first, 1 and 3 at rank 2, query 2 at rank 4.
    queries = torch.tensor([[9.0, 1, 2, 3], [5, 4, 1, 0], [7, 6, 1, 5], [8, 0, 3, 6]])
    gallery = torch.eye(4)
    groups = torch.tensor([0, 1, 2, 3])
    ranks = positive_ranks(queries, gallery, groups, groups)
    worst = worst_queries(ranks, queries, gallery, groups, groups)
    assert [(one.query, one.rank, one.margin) for one in worst] == [(2, 4, 6.0), (3, 2, 2.0), (1, 2, 1.0)]
    assert worst[0].found == [0, 1, 3, 2]
    assert worst[0].scores == [7.0, 6.0, 5.0, 1.0]
    assert worst[0].right == [False, False, False, True]
    assert (worst[1].answers, worst[1].answer_scores) == ([3], [6.0])
    assert [one.query for one in worst_queries(ranks, queries, gallery, groups, groups, number=2)] == [2, 3]
    assert worst_queries(positive_ranks(gallery, gallery, groups, groups), gallery, gallery, groups, groups) == []


def test_ranks_are_those_of_the_sweep_on_random_embeddings() -> None:
    g = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(200, 6, generator=g), torch.randn(300, 6, generator=g)
    groups, owners = torch.arange(200), torch.randint(200, (300,), generator=g)
    ranks = positive_ranks(queries, gallery, groups, owners)
    worst = worst_queries(ranks, queries, gallery, groups, owners, number=10)
    assert [one.rank for one in worst] == (ranks.first() + 1).sort(descending=True).values[:10].tolist()
    for one in worst:
        scores = gallery @ queries[one.query]
        assert one.scores == pytest.approx(scores.sort(descending=True).values[:5].tolist(), abs=1e-5)
        assert not any(one.right)
        assert all(owners[answer] == one.query for answer in one.answers)


def test_histogram_and_curve_count_every_query() -> None:
    gallery = torch.arange(60, 0, -1.0)[:, None]  # item i is at rank i
    ranks = positive_ranks(torch.ones(6, 1), gallery, torch.tensor([0, 1, 2, 9, 10, 50]), torch.arange(60))
    assert rank_histogram(ranks) == [("1", 1), ("2 – 3", 2), ("4 – 10", 1), ("11 – 30", 1), ("31 – 100", 1)]
    assert sum(count for _, count in rank_histogram(ranks)) == len(ranks)
    x, y = rank_curve(ranks)
    assert x[0] == 0.0
    assert y == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])


def test_the_page_shows_failures_with_pictures_and_escapes_captions(
    make_dataset: Callable, table_embedder: type
) -> None:
    pytest.importorskip("matplotlib")
    g = torch.Generator().manual_seed(1)
    images = F.normalize(torch.randn(30, 4, generator=g), dim=1)
    texts = {
        f"<b>caption</b> {row}": F.normalize(images[row] + torch.randn(4, generator=g), dim=0) for row in range(30)
    }
    dataset = make_dataset([[text] for text in texts])
    evaluator = RetrievalEvaluator(dataset)
    result = evaluator.rank(table_embedder(images, texts))
    html = retrieval_page(result, dataset, evaluator.judge(result), title="a model").html()
    late = int((result.i2t.first() > 0).sum())
    assert f"image → text: the {min(late, 24)} worst of 30 queries" in html
    assert html.count('class="card"') == min(late, 24) + min(int((result.t2i.first() > 0).sum()), 24)
    assert "data:image/webp" in html
    assert "<b>caption" not in html
    assert "&lt;b&gt;caption" in html
    assert 'class="item right"' in html
    assert 'class="item wrong"' in html
    assert "image → text R@1" in html

    perfect = {f"<b>caption</b> {row}": images[row] for row in range(30)}
    result = evaluator.rank(table_embedder(images, perfect))
    html = retrieval_page(result, dataset, evaluator.judge(result), title="a model").html()
    assert html.count("Every query finds one of its answers first.") == 2
    assert 'class="card"' not in html
