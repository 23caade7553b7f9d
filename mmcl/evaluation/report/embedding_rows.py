"""Which metrics of probes, kNN, clusters, geometry and domains the terminal's table shows, and under which names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_Metrics = Mapping[str, "float | list[float]"]

# What is counted below the table, task by task.
COUNTED = {
    "probe": ("images", "classes", "train", "skipped", "unseen_images"),
    "knn": ("images", "classes", "train", "skipped", "unseen_images"),
    "clusters": ("items", "classes", "skipped"),
    "geometry": ("images", "texts", "skipped"),
    "domains": ("images", "domains", "skipped"),
}

_SHOTS = re.compile(r"probe/top1_(\d+)shot")
_NEIGHBOURS = re.compile(r"knn/top1_k(\d+)")
_BETWEEN = re.compile(r"domains/(probe|i2i)_(.+)_to_(.+?)(_recall@1)?")
_WITHIN = re.compile(r"domains/i2t_(.+)_recall@1")
_CLASSIFIER = {"top1": "top-1", "top5": "top-5", "mean_per_class": "mean per class"}
_CHANCE = {"top1", "mean_per_class"}  # what 1 / classes is the chance line of
_PROBE = {**_CLASSIFIER, "f1_macro": "F1, macro", "roc_auc_macro": "ROC AUC, macro", "majority": "largest class"}
_GEOMETRY = {
    "alignment": "alignment (0 best)",
    "uniformity": "uniformity (lower is more even)",
    "modality_gap": "modality gap",
    "positive_cosine": "cosine of pairs",
    "negative_cosine": "cosine of others",
}
_HUBS = {"i2i": "images of images", "t2i": "images of texts", "i2t": "texts of images"}


class MetricRow(NamedTuple):
    """One row of the table.

    Attributes:
        key: the metric; without it there is no row.
        name: for people.
        chance: the metric of its chance line, or None.
        plain: a number as it is, and not in percent.
    """

    key: str
    name: str
    chance: str | None = None
    plain: bool = False


def embedding_rows(metrics: _Metrics) -> Iterator[MetricRow]:
    """The rows of what is measured on embeddings alone; those of metrics that are not there too.

    Args:
        metrics: from any evaluators together.
    """
    yield from _probe_rows(metrics)
    yield from _neighbour_rows(metrics)
    yield from _cluster_rows(metrics)
    yield from _geometry_rows()
    yield from _domain_rows(metrics)


def _probe_rows(metrics: _Metrics) -> Iterator[MetricRow]:
    for key, name in _PROBE.items():
        yield MetricRow(f"probe/{key}", f"linear probe {name}", "probe/chance" if key in _CHANCE else None)
    for key in metrics:
        if found := _SHOTS.fullmatch(key):
            yield MetricRow(key, f"linear probe, {found[1]} a class{_spread(metrics, key)}", "probe/chance")
    yield MetricRow("probe/c", "linear probe C, chosen on validation", plain=True)


def _neighbour_rows(metrics: _Metrics) -> Iterator[MetricRow]:
    for key, name in _CLASSIFIER.items():
        yield MetricRow(f"knn/{key}", f"kNN {name}", "knn/chance" if key in _CHANCE else None)
    for key in metrics:
        if found := _NEIGHBOURS.fullmatch(key):
            yield MetricRow(key, f"kNN top-1, k = {found[1]}", "knn/chance")
    yield MetricRow("knn/majority", "kNN largest class")


def _cluster_rows(metrics: _Metrics) -> Iterator[MetricRow]:
    for prefix, method in (("", "k-means"), ("hdbscan_", "HDBSCAN")):
        for key, name, plain in (("nmi", "NMI", True), ("ari", "ARI", True), ("accuracy", "accuracy", False)):
            spread = _spread(metrics, f"clusters/{prefix}{key}", plain=plain)
            chance = None if prefix or key == "ari" else f"clusters/chance_{key}"
            yield MetricRow(f"clusters/{prefix}{key}", f"{method} {name}{spread}", chance, plain)
    yield MetricRow("clusters/hdbscan_noise", "HDBSCAN left unclustered")
    yield MetricRow("clusters/silhouette", "k-means silhouette", plain=True)


def _geometry_rows() -> Iterator[MetricRow]:
    for key, name in _GEOMETRY.items():
        yield MetricRow(f"geometry/{key}", name, plain=True)
    for modality in ("image", "text"):
        yield MetricRow(f"geometry/uniformity_{modality}", f"uniformity of {modality}s", plain=True)
        yield MetricRow(f"geometry/effective_rank_{modality}", f"effective rank of {modality}s", plain=True)
        yield MetricRow(f"geometry/dead_dimensions_{modality}", f"dead dimensions of {modality}s")
        yield MetricRow(f"geometry/repeated_{modality}", f"repeated {modality} embeddings")
    for way, name in _HUBS.items():
        yield MetricRow(f"geometry/hubness_{way}", f"hubness, {name}", plain=True)
        yield MetricRow(f"geometry/hub_share_{way}", f"largest hub, {name}")
        yield MetricRow(f"geometry/never_found_{way}", f"never found, {name}")


def _domain_rows(metrics: _Metrics) -> Iterator[MetricRow]:
    for key in metrics:
        if found := _BETWEEN.fullmatch(key):
            what = "probe" if found[1] == "probe" else "image → image R@1"
            yield MetricRow(key, f"{what}, {found[2]} → {found[3]}")
        elif (found := _WITHIN.fullmatch(key)) and not key.startswith(("domains/mean_", "domains/min_")):
            yield MetricRow(key, f"image → text R@1 within {found[1]}")
    yield MetricRow("domains/in_domain_top1", "probe within the domain")
    yield MetricRow("domains/out_of_domain_top1", "probe out of the domain")
    yield MetricRow("domains/gap", "probe, loss out of the domain")
    yield MetricRow("domains/mean_i2i_recall@1", "image → image R@1 across", "domains/chance_i2i_recall@1")
    yield MetricRow("domains/mean_i2t_recall@1", "image → text R@1 within, mean")


def _spread(metrics: _Metrics, key: str, *, plain: bool = False) -> str:
    """The standard deviation of a metric over draws or seeds, where there is one."""
    value = metrics.get(f"{key}_std")
    if not isinstance(value, int | float):
        return ""
    return f" (± {value:.3f})" if plain else f" (± {100 * value:.1f} %)"
