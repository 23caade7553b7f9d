"""`RetrievalEvaluator` on data sets small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.evaluation import RetrievalEvaluator
from mmcl.evaluation.retrieval.evaluator import appearance_reader

TEXTS = [["red", "a red one"], ["red", "crimson"], ["blue"], ["green"]]
GROUPS = ["r", "r", "b", "g"]
WORDS = {"red": 0, "a red one": 0, "crimson": 1, "blue": 1, "green": 2}


def test_four_rows_by_hand(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(4)
    # Image 2 (blue) looks like green; "crimson" and "blue" are told apart by nobody.
    images = axes[torch.tensor([0, 0, 2, 2])]
    embedder = table_embedder(images, {word: axes[axis] for word, axis in WORDS.items()})
    metrics = RetrievalEvaluator(make_dataset(TEXTS, group=GROUPS))(embedder)
    assert metrics["retrieval/num_images"] == 4
    assert metrics["retrieval/num_texts"] == 5  # "red" of the two rows of group r stands once
    # Images 0 and 1 find "red"; image 2 finds "green" alone above 0, so "blue" is last of 5; image 3 finds "green".
    assert metrics["retrieval/i2t_recall@1"] == 3 / 4
    assert metrics["retrieval/i2t_recall@5"] == 1.0
    assert metrics["retrieval/i2t_mrr"] == pytest.approx((1 + 1 + 1 / 5 + 1) / 4)
    # "red", "a red one" find images 0 and 1; "crimson" ties with the two negatives; "blue" with all; "green" ties.
    assert metrics["retrieval/t2i_recall@1"] == 2 / 5
    assert metrics["retrieval/t2i_mrr"] == pytest.approx((1 + 1 + 1 / 3 + 1 / 4 + 1 / 2) / 5)
    assert metrics["retrieval/t2i_true_recall@1"] == pytest.approx((1 / 2 + 1 / 2) / 5)
    assert metrics["retrieval/t2i_median_rank"] == 2.0
    assert metrics["retrieval/mean_recall@1"] == pytest.approx((3 / 4 + 2 / 5) / 2)
    # Images 0 and 1 have 3 of the 5 texts, the others 1; three texts have 2 of the 4 images, two have 1.
    assert metrics["retrieval/i2t_chance_recall@1"] == pytest.approx((3 + 3 + 1 + 1) / 5 / 4)
    assert metrics["retrieval/t2i_chance_recall@1"] == pytest.approx((3 * 2 + 2 * 1) / 4 / 5)
    assert sorted(embedder.seen_texts) == sorted(WORDS)  # each distinct text embedded once


def test_names_and_intervals(make_dataset: Callable, table_embedder: type) -> None:
    g = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(60, 8, generator=g), dim=1)
    texts = {f"caption {i}": F.normalize(images[i] + 0.5 * torch.randn(8, generator=g), dim=0) for i in range(60)}
    dataset = make_dataset([[text] for text in texts])
    evaluator = RetrievalEvaluator(dataset)
    metrics = evaluator(table_embedder(images, texts))
    assert evaluator.primary_metric == "retrieval/mean_recall@1"
    assert evaluator.primary_metric in metrics
    for way in ("i2t", "t2i"):
        names = [f"{kind}@{k}" for kind in ("recall", "true_recall") for k in (1, 5, 10)]
        for name in [*names, "mrr", "ndcg@10", "map@10", "median_rank"]:
            low, high = metrics[f"retrieval/{way}_{name}_ci95"]
            assert low <= metrics[f"retrieval/{way}_{name}"] <= high, name
        assert metrics[f"retrieval/{way}_chance_recall@5"] == pytest.approx(5 / 60)
    low, high = metrics["retrieval/mean_recall@1_ci95"]
    assert low < metrics["retrieval/mean_recall@1"] < high
    assert metrics == evaluator(table_embedder(images, texts))
    assert metrics != evaluator(table_embedder(images.roll(1, 0), texts))
    plain = RetrievalEvaluator(dataset, confidence=False, ks=(2,))(table_embedder(images, texts))
    assert not [name for name in plain if name.endswith("_ci95")]
    assert "retrieval/mean_recall@2" in plain
    assert all(isinstance(value, float) for value in plain.values())


def test_a_collapsed_model_scores_no_more_than_chance(make_dataset: Callable, table_embedder: type) -> None:
    texts = [[f"caption {i}"] for i in range(37)]
    vector = F.normalize(torch.randn(100, generator=torch.Generator().manual_seed(1)), dim=0)
    embedder = table_embedder(vector.expand(37, -1), {text[0]: vector for text in texts})
    metrics = RetrievalEvaluator(make_dataset(texts))(embedder)
    for way in ("i2t", "t2i"):
        for k in (1, 5, 10):
            assert metrics[f"retrieval/{way}_recall@{k}"] <= metrics[f"retrieval/{way}_chance_recall@{k}"]


def test_equal_captions_of_two_groups_are_no_free_hits(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(2)
    embedder = table_embedder(axes, {"thing": axes[0]})
    apart = RetrievalEvaluator(make_dataset([["thing"], ["thing"]], group=["a", "b"]))(embedder)
    assert (apart["retrieval/num_texts"], apart["retrieval/i2t_recall@1"]) == (2, 0.0)
    together = RetrievalEvaluator(make_dataset([["thing"], ["thing"]]))(embedder)
    assert (together["retrieval/num_texts"], together["retrieval/i2t_recall@1"]) == (1, 1.0)


def test_unreadable_images_are_left_out_and_counted(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(4)
    texts = {f"caption {i}": axes[i] for i in range(4)}
    images = axes.clone()
    images[1] = float("nan")  # never asked for
    metrics = RetrievalEvaluator(make_dataset([[text] for text in texts], unreadable=[1]))(
        table_embedder(images, texts)
    )
    counts = [metrics[f"retrieval/num_{what}"] for what in ("images", "texts", "skipped")]
    assert counts == [3, 3, 1]
    assert metrics["retrieval/mean_recall@1"] == 1.0
    with pytest.raises(DataError, match="none of its 2 images"):
        RetrievalEvaluator(make_dataset([["a"], ["b"]], unreadable=[0, 1]))(table_embedder(images, texts))


def test_bad_models_and_options_raise(make_dataset: Callable, table_embedder: type) -> None:
    dataset = make_dataset([["a"], ["b"]])
    words = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([float("nan"), 0.0])}
    with pytest.raises(ShapeError, match="text embeddings row 1"):
        RetrievalEvaluator(dataset)(table_embedder(torch.eye(2), words))
    blind = table_embedder(torch.eye(2), words)
    blind.modalities = frozenset({"text"})
    with pytest.raises(ConfigError, match="lacks image"):
        RetrievalEvaluator(dataset)(blind)
    for ks in ((), (0, 1)):
        with pytest.raises(ConfigError, match="ks needs"):
            RetrievalEvaluator(dataset, ks=ks)


def test_appearance_reader_shares_ties(make_dataset: Callable, table_embedder: type) -> None:
    # Appearance "x" covers groups 0 and 1 (two texts and one): text chosen evenly among three.
    images = [("x", 0), ("x", 1), ("y", 2)]
    texts = [("x", 0), ("x", 0), ("x", 1), ("y", 2)]
    assert appearance_reader(images, texts) == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)
    assert appearance_reader(texts, images) == pytest.approx((1 / 2 + 1 / 2 + 1 / 2 + 1) / 4)
    assert appearance_reader([("z", 2)], texts) == 1 / 4  # nothing looks like it: any of the four

    rows = [["a", "b"], ["c"], ["d"]]
    embedder = table_embedder(torch.eye(4)[:3], {text: torch.eye(4)[3] for row in rows for text in row})
    metrics = RetrievalEvaluator(make_dataset(rows, appearance=["x", "x", "y"]))(embedder)
    assert metrics["retrieval/appearance_reader_i2t_recall@1"] == pytest.approx(2 / 3)
    assert metrics["retrieval/appearance_reader_t2i_recall@1"] == pytest.approx((1 / 2 * 3 + 1) / 4)
    structs = [{"colour": "red", "size": [1]}, {"colour": "red", "size": [1]}, {"colour": "red", "size": [2]}]
    same = RetrievalEvaluator(make_dataset(rows, appearance=structs))(embedder)
    assert same["retrieval/appearance_reader_i2t_recall@1"] == pytest.approx(2 / 3)
    assert "retrieval/appearance_reader_i2t_recall@1" not in RetrievalEvaluator(make_dataset(rows))(embedder)
