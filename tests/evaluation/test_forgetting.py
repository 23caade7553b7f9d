"""Before and after on several data sets, against the comparison of each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from mmcl.errors import ConfigError, DataError
from mmcl.evaluation import compare_models, measure_forgetting
from mmcl.evaluation.forgetting import allowed_tasks, measure_changes, short_names
from mmcl.evaluation.paired import holm
from mmcl.hub.merging.training_effect import TrainingEffect

METRICS = ["i2t_recall@1", "t2i_recall@1"]


@pytest.fixture
def models(table_embedder: type, make_dataset: Callable) -> tuple:
    """Two models and two data sets: captions "new" are learned, captions "old" lost, images alike."""
    g = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(40, 16, generator=g), dim=1)

    def blurred(prefix: str, noise: float) -> dict[str, torch.Tensor]:
        return {
            f"{prefix} {row}": F.normalize(images[row] + noise * torch.randn(16, generator=g), dim=0)
            for row in range(40)
        }

    before = table_embedder(images, blurred("new", 1.0) | blurred("old", 0.05))
    after = table_embedder(images, blurred("new", 0.05) | blurred("old", 1.0))
    datasets = {name: make_dataset([[f"{name} {row}"] for row in range(40)]) for name in ("new", "old")}
    return before, after, datasets


def test_gains_and_losses_are_those_of_the_comparison(models: tuple) -> None:
    before, after, datasets = models
    found = measure_forgetting(before, after, datasets)
    metrics = found.to_metrics()
    p_values = []
    for name, dataset in datasets.items():
        want = compare_models(before, after, dataset, metrics=METRICS, ks=(1,))
        for one in want.metrics:
            key = f"forgetting/{name}/{one.name}"
            assert metrics[f"{key}_before"] == one.a
            assert metrics[f"{key}_after"] == one.b
            assert metrics[f"{key}_change"] == one.paired.difference
            assert metrics[f"{key}_change_ci95"] == one.paired.ci95
            assert metrics[f"{key}_p"] == one.paired.p_value
            p_values.append(one.paired.p_value)
    adjusted = [metrics[f"forgetting/{name}/{metric}_p_adjusted"] for name in datasets for metric in METRICS]
    assert adjusted == holm(p_values)
    assert metrics["forgetting/new/i2t_recall@1_change"] > 0.3
    assert metrics["forgetting/old/i2t_recall@1_change"] < -0.3
    gained, lost = found.verdict()
    assert gained.startswith("on new: gained ")
    assert lost.startswith("elsewhere, on old: lost ")
    assert "p < 0.001" in lost
    assert metrics["forgetting/new/num_images"] == 40


def test_a_model_that_did_not_change_forgot_nothing(models: tuple) -> None:
    before, _, datasets = models
    found = measure_forgetting(before, before, datasets)
    metrics = found.to_metrics()
    for name in datasets:
        assert metrics[f"forgetting/{name}/i2t_recall@1_change_ci95"] == [0.0, 0.0]
        assert metrics[f"forgetting/{name}/i2t_recall@1_p_adjusted"] == 1.0
    assert all("gained" not in line and "lost" not in line for line in found.verdict())


def test_labels_bring_zero_shot(models: tuple, make_dataset: Callable) -> None:
    before, after, datasets = models
    labelled = make_dataset([[f"old {row}"] for row in range(40)], label=[f"kind {row % 2}" for row in range(40)])
    for model in (before, after):
        model.texts = Anything(model.texts)
    metrics = measure_forgetting(before, after, {"new": datasets["new"], "labelled": labelled}).to_metrics()
    assert "forgetting/labelled/zeroshot_top1_change" in metrics
    assert "forgetting/new/zeroshot_top1_change" not in metrics


class Anything(dict):
    """Texts that nobody wrote down have some vector all the same."""

    def __missing__(self, text: str) -> torch.Tensor:
        seed = sum(map(ord, text))
        return F.normalize(torch.randn(16, generator=torch.Generator().manual_seed(seed)), dim=0)


def test_one_data_set_cannot_show_forgetting(models: tuple) -> None:
    before, after, datasets = models
    with pytest.raises(ConfigError, match="give a second data set besides new"):
        measure_forgetting(before, after, {"new": datasets["new"]})


def test_short_names_differ() -> None:
    assert short_names(["a/x:test", "b/x:test", "c/x:test", "y"]) == ["x:test", "x:test-2", "x:test-3", "y"]


def test_changes_on_one_data_set_and_on_chosen_tasks(models: tuple, make_dataset: Callable) -> None:
    before, after, datasets = models
    alone = measure_changes(before, after, {"old": datasets["old"]}, trained_for=False)
    assert alone.verdict()[0].startswith("elsewhere, on old: lost ")
    assert measure_changes(before, after, {"old": datasets["old"]}).verdict()[0].startswith("on old: lost ")
    labelled = make_dataset([[f"old {row}"] for row in range(40)], label=[f"kind {row % 2}" for row in range(40)])
    for model in (before, after):
        model.texts = Anything(model.texts)
    found = measure_changes(before, after, {"labelled": labelled}, tasks={"labelled": ["zeroshot"]})
    assert [one.name for one in found.changes[0].metrics] == ["zeroshot_top1"]
    assert allowed_tasks(labelled) == ["retrieval", "zeroshot"]
    with pytest.raises(DataError, match="has no column label, which zeroshot needs"):
        measure_changes(before, after, {"old": datasets["old"]}, tasks={"old": ["zeroshot"]})
    with pytest.raises(DataError, match="neither captions .* nor labels"):
        allowed_tasks(make_dataset([]))


def test_its_page_says_what_the_verdict_says(models: tuple) -> None:
    before, after, datasets = models
    effect = TrainingEffect(measure_forgetting(before, after, datasets), notes=["A note."])
    html = effect.page(title="a title").html()
    for words in ("a title", "A note.", "Elsewhere, on old: lost", "i2t_recall@1"):
        assert words in html
    assert len(effect.rows()) == 4
    assert effect.sentence() == ""
