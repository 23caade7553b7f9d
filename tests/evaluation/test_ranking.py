"""`positive_ranks` against loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.retrieval import ranking
from mmcl.evaluation.retrieval.ranking import Ranks, positive_ranks, score_all


def naive_ranks(queries: Tensor, gallery: Tensor, query_groups: Tensor, gallery_groups: Tensor) -> list[list[int]]:
    """The definition, one number at a time."""
    result = []
    for query, group in zip(queries.double(), query_groups.tolist()):
        scores = [float((query * item).sum()) for item in gallery.double()]
        groups = gallery_groups.tolist()
        negatives = [score for score, other in zip(scores, groups) if other != group]
        positives = sorted((score for score, other in zip(scores, groups) if other == group), reverse=True)
        result.append([sum(n >= p for n in negatives) + before for before, p in enumerate(positives)])
    return result


def ragged(ranks: Ranks) -> list[list[int]]:
    """One list a query, empty where it has no positive."""
    result: list[list[int]] = [[] for _ in range(ranks.num_queries)]
    for index, query in enumerate(ranks.queries.tolist()):
        result[query] = ranks.ranks[ranks.offsets[index] : ranks.offsets[index + 1]].tolist()
    return result


def grid(rows: int, dim: int, generator: torch.Generator) -> Tensor:
    """Small whole numbers: scores are exact in float32 and often equal."""
    return torch.randint(-1, 2, (rows, dim), generator=generator).float()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_groups", [1, 3, 40])
def test_equals_the_naive_loop_with_ties_and_ragged_groups(seed: int, num_groups: int) -> None:
    g = torch.Generator().manual_seed(seed)
    n, m = int(torch.randint(1, 150, (), generator=g)), int(torch.randint(1, 90, (), generator=g))
    queries, gallery = grid(n, 3, g), grid(m, 3, g)
    query_groups = torch.randint(num_groups + 2, (n,), generator=g) - 5
    gallery_groups = torch.randint(num_groups, (m,), generator=g) - 5
    want = naive_ranks(queries, gallery, query_groups, gallery_groups)
    ranks = positive_ranks(queries, gallery, query_groups, gallery_groups, chunk_size=64)
    assert ragged(ranks) == want
    assert ranks.num_positives.tolist() == [len(row) for row in want if row]
    assert ranks.num_unanswerable == sum(not row for row in want)
    if num_groups > 1:
        assert ragged(positive_ranks(-queries, gallery, query_groups, gallery_groups)) != want


@pytest.mark.parametrize("seed", range(3))
def test_sorting_and_counting_paths_agree(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(seed)
    queries, gallery = grid(70, 4, g), grid(300, 4, g)
    # One group of about 200, others of a few: both paths run, in chunks of their own.
    gallery_groups = torch.where(torch.rand(300, generator=g) < 0.7, 0, torch.randint(1, 30, (300,), generator=g))
    query_groups = torch.randint(0, 30, (70,), generator=g)
    want = naive_ranks(queries, gallery, query_groups, gallery_groups)
    for limit in (0, 64, 10_000):
        monkeypatch.setattr(ranking, "SORT_ABOVE", limit)
        for chunk_size in (1, 64, 1000, None):
            got = positive_ranks(queries, gallery, query_groups, gallery_groups, chunk_size=chunk_size)
            assert ragged(got) == want
    assert ragged(positive_ranks(queries, gallery, query_groups.roll(1), gallery_groups)) != want


def naive_excluded(vectors: Tensor, groups: Tensor) -> list[list[int]]:
    """Each query's own row left out of a gallery of its own."""
    result = []
    for query in range(len(vectors)):
        others = [row for row in range(len(vectors)) if row != query]
        one = torch.tensor([query])
        result += naive_ranks(vectors[one], vectors[others], groups[one], groups[others])
    return result


@pytest.mark.parametrize("num_groups", [2, 20, 60])
def test_a_query_is_no_item_of_its_own_gallery(num_groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(num_groups)
    vectors, groups = grid(90, 3, g), torch.randint(num_groups, (90,), generator=g)
    want = naive_excluded(vectors, groups)
    for limit in (0, 64):
        monkeypatch.setattr(ranking, "SORT_ABOVE", limit)
        for depth in (None, 5):
            ranks = positive_ranks(vectors, vectors, groups, groups, exclude_self=True, depth=depth, chunk_size=64)
            cut = [row if depth is None else row[:1] + [rank for rank in row[1:] if rank < depth] for row in want]
            assert ragged(ranks) == cut
            assert ranks.num_positives.tolist() == [len(row) for row in want if row]
            assert ranks.num_unanswerable == sum(not row for row in want)
            assert ranks.gallery_size == 89
            early = [sum(rank < len(row) for rank in row) for row in want if row]
            assert ranks.num_early.tolist() == early
    assert ragged(positive_ranks(vectors, vectors, groups, groups)) != want
    with pytest.raises(ShapeError, match="query i for item i"):
        positive_ranks(vectors, vectors, groups, groups + 1, exclude_self=True)
    with pytest.raises(ShapeError, match="query i for item i"):
        positive_ranks(vectors[:5], vectors, groups[:5], groups, exclude_self=True)


def test_an_excluded_query_hides_no_twin() -> None:
    # Items 0 and 1 are equal and of two groups: item 1 ties with item 2, item 0's only answer, and stands first.
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    ranks = positive_ranks(vectors, vectors, torch.tensor([0, 1, 0, 2]), torch.tensor([0, 1, 0, 2]), exclude_self=True)
    assert ragged(ranks) == [[1], [], [1], []]
    none = torch.empty(0, 2)
    assert len(positive_ranks(none, none, torch.arange(0), torch.arange(0), exclude_self=True)) == 0


def test_depth_keeps_low_ranks_and_every_best_one() -> None:
    g = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(50, 6, generator=g), torch.randn(60, 6, generator=g)
    groups = torch.arange(60) % 10
    whole = positive_ranks(queries, gallery, groups[:50], groups)
    cut = positive_ranks(queries, gallery, groups[:50], groups, depth=7)
    assert ragged(cut) == [row[:1] + [rank for rank in row[1:] if rank < 7] for row in ragged(whole)]
    assert torch.equal(cut.num_positives, whole.num_positives)
    assert len(cut.ranks) < len(whole.ranks)


def test_chunks_give_equal_ranks_on_random_embeddings() -> None:
    g = torch.Generator().manual_seed(1)
    images = F.normalize(torch.randn(333, 48, generator=g), dim=1)
    texts = F.normalize(images.repeat_interleave(3, 0) + 0.3 * torch.randn(999, 48, generator=g), dim=1)
    ids = torch.arange(333)
    results = [
        positive_ranks(texts, images, ids.repeat_interleave(3), ids, chunk_size=size).ranks for size in (1, 100, None)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], positive_ranks(texts, images, ids.repeat(3), ids).ranks)


def test_four_rows_by_hand() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Query 0 scores 1, 0.8, 0, 0; query 1 scores 0, 0.6, 1, 1.
    ranks = positive_ranks(queries, gallery, torch.tensor([0, 1]), torch.tensor([0, 0, 1, 2]))
    assert ragged(ranks) == [[0, 1], [1]]  # item 3 ties with item 2 and is no positive: it stands first


@pytest.mark.parametrize(("n", "m"), [(5, 5), (37, 37), (100, 1001), (343, 343)])
def test_collapsed_embeddings_rank_every_positive_last(n: int, m: int) -> None:
    vector = F.normalize(torch.randn(1, 100, generator=torch.Generator().manual_seed(2)), dim=1)
    ranks = positive_ranks(vector.expand(n, -1), vector.expand(m, -1), torch.arange(n), torch.arange(m))
    assert ranks.first().tolist() == [m - 1] * n


def test_repeated_vectors_tie_exactly_whatever_their_place() -> None:
    g = torch.Generator().manual_seed(3)
    base = F.normalize(torch.randn(7, 100, generator=g), dim=1)
    for m in (5, 17, 343, 1001):
        kind = torch.randint(7, (m,), generator=g)
        scores = score_all(torch.randn(9, 100, generator=g), base[kind])
        for one in kind.unique():
            columns = scores[:, kind == one]
            assert torch.equal(columns, columns[:, :1].expand_as(columns))
        assert not torch.equal(scores[:, 0], scores[:, int((kind != kind[0]).nonzero()[0])])


def test_scale_of_the_rows_does_not_matter() -> None:
    g = torch.Generator().manual_seed(4)
    queries, gallery, groups = torch.randn(40, 8, generator=g), torch.randn(60, 8, generator=g), torch.arange(60) % 20
    ranks = positive_ranks(queries, gallery, groups[:40], groups)
    assert torch.equal(ranks.ranks, positive_ranks(8 * queries, 0.25 * gallery, groups[:40], groups).ranks)
    # A constant added to every score (one more axis) changes no rank either; a negative scale does.
    shifted = positive_ranks(
        F.pad(queries, (0, 1), value=1.0), F.pad(gallery, (0, 1), value=-50.0), groups[:40], groups
    )
    assert torch.equal(ranks.ranks, shifted.ranks)
    assert not torch.equal(ranks.ranks, positive_ranks(-queries, gallery, groups[:40], groups).ranks)


def test_empty_sides() -> None:
    none, some = torch.empty(0, 4), torch.eye(4)
    ids = torch.arange(4)
    assert len(positive_ranks(none, some, ids[:0], ids)) == 0
    unanswerable = positive_ranks(some, none, ids, ids[:0])
    assert (len(unanswerable), unanswerable.num_unanswerable) == (0, 4)
    apart = positive_ranks(some, some, ids, ids + 2)
    assert apart.queries.tolist() == [2, 3]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", ["queries", "gallery"])
def test_non_finite_embeddings_raise_and_name_the_row(value: float, side: str) -> None:
    arrays = {"queries": torch.eye(4), "gallery": torch.eye(4)}
    arrays[side][2, 1] = value
    with pytest.raises(ShapeError, match=f"{side} row 2"):
        positive_ranks(arrays["queries"], arrays["gallery"], torch.arange(4), torch.arange(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": torch.ones(4)}, "queries needs two axes"),
        ({"gallery": torch.ones(4, 3)}, r"one embedding_dim, got \(4, 4\) and \(4, 3\)"),
        ({"query_groups": torch.arange(3)}, r"query_groups needs shape \(4,\)"),
        ({"gallery_groups": torch.ones(4)}, "gallery_groups needs an integer dtype"),
        ({"queries": torch.ones(4, 4, dtype=torch.int64)}, "queries needs a floating dtype"),
        ({"queries": torch.full((4, 4), 9e18), "gallery": torch.full((4, 4), 9e18)}, None),
        ({"queries": torch.full((4, 4), 1e19)}, "queries row 0 holds .* too large for float32"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Tensor], message: str | None) -> None:
    arguments = {
        "queries": torch.eye(4),
        "gallery": torch.eye(4),
        "query_groups": torch.arange(4),
        "gallery_groups": torch.arange(4),
    }
    if message is None:
        assert np.array_equal(positive_ranks(**(arguments | change)).first(), [3] * 4)
        return
    with pytest.raises(ShapeError, match=message):
        positive_ranks(**(arguments | change))


def test_chunk_size_and_depth_below_one_raise() -> None:
    ids = torch.arange(2)
    for options in ({"chunk_size": 0}, {"depth": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            positive_ranks(torch.eye(2), torch.eye(2), ids, ids, **options)
