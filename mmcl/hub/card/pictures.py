"""Curves of a training as SVG files: the loss with its chance line, and what evaluations measured on the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcl.errors import MissingDependencyError
from mmcl.hub.card.markdown import join, percent
from mmcl.hub.card.source import CardSource
from mmcl.pages.figures import draw_lines

# Judged during training -> the name of its curve; those that are there are drawn.
_JUDGED = {
    "retrieval/mean_recall@1": "R@1, mean of both ways",
    "retrieval/mean_recall@5": "R@5, mean of both ways",
    "zeroshot/top1": "zero-shot top-1",
    "foils/mean": "caption told from wrong ones",
}
_HEAD = '<?xml version="1.0" encoding="utf-8"?>\n'


def curves(source: CardSource, assets: Path, where: str) -> str:
    """Draw the curves of a run; Markdown that shows them.

    Args:
        source: of a run; without metrics there is nothing to draw.
        assets: folder to write ``loss.svg`` and ``validation.svg`` in.
        where: how the card calls that folder.

    Returns:
        Markdown; a sentence on how to get the pictures where matplotlib is missing; empty without metrics.
    """
    drawn = []
    try:
        for name, make in (("loss", _loss), ("validation", _validation)):
            svg, caption = make(source)
            if svg:
                (assets / f"{name}.svg").write_text(_HEAD + svg + "\n", encoding="utf-8")
                drawn += [f"![{caption}]({where}/{name}.svg)", caption]
    except MissingDependencyError:
        return "The curves were not drawn: `pip install 'mmcl[report]'` brings what draws them."
    return join(drawn)


def _loss(source: CardSource) -> tuple[str, str]:
    steps = source.steps
    if len(steps) < 2:
        return "", ""
    lines = {"loss": _points(steps, "loss")}
    chance = _points(steps, "chance_loss")
    if chance[0]:
        lines["chance: nothing told apart"] = chance
    first, last = steps[0]["loss"], steps[-1]["loss"]
    caption = f"Loss on training batches over {steps[-1]['step']:,} steps, from {first:.3f} to {last:.3f}"
    caption += f"; a model that tells nothing apart is at {chance[1][-1]:.3f}." if chance[0] else "."
    return draw_lines(lines, x_label="step", y_label="loss"), caption


def _validation(source: CardSource) -> tuple[str, str]:
    judged = source.judgements
    chosen = source.value("evaluate.metric")
    names = dict(_JUDGED)
    if isinstance(chosen, str) and chosen not in names:
        names[chosen] = chosen
    lines = {words: points for name, words in names.items() if (points := _points(judged, name))[0]}
    if len(judged) < 2 or not lines:
        return "", ""
    svg = draw_lines(lines, x_label="step", y_label="on the validation split")
    return svg, _best(source, judged, chosen)


def _best(source: CardSource, judged: list[Mapping[str, Any]], chosen: Any) -> str:
    """Which checkpoint was kept, and what it scored on the way."""
    told = [record for record in judged if isinstance(record.get(chosen), (int, float))]
    if not told:
        return "What evaluations measured during training."
    pick = min if source.value("evaluate.mode") == "min" else max
    best = pick(told, key=lambda record: record[chosen])
    value = percent(best[chosen]) if abs(best[chosen]) <= 1 else f"{best[chosen]:.3f}"
    return (
        f"Validation during training; the model of step {best['step']:,} is the one in this repository: its `{chosen}` "
        f"was the best, {value}."
    )


def _points(records: list[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    kept = [(record["step"], record[name]) for record in records if isinstance(record.get(name), (int, float))]
    return [step for step, _ in kept], [value for _, value in kept]
