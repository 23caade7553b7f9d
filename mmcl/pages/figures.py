"""Curves and bars as SVG: reliability, ROC, histograms, drawn by matplotlib (extra ``report``)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from mmcl.errors import ShapeError, require

Points = tuple[Sequence[float], Sequence[float]]


def draw_lines(
    lines: Mapping[str, Points],
    *,
    x_label: str,
    y_label: str,
    diagonal: bool = False,
    bars: Points | None = None,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Lines over common axes.

    Args:
        lines: name -> (x, y), each drawn through its points; a line of one point is drawn as a dot.
        x_label, y_label: of the axes.
        diagonal: also draw y = x, thin and grey.
        bars: (x, height), drawn pale behind the lines: how many items stand behind each point, scaled to the axis.
        x_range, y_range: ends of the axes; default as the points have it.

    Returns:
        SVG source, without the XML head, fit for a page.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = require("matplotlib.figure", extra="report").Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    if diagonal:
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle="--")
    if bars is not None and len(bars[0]):
        top, width = max(bars[1]) or 1, 0.9 / max(1, len(bars[0]))
        axes.bar(bars[0], [height / top for height in bars[1]], width=width, color="#cccccc", alpha=0.5)
    for name, (x, y) in lines.items():
        axes.plot(x, y, label=name, linewidth=1.4, marker="o" if len(x) < 20 else None, markersize=3)
    axes.set(xlabel=x_label, ylabel=y_label)
    if x_range:
        axes.set_xlim(*x_range)
    if y_range:
        axes.set_ylim(*y_range)
    if len(lines) > 1:
        axes.legend(fontsize="small", frameon=False)
    return _svg(figure, axes)


def draw_bars(names: Sequence[str], bars: Mapping[str, Sequence[float]], *, x_label: str, y_label: str) -> str:
    """Bars side by side over the same names: a histogram of each of some series.

    Args:
        names: under the groups of bars, from left to right.
        bars: series -> the height over each name.
        x_label, y_label: of the axes.

    Returns:
        SVG source, without the XML head, fit for a page.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        ShapeError: a series has more or fewer heights than there are names.
    """
    for series, heights in bars.items():
        if len(heights) != len(names):
            raise ShapeError(f"bars[{series!r}] has {len(heights)} heights for {len(names)} names; give one for each")
    figure = require("matplotlib.figure", extra="report").Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(bars))
    for place, (series, heights) in enumerate(bars.items()):
        middle = (place - (len(bars) - 1) / 2) * width
        axes.bar([at + middle for at in range(len(names))], heights, width=width, label=series)
    crowded = sum(map(len, names)) > 40
    axes.set_xticks(range(len(names)), names, rotation=45 if crowded else 0, ha="right" if crowded else "center")
    axes.tick_params(axis="x", labelsize="small")
    axes.set(xlabel=x_label, ylabel=y_label)
    if len(bars) > 1:
        axes.legend(fontsize="small", frameon=False)
    return _svg(figure, axes)


def _svg(figure: Any, axes: Any) -> str:
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    # The names within are hashes, salted at random otherwise: the same drawing is the same file.
    with require("matplotlib", extra="report").rc_context({"svg.hashsalt": "mmcl"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().partition("<!DOCTYPE")[2].partition(">")[2].strip()
