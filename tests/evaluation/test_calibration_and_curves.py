"""ROC curves and areas, reliability curves and calibration error, against scikit-learn, torchmetrics and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.metrics import (
    expected_calibration_error,
    macro_roc_curve,
    one_against_rest,
    reliability_curve,
    roc_areas,
    roc_auc_macro,
    roc_curve,
)
from mmcl.evaluation.metrics.curves import RocCurve

SCALE = 20.0


@pytest.fixture
def case() -> tuple[Tensor, Tensor]:
    """Scores of 6 classes with many ties, of which class 4 never occurs."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(6, (150,), generator=g)
    labels[labels == 4] = 1
    scores = 0.1 * torch.randn(150, 6, generator=g) + 0.15 * torch.eye(6)[labels] - 0.3
    scores[::5] = scores[0]  # whole rows alike: ties in every column
    return scores, labels


def test_areas_equal_scikit_learn_with_ties(case: tuple[Tensor, Tensor]) -> None:
    scores, labels = case
    found = roc_areas(scores, labels, logit_scale=SCALE).areas
    columns = one_against_rest(scores, logit_scale=SCALE)
    for index in range(6):
        if index == 4:
            assert found[index].isnan()
        else:
            want = sklearn_metrics.roc_auc_score(labels == index, columns[:, index])
            assert float(found[index]) == pytest.approx(want, abs=1e-12)
    assert roc_auc_macro(scores, labels, logit_scale=SCALE) == pytest.approx(float(found.nanmean()))
    shuffled = labels[torch.randperm(150, generator=torch.Generator().manual_seed(1))]
    assert abs(roc_auc_macro(scores, shuffled, logit_scale=SCALE) - float(found.nanmean())) > 0.1


def test_constant_scores_have_the_area_of_chance() -> None:
    labels = torch.tensor([0, 0, 1, 2, 2])
    assert roc_areas(torch.full((5, 3), -0.7), labels, logit_scale=SCALE).areas.tolist() == [0.5, 0.5, 0.5]


def test_influence_is_the_derivative_by_how_often_a_row_stands(case: tuple[Tensor, Tensor]) -> None:
    scores, labels = case
    scores, labels = scores[:40], labels[:40]
    found = roc_areas(scores, labels, logit_scale=SCALE)
    assert float(found.influence.sum()) == pytest.approx(0.0, abs=1e-9)
    columns = one_against_rest(scores, logit_scale=SCALE).numpy()

    def weighted(weights: np.ndarray) -> float:
        occurring = labels.unique().tolist()
        areas = [
            sklearn_metrics.roc_auc_score(labels == index, columns[:, index], sample_weight=weights)
            for index in occurring
        ]
        return float(np.mean(areas))

    step = 1e-5
    for row in (0, 7, 23):
        more, less = np.ones(40), np.ones(40)
        more[row] += step
        less[row] -= step
        derivative = (weighted(more) - weighted(less)) / (2 * step)
        assert float(found.influence[row]) / 40 == pytest.approx(derivative, abs=1e-6)
    assert found.influence.abs().max() > 0.01


def test_a_curve_has_its_area_and_its_corners(case: tuple[Tensor, Tensor]) -> None:
    scores, labels = case
    columns = one_against_rest(scores, logit_scale=SCALE)
    areas = roc_areas(scores, labels, logit_scale=SCALE).areas
    for index in (0, 5):
        curve = roc_curve(columns[:, index], labels == index)
        assert (curve.false_positive_rate[0], curve.true_positive_rate[0]) == (0.0, 0.0)
        assert (curve.false_positive_rate[-1], curve.true_positive_rate[-1]) == (1.0, 1.0)
        area = sklearn_metrics.auc(curve.false_positive_rate, curve.true_positive_rate)
        assert area == pytest.approx(float(areas[index]))
    flat = roc_curve(torch.zeros(4), torch.tensor([True, False, True, False]))
    assert list(zip(*flat)) == [(0.0, 0.0), (1.0, 1.0)]


def test_the_mean_curve_lies_between_and_keeps_the_rise_at_zero() -> None:
    perfect = RocCurve(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    chance = RocCurve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    mean = macro_roc_curve([perfect, chance], points=5)
    assert mean.false_positive_rate.tolist() == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0]
    assert mean.true_positive_rate.tolist() == [0.0, 0.5, 0.625, 0.75, 0.875, 1.0]
    with pytest.raises(ShapeError, match="at least one ROC curve"):
        macro_roc_curve([])


def test_bad_curves_raise() -> None:
    with pytest.raises(ShapeError, match="some True and some False"):
        roc_curve(torch.rand(3), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ShapeError, match="NaN"):
        roc_curve(torch.tensor([0.0, float("nan")]), torch.tensor([True, False]))
    with pytest.raises(ShapeError, match="bool are needed"):
        roc_curve(torch.rand(3), torch.tensor([1, 0, 1]))


def test_calibration_error_equals_torchmetrics_and_its_curve(case: tuple[Tensor, Tensor]) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    scores, labels = case
    for scale in (5.0, 60.0):
        found = expected_calibration_error(scores, labels, logit_scale=scale)
        theirs = multiclass_calibration_error((scale * scores).softmax(1), labels, num_classes=6, n_bins=15, norm="l1")
        assert found == pytest.approx(float(theirs), abs=1e-6)
        curve = reliability_curve(scores, labels, logit_scale=scale)
        assert int(curve.count.sum()) == 150
        by_curve = ((curve.accuracy - curve.confidence).abs() * curve.count).sum() / 150
        assert float(by_curve) == pytest.approx(found)
    assert found != pytest.approx(expected_calibration_error(scores, labels, logit_scale=5.0), abs=1e-3)


def test_reliability_by_hand() -> None:
    # Two classes; confidences 0.7, 0.7 and 0.9 in bins of a quarter, of which the first alone is right.
    wanted = torch.tensor([0.7, 0.7, 0.9])
    scores = torch.stack([(wanted / (1 - wanted)).log(), torch.zeros(3)], dim=1)
    curve = reliability_curve(scores, torch.tensor([0, 1, 1]), logit_scale=1.0, bins=4)
    assert curve.confidence.tolist() == pytest.approx([0.7, 0.9], abs=1e-6)
    assert curve.accuracy.tolist() == [0.5, 0.0]
    assert curve.count.tolist() == [2, 1]
    assert curve.bins == 4
    with pytest.raises(ShapeError, match="at least one row"):
        reliability_curve(torch.empty(0, 2), torch.empty(0, dtype=torch.int64), logit_scale=1.0)
    with pytest.raises(ConfigError, match="bins"):
        reliability_curve(scores, torch.tensor([0, 1, 1]), logit_scale=1.0, bins=0)
