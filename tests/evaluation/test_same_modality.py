"""Images among images and captions among captions, against loops over every other item."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mmcl.evaluation import RetrievalEvaluator
from mmcl.evaluation.retrieval.same_modality import judge_same_modality


def test_equals_a_loop_over_all_other_items() -> None:
    g = torch.Generator().manual_seed(0)
    vectors, groups = torch.randn(40, 5, generator=g), torch.randint(12, (40,), generator=g)
    hits, best = [], []
    for query in range(40):
        others = [row for row in range(40) if row != query]
        answers = [row for row in others if groups[row] == groups[query]]
        if answers:
            order = sorted(others, key=lambda row: -float(vectors[query].double() @ vectors[row].double()))
            best.append(min(order.index(row) for row in answers) + 1)
            hits.append(float(best[-1] <= 5))
    metrics = judge_same_modality(vectors, groups, name="i2i", ks=(1, 5))
    assert metrics["retrieval/i2i_recall@5"] == pytest.approx(sum(hits) / len(hits))
    assert metrics["retrieval/i2i_mean_rank"] == pytest.approx(sum(best) / len(best))
    assert metrics["retrieval/i2i_unanswerable"] == 40 - len(hits)
    low, high = metrics["retrieval/i2i_recall@5_ci95"]
    assert low <= metrics["retrieval/i2i_recall@5"] <= high
    other = judge_same_modality(vectors, groups.roll(1), name="i2i", ks=(1, 5))
    assert other["retrieval/i2i_mean_rank"] != metrics["retrieval/i2i_mean_rank"]


def test_the_evaluator_reports_what_can_be_asked(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(4)
    texts = {"a": axes[0], "b": axes[1], "c": axes[0], "d": axes[3]}
    # Images 0 and 1 are of one group and alike; image 2 is alone. One caption a row: captions of r find each other not.
    embedder = table_embedder(axes[torch.tensor([0, 0, 2, 3])], texts)
    dataset = make_dataset([["a"], ["b"], ["c"], ["d"]], group=["r", "r", "x", "y"])
    metrics = RetrievalEvaluator(dataset, ks=(1,))(embedder)
    assert metrics["retrieval/i2i_recall@1"] == 1.0
    assert metrics["retrieval/i2i_chance_recall@1"] == pytest.approx(1 / 3)
    assert metrics["retrieval/i2i_unanswerable"] == 2
    assert metrics["retrieval/t2t_recall@1"] == 0.0  # "a" finds "c" first; "b" ties with all
    assert (metrics["retrieval/i2t_unanswerable"], metrics["retrieval/t2i_unanswerable"]) == (0, 0)
    plain = RetrievalEvaluator(dataset, ks=(1,), same_modality=False)(embedder)
    assert not [name for name in plain if "i2i" in name or "t2t" in name]
    assert {name: metrics[name] for name in plain} == plain


def test_nothing_is_said_where_no_item_has_another() -> None:
    assert judge_same_modality(torch.eye(3), torch.arange(3), name="t2t", ks=(1,)) == {}
    assert judge_same_modality(torch.empty(0, 3), torch.arange(0), name="t2t", ks=(1,)) == {}


def test_collapsed_embeddings_find_nothing_first() -> None:
    metrics = judge_same_modality(torch.ones(30, 4), torch.arange(30) // 2, name="i2i", ks=(1, 5), confidence=False)
    assert (metrics["retrieval/i2i_recall@5"], metrics["retrieval/i2i_mean_rank"]) == (0.0, 29.0)
