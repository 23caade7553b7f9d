"""What shrinking costs, as a page: curves over the size of an embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcl.pages.figures import draw_lines
from mmcl.pages.page import Page

SHOWN = ("retrieval/i2t_recall@1", "retrieval/t2i_recall@1", "retrieval/mean_recall@10", "zeroshot/top1")


def shown_metrics(results: Mapping[Any, Mapping[str, Any]]) -> list[str]:
    """Those of ``SHOWN`` that every result has."""
    return [name for name in SHOWN if all(name in metrics for metrics in results.values())]


def short_name(metric: str) -> str:
    """``retrieval/i2t_recall@1`` as ``i2t R@1``: for the heads of columns."""
    task, _, name = metric.partition("/")
    return name.replace("_recall@", " R@").replace("mean R@", "R@") if task == "retrieval" else f"{task} {name}"


def dimension_page(curve: Mapping[int, Mapping[str, Any]], *, title: str) -> Page:
    """The accuracy of a model at several sizes of its embeddings.

    Args:
        curve: from ``dimension_curve``.
        title: of the page.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    page, names = Page(title), shown_metrics(curve)
    page.paragraph("The first values of each embedding, at unit length again; everything else is left out.")
    lines = {name: (list(curve), [metrics[name] for metrics in curve.values()]) for name in names}
    page.figure(draw_lines(lines, x_label="values an embedding", y_label="share"), caption="Accuracy over size")
    page.table(
        ["values", "bytes", *map(short_name, names)],
        [[dim, 4 * dim, *_shares(found, names)] for dim, found in curve.items()],
    )
    return page


def codes_page(results: Mapping[str, Mapping[str, float]], *, title: str) -> Page:
    """The recall of several codings of a gallery.

    Args:
        results: scheme -> ``coded_recalls``.
        title: of the page.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    page = Page(title)
    names = [name for name in next(iter(results.values())) if "recall@" in name]
    page.paragraph("The gallery is coded, queries are not. Rescored: the best candidates are scored again.")
    sizes = sorted(results, key=lambda scheme: results[scheme]["bytes_per_embedding"])
    lines = {
        name: ([results[s]["bytes_per_embedding"] for s in sizes], [results[s][name] for s in sizes]) for name in names
    }
    page.figure(draw_lines(lines, x_label="bytes an embedding", y_label="share"), caption="Recall over size")
    rows = [
        [scheme, f"{found['bytes_per_embedding']:.0f}", *_shares(found, names)] for scheme, found in results.items()
    ]
    page.table(["gallery", "bytes", *(name.removeprefix("retrieval/") for name in names)], rows)
    return page


def _shares(metrics: Mapping[str, Any], names: list[str]) -> list[str]:
    return [f"{100 * metrics[name]:.1f} %" for name in names]
