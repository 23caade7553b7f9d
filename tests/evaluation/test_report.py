"""Tables for the terminal: what is in them, and what is left out."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console
from rich.table import Table

from mmcl.evaluation.report import render_confusion, render_table
from mmcl.evaluation.zero_shot.evaluator import ZeroShotPrediction


def written(table: Table) -> str:
    console = Console(file=io.StringIO(), width=160, emoji=False)
    console.print(table)
    return console.file.getvalue()


def prediction(classes: list[str], labels: list[int], predicted: list[int]) -> ZeroShotPrediction:
    rows = torch.arange(len(labels))
    scores = torch.zeros(len(labels), len(classes))
    return ZeroShotPrediction(
        tuple(classes), scores, torch.tensor(labels), torch.tensor(predicted), rows, rows, 100.0, 0, 0
    )


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().split("│")[1:-1]]


def test_few_classes_show_the_whole_matrix() -> None:
    text = written(render_confusion(prediction(["cat", "dog", "owl"], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1])))
    lines = [cells(line) for line in text.splitlines() if "│" in line]
    assert lines == [
        ["1 cat", "2", "1", "·", "66.7 %"],
        ["2 dog", "·", "2", "·", "100.0 %"],
        ["3 owl", "·", "·", "·", ""],  # no image of it: no share
    ]


def test_many_classes_show_the_largest_confusions_only() -> None:
    classes = [f"class {index}" for index in range(13)]
    labels = [0] * 10 + [1] * 4 + [2] * 3
    predicted = [0] * 5 + [3] * 5 + [2] * 2 + [1] * 2 + [2] * 3
    table = render_confusion(prediction(classes, labels, predicted))
    assert table.row_count == 2
    lines = [cells(line) for line in written(table).splitlines() if "│" in line]
    assert lines == [["class 0", "class 3", "5", "50.0 %"], ["class 1", "class 2", "2", "50.0 %"]]
    assert "7 mistakes" in written(table)


def test_many_classes_and_many_mistakes_list_ten() -> None:
    classes = [str(index) for index in range(20)]
    labels = list(range(20))
    assert render_confusion(prediction(classes, labels, [*range(1, 20), 0])).row_count == 10
    assert render_confusion(prediction(classes, labels, labels)).row_count == 0  # no mistakes, no rows


@pytest.mark.parametrize("number", [3, 13])
def test_names_of_classes_are_shown_as_they_are(number: int) -> None:
    classes = [f"[bold]a{index}[/x] :cat:" for index in range(number)]
    text = written(render_confusion(prediction(classes, [0, 1], [1, 1])))
    assert "[bold]a0[/x] :cat:" in text


def test_intervals_and_chance_stand_beside_the_metric() -> None:
    metrics = {
        "retrieval/i2t_recall@1": 0.5,
        "retrieval/i2t_recall@1_ci95": [0.4, 0.6],
        "retrieval/i2t_chance_recall@1": 0.002,
        "unknown/metric": 1.0,
    }
    table = render_table(metrics)
    assert table.row_count == 1
    line = next(line for line in written(table).splitlines() if "R@1" in line)
    assert cells(line) == ["image → text R@1", "50.0 %", "40.0 % – 60.0 %", "0.2 %"]
    assert render_table({}).row_count == 0
