"""Clustering metrics against loops, and `ClusterEvaluator`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import combinations, permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.evaluation import ClusterEvaluator
from mmcl.evaluation.metrics.clustering import ari, hungarian_accuracy, matched, nmi
from mmcl.evaluation.representations import clustering


def naive_nmi(clusters: list[int], labels: list[int]) -> float:
    n = len(labels)

    def entropy(ids: list) -> float:
        return -sum(count / n * math.log(count / n) for count in Counter(ids).values())

    mutual = entropy(clusters) + entropy(labels) - entropy(list(zip(clusters, labels)))
    return mutual / ((entropy(clusters) + entropy(labels)) / 2)


def naive_ari(clusters: list[int], labels: list[int]) -> float:
    """Hubert & Arabie's, by looking at every pair."""
    pairs = list(combinations(range(len(labels)), 2))
    both = sum(clusters[i] == clusters[j] and labels[i] == labels[j] for i, j in pairs)
    one = sum(clusters[i] == clusters[j] for i, j in pairs)
    other = sum(labels[i] == labels[j] for i, j in pairs)
    expected = one * other / len(pairs)
    return (both - expected) / ((one + other) / 2 - expected)


def naive_accuracy(clusters: list[int], labels: list[int]) -> float:
    """Every matching of clusters to labels; what is left over of either matches nothing."""
    found, names = sorted({c for c in clusters if c >= 0}), sorted(set(labels))
    names += [-2 - i for i in range(max(0, len(found) - len(names)))]
    best = 0
    for chosen in permutations(names, len(found)):
        partner = dict(zip(found, chosen))
        best = max(best, sum(partner.get(c) == label for c, label in zip(clusters, labels)))
    return best / len(labels)


@pytest.mark.parametrize(("number", "names"), [(4, 4), (2, 5), (6, 3), (5, 2)])
def test_metrics_are_those_of_loops(number: int, names: int) -> None:
    g = torch.Generator().manual_seed(number)
    for _ in range(5):
        labels = torch.randint(names, (40,), generator=g)
        # Half of the rows follow their label.
        clusters = torch.where(torch.rand(40, generator=g) < 0.5, labels % number, torch.randint(number, (40,)))
        pair = clusters.tolist(), labels.tolist()
        assert nmi(clusters, labels) == pytest.approx(naive_nmi(*pair))
        assert ari(clusters, labels) == pytest.approx(naive_ari(*pair))
        assert hungarian_accuracy(clusters, labels) == pytest.approx(naive_accuracy(*pair))
        noisy = torch.where(torch.rand(40, generator=g) < 0.3, torch.tensor(-1), clusters)
        assert hungarian_accuracy(noisy, labels) == pytest.approx(naive_accuracy(noisy.tolist(), pair[1]))
        assert not matched(noisy, labels)[noisy < 0].any()
        # The names of clusters and the order of rows say nothing.
        order, renamed = torch.randperm(40, generator=g), (clusters * 7 + 3)
        for metric in (nmi, ari, hungarian_accuracy):
            assert metric(renamed[order], labels[order]) == pytest.approx(metric(clusters, labels))
            assert metric(labels, labels) == pytest.approx(1.0) != pytest.approx(metric(clusters, labels))


def test_degenerate_clusters() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    one = torch.zeros(4, dtype=torch.int64)
    assert (nmi(one, labels), ari(one, labels), hungarian_accuracy(one, labels)) == (0.0, 0.0, 3 / 4)
    assert hungarian_accuracy(torch.full((4,), -1), labels) == 0.0
    assert hungarian_accuracy(torch.arange(4), labels) == 2 / 4  # one row a cluster: one cluster a label
    for metric in (nmi, ari, hungarian_accuracy):
        with pytest.raises(ShapeError, match="at least one row"):
            metric(labels[:0], labels[:0])
        with pytest.raises(ShapeError, match="clusters needs shape"):
            metric(labels[:2], labels)
        with pytest.raises(ShapeError, match="integer"):
            metric(labels.float(), labels)


def groups_of_points(n: int, *, classes: int = 3, noise: float = 0.1, width: int = 8) -> tuple[Tensor, list[str]]:
    labels = torch.arange(n) % classes
    points = torch.eye(classes, width)[labels] + noise * torch.randn(
        n, width, generator=torch.Generator().manual_seed(0)
    )
    return F.normalize(points, dim=1), [f"c{i}" for i in labels.tolist()]


def test_separate_groups_are_found(make_dataset: Callable, table_embedder: type) -> None:
    points, labels = groups_of_points(90)
    dataset = make_dataset([["x"]] * 90, label=labels, group=[str(i // 3) for i in range(90)])
    evaluator = ClusterEvaluator(dataset)
    metrics = evaluator(table_embedder(points, {}))
    for name in ("nmi", "ari", "accuracy", "hdbscan_nmi", "hdbscan_ari", "hdbscan_accuracy"):
        assert metrics[f"clusters/{name}"] == pytest.approx(1.0), name
    assert metrics["clusters/nmi_std"] == pytest.approx(0.0)
    assert (metrics["clusters/hdbscan_num_clusters"], metrics["clusters/hdbscan_noise"]) == (3, 0)
    assert metrics["clusters/silhouette"] > 0.8
    assert metrics["clusters/accuracy_ci95"] == [1.0, 1.0]
    assert metrics["clusters/chance_nmi"] < 0.2
    assert 1 / 3 <= metrics["clusters/chance_accuracy"] < 0.5
    assert metrics["clusters/majority"] == 1 / 3
    assert evaluator.primary_metric in metrics
    # A control: labels that have nothing to do with the points.
    shuffled = [labels[i] for i in torch.randperm(90, generator=torch.Generator().manual_seed(0)).tolist()]
    wrong = ClusterEvaluator(make_dataset([["x"]] * 90, label=shuffled))(table_embedder(points, {}))
    assert wrong["clusters/nmi"] < 0.2
    assert abs(wrong["clusters/ari"]) < 0.1


def test_more_clusters_than_labels_and_several_seeds(make_dataset: Callable, table_embedder: type) -> None:
    points, labels = groups_of_points(90, noise=0.6)
    dataset = make_dataset([[f"t{i}"] for i in range(90)], label=labels)
    metrics = ClusterEvaluator(dataset, clusters=7, methods=("kmeans",), seeds=4, restarts=1)(
        table_embedder(points, {})
    )
    runs = [clustering.kmeans(points, 7, seed=seed, restarts=1) for seed in range(4)]
    numbers = torch.tensor([int(label[1]) for label in labels])
    values = torch.tensor([naive_nmi(run.tolist(), numbers.tolist()) for run in runs], dtype=torch.float64)
    assert metrics["clusters/nmi"] == pytest.approx(float(values.mean()))
    assert metrics["clusters/nmi_std"] == pytest.approx(float(values.std())) != 0
    low, high = metrics["clusters/accuracy_ci95"]
    assert low < metrics["clusters/accuracy"] < high
    assert metrics["clusters/num_clusters"] == 7
    assert not any("hdbscan" in name for name in metrics)
    once = ClusterEvaluator(dataset, seeds=1)(table_embedder(points, {}))
    assert "clusters/nmi_std" not in once


def test_collapsed_models_and_nan(make_dataset: Callable, table_embedder: type) -> None:
    dataset = make_dataset([["x"]] * 40, label=[str(i % 4) for i in range(40)])
    same = F.normalize(torch.ones(40, 8), dim=1)
    metrics = ClusterEvaluator(dataset)(table_embedder(same, {}))
    for prefix in ("", "hdbscan_"):
        assert metrics[f"clusters/{prefix}nmi"] == 0.0
        assert metrics[f"clusters/{prefix}ari"] == 0.0
        assert metrics[f"clusters/{prefix}accuracy"] <= metrics["clusters/majority"]
    assert "clusters/silhouette" not in metrics
    with pytest.raises(ShapeError, match="image embeddings row 0"):
        ClusterEvaluator(dataset)(table_embedder(same * float("nan"), {}))


def test_noise_is_counted(make_dataset: Callable, table_embedder: type) -> None:
    points, labels = groups_of_points(60, noise=0.02)
    far = torch.eye(8)[4:]  # each alone
    dataset = make_dataset([["x"]] * 64, label=[*labels, *["c0"] * 4])
    metrics = ClusterEvaluator(dataset, methods=("hdbscan",))(table_embedder(torch.cat([points, far]), {}))
    clusters = clustering.hdbscan(torch.cat([points, far]))
    assert (clusters[60:] == -1).all()
    assert metrics["clusters/hdbscan_noise"] == pytest.approx(float((clusters < 0).double().mean())) != 0
    assert metrics["clusters/hdbscan_accuracy"] == pytest.approx(60 / 64)
    assert ClusterEvaluator(dataset, methods=("hdbscan",)).primary_metric in metrics


def test_large_data_take_mini_batches_and_a_sample(
    make_dataset: Callable, table_embedder: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clustering, "MINI_BATCH_ABOVE", 50)
    monkeypatch.setattr(clustering, "HDBSCAN_ROWS", 45)
    monkeypatch.setattr(clustering, "HDBSCAN_DIMENSIONS", 3)
    points, labels = groups_of_points(90)
    metrics = ClusterEvaluator(make_dataset([["x"]] * 90, label=labels))(table_embedder(points, {}))
    assert metrics["clusters/nmi"] > 0.9
    assert metrics["clusters/hdbscan_num_rows"] == 45
    assert metrics["clusters/hdbscan_nmi"] > 0.9


def test_captions_are_clustered_too(make_dataset: Callable, table_embedder: type) -> None:
    points, labels = groups_of_points(30)
    texts = [[f"t{i}", "shared"] for i in range(30)]
    dataset = make_dataset(texts, label=labels, group=list(labels))
    vectors = {f"t{i}": points[i] for i in range(30)} | {"shared": torch.eye(8)[7]}
    metrics = ClusterEvaluator(dataset, modality="text")(table_embedder(-points, vectors))
    assert metrics["clusters/num_items"] == 33  # "shared" once a group
    assert metrics["clusters/nmi"] > 0.5
    embedder = table_embedder(points, vectors)
    embedder.modalities = frozenset({"image"})
    with pytest.raises(ConfigError, match="clustering of texts"):
        ClusterEvaluator(dataset, modality="text")(embedder)


def test_rows_without_label_or_image_are_counted(make_dataset: Callable, table_embedder: type) -> None:
    points, labels = groups_of_points(30)
    dataset = make_dataset([["x"]] * 30, label=[None, None, *labels[2:]], unreadable=[5])
    metrics = ClusterEvaluator(dataset)(table_embedder(points, {}))
    assert [metrics[f"clusters/num_{name}"] for name in ("items", "skipped", "unlabelled")] == [27, 1, 2]


def test_wrong_settings_are_named(make_dataset: Callable, table_embedder: type) -> None:
    points, labels = groups_of_points(9)
    dataset = make_dataset([["x"]] * 9, label=labels)
    for wrong, message in (({"methods": ("kmean",)}, "kmeans, hdbscan, got kmean"), ({"methods": ()}, "got none"),
                           ({"modality": "sound"}, "'image' or 'text'"), ({"clusters": 1}, "at least 2, got 1"),
                           ({"seeds": 0}, "at least 1"), ({"restarts": 0}, "at least 1")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            ClusterEvaluator(dataset, **wrong)
    with pytest.raises(DataError, match="10 clusters of 9 items"):
        ClusterEvaluator(dataset, clusters=10)(table_embedder(points, {}))
    with pytest.raises(DataError, match="one class alone, 'a'"):
        ClusterEvaluator(make_dataset([["x"]] * 9, label=["a"] * 9))(table_embedder(points, {}))
    with pytest.raises(DataError, match="no column 'label'"):
        ClusterEvaluator(make_dataset([["x"]]))
