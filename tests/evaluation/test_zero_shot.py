"""`ZeroShotEvaluator` and the files that feed it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.evaluation import ZeroShotEvaluator, load_classes, load_prompts, load_templates

LABELS = ["cat", "cat", "dog", None, "sea_lion"]
TEXTS = [["x"]] * 5


def test_by_hand(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(3)
    # Image 1 is a cat that looks like a dog; image 3 has no label.
    embedder = table_embedder(
        axes[torch.tensor([0, 1, 1, 0, 2])], {"cat": axes[0], "dog": axes[1], "sea lion": axes[2]}, logit_scale=1000.0
    )
    evaluator = ZeroShotEvaluator(make_dataset(TEXTS, label=LABELS), templates=["{}"])
    assert evaluator.classes == ("cat", "dog", "sea_lion")
    metrics = evaluator(embedder)
    assert metrics["zeroshot/top1"] == 3 / 4
    assert metrics["zeroshot/top5"] == 1.0
    assert metrics["zeroshot/mean_per_class"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert metrics["zeroshot/f1_macro"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert metrics["zeroshot/ece"] == pytest.approx(1 / 4)
    assert metrics["zeroshot/chance"] == 1 / 3
    assert metrics["zeroshot/majority"] == 1 / 2
    names = ("images", "classes", "skipped", "unlabelled")
    assert [metrics[f"zeroshot/num_{name}"] for name in names] == [4, 3, 0, 1]
    low, high = metrics["zeroshot/top1_ci95"]
    assert low <= 3 / 4 <= high
    prediction = evaluator.predict(embedder)
    assert prediction.rows.tolist() == [0, 1, 2, 4]
    assert prediction.confusion().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_weights_are_the_normalised_mean_of_unit_prompts(make_dataset: Callable, table_embedder: type) -> None:
    g = torch.Generator().manual_seed(0)
    dataset = make_dataset([["x"], ["x"]], label=["cat", "dog"])
    templates = ["a {}.", "the {} {}", "no name? {}"]
    words = ("a cat.", "the cat cat", "no name? cat", "a dog.", "the dog dog", "no name? dog")
    texts = {word: F.normalize(torch.randn(6, generator=g), dim=0) for word in words}
    embedder = table_embedder(torch.randn(2, 6), texts)
    weights = ZeroShotEvaluator(dataset, templates=templates).class_weights(embedder)
    for row, name in enumerate(("cat", "dog")):
        mean = torch.stack([texts[t.replace("{}", name)].double() for t in templates]).mean(0)
        assert torch.allclose(weights[row].double(), mean / mean.norm(), atol=1e-6)
        assert not torch.allclose(weights[row].double(), mean, atol=1e-3)
    assert sorted(embedder.seen_texts) == sorted(texts)


def test_prompts_are_embedded_once_and_may_be_shared(make_dataset: Callable, table_embedder: type) -> None:
    dataset = make_dataset([["x"], ["x"]], label=["a", "b"])
    axes = torch.eye(3)
    prompts = {"a": ["thing", "first"], "b": ["thing", "second", "second"]}
    embedder = table_embedder(axes[1:], {"thing": axes[0], "first": axes[1], "second": axes[2]})
    evaluator = ZeroShotEvaluator(dataset, prompts=prompts)
    weights = evaluator.class_weights(embedder)
    assert embedder.seen_texts == ["thing", "first", "second"]
    assert torch.allclose(weights[1], F.normalize(torch.tensor([1.0, 0.0, 2.0]), dim=0))
    assert evaluator(embedder)["zeroshot/top1"] == 1.0


def test_collapsed_and_wrong_models(make_dataset: Callable, table_embedder: type) -> None:
    labels = [str(i % 5) for i in range(50)]
    dataset = make_dataset([["x"]] * 50, label=labels)
    vector = F.normalize(torch.randn(100, generator=torch.Generator().manual_seed(1)), dim=0)
    collapsed = table_embedder(vector.expand(50, -1), {str(i): vector for i in range(5)})
    evaluator = ZeroShotEvaluator(dataset, templates=["{}"])
    assert evaluator(collapsed)["zeroshot/top1"] == 0.0
    broken = table_embedder(vector.expand(50, -1) * float("nan"), collapsed.texts)
    with pytest.raises(ShapeError, match="image embeddings row 0"):
        evaluator(broken)
    opposite = table_embedder(torch.eye(50)[:, :2], {"plus": torch.ones(2), "minus": -torch.ones(2)})
    cancelling = ZeroShotEvaluator(dataset, prompts={label: ["plus", "minus"] for label in "01234"})
    with pytest.raises(ShapeError, match="'0' add up to zero"):
        cancelling(opposite)


def test_classes_absent_from_the_data_are_candidates_only(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(3)
    embedder = table_embedder(axes[torch.tensor([0, 1, 2])], {"a": axes[0], "b": axes[1], "c": axes[2]})
    dataset = make_dataset([["x"]] * 3, label=["a", "b", "b"])
    metrics = ZeroShotEvaluator(dataset, classes=["a", "b", "c"], templates=["{}"])(embedder)
    assert metrics["zeroshot/num_classes"] == 3
    assert metrics["zeroshot/top1"] == pytest.approx(2 / 3)
    assert metrics["zeroshot/mean_per_class"] == pytest.approx((1 + 1 / 2) / 2)
    one = make_dataset([["x"]] * 2, label=["a", "a"])
    single = ZeroShotEvaluator(one, classes={"a": "a", "b": "b"}, templates=["{}"])(embedder)
    assert "zeroshot/roc_auc_macro" not in single
    assert "zeroshot/roc_auc_macro" in metrics


def test_unreadable_images(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(3)
    embedder = table_embedder(
        axes[torch.tensor([0, 0, 1, 0, 2])], {"cat": axes[0], "dog": axes[1], "sea lion": axes[2]}
    )
    prediction = ZeroShotEvaluator(make_dataset(TEXTS, label=LABELS, unreadable=[0, 3]), templates=["{}"])
    result = prediction.predict(embedder)
    assert (result.num_skipped, result.num_unlabelled) == (1, 1)
    assert result.rows.tolist() == [1, 2, 4]
    assert torch.equal(result.predicted, result.labels)


def test_wrong_classes_and_prompts_are_named(make_dataset: Callable) -> None:
    dataset = make_dataset(TEXTS, label=LABELS)
    with pytest.raises(DataError, match=r"lack: 'dog', 'sea_lion' \(2 in all\)"):
        ZeroShotEvaluator(dataset, classes=["cat"])
    with pytest.raises(DataError, match="prompts lack classes: 'dog'"):
        ZeroShotEvaluator(dataset, classes=["cat", "dog", "sea_lion"], prompts={"cat": ["c"], "sea_lion": ["s"]})
    with pytest.raises(DataError, match="'dog' has none"):
        ZeroShotEvaluator(dataset, prompts={"cat": ["c"], "dog": [], "sea_lion": ["s"]})
    with pytest.raises(DataError, match=r"lacks \{\}"):
        ZeroShotEvaluator(dataset, templates=["a photo"])
    with pytest.raises(DataError, match="each once"):
        ZeroShotEvaluator(dataset, classes=["cat", "cat"])
    with pytest.raises(ConfigError, match="one of the two"):
        ZeroShotEvaluator(dataset, templates=["{}"], prompts={"cat": ["c"]})
    with pytest.raises(DataError, match="no column 'label'"):
        ZeroShotEvaluator(make_dataset(TEXTS))
    with pytest.raises(DataError, match="no row has a label"):
        ZeroShotEvaluator(make_dataset(TEXTS, label=[None] * 5))


def test_files(tmp_path: Path) -> None:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    assert load_classes(write("a.txt", "# ids\nn01\ttench\n\nn02\tgreat white\n")) == {
        "n01": "tench",
        "n02": "great white",
    }
    assert load_classes(write("b.txt", "cat\r\nsea lion\r\n")) == {"cat": "cat", "sea lion": "sea lion"}
    assert load_classes(write("c.json", '{"n01": "tench"}')) == {"n01": "tench"}
    assert load_classes(write("d.json", '["cat", "dog"]')) == {"cat": "cat", "dog": "dog"}
    assert load_templates(write("e.txt", "a {}.\n\nthe {}\n")) == ["a {}.", "the {}"]
    assert load_templates(write("f.json", '["a {}."]')) == ["a {}."]
    assert load_prompts(write("g.json", json.dumps({"cat": "a cat", "dog": ["a dog", "hound"]}))) == {
        "cat": ["a cat"],
        "dog": ["a dog", "hound"],
    }
    for load, name, text, message in (
        (load_classes, "h.txt", "cat\ncat\n", "'cat' twice"),
        (load_classes, "i.json", '{"a": "x", "a": "y"}', "'a' twice"),
        (load_classes, "j.json", '{"a": 3}', "label 'a' needs one non-empty name, got 3"),
        (load_classes, "k.json", "3", "object {label: name} or a list"),
        (load_classes, "l.json", "{", "not valid JSON"),
        (load_classes, "m.txt", " \n", "is empty"),
        (load_classes, "n.txt", "# nothing\n", "names no class"),
        (load_templates, "o.txt", "a photo of a {c}.\n", "lacks {}"),
        (load_templates, "p.json", "{}", "list of at least one"),
        (load_prompts, "q.json", '["a"]', "object {label:"),
        (load_prompts, "r.json", '{"cat": []}', "label 'cat' needs a list of at least one"),
    ):
        with pytest.raises(DataError, match=message):
            load(write(name, text))
    for load in (load_classes, load_templates, load_prompts):
        with pytest.raises(DataError, match="does not exist"):
            load(tmp_path / "missing.json")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        load_classes(tmp_path / "latin.txt")


def test_a_class_without_an_image_is_counted_and_a_model_without_texts_refused(
    make_dataset: Callable, table_embedder: type
) -> None:
    axes = torch.eye(4)
    embedder = table_embedder(axes[torch.tensor([0, 1, 3])], dict(zip("abcd", axes)))
    dataset = make_dataset([["x"]] * 3, label=["a", "b", "b"])
    evaluator = ZeroShotEvaluator(dataset, classes=list("abcd"), templates=["{}"])
    metrics = evaluator(embedder)
    assert metrics["zeroshot/num_classes_without_images"] == 2
    lines = {one.label: one for one in evaluator.predict(embedder).table()}
    assert (lines["d"].support, lines["d"].predicted, lines["d"].f1) == (0, 1, None)
    assert (lines["b"].support, lines["b"].recall, lines["b"].precision) == (2, 0.5, 1.0)
    assert metrics["zeroshot/precision_macro"] == 1.0
    assert metrics["zeroshot/recall_macro"] == metrics["zeroshot/mean_per_class"] == 0.75
    assert metrics["zeroshot/f1_weighted"] == pytest.approx((1 + 2 * 2 / 3) / 3)
    embedder.modalities = frozenset({"image"})
    with pytest.raises(ConfigError, match=r"embeds \['image'\] and lacks text"):
        evaluator(embedder)


def test_classes_of_one_name_can_never_be_told_apart(
    make_dataset: Callable, table_embedder: type, caplog: pytest.LogCaptureFixture
) -> None:
    axes = torch.eye(2)
    labels = ["sea_lion", "sea lion", "cat"]
    embedder = table_embedder(axes[torch.tensor([0, 0, 1])], {"sea lion": axes[0], "cat": axes[1]})
    metrics = ZeroShotEvaluator(make_dataset([["x"]] * 3, label=labels), templates=["{}"])(embedder)
    assert "can never be told apart" in caplog.text
    assert metrics["zeroshot/top1"] == pytest.approx(1 / 3)


def test_prompts_for_unknown_classes_and_empty_lists_are_refused(make_dataset: Callable) -> None:
    dataset = make_dataset(TEXTS, label=LABELS)
    prompts = {"cat": ["c"], "dog": ["d"], "sea_lion": ["s"], "dgo": ["d"]}
    with pytest.raises(DataError, match="for 'dgo', which is no class .*did you mean 'dog'"):
        ZeroShotEvaluator(dataset, classes=["cat", "dog", "sea_lion"], prompts=prompts)
    assert ZeroShotEvaluator(dataset, prompts=prompts).classes[-1] == "dgo"  # they name the classes themselves
    with pytest.raises(DataError, match="at least one class"):
        ZeroShotEvaluator(dataset, classes=[])


def test_every_figure_has_an_interval(make_dataset: Callable, table_embedder: type) -> None:
    g = torch.Generator().manual_seed(0)
    names = [f"c{index}" for index in range(6)]
    images = F.normalize(torch.eye(6)[torch.arange(90) % 6] + 0.6 * torch.randn(90, 6, generator=g), dim=1)
    embedder = table_embedder(images, dict(zip(names, torch.eye(6))), logit_scale=5.0)
    texts = [[f"image {index}"] for index in range(90)]  # rows of one caption would be one group
    dataset = make_dataset(texts, label=[names[index % 6] for index in range(90)])
    metrics = ZeroShotEvaluator(dataset, templates=["{}"])(embedder)
    figures = ("top1", "top5", "mean_per_class", "precision_macro", "f1_macro", "f1_weighted", "roc_auc_macro", "ece")
    for figure in figures:
        low, high = metrics[f"zeroshot/{figure}_ci95"]
        assert 0 <= low <= metrics[f"zeroshot/{figure}"] <= high <= 1
        assert low < high
