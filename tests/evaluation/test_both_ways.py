"""`rank_both_ways` against two separate sweeps, and against loops in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_ranking import grid, naive_ranks, ragged
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.retrieval import both_ways
from mmcl.evaluation.retrieval.both_ways import rank_both_ways
from mmcl.evaluation.retrieval.ranking import Ranks, positive_ranks


def same(left: Ranks, right: Ranks) -> bool:
    return all(
        torch.equal(one, other) if isinstance(one, Tensor) else one == other
        for one, other in zip(vars(left).values(), vars(right).values())
    )


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call was done in one sweep."""
    calls: list[bool] = []
    one_sweep = both_ways._one_sweep

    def spy(*arguments, **options):
        result = one_sweep(*arguments, **options)
        calls.append(result is not None)
        return result

    monkeypatch.setattr(both_ways, "_one_sweep", spy)
    return calls


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_groups", [4, 30, 400])
def test_equals_naive_loops_with_ties_ragged_groups_and_strangers(seed: int, num_groups: int, swept) -> None:
    g = torch.Generator().manual_seed(seed)
    n, m = int(torch.randint(1, 90, (), generator=g)), int(torch.randint(1, 180, (), generator=g))
    images, texts = grid(n, 3, g), grid(m, 3, g)
    image_groups = torch.randint(num_groups, (n,), generator=g) - 3
    text_groups = torch.randint(num_groups + 3, (m,), generator=g) - 5
    for chunk_size in (1, None):
        i2t, t2i = rank_both_ways(images, texts, image_groups, text_groups, chunk_size=chunk_size)
        assert ragged(i2t) == naive_ranks(images, texts, image_groups, text_groups)
        assert ragged(t2i) == naive_ranks(texts, images, text_groups, image_groups)
    if num_groups == 30 and max(n, m) > 30:
        assert swept == [True, True]
        assert ragged(t2i) != naive_ranks(texts, images, text_groups.roll(1), image_groups)


@pytest.mark.parametrize("depth", [None, 3])
@pytest.mark.parametrize("chunk_size", [64, 128, None])
def test_equals_two_sweeps_bit_for_bit(depth: int | None, chunk_size: int | None, swept) -> None:
    g = torch.Generator().manual_seed(7)
    images = F.normalize(torch.randn(700, 48, generator=g), dim=1)
    owners = torch.repeat_interleave(torch.arange(700), torch.randint(0, 6, (700,), generator=g))
    texts = F.normalize(images[owners] + 0.8 * torch.randn(len(owners), 48, generator=g), dim=1)
    shuffled = torch.randperm(len(owners), generator=g)
    for order in (torch.arange(len(owners)), shuffled):
        groups, mine = torch.arange(700) // 2, owners[order] // 2  # two images a group, none to ten captions
        found = rank_both_ways(images, texts[order], groups, mine, depth=depth, chunk_size=chunk_size)
        want = (
            positive_ranks(images, texts[order], groups, mine, depth=depth),
            positive_ranks(texts[order], images, mine, groups, depth=depth),
        )
        assert all(map(same, found, want))
        assert not same(found[0], positive_ranks(images, texts[order], groups, mine.roll(1), depth=depth))
    assert swept == [True, True]


def test_products_that_round_by_shape_fall_back_to_two_sweeps(swept, monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(8)
    images, texts, ids = torch.randn(100, 8, generator=g), torch.randn(100, 8, generator=g), torch.arange(100)
    want = rank_both_ways(images, texts, ids, ids)
    take_down = both_ways._ColumnCounts.set

    def in_other_bits(self, rows, columns, scores):
        take_down(self, rows, columns, torch.nextafter(scores, torch.tensor(torch.inf)))

    monkeypatch.setattr(both_ways._ColumnCounts, "set", in_other_bits)
    found = rank_both_ways(images, texts, ids, ids)
    assert swept == [True, False]
    assert all(map(same, found, want))


def test_huge_groups_are_sorted_each_way(swept) -> None:
    g = torch.Generator().manual_seed(9)
    images, texts = grid(150, 4, g), grid(130, 4, g)
    i2t, t2i = rank_both_ways(images, texts, torch.arange(150) % 2, torch.arange(130) % 2)
    assert swept == [False]
    assert ragged(i2t) == naive_ranks(images, texts, torch.arange(150) % 2, torch.arange(130) % 2)
    assert len(t2i) == 130


def test_collapsed_embeddings_rank_last_both_ways(swept) -> None:
    vector = F.normalize(torch.randn(1, 100, generator=torch.Generator().manual_seed(2)), dim=1)
    for n in (5, 343, 1001):
        i2t, t2i = rank_both_ways(vector.expand(n, -1), vector.expand(n, -1), torch.arange(n), torch.arange(n))
        assert i2t.first().tolist() == t2i.first().tolist() == [n - 1] * n
    assert all(swept)


def test_empty_sides_and_no_pair() -> None:
    none, some, ids = torch.empty(0, 4), torch.eye(4), torch.arange(4)
    for images, texts in ((none, some), (some, none), (none, none)):
        i2t, t2i = rank_both_ways(images, texts, ids[: len(images)], ids[: len(texts)])
        assert (len(i2t), len(t2i)) == (0, 0)
        assert (i2t.num_unanswerable, t2i.num_unanswerable) == (len(images), len(texts))
    i2t, t2i = rank_both_ways(some, some, ids, ids + 4)
    assert (i2t.num_unanswerable, t2i.num_unanswerable) == (4, 4)


def test_wrong_arguments_are_named() -> None:
    ids = torch.arange(4)
    with pytest.raises(ShapeError, match="gallery row 1 holds NaN"):
        rank_both_ways(torch.eye(4), torch.tensor([[0.0] * 4, [torch.nan] * 4]), ids, ids[:2])
    with pytest.raises(ConfigError, match="at least 1"):
        rank_both_ways(torch.eye(4), torch.eye(4), ids, ids, depth=0)
