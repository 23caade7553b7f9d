"""Retrieval over folds, against the evaluator on each fold alone."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean, stdev

import pytest
import torch
import torch.nn.functional as F

from mmcl.errors import ConfigError
from mmcl.evaluation import RetrievalEvaluator


@pytest.fixture
def made(make_dataset: Callable, table_embedder: type) -> tuple:
    """53 images of two captions each, and an embedder that is often wrong."""
    g = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(53, 8, generator=g), dim=1)
    texts = {
        f"caption {row} {number}": F.normalize(images[row] + 0.6 * torch.randn(8, generator=g), dim=0)
        for row in range(53)
        for number in range(2)
    }
    rows = [[f"caption {row} {number}" for number in range(2)] for row in range(53)]
    return make_dataset(rows), table_embedder(images, texts)


def test_folds_are_the_evaluators_own_figures_on_consecutive_rows(made: tuple) -> None:
    dataset, embedder = made
    metrics = RetrievalEvaluator(dataset, folds=5)(embedder)
    each = [
        RetrievalEvaluator(dataset.select(range(start, start + 10)), confidence=False)(embedder)
        for start in range(0, 50, 10)
    ]
    names = ["i2t_recall@1", "t2i_recall@5", "i2t_mrr", "t2i_ndcg@10", "i2t_map", "t2i_median_rank", "mean_recall@1"]
    for name in names:
        values = [one[f"retrieval/{name}"] for one in each]
        assert metrics[f"retrieval/5fold_{name}"] == pytest.approx(fmean(values)), name
        assert metrics[f"retrieval/5fold_{name}_std"] == pytest.approx(stdev(values)), name
    assert metrics["retrieval/5fold_i2t_recall@1"] > metrics["retrieval/i2t_recall@1"]  # a fifth of the gallery
    assert (metrics["retrieval/5fold_images"], metrics["retrieval/5fold_left_over"]) == (10, 3)
    assert not [name for name in RetrievalEvaluator(dataset)(embedder) if "fold" in name]


def test_unreadable_images_move_no_other_into_another_fold(
    make_dataset: Callable, table_embedder: type, made: tuple
) -> None:
    dataset, embedder = made
    rows = dataset.column("texts")
    broken = make_dataset(rows, unreadable=[3, 12])
    metrics = RetrievalEvaluator(broken, folds=2, confidence=False)(embedder)
    halves = [
        RetrievalEvaluator(broken.select(range(start, start + 26)), confidence=False)(embedder) for start in (0, 26)
    ]
    want = fmean(float(half["retrieval/i2t_mrr"]) for half in halves)
    assert metrics["retrieval/2fold_i2t_mrr"] == pytest.approx(want)
    assert (
        metrics["retrieval/2fold_i2t_mrr"] != RetrievalEvaluator(dataset, folds=2)(embedder)["retrieval/2fold_i2t_mrr"]
    )


def test_a_fold_without_a_readable_image_and_wrong_numbers_raise(
    make_dataset: Callable, table_embedder: type, made: tuple
) -> None:
    dataset = made[0]
    for folds in (1, 0, 54):
        with pytest.raises(ConfigError, match=rf"folds needs to be 2 to 53.* got {folds}"):
            RetrievalEvaluator(dataset, folds=folds)
    broken = make_dataset([["a"], ["b"], ["c"], ["d"]], unreadable=[0, 1])
    table = table_embedder(torch.eye(4), {word: torch.eye(4)[place] for place, word in enumerate("abcd")})
    with pytest.raises(ConfigError, match="no image of fold 1 of 2 could be read"):
        RetrievalEvaluator(broken, folds=2)(table)
