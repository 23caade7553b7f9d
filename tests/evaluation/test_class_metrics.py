"""Figures of a classifier, their intervals against a plain bootstrap, and the table of classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.evaluation.bootstrap import bootstrap_counts
from mmcl.evaluation.metrics import predict
from mmcl.evaluation.zero_shot.class_metrics import class_table, classification_intervals, classification_metrics

SCALE = 15.0


def made(num_rows: int, num_classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of pairs of rows that are right or wrong together."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num_rows // 2,), generator=g).repeat_interleave(2)
    shared = torch.randn(num_rows // 2, num_classes, generator=g).repeat_interleave(2, 0)
    scores = 0.07 * (shared + torch.randn(num_rows, num_classes, generator=g)) + 0.15 * torch.eye(num_classes)[labels]
    return scores, labels, torch.arange(num_rows) // 2


def test_figures_equal_scikit_learn() -> None:
    scores, labels, _ = made(200, 8)
    predicted = predict(scores, labels)
    figures = classification_metrics(scores, labels, logit_scale=SCALE)
    assert figures["top1"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    assert figures["mean_per_class"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, predicted))
    assert figures["recall_macro"] == figures["mean_per_class"]
    for average in ("macro", "weighted"):
        want = sklearn_metrics.f1_score(labels, predicted, average=average)
        assert figures[f"f1_{average}"] == pytest.approx(want)
    want = sklearn_metrics.precision_score(labels, predicted, average="macro", zero_division=0)
    assert figures["precision_macro"] == pytest.approx(want)
    area = sklearn_metrics.roc_auc_score(labels, (SCALE * scores.double()).softmax(1), multi_class="ovr")
    assert figures["roc_auc_macro"] == pytest.approx(area, abs=1e-6)
    assert "roc_auc_macro" not in classification_metrics(scores[:2], labels[:2], logit_scale=SCALE)


def test_intervals_are_those_of_resampled_rows() -> None:
    scores, labels, groups = made(300, 5)
    found = classification_intervals(scores, labels, groups, logit_scale=SCALE)
    figures = classification_metrics(scores, labels, logit_scale=SCALE)
    assert set(found) == {f"{name}_ci95" for name in figures}
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(groups.numpy() == group) for group in range(150)]
    drawn = []
    for _ in range(300):
        rows = torch.from_numpy(np.concatenate([members[group] for group in rng.integers(150, size=150)]))
        drawn.append(classification_metrics(scores[rows], labels[rows], logit_scale=SCALE))
    for name, value in figures.items():
        low, high = found[f"{name}_ci95"]
        assert low <= value <= high
        replicates = np.array([one[name] for one in drawn])
        width = np.quantile(replicates, 0.975) - np.quantile(replicates, 0.025)
        # The interval of the calibration error reaches down further, by the excess that its doc names.
        excess = max(0.0, float(replicates.mean()) - value) if name == "ece" else 0.0
        assert high - low == pytest.approx(width + excess, rel=0.2), name


def test_rows_of_a_group_are_one_piece_of_evidence() -> None:
    scores, labels, _ = made(300, 5)
    twice, groups = torch.arange(300).repeat_interleave(2), torch.arange(300).repeat_interleave(2)
    together = classification_intervals(scores[twice], labels[twice], groups, logit_scale=SCALE)
    alone = classification_intervals(scores[twice], labels[twice], torch.arange(600), logit_scale=SCALE)
    once = classification_intervals(scores, labels, torch.arange(300), logit_scale=SCALE)
    for name in ("top1_ci95", "f1_macro_ci95", "precision_macro_ci95", "roc_auc_macro_ci95"):
        assert together[name] == pytest.approx(once[name], abs=1e-6)
        widths = [high - low for low, high in (together[name], alone[name])]
        assert widths[0] == pytest.approx(2**0.5 * widths[1], rel=0.15)


def test_intervals_of_one_class_and_of_one_group() -> None:
    scores, labels, groups = made(20, 3)
    same = classification_intervals(scores, labels, torch.zeros_like(groups), logit_scale=SCALE)
    figures = classification_metrics(scores, labels, logit_scale=SCALE)
    for name, value in figures.items():
        assert same[f"{name}_ci95"] == pytest.approx([value, value], abs=1e-6)
    one = classification_intervals(scores, torch.zeros_like(labels), groups, logit_scale=SCALE)
    assert "roc_auc_macro_ci95" not in one
    assert all(0.0 <= low <= high <= 1.0 for low, high in one.values())


def test_counts_of_the_bootstrap_are_of_whole_groups() -> None:
    groups = torch.tensor([4, 4, 9, 7, 7, 7])
    counts = torch.cat(list(bootstrap_counts(groups, resamples=500)), dim=1)
    assert counts.shape == (6, 500)
    assert torch.equal(counts[0], counts[1])
    assert not torch.equal(counts[0], counts[2])
    by_group = counts[[0, 2, 3]]
    assert (by_group.sum(0) == 3).all()
    assert by_group.mean(1).tolist() == pytest.approx([1.0, 1.0, 1.0], abs=0.12)
    with pytest.raises(ShapeError, match="at least one query"):
        list(bootstrap_counts(groups[:0]))


def test_the_table_has_a_line_a_class() -> None:
    scores, labels, _ = made(200, 6)
    labels[labels == 3] = 2
    lines = class_table(list("abcdef"), scores, labels, logit_scale=SCALE)
    predicted = predict(scores, labels)
    assert [one.label for one in lines] == list("abcdef")
    assert [one.support for one in lines] == torch.bincount(labels, minlength=6).tolist()
    assert [one.predicted for one in lines] == torch.bincount(predicted, minlength=6).tolist()
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(6), zero_division=0
    )
    for index in (0, 1, 2, 4, 5):
        found = (lines[index].precision, lines[index].recall, lines[index].f1)
        assert found == pytest.approx((precision[index], recall[index], f1[index]))
        assert 0.5 < lines[index].roc_auc < 1
    assert (lines[3].precision, lines[3].recall, lines[3].f1, lines[3].roc_auc) == (None, None, None, None)
    assert lines[3].predicted > 0
