"""kNN and the linear probe on given embeddings, beside scikit-learn called for the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from measuring import Row, Settings, bounded, compared, say, times_and_results
from torch import Tensor
from torch.nn import functional as F

K, TEMPERATURE = 20, 0.07


def clusters(rows: int, classes: int, dim: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Unit rows in a narrow cone, as embeddings of images lie, with a label each."""
    draw = torch.Generator().manual_seed(0)
    cone, centres = torch.randn(1, dim, generator=draw), torch.randn(classes, dim, generator=draw)
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=draw)
    noise = torch.randn(rows, dim, generator=draw)
    return F.normalize(2 * cone + 0.3 * centres[labels] + noise, dim=1), labels


def fits(settings: Settings) -> Iterator[Row]:
    """Time of both, and whether they answer alike."""
    yield from _knn(settings)
    yield from _probe(settings)


def _knn(settings: Settings) -> Iterator[Row]:
    from sklearn.neighbors import KNeighborsClassifier

    from mmcl.evaluation.representations.knn import knn_votes

    train, judged, classes = (300, 100, 5) if settings.quick else (50_000, 5_000, 100)
    what = f"kNN, {judged:,} images among {train:,}, {classes} classes, k = {K}"
    say(f"{what} ...")
    x, y = clusters(train, classes, settings.dim, seed=1)
    z, truth = clusters(judged, classes, settings.dim, seed=2)

    def ours() -> np.ndarray:
        return knn_votes(z, x, y, truth, ks=[K], temperature=TEMPERATURE)[K].argmax(1).numpy()

    def theirs() -> np.ndarray:
        # Of unit rows, the order by distance is that by cosine, and its own product is the quicker of the two.
        def weights(distance: np.ndarray) -> np.ndarray:
            return np.exp((1 - distance**2 / 2) / TEMPERATURE)

        classifier = KNeighborsClassifier(K, weights=weights, algorithm="brute").fit(x.numpy(), y.numpy())
        return classifier.predict(z.numpy())

    calls = {"mmcl": ours, "scikit-learn": theirs}
    seconds, answers = times_and_results(calls, rounds=settings.repeats or 2)
    best = {name: min(each) for name, each in seconds.items()}
    yield compared(
        "fits", f"{what}: time", best["mmcl"], "KNeighborsClassifier (scikit-learn)", best["scikit-learn"],
        unit="s", all=seconds,
    )  # fmt: skip
    unlike = float((answers["mmcl"] != answers["scikit-learn"]).mean())
    right = float((answers["mmcl"] == truth.numpy()).mean())
    yield bounded(
        "fits", f"{what}: share of other answers", unlike, "KNeighborsClassifier (scikit-learn)", unit="error",
        at_most=1e-3, accuracy=right,
    )  # fmt: skip


def _probe(settings: Settings) -> Iterator[Row]:
    from sklearn.linear_model import LogisticRegression

    from mmcl.evaluation.representations.linear_fit import DEFAULT_CS, sweep_linear

    train, judged, classes = (120, 60, 3) if settings.quick else (4_000, 2_000, 20)
    what = f"linear probe, {train:,} images, {classes} classes, C swept on {judged:,}"
    say(f"{what} ...")
    x, y = clusters(train, classes, settings.dim, seed=1)
    z, truth = clusters(judged, classes, settings.dim, seed=2)

    def ours() -> float:
        return sweep_linear(x, y, z, truth).accuracy

    def theirs() -> float:
        found = []
        for c in DEFAULT_CS:
            classifier = LogisticRegression(C=c, max_iter=1000).fit(x.numpy(), y.numpy())
            found.append(classifier.score(z.numpy(), truth.numpy()))
        return max(found)

    calls = {"mmcl": ours, "scikit-learn": theirs}
    seconds, accuracy = times_and_results(calls, rounds=settings.repeats or 2)
    best = {name: min(each) for name, each in seconds.items()}
    peer = "LogisticRegression, a loop over the same C (scikit-learn)"
    yield compared(
        "fits", f"{what}: time", best["mmcl"], peer, best["scikit-learn"], unit="s", all=seconds, accuracy=accuracy
    )
    short = float(accuracy["scikit-learn"]) - float(accuracy["mmcl"])
    yield bounded(
        "fits", f"{what}: accuracy short of it", max(0.0, short), peer, unit="error", at_most=0.005, accuracy=accuracy
    )
