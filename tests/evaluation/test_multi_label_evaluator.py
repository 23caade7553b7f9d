"""`MultiLabelEvaluator`: several labels an image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score

import mmcl
from mmcl.builders.evaluation import EVALUATORS
from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.evaluation import MultiLabelEvaluator
from mmcl.evaluation.zero_shot.multi_label import relevant_matrix

TAGS = [["cat", "pet"], ["dog", "pet", "pet"], ["cat"], None, [], ["rare"], ["dog", "rare thing"]]


def test_by_hand(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(3)
    images = F.normalize(torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 1], [0, 1, 0]]))
    embedder = table_embedder(images, {"cat": axes[0], "dog": axes[1], "pet": axes[2]})
    evaluator = MultiLabelEvaluator(make_dataset([["x"]] * 7, tags=TAGS), min_count=2, templates=["{}"])
    assert evaluator.classes == ("cat", "dog", "pet")
    prediction = evaluator.predict(embedder)
    assert prediction.rows.tolist() == [0, 1, 2, 5, 6]
    assert prediction.relevant.long().tolist() == [[1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0], [0, 1, 0]]
    metrics = evaluator(embedder)
    # dog: images 6, then 1 and 5 together, of which one is right; pet: 0, 1 and 5 together, two right.
    assert metrics["multilabel/map"] == pytest.approx((1 + (1 + 2 / 3) / 2 + 2 / 3) / 3)
    assert metrics["multilabel/chance_map"] == pytest.approx(2 / 5)
    assert metrics["multilabel/overlap@1"] == 1.0
    assert metrics["multilabel/overlap@5"] == 1.0
    names = ("images", "classes", "classes_without_images", "labels_left_out", "skipped", "unlabelled")
    assert [metrics[f"multilabel/num_{name}"] for name in names] == [5, 3, 0, 2, 0, 2]
    assert metrics["multilabel/labels_per_image"] == pytest.approx(6 / 5)
    low, high = metrics["multilabel/map_ci95"]
    assert 0 <= low <= metrics["multilabel/map"] <= high <= 1


def test_map_equals_scikit_learn_and_collapse_is_chance(make_dataset: Callable, table_embedder: type) -> None:
    g = torch.Generator().manual_seed(0)
    names = [f"t{index}" for index in range(6)]
    relevant = torch.rand(80, 6, generator=g) < 0.3
    relevant[:, 0] |= ~relevant.any(1)
    tags = [[name for name, has in zip(names, row) if has] for row in relevant.tolist()]
    images = F.normalize(relevant.float() + 0.8 * torch.randn(80, 6, generator=g), dim=1)
    embedder = table_embedder(images, dict(zip(names, torch.eye(6))))
    evaluator = MultiLabelEvaluator(make_dataset([["x"]] * 80, tags=tags), templates=["{}"])
    metrics = evaluator(embedder)
    want = sum(average_precision_score(relevant[:, index], images[:, index]) for index in range(6)) / 6
    assert metrics["multilabel/map"] == pytest.approx(want)
    vector = F.normalize(torch.randn(6, generator=g), dim=0)
    collapsed = table_embedder(vector.expand(80, -1), dict.fromkeys(names, vector))
    found = evaluator(collapsed)
    assert found["multilabel/map"] == pytest.approx(found["multilabel/chance_map"])
    assert found["multilabel/overlap@1"] <= found["multilabel/chance_overlap@1"]
    assert want > found["multilabel/chance_map"] + 0.2
    broken = table_embedder(vector.expand(80, -1) * float("nan"), collapsed.texts)
    with pytest.raises(ShapeError, match="row 0"):
        evaluator(broken)


def test_own_classes_and_columns(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(3)
    embedder = table_embedder(axes[[0, 1, 0, 0, 0, 2, 1]], {"a cat": axes[0], "a puppy": axes[1], "a unicorn": axes[2]})
    dataset = make_dataset([["x"]] * 7, topics=TAGS, label=["a"] * 7)
    classes = {"cat": "cat", "dog": "puppy", "unicorn": "unicorn"}
    evaluator = MultiLabelEvaluator(dataset, labels_column="topics", classes=classes, templates=["a {}"])
    metrics = evaluator(embedder)
    assert metrics["multilabel/num_classes_without_images"] == 1
    assert metrics["multilabel/map"] == 1.0
    by_prompts = MultiLabelEvaluator(dataset, labels_column="topics", prompts={"cat": ["a cat"], "dog": ["a puppy"]})
    assert by_prompts(embedder)["multilabel/map"] == 1.0
    for options, message in (
        ({}, "no column 'tags'"),
        ({"labels_column": "label"}, "wanted a list of labels; .*--column label=label"),
        ({"labels_column": "topics", "min_count": 3}, "min_count=3 images .*has 2.*lower min_count"),
        ({"labels_column": "topics", "classes": ["unicorn"]}, "none of the classes"),
        ({"labels_column": "topics", "classes": []}, "at least one class"),
        ({"labels_column": "topics", "min_count": 2, "templates": ["x"]}, "lacks {}"),
    ):
        with pytest.raises(DataError, match=message):
            MultiLabelEvaluator(dataset, **options)
    with pytest.raises(ConfigError, match="min_count needs"):
        MultiLabelEvaluator(dataset, min_count=0)
    embedder.modalities = frozenset({"image"})
    with pytest.raises(ConfigError, match="lacks text"):
        evaluator(embedder)


def test_baselines_stand_beside_it(
    make_dataset: Callable, table_embedder: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = torch.eye(2)
    tags = [["even"] if index % 2 == 0 else ["odd", "even"] if index % 3 == 0 else ["odd"] for index in range(60)]
    dataset = make_dataset([["x"]] * 60, tags=tags)
    embedder = table_embedder(axes[torch.arange(60) % 2], {"even": axes[0], "odd": axes[1]})
    monkeypatch.setattr(
        "mmcl.embedder.untrained",
        lambda one, seed=0: table_embedder(one.images.flip(1), one.texts),
    )
    train = dataset.select(range(40))
    evaluator = MultiLabelEvaluator(dataset.select(range(40, 60)), templates=["{}"], baselines=True, train=train)
    metrics = evaluator(embedder)
    assert metrics["multilabel/random_weights_map"] < metrics["multilabel/map"]
    assert metrics["multilabel/majority_map"] == pytest.approx(metrics["multilabel/chance_map"])
    assert metrics["multilabel/majority_overlap@5"] == 1.0
    assert 0 < metrics["multilabel/raw_linear_map"] <= 1
    assert metrics["multilabel/raw_linear_num_train"] == 40
    compared = MultiLabelEvaluator(dataset, templates=["{}"], train=dataset).compare(
        embedder, MultiLabelEvaluator(dataset, templates=["{}"]).predict(embedder)
    )
    assert "is what is judged" in compared.notes[-1]


def test_it_is_a_task_that_data_without_tags_leave_out(make_dataset: Callable) -> None:
    from mmcl.evaluation.blind import BlindEmbedder

    assert EVALUATORS["multilabel"].evaluator is MultiLabelEvaluator
    found = mmcl.evaluate(BlindEmbedder(), "shapes?test=40:test", tasks=["multilabel"])
    assert abs(found["multilabel/map"] - found["multilabel/chance_map"]) < 0.3
    assert mmcl.evaluate(BlindEmbedder(), make_dataset([["x"]] * 3), tasks=["multilabel"]) == {}


def test_relevant_labels_by_column() -> None:
    assert relevant_matrix([["b", "b", "z"], []], ["a", "b"]).tolist() == [[False, True], [False, False]]
