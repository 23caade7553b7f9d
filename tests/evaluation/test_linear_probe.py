"""`LinearProbeEvaluator`, its fit, its sweep and its few-shot draws, against plain scikit-learn."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from torch import Tensor

from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.evaluation import LinearProbeEvaluator, fit_linear, sweep_linear
from mmcl.evaluation.representations.few_shot import draw_shots, few_shot_metrics
from mmcl.evaluation.representations.linear_probe import split_held_out

NAMES = ["ant", "bee", "cow", "dog"]


def blobs(n: int, *, classes: int = 4, width: int = 8, noise: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit rows around a centre a class, in the narrow cone that embeddings lie in."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=g)
    labels = torch.arange(n) % classes
    return F.normalize(1.0 + centres[labels] + noise * torch.randn(n, width, generator=g), dim=1), labels


@pytest.fixture
def setting(make_dataset: Callable, table_embedder: type) -> Callable:
    """setting(points, labels, sizes) -> embedder and one data set for each size, in the order of the rows."""

    def make(points: Tensor, labels: list[str | None], sizes: list[int], **columns: list) -> tuple:
        whole = make_dataset([[f"t{i}"] for i in range(len(points))], label=labels, **columns)
        ends = np.cumsum([0, *sizes])
        parts = [whole.select(range(a, b), name=f"part {i}") for i, (a, b) in enumerate(pairwise(ends))]
        return (table_embedder(points, {}), *parts)

    return make


# Largest difference of a probability: in float32 the solver cannot come nearer; its own tolerance costs a little more.
@pytest.mark.parametrize(("tolerance", "difference"), [(1e-8, 2e-3), (None, 1e-2)])
def test_the_fit_is_scikit_learns(tolerance: float | None, difference: float, monkeypatch: pytest.MonkeyPatch) -> None:
    if tolerance is not None:
        monkeypatch.setattr("mmcl.evaluation.representations.linear_fit._TOLERANCE", tolerance)
    x, y = blobs(200)
    for classes in (4, 2):
        rows = y < classes
        for c in (0.1, 10.0, 1000.0):
            ours = fit_linear(x[rows], y[rows], c=c)
            theirs = LogisticRegression(C=c, tol=1e-9, max_iter=5000).fit(x[rows].double().numpy(), y[rows].numpy())
            expected = torch.from_numpy(theirs.predict_proba(x.double().numpy()))
            found = ours.scores(x, num_classes=classes).double().softmax(1)
            assert (found - expected).abs().max() < difference
            assert torch.equal(found.argmax(1), expected.argmax(1))
            assert ours.converged
        other = fit_linear(x[rows], y[rows], c=0.1).scores(x, num_classes=classes).double().softmax(1)
        assert (other - expected).abs().max() > 0.1


def test_the_fit_is_the_minimum_of_its_objective() -> None:
    x, y = blobs(120, noise=2.0)
    c = 5.0

    def objective(weights: Tensor, biases: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for row, label in zip(x.double(), y):
            logits = weights @ row + biases
            total = total + logits.logsumexp(0) - logits[label]
        return c * total + weights.square().sum() / 2

    fit = fit_linear(x, y, c=c)
    at = [fit.weights.double().requires_grad_(), fit.biases.double().requires_grad_()]
    best = objective(*at)
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(best, at)])
    assert gradient.abs().max() < 1e-4 * c * len(x)
    assert objective(at[0] * 1.1, at[1]) > best < objective(at[0], at[1] + torch.tensor([0.1, 0.0, 0.0, 0.0]))


def test_scores_of_classes_that_were_not_fitted_on_are_below_all_others() -> None:
    x, y = blobs(40)
    scores = fit_linear(x, y * 2, c=1.0).scores(x, num_classes=8)
    assert scores[:, 1::2].max() < scores[:, ::2].min()
    with pytest.raises(ShapeError, match="8 columns"):
        fit_linear(x, y, c=1.0).scores(x[:, :3], num_classes=4)


def test_the_sweep_keeps_the_best_and_of_equals_the_strongest() -> None:
    x, y = blobs(120, noise=2.0)
    v, w = blobs(400, noise=2.0, seed=0)
    cs = (1e-4, 0.1, 10.0, 1e6)
    sweep = sweep_linear(x[:80], y[:80], v[120:], w[120:], cs=cs)
    tried = dict(sweep.trail)
    assert set(cs) <= set(tried)
    assert len(tried) > len(cs)  # and between them
    assert sweep.accuracy == max(tried.values())
    assert sweep.classifier.c == min(c for c, accuracy in tried.items() if accuracy == sweep.accuracy)
    for c, accuracy in tried.items():
        alone = fit_linear(x[:80], y[:80], c=c).scores(v[120:], num_classes=4).argmax(1)
        assert accuracy == pytest.approx(float((alone == w[120:]).double().mean()), abs=0.01)
    assert min(tried.values()) < sweep.accuracy
    # The same rows to fit and to choose: the accuracy only grows, and nothing is left out.
    assert len(dict(sweep_linear(x, y, x, y, cs=(0.1, 1.0, 10.0)).trail)) >= 4
    for wrong in ((), (1.0, 0.0)):
        with pytest.raises(ConfigError, match="above 0"):
            sweep_linear(x, y, v, w, cs=wrong)


def test_the_sweep_ends_when_it_gets_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.evaluation.representations import linear_fit

    x, y = blobs(40)
    shares = {0.1: 0.5, 1.0: 0.75, 10.0: 0.5, 100.0: 0.5, 1000.0: 1.0}
    classifier = fit_linear(x, y, c=1.0)
    asked: list[float] = []

    def fit(self: object, c: float) -> object:
        asked.append(c)
        return classifier

    def hits(*_: object) -> Tensor:
        share = shares.get(asked[-1], 0.0)
        return torch.arange(4) < 4 * share

    monkeypatch.setattr(linear_fit._Path, "fit", fit)
    monkeypatch.setattr(linear_fit, "top_k_hits", hits)
    sweep = sweep_linear(x, y, x, y, cs=tuple(shares))
    assert sweep.accuracy == 0.75
    assert asked[:4] == [0.1, 1.0, 10.0, 100.0]
    assert asked[4:] == pytest.approx([np.sqrt(0.1), np.sqrt(10.0)])


def test_the_probe_is_a_plain_pipeline(setting: Callable) -> None:
    x, y = blobs(400, noise=2.5)
    embedder, train, validation, test = setting(x, [NAMES[i] for i in y], [200, 50, 150])
    metrics = LinearProbeEvaluator(test, train=train, validation=validation, shots=(), cs=(10.0,))(embedder)
    plain = LogisticRegression(C=10.0, tol=1e-8, max_iter=5000).fit(x[:200].double().numpy(), y[:200].numpy())
    predicted, true = plain.predict(x[250:].double().numpy()), y[250:].numpy()
    assert metrics["probe/top1"] == pytest.approx((predicted == true).mean())
    assert metrics["probe/mean_per_class"] == pytest.approx(balanced_accuracy_score(true, predicted))
    assert metrics["probe/f1_macro"] == pytest.approx(f1_score(true, predicted, average="macro"))
    areas = roc_auc_score(true, plain.predict_proba(x[250:].double().numpy()), multi_class="ovr", average="macro")
    assert metrics["probe/roc_auc_macro"] == pytest.approx(areas, abs=1e-4)
    assert metrics["probe/top5"] == 1.0  # of four classes
    assert metrics["probe/validation_top1"] == pytest.approx(plain.score(x[200:250].double().numpy(), y[200:250]))
    assert 0.3 < metrics["probe/top1"] < 1.0
    assert metrics["probe/chance"] == 1 / 4
    assert metrics["probe/majority"] == pytest.approx(np.bincount(true).max() / 150)
    assert metrics["probe/c"] == 10.0
    low, high = metrics["probe/top1_ci95"]
    assert low < metrics["probe/top1"] < high
    assert [metrics[f"probe/num_{name}"] for name in ("images", "classes", "train", "validation")] == [150, 4, 200, 50]
    # A control: another regularisation gives another probe.
    other = LinearProbeEvaluator(test, train=train, validation=validation, shots=(), cs=(0.01,))(embedder)
    assert other["probe/roc_auc_macro"] != metrics["probe/roc_auc_macro"]


def test_without_validation_whole_groups_of_train_choose(setting: Callable) -> None:
    x, y = blobs(300, noise=2.0)
    groups = [str(i // 4) for i in range(300)]
    embedder, train, test = setting(x, [NAMES[i] for i in y], [200, 100], group=groups)
    metrics = LinearProbeEvaluator(test, train=train, shots=(2,), seeds=2)(embedder)
    assert (metrics["probe/num_train"], metrics["probe/num_validation"]) == (200, 40)
    plain = fit_linear(x[:200], y[:200], c=metrics["probe/c"]).scores(x[200:], num_classes=4).argmax(1)
    assert metrics["probe/top1"] == pytest.approx(float((plain == y[200:]).double().mean()))
    # A few images of each class come from the other groups; the judged labels have no say in the regularisation.
    swapped = [NAMES[i] for i in y[:200]] + [NAMES[(i + 1) % 4] for i in y[200:]]
    embedder, train, test = setting(x, swapped, [200, 100], group=groups)
    turned = LinearProbeEvaluator(test, train=train, shots=(2,), seeds=2)(embedder)
    assert turned["probe/c"] == metrics["probe/c"]
    assert turned["probe/c_2shot"] == metrics["probe/c_2shot"]
    assert turned["probe/top1"] < metrics["probe/top1"]


def test_groups_are_set_aside_as_wholes() -> None:
    x, y = blobs(100)
    groups = torch.arange(100) // 5
    marked = torch.cat([x, groups[:, None].float()], dim=1)
    (fit, fit_labels), (aside, aside_labels) = split_held_out(marked, y, groups, name="d")
    assert (len(fit), len(aside)) == (80, 20)
    assert not set(fit[:, -1].tolist()) & set(aside[:, -1].tolist())
    assert len(fit_labels) + len(aside_labels) == 100
    other = split_held_out(marked, y, groups, name="d", seed=1)[1][0]
    assert set(other[:, -1].tolist()) != set(aside[:, -1].tolist())
    with pytest.raises(DataError, match="d: 1 groups of 4 classes are too few"):
        split_held_out(x, y, torch.zeros(100, dtype=torch.int64), name="d")


def test_shots_are_drawn_from_each_class_and_nested() -> None:
    labels = torch.tensor([0] * 10 + [1] * 3 + [4] * 7)
    for seed in range(5):
        rows = {k: draw_shots(labels, k, seed=seed) for k in (1, 2, 4, 8)}
        for k, drawn in rows.items():
            assert torch.bincount(labels[drawn]).tolist() == [min(k, 10), min(k, 3), 0, 0, min(k, 7)]
            assert len(drawn.unique()) == len(drawn)
        assert set(rows[1].tolist()) < set(rows[2].tolist()) < set(rows[4].tolist()) < set(rows[8].tolist())
    assert not torch.equal(draw_shots(labels, 2, seed=0), draw_shots(labels, 2, seed=1))
    counts = torch.zeros(20)
    for seed in range(600):
        counts[draw_shots(labels, 1, seed=seed)] += 1
    assert counts[:10].min() > 30  # 60 expected
    assert counts[:10].max() < 100


def test_few_shot_figures_are_means_over_draws(caplog: pytest.LogCaptureFixture) -> None:
    x, y = blobs(300, noise=1.5)
    train, validation, test = (x[:100], y[:100]), (x[100:150], y[100:150]), (x[150:], y[150:])
    groups = torch.arange(150)
    with caplog.at_level(logging.WARNING, logger="mmcl"):
        metrics = few_shot_metrics(train, validation, test, groups, shots=(1, 4, 64), seeds=3, cs=(1.0, 100.0))
    assert "no class has 64 images" in caplog.text
    assert not any("64shot" in name for name in metrics)
    for k in (1, 4):
        shares = []
        for seed in range(3):
            rows = draw_shots(train[1], k, seed=seed).numpy()
            plain = LogisticRegression(C=metrics[f"probe/c_{k}shot"], tol=1e-8, max_iter=5000)
            plain.fit(train[0][rows].double().numpy(), train[1][rows].numpy())
            shares.append(plain.score(test[0].double().numpy(), test[1].numpy()))
        assert metrics[f"probe/top1_{k}shot"] == pytest.approx(np.mean(shares), abs=0.01)
        assert metrics[f"probe/top1_{k}shot_std"] == pytest.approx(np.std(shares, ddof=1), abs=0.01)
        low, high = metrics[f"probe/top1_{k}shot_ci95"]
        assert low < metrics[f"probe/top1_{k}shot"] < high
    assert metrics["probe/top1_1shot"] < metrics["probe/top1_4shot"]
    once = few_shot_metrics(train, validation, test, groups, shots=(4,), seeds=1)
    assert "probe/top1_4shot_std" not in once


def test_classes_with_few_images_give_what_they_have(setting: Callable) -> None:
    x, y = blobs(200)
    kept = torch.tensor([i for i in range(100) if y[i] != 3 or i < 12] + list(range(100, 200)))
    labels = [NAMES[i] for i in y[kept]]
    embedder, train, validation, test = setting(x[kept], labels, [len(kept) - 100, 40, 60])
    metrics = LinearProbeEvaluator(test, train=train, validation=validation, shots=(2, 8), seeds=2)(embedder)
    assert (metrics["probe/num_short_2shot"], metrics["probe/num_short_8shot"]) == (0, 1)


def test_labels_that_train_lacks_are_wrong_and_counted(setting: Callable) -> None:
    x, y = blobs(200, noise=0.1)
    labels: list[str | None] = [NAMES[i] for i in y]
    labels[160:] = ["yak" if label == "dog" else label for label in labels[160:]]
    labels[150:160] = [None] * 10
    embedder, train, validation, test = setting(x, labels, [100, 40, 60])
    metrics = LinearProbeEvaluator(test, train=train, validation=validation, shots=(1,), seeds=2)(embedder)
    assert (metrics["probe/num_unseen_classes"], metrics["probe/num_unseen_images"]) == (1, 10)
    assert (metrics["probe/num_images"], metrics["probe/num_unlabelled"]) == (50, 10)
    assert metrics["probe/top1"] == pytest.approx(40 / 50)
    assert metrics["probe/top5"] == pytest.approx(40 / 50)  # four fitted classes: all of them, and still not the fifth
    assert metrics["probe/num_classes"] == 5
    assert metrics["probe/mean_per_class"] == pytest.approx(
        np.mean([1, 1, 1, 0] if "dog" not in labels[140:150] else [1, 1, 1, 1, 0])
    )
    assert metrics["probe/top1_1shot"] <= 40 / 50
    embedder, train, test = setting(x, [NAMES[i] for i in y[:100]] + ["yak"] * 100, [100, 100])
    with pytest.raises(DataError, match=r"share no label: \['ant', 'bee', 'cow', 'dog'\] against \['yak'\]"):
        LinearProbeEvaluator(test, train=train)(embedder)


def test_collapsed_models_score_chance_and_nan_raises(setting: Callable, table_embedder: type) -> None:
    _, y = blobs(200)
    same = F.normalize(torch.randn(16, generator=torch.Generator().manual_seed(1)), dim=0).expand(200, -1)
    embedder, train, validation, test = setting(same, [NAMES[i] for i in y], [100, 40, 60])
    metrics = LinearProbeEvaluator(test, train=train, validation=validation, seeds=2)(embedder)
    assert metrics["probe/top1"] <= metrics["probe/majority"] == 1 / 4
    assert metrics["probe/roc_auc_macro"] == 0.5
    assert metrics["probe/top1_4shot"] <= 1 / 4
    with pytest.raises(ShapeError, match="image embeddings row 0"):
        LinearProbeEvaluator(test, train=train)(table_embedder(same * float("nan"), {}))


def test_the_order_of_the_rows_does_not_matter(setting: Callable) -> None:
    x, y = blobs(300, noise=2.0)
    labels = np.array([NAMES[i] for i in y])
    results = []
    for order in (np.arange(150), np.random.default_rng(0).permutation(150)):
        rows = np.concatenate([order, np.arange(150, 300)])
        embedder, train, validation, test = setting(x[rows], labels[rows].tolist(), [150, 50, 100])
        results.append(LinearProbeEvaluator(test, train=train, validation=validation, shots=())(embedder))
    assert {name: results[0][name] for name in ("probe/top1", "probe/c")} == {
        name: results[1][name] for name in ("probe/top1", "probe/c")
    }
    assert results[0]["probe/roc_auc_macro"] == pytest.approx(results[1]["probe/roc_auc_macro"], abs=1e-3)


def test_a_solver_that_does_not_come_to_rest_is_said_to(
    setting: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x, y = blobs(120, noise=2.0)
    monkeypatch.setattr("mmcl.evaluation.representations.linear_fit.MAX_ITERATIONS", 1)
    embedder, train, validation, test = setting(x, [NAMES[i] for i in y], [60, 30, 30])
    evaluator = LinearProbeEvaluator(test, train=train, validation=validation, shots=(), cs=(1000.0,))
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, logger="mmcl"):
        warnings.simplefilter("error")
        evaluator(embedder)
    assert "c=1000 had not come to rest" in caplog.text


def test_unreadable_images_are_counted(make_dataset: Callable, table_embedder: type) -> None:
    x, y = blobs(120)
    whole = make_dataset([["x"]] * 120, label=[NAMES[i] for i in y], group=[str(i) for i in range(120)],
                         unreadable=[3, 100, 101])  # fmt: skip
    metrics = LinearProbeEvaluator(whole.select(range(80, 120)), train=whole.select(range(80)), shots=())(
        table_embedder(x, {})
    )
    assert (metrics["probe/num_skipped"], metrics["probe/num_train_skipped"]) == (2, 1)
    assert (metrics["probe/num_images"], metrics["probe/num_train"]) == (38, 79)


def test_wrong_settings_are_named(setting: Callable, make_dataset: Callable) -> None:
    x, y = blobs(60)
    labels = [NAMES[i] for i in y]
    embedder, train, test = setting(x, labels, [30, 30])
    bare = make_dataset([["x"]] * 5)
    empty = make_dataset([["x"]] * 5, label=[None] * 5)
    for wrong, message in (({"shots": (0,)}, "at least 1"), ({"seeds": 0}, "at least 1"), ({"cs": ()}, "above 0")):
        with pytest.raises(ConfigError, match=message):
            LinearProbeEvaluator(test, train=train, **wrong)
    for other in (test, test.select(range(30), name="again")):
        with pytest.raises(ConfigError, match="which is judged on too"):
            LinearProbeEvaluator(test, train=other)
        with pytest.raises(ConfigError, match="validation is"):
            LinearProbeEvaluator(test, train=train, validation=other)
    for data in (bare, empty):
        with pytest.raises(DataError, match="label"):
            LinearProbeEvaluator(test, train=data)
        with pytest.raises(DataError, match="label"):
            LinearProbeEvaluator(data, train=train)
    _, single, test = setting(x, ["ant"] * 30 + labels[30:], [30, 30])
    with pytest.raises(DataError, match="part 0 holds one class alone, 'ant'"):
        LinearProbeEvaluator(test, train=single)(embedder)
    embedder.modalities = frozenset({"text"})
    with pytest.raises(ConfigError, match=r"needs image embeddings; this model embeds \['text'\]"):
        LinearProbeEvaluator(test, train=train)(embedder)
    with pytest.raises(ShapeError, match="at least two classes"):
        fit_linear(x, torch.zeros(60, dtype=torch.int64), c=1.0)
    with pytest.raises(ConfigError, match="c needs to be a finite number above 0, got 0"):
        fit_linear(x, y, c=0)
    with pytest.raises(ShapeError, match="features row 0"):
        fit_linear(x * float("nan"), y, c=1.0)
