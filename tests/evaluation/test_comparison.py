"""Paired differences against scipy, by hand and in simulations; two models compared on the items both could read."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.evaluation import RetrievalEvaluator, ZeroShotEvaluator
from mmcl.evaluation.comparison import compare_models
from mmcl.evaluation.paired import PERMUTATIONS, holm, paired_difference, paired_differences


@pytest.mark.parametrize("seed", range(4))
def test_few_groups_are_permuted_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 3, 23) / 2, rng.integers(0, 4, 23) / 2
    groups = rng.integers(0, 9, 23)
    sums = [float((b - a)[groups == group].sum()) for group in np.unique(groups)]
    totals = [abs(sum(map(np.prod, zip(signs, sums)))) for signs in itertools.product([1, -1], repeat=len(sums))]
    want = np.mean([total >= abs(sum(sums)) - 1e-9 for total in totals])
    found = paired_difference(torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(groups))
    assert found.p_value == pytest.approx(want, abs=1e-12)
    assert found.difference == pytest.approx((b - a).mean())
    assert found.num_groups == len(sums)
    other = paired_difference(torch.from_numpy(a), torch.from_numpy(b + 0.5 * a), torch.from_numpy(groups))
    assert other.p_value != pytest.approx(want, abs=1e-4)


def test_many_groups_equal_scipys_permutation_test() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(200, 3)), rng.normal(size=(200, 3)) + np.array([0.0, 0.12, 0.5])
    found = paired_differences(torch.from_numpy(a), torch.from_numpy(b), torch.arange(200))
    for column, one in enumerate(found):
        want = stats.permutation_test(
            (b[:, column], a[:, column]), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
            n_resamples=20_000, rng=rng,
        ).pvalue  # fmt: skip
        # Both are drawn: three standard errors of the difference.
        error = 3 * np.sqrt(max(want * (1 - want), 1e-4) * (1 / PERMUTATIONS + 1 / 20_000))
        assert one.p_value == pytest.approx(want, abs=error)
    assert found[0].p_value > 0.05 > found[2].p_value >= 1 / (PERMUTATIONS + 1)  # never 0
    assert found[2].ci95[0] > 0


def test_a_metric_has_the_p_value_it_has_alone() -> None:
    g = torch.Generator().manual_seed(1)
    a, b, groups = torch.rand(60, 2, generator=g), torch.rand(60, 2, generator=g), torch.arange(60) // 3
    both = paired_differences(a, b, groups)
    assert both[1] == paired_difference(a[:, 1], b[:, 1], groups)
    assert both[1] != both[0]
    back = paired_difference(b[:, 1], a[:, 1], groups)
    assert back.p_value == both[1].p_value
    assert back.difference == pytest.approx(-both[1].difference)
    assert back.ci95 == pytest.approx([-both[1].ci95[1], -both[1].ci95[0]])


def test_models_that_agree_differ_by_nothing() -> None:
    same = torch.rand(50, generator=torch.Generator().manual_seed(0))
    found = paired_difference(same, same, torch.arange(50))
    assert (found.difference, found.ci95, found.p_value) == (0.0, [0.0, 0.0], 1.0)
    one_group = paired_difference(same, same + 1, torch.zeros(50, dtype=torch.int64))
    assert one_group.p_value == 1.0  # one group can prove nothing, however many items it has


def test_p_values_are_uniform_where_models_are_alike_and_groups_are_heeded() -> None:
    g = torch.Generator().manual_seed(2)
    groups = torch.arange(40).repeat_interleave(3)
    alike = torch.randn(40, 400, generator=g)[groups] + 0.1 * torch.randn(120, 400, generator=g)
    zero = torch.zeros_like(alike)
    p = torch.tensor([one.p_value for one in paired_differences(zero, alike, groups, resamples=2)])
    assert 0.02 <= float((p <= 0.05).double().mean()) <= 0.08
    careless = [one.p_value for one in paired_differences(zero, alike, torch.arange(120), resamples=2)]
    assert float((torch.tensor(careless) <= 0.05).double().mean()) > 0.15  # three items of one group are one witness


def test_holm_equals_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([]) == []


def test_paired_differences_refuse_what_does_not_fit() -> None:
    groups = torch.arange(3)
    with pytest.raises(ShapeError, match=r"one shape \(items, metrics\)"):
        paired_difference(torch.ones(3), torch.ones(2), groups)
    with pytest.raises(ShapeError, match="one axis"):
        paired_difference(torch.ones(3, 1), torch.ones(3, 1), groups)
    with pytest.raises(ShapeError, match="NaN"):
        paired_difference(torch.ones(3), torch.tensor([0.0, torch.nan, 1.0]), groups)
    with pytest.raises(ShapeError, match="at least one query"):
        paired_difference(torch.empty(0), torch.empty(0), groups[:0])
    with pytest.raises(ShapeError, match="groups needs shape"):
        paired_difference(torch.ones(3), torch.ones(3), groups[:2])


@pytest.fixture
def pair(make_dataset: Callable, table_embedder: type) -> Callable:
    """pair(unreadable) -> a blurred and a sharp embedder, and 60 rows in 30 groups with labels."""

    def make(unreadable: tuple[int, ...] = ()):
        g = torch.Generator().manual_seed(3)
        images = F.normalize(torch.randn(30, 16, generator=g), dim=1).repeat_interleave(2, 0)
        names = [f"caption {row // 2}" for row in range(60)]
        texts = {name: images[row] for row, name in enumerate(names)}
        prompts = {f"kind {kind}": images[2 * kind] for kind in range(30)}
        embedders = []
        for noise in (2.4, 1.2):
            blurred = F.normalize(images + noise * torch.randn(60, 16, generator=g) / 4, dim=1)
            embedders.append(table_embedder(blurred, {**texts, **prompts}))
        labels = [f"kind {row // 2}" for row in range(60)]
        return *embedders, make_dataset([[name] for name in names], label=labels, unreadable=unreadable)

    return make


def test_the_sharper_model_wins_and_figures_are_the_evaluators(pair: Callable) -> None:
    blurred, sharp, dataset = pair()
    found = compare_models(blurred, sharp, dataset)
    a, b = (RetrievalEvaluator(dataset, confidence=False)(model) for model in (blurred, sharp))
    assert [one.name for one in found.metrics][:2] == ["i2t_recall@1", "i2t_recall@5"]
    for one in found.metrics:
        assert one.a == pytest.approx(a[f"retrieval/{one.name}"])
        assert one.b == pytest.approx(b[f"retrieval/{one.name}"])
        assert one.paired.difference == pytest.approx(one.b - one.a)
        assert one.paired.p_value <= one.p_adjusted
    best = found.metrics[0]
    assert best.paired.ci95[0] > 0
    assert best.p_adjusted < 0.01
    metrics = found.to_metrics()
    assert metrics["compare/i2t_recall@1_difference"] == best.paired.difference
    assert (metrics["compare/num_images"], metrics["compare/num_left_out"]) == (60, 0)
    alone = compare_models(blurred, sharp, dataset, metrics=["i2t_recall@1"])
    assert alone.metrics[0].p_adjusted == alone.metrics[0].paired.p_value == best.paired.p_value


def test_rows_that_one_model_cannot_read_are_left_out_of_both(pair: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    blurred, sharp, dataset = pair()
    blurred.embed_dataset_images = lambda data, *, batch_size: (
        blurred.images[[row for row in range(60) if row not in (4, 5, 9)]],
        np.array([row for row in range(60) if row not in (4, 5, 9)]),
        [],
    )
    found = compare_models(blurred, sharp, dataset)
    assert (found.num_images, found.num_left_out) == (57, 3)
    kept = dataset.select([row for row in range(60) if row not in (4, 5, 9)])
    want = RetrievalEvaluator(kept, confidence=False)(sharp)
    whole = RetrievalEvaluator(dataset, confidence=False)(sharp)
    for one in found.metrics:
        assert one.b == pytest.approx(want[f"retrieval/{one.name}"]), one.name
    assert want["retrieval/t2i_mean_rank"] != whole["retrieval/t2i_mean_rank"]
    blurred.embed_dataset_images = lambda data, *, batch_size: (blurred.images[:2], np.array([0, 1]), [])
    sharp.embed_dataset_images = lambda data, *, batch_size: (sharp.images[2:4], np.array([2, 3]), [])
    with pytest.raises(DataError, match="no image can be read by both"):
        compare_models(blurred, sharp, dataset)


def test_zero_shot_is_compared_on_top_1_and_top_5(pair: Callable) -> None:
    blurred, sharp, dataset = pair()
    for model in (blurred, sharp):
        model.texts = Prompts(model.texts)
    found = compare_models(blurred, sharp, dataset, tasks=["zeroshot"])
    assert [one.name for one in found.metrics] == ["zeroshot_top1", "zeroshot_top5"]
    for side, model in (("a", blurred), ("b", sharp)):
        metrics = ZeroShotEvaluator(dataset)(model)
        assert getattr(found.metrics[0], side) == pytest.approx(metrics["zeroshot/top1"])
    both = compare_models(blurred, sharp, dataset, tasks=["retrieval", "zeroshot"])
    assert len(both.metrics) == 14
    assert both.metrics[-2].p_adjusted >= found.metrics[0].p_adjusted


class Prompts(dict):
    """A prompt of any template has the vector of the kind that it names."""

    def __missing__(self, text: str) -> torch.Tensor:
        return self["kind " + "".join(character for character in text if character.isdigit())]


def test_unknown_tasks_and_metrics_are_named(pair: Callable) -> None:
    blurred, sharp, dataset = pair()
    with pytest.raises(ConfigError, match=r"retrieval, zeroshot; got knn"):
        compare_models(blurred, sharp, dataset, tasks=["knn"])
    with pytest.raises(ConfigError, match=r"no metric 'top1' to compare; there are i2t_recall@1"):
        compare_models(blurred, sharp, dataset, metrics=["top1"])
