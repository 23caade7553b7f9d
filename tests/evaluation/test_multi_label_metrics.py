"""Multi-label metrics against scikit-learn, torchmetrics and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.metrics import chance_overlap_at_k, class_average_precision, overlap_at_k


@pytest.fixture
def case() -> tuple[Tensor, Tensor]:
    """Negative scores with ties for 8 classes, of which class 3 has no image."""
    g = torch.Generator().manual_seed(0)
    relevant = torch.rand(120, 8, generator=g) < 0.2
    relevant[:, 3] = False
    scores = ((torch.randn(120, 8, generator=g) + relevant.float()) * 4).round() / 40 - 0.5
    return scores, relevant


def test_average_precision_equals_scikit_learn_and_torchmetrics(case: tuple[Tensor, Tensor]) -> None:
    from torchmetrics.functional.classification import multilabel_average_precision

    scores, relevant = case
    found = class_average_precision(scores, relevant).values
    assert found[3].isnan()
    there = [index for index in range(8) if index != 3]
    for index in there:
        assert len(scores[:, index].unique()) < 60  # there are ties
        want = average_precision_score(relevant[:, index], scores[:, index])
        assert float(found[index]) == pytest.approx(want, abs=1e-12)
    # torchmetrics takes scores outside [0, 1] for logits, which orders alike but may merge what rounds together.
    theirs = multilabel_average_precision(
        (scores - scores.min())[:, there], relevant[:, there].long(), num_labels=7, average="macro"
    )
    assert float(found.nanmean()) == pytest.approx(float(theirs), abs=1e-6)
    assert float(class_average_precision(-scores, relevant).values.nanmean()) < float(found.nanmean()) - 0.1


def test_average_precision_by_a_loop_does_not_depend_on_the_order_of_rows(case: tuple[Tensor, Tensor]) -> None:
    scores, relevant = case
    column, truth = scores[:, 0].tolist(), relevant[:, 0].tolist()
    precisions = []
    for mine, right in zip(column, truth):
        if right:
            above = [other for value, other in zip(column, truth) if value >= mine]
            precisions.append(sum(above) / len(above))
    want = sum(precisions) / len(precisions)
    for order in (torch.arange(120), torch.randperm(120, generator=torch.Generator().manual_seed(2))):
        found = class_average_precision(scores[order], relevant[order]).values[0]
        assert float(found) == pytest.approx(want, abs=1e-12)


def test_constant_scores_are_chance(case: tuple[Tensor, Tensor]) -> None:
    _, relevant = case
    found = class_average_precision(torch.full((120, 8), -0.3), relevant).values
    share = relevant.double().mean(0)
    assert torch.allclose(found[share > 0], share[share > 0])
    # Right answers never come before wrong ones of the same score.
    assert float(overlap_at_k(torch.zeros(120, 8), relevant, 1).sum()) == 0.0


def test_influence_is_the_derivative_by_how_often_a_row_stands(case: tuple[Tensor, Tensor]) -> None:
    scores, relevant = case
    found = class_average_precision(scores, relevant)
    assert float(found.influence.sum()) == pytest.approx(0.0, abs=1e-9)

    def weighted(weights: np.ndarray) -> float:
        each = [
            average_precision_score(relevant[:, index], scores[:, index], sample_weight=weights)
            for index in range(8)
            if index != 3
        ]
        return float(np.mean(each))

    step = 1e-5
    for row in (0, 11, 58, 119):
        more, less = np.ones(120), np.ones(120)
        more[row] += step
        less[row] -= step
        derivative = (weighted(more) - weighted(less)) / (2 * step)
        assert float(found.influence[row]) / 120 == pytest.approx(derivative, abs=1e-7)
    assert found.influence.abs().max() > 0.01


def test_overlap_equals_a_loop(case: tuple[Tensor, Tensor]) -> None:
    scores, relevant = case
    for k in (1, 3, 20):
        want = []
        for row, truth in zip(scores.tolist(), relevant.tolist()):
            if any(truth):
                order = sorted(range(8), key=lambda index: (-row[index], truth[index]))
                want.append(sum(truth[index] for index in order[:k]) / min(k, sum(truth)))
        assert overlap_at_k(scores, relevant, k).tolist() == pytest.approx(want)
        assert len(want) < 120
    assert overlap_at_k(scores, torch.zeros(120, 8, dtype=torch.bool), 1).shape == (0,)


def test_chance_overlap_is_what_random_orders_score(case: tuple[Tensor, Tensor]) -> None:
    _, relevant = case
    g = torch.Generator().manual_seed(3)
    for k in (1, 3):
        drawn = [float(overlap_at_k(torch.rand(120, 8, generator=g), relevant, k).mean()) for _ in range(200)]
        assert chance_overlap_at_k(relevant, k) == pytest.approx(float(np.mean(drawn)), abs=0.01)
    assert chance_overlap_at_k(relevant, 100) == pytest.approx(1.0)
    assert chance_overlap_at_k(torch.zeros(2, 3, dtype=torch.bool), 1) == 0.0


def test_bad_input_raises(case: tuple[Tensor, Tensor]) -> None:
    scores, relevant = case
    with pytest.raises(ShapeError, match="relevant needs shape"):
        class_average_precision(scores, relevant[:5])
    with pytest.raises(ShapeError, match="dtype bool"):
        overlap_at_k(scores, relevant.long(), 1)
    with pytest.raises(ShapeError, match="no class has an average precision"):
        class_average_precision(scores, torch.zeros_like(relevant))
    with pytest.raises(ShapeError, match="NaN"):
        class_average_precision(scores.index_fill(0, torch.tensor([2]), float("nan")), relevant)
    with pytest.raises(ConfigError, match="k needs"):
        overlap_at_k(scores, relevant, 0)
