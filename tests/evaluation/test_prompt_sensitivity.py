"""The accuracy of each template alone, against classifiers built from one template at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from mmcl.errors import ShapeError
from mmcl.evaluation import ZeroShotEvaluator
from mmcl.evaluation.zero_shot import prompt_sensitivity, text_classifier
from mmcl.evaluation.zero_shot.prompt_sensitivity import TemplateAccuracy, template_spread

TEMPLATES = ["a {}.", "the {}", "{}!", "no {}"]
CLASSES = [f"c{index}" for index in range(9)]


@pytest.fixture
def case(make_dataset: Callable, table_embedder: type):
    g = torch.Generator().manual_seed(0)
    labels = [CLASSES[index % 9] for index in range(200)]
    axes = F.normalize(torch.randn(9, 12, generator=g), dim=1)
    images = F.normalize(axes[[index % 9 for index in range(200)]] + 0.5 * torch.randn(200, 12, generator=g), dim=1)
    texts = {}
    for noise, template in enumerate(TEMPLATES):
        for index, name in enumerate(CLASSES):
            vector = axes[index] + 0.4 * noise * torch.randn(12, generator=g)
            texts[template.replace("{}", name)] = F.normalize(vector, dim=0)
    return make_dataset([["x"]] * 200, label=labels), table_embedder(images, texts)


def test_each_template_scores_what_it_scores_alone(case, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, embedder = case
    evaluator = ZeroShotEvaluator(dataset, templates=TEMPLATES)
    found = evaluator.predict(embedder).template_top1
    assert len(embedder.seen_texts) == 36  # from one pass over the prompts
    alone = {}
    for template in TEMPLATES:
        one = ZeroShotEvaluator(dataset, templates=[template])(embedder)
        alone[template] = one["zeroshot/top1"]
        assert "zeroshot/template_top1_min" not in one
    assert found == pytest.approx(alone)
    assert len(set(alone.values())) == 4
    metrics = evaluator(embedder)
    assert metrics["zeroshot/template_top1_min"] == min(alone.values())
    assert metrics["zeroshot/template_top1_max"] == max(alone.values())
    assert metrics["zeroshot/num_templates"] == 4
    monkeypatch.setattr(text_classifier, "CHUNK_PROMPTS", 5)
    monkeypatch.setattr(prompt_sensitivity, "_SCORES", 1)
    assert evaluator.predict(embedder).template_top1 == pytest.approx(alone)


def test_it_can_be_left_out_and_changes_nothing_else(case) -> None:
    dataset, embedder = case
    with_it = ZeroShotEvaluator(dataset, templates=TEMPLATES)(embedder)
    without = ZeroShotEvaluator(dataset, templates=TEMPLATES, sensitivity=False)(embedder)
    assert not any("template" in name for name in without)
    assert {name: with_it[name] for name in without} == without


def test_constant_embeddings_tie_in_every_template(
    make_dataset: Callable, table_embedder: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_classifier, "CHUNK_PROMPTS", 100)
    classes = [f"c{index}" for index in range(70)]
    dataset = make_dataset([["x"]] * 140, label=classes * 2)
    vector = F.normalize(torch.randn(100, generator=torch.Generator().manual_seed(1)), dim=0)
    texts = {template.replace("{}", name): vector for template in TEMPLATES for name in classes}
    collapsed = table_embedder(vector.expand(140, -1), texts)
    found = ZeroShotEvaluator(dataset, templates=TEMPLATES).predict(collapsed).template_top1
    assert list(found.values()) == [0.0] * 4


def test_the_spread() -> None:
    assert template_spread({"a {}.": 0.5}) == template_spread({}) == {}
    found = template_spread({"a": 0.2, "b": 0.4, "c": 0.9})
    assert found["template_top1_mean"] == pytest.approx(0.5)
    assert found["template_top1_std"] == pytest.approx(((0.09 + 0.01 + 0.16) / 3) ** 0.5)
    with pytest.raises(ShapeError, match="at least one row"):
        TemplateAccuracy(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), 2)
