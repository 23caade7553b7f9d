"""Classification metrics against scikit-learn, loops and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.metrics import (
    ClassCounts,
    class_counts,
    confusion_matrix,
    expected_calibration_error,
    f1_macro,
    f1_per_class,
    f1_weighted,
    macro_mean,
    mean_per_class,
    precision_macro,
    precision_per_class,
    predict,
    recall_per_class,
    roc_auc_macro,
    top_k_hits,
    weighted_mean,
)


@pytest.fixture
def case() -> tuple[Tensor, Tensor]:
    """Scores of 7 classes, of which class 5 never occurs."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (200,), generator=g)
    labels[labels == 5] = 2
    scores = 0.1 * torch.randn(200, 7, generator=g) + 0.15 * torch.eye(7)[labels]
    return scores, labels


def test_equal_to_scikit_learn(case: tuple[Tensor, Tensor]) -> None:
    scores, labels = case
    predicted = predict(scores, labels)
    assert torch.equal(predicted, scores.argmax(1))
    confusion = confusion_matrix(predicted, labels, 7)
    want = sklearn_metrics.confusion_matrix(labels, predicted, labels=range(7))
    assert np.array_equal(confusion, want)
    assert not np.array_equal(confusion.T, want)
    for k in (1, 2, 5):
        share = sklearn_metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(7))
        assert float(top_k_hits(scores, labels, k).double().mean()) == pytest.approx(share)
    occurring = labels.unique().numpy()
    recall = sklearn_metrics.recall_score(labels, predicted, average="macro", labels=occurring)
    assert mean_per_class(confusion) == pytest.approx(recall)
    f1 = sklearn_metrics.f1_score(labels, predicted, average="macro", labels=occurring)
    assert f1_macro(confusion) == pytest.approx(f1)
    assert (predicted == 5).any()  # so the average over class 5, too, would be lower
    assert f1_macro(confusion) > sklearn_metrics.f1_score(labels, predicted, average="macro")


def test_roc_auc_is_of_the_scaled_softmax(case: tuple[Tensor, Tensor]) -> None:
    scores, labels = case
    probabilities = (20 * scores.double()).softmax(1).numpy()
    areas = [sklearn_metrics.roc_auc_score(labels == c, probabilities[:, c]) for c in (0, 1, 2, 3, 4, 6)]
    assert roc_auc_macro(scores, labels, logit_scale=20.0) == pytest.approx(float(np.mean(areas)), abs=1e-9)
    assert roc_auc_macro(scores, labels, logit_scale=1.0) != pytest.approx(float(np.mean(areas)), abs=1e-9)
    # A softmax at this scale underflows to 0 in float32; the order must survive.
    assert roc_auc_macro(scores, labels, logit_scale=5000.0) > 0.7
    with pytest.raises(ShapeError, match="at least two classes"):
        roc_auc_macro(scores[:3], torch.zeros(3, dtype=torch.int64), logit_scale=1.0)


def test_calibration_error_equals_a_loop(case: tuple[Tensor, Tensor]) -> None:
    scores, labels = case
    probabilities = (10 * scores.double()).softmax(1)
    confidence, predicted = probabilities.max(1)
    want = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            correct = (predicted == labels)[inside].double().mean()
            want += float(inside.double().mean() * (correct - confidence[inside].mean()).abs())
    assert expected_calibration_error(scores, labels, logit_scale=10.0) == pytest.approx(want, abs=1e-6)
    assert expected_calibration_error(scores, labels, logit_scale=30.0) != pytest.approx(want, abs=1e-6)


def test_calibration_error_by_hand() -> None:
    # Sure of all four, right on three: |3/4 - 1|.
    scores = torch.eye(2)[torch.tensor([0, 0, 1, 1])]
    labels = torch.tensor([0, 0, 1, 0])
    assert expected_calibration_error(scores, labels, logit_scale=1000.0) == pytest.approx(0.25)


def test_ties_count_against_the_model() -> None:
    scores, labels = torch.ones(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    assert not (predict(scores, labels) == labels).any()
    assert [int(top_k_hits(scores, labels, k).sum()) for k in (1, 2, 3)] == [0, 0, 6]
    assert mean_per_class(confusion_matrix(predict(scores, labels), labels, 3)) == 0.0


def test_one_class_is_always_right() -> None:
    scores, labels = torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)
    assert predict(scores, labels).tolist() == [0, 0, 0]
    assert top_k_hits(scores, labels, 1).all()


def test_bad_input_raises() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(ShapeError, match="scores row 1 holds NaN"):
        top_k_hits(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), labels, 1)
    with pytest.raises(ShapeError, match="labels needs ids from 0 to 1"):
        predict(torch.eye(2), labels + 1)
    with pytest.raises(ShapeError, match="predicted needs ids"):
        confusion_matrix(labels + 1, labels, 2)
    with pytest.raises(ShapeError, match="empty matrix"):
        f1_macro(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ShapeError, match="at least one row"):
        expected_calibration_error(torch.empty(0, 2), labels[:0], logit_scale=1.0)
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="logit_scale"):
            roc_auc_macro(torch.eye(2), labels, logit_scale=scale)
    with pytest.raises(ConfigError, match="k needs"):
        top_k_hits(torch.eye(2), labels, 0)


def test_precision_recall_and_f1_equal_scikit_learn_and_torchmetrics(case: tuple[Tensor, Tensor]) -> None:
    import torchmetrics.functional.classification as torchmetrics

    scores, labels = case
    predicted = predict(scores, labels)
    confusion = confusion_matrix(predicted, labels, 7)
    counts = class_counts(confusion)
    occurring = labels.unique().numpy()
    for one, reference in (
        (precision_per_class, sklearn_metrics.precision_score),
        (recall_per_class, sklearn_metrics.recall_score),
        (f1_per_class, sklearn_metrics.f1_score),
    ):
        want = reference(labels, predicted, average=None, labels=range(7), zero_division=0)
        assert one(counts).numpy() == pytest.approx(want, abs=1e-12)
        macro = reference(labels, predicted, average="macro", labels=occurring, zero_division=0)
        assert float(macro_mean(one(counts), counts)) == pytest.approx(macro)
        weighted = reference(labels, predicted, average="weighted", zero_division=0)
        assert float(weighted_mean(one(counts), counts)) == pytest.approx(weighted)
        assert weighted != pytest.approx(macro, abs=1e-4)
    theirs = torchmetrics.multiclass_precision(scores, labels, 7, average="none")
    assert torch.allclose(precision_per_class(counts).float(), theirs, atol=1e-6)
    assert f1_weighted(confusion) == pytest.approx(
        float(torchmetrics.multiclass_f1_score(scores, labels, 7, average="weighted")), abs=1e-6
    )
    assert precision_macro(confusion) != pytest.approx(mean_per_class(confusion), abs=1e-4)


def test_counts_may_have_resamples_behind_them(case: tuple[Tensor, Tensor]) -> None:
    scores, labels = case
    counts = class_counts(confusion_matrix(predict(scores, labels), labels, 7))
    twice = ClassCounts(*(torch.stack([one, one.flip(0)], dim=1) for one in counts))  # (7, 2)
    both = macro_mean(f1_per_class(twice), twice)
    assert both.shape == (2,)
    assert float(both[0]) == pytest.approx(float(macro_mean(f1_per_class(counts), counts)))
    with pytest.raises(ShapeError, match=r"shape \(classes, classes\), got \(2, 3\)"):
        class_counts(torch.ones(2, 3))
