"""`FoilEvaluator`, and the table that shows all metrics."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from mmcl.errors import DataError, ShapeError
from mmcl.evaluation import FoilEvaluator, render_table


def foil(kind: str | None, caption: str, other: str) -> dict[str, str | None]:
    return {"kind": kind, "caption": caption, "foil": other}


FOILS = [
    [foil("colour", "red", "blue"), foil("shape", "red", "ball")],
    [foil("colour", "blue", "red")],
    None,
    [foil("colour", "red", "red")],
]
TEXTS = [["red"], ["blue"], ["ball"], ["red"]]


def test_shares_by_kind(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(3)
    embedder = table_embedder(axes[torch.tensor([0, 1, 2, 0])], {"red": axes[0], "blue": axes[1], "ball": axes[0]})
    evaluator = FoilEvaluator(make_dataset(TEXTS, foils=FOILS))
    metrics = evaluator(embedder)
    # Colour: two right, and a caption that equals its foil, which ties. Shape: "red" and "ball" tie.
    assert metrics["foils/colour"] == pytest.approx(2 / 3)
    assert metrics["foils/colour_count"] == 3
    assert (metrics["foils/shape"], metrics["foils/shape_count"]) == (0.0, 1)
    assert metrics["foils/mean"] == pytest.approx(1 / 3)
    assert (metrics["foils/chance"], metrics["foils/num_images"]) == (0.5, 3)
    assert evaluator.primary_metric in metrics
    low, high = metrics["foils/colour_ci95"]
    assert low <= 2 / 3 <= high
    swapped = table_embedder(embedder.images, {"red": axes[1], "blue": axes[0], "ball": axes[0]})
    assert evaluator(swapped)["foils/colour"] == 0.0


def test_a_collapsed_model_chooses_nothing(make_dataset: Callable, table_embedder: type) -> None:
    g = torch.Generator().manual_seed(0)
    vector = F.normalize(torch.randn(100, generator=g), dim=0)
    rows = [[foil("colour", f"caption {i}", f"foil {i}")] for i in range(37)]
    words = {name: vector for cell in rows for name in (cell[0]["caption"], cell[0]["foil"])}
    images = F.normalize(torch.randn(37, 100, generator=g), dim=1)
    metrics = FoilEvaluator(make_dataset([["x"]] * 37, foils=rows))(table_embedder(images, words))
    assert metrics["foils/mean"] == 0.0
    with pytest.raises(ShapeError, match="image embeddings row 0"):
        FoilEvaluator(make_dataset([["x"]] * 37, foils=rows))(table_embedder(images * float("nan"), words))


def test_unreadable_images_are_counted(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(3)
    embedder = table_embedder(axes[torch.tensor([0, 1, 2, 0])], {"red": axes[0], "blue": axes[1], "ball": axes[2]})
    metrics = FoilEvaluator(make_dataset(TEXTS, foils=FOILS, unreadable=[0]))(embedder)
    assert (metrics["foils/num_skipped"], metrics["foils/colour_count"]) == (1, 2)
    assert "foils/shape" not in metrics


def test_missing_and_malformed_foils_raise(make_dataset: Callable) -> None:
    with pytest.raises(DataError, match="no column 'foils'"):
        FoilEvaluator(make_dataset(TEXTS))
    with pytest.raises(DataError, match="no row has foils"):
        FoilEvaluator(make_dataset(TEXTS, foils=[None, [], None, []]))
    with pytest.raises(DataError, match="row 1: a foil needs"):
        FoilEvaluator(make_dataset(TEXTS, foils=[None, [foil(None, "a", "b")], None, None]))
    with pytest.raises(DataError, match="cannot be called 'mean'"):
        FoilEvaluator(make_dataset(TEXTS, foils=[[foil("mean", "a", "b")], None, None, None]))


def test_table_shows_value_interval_and_chance() -> None:
    metrics: dict[str, float | list[float]] = {
        "retrieval/i2t_recall@1": 0.5,
        "retrieval/i2t_recall@1_ci95": [0.4, 0.6],
        "retrieval/i2t_chance_recall@1": 0.002,
        "retrieval/t2i_recall@10": 0.75,
        "retrieval/appearance_reader_i2t_recall@1": 0.123,
        "retrieval/t2i_median_rank": 3.0,
        "retrieval/num_images": 500.0,
        "zeroshot/top1": 0.25,
        "zeroshot/chance": 0.1,
        "zeroshot/ece": 0.0312,
        "foils/colour": 0.9,
        "foils/colour_count": 10.0,
        "foils/chance": 0.5,
        "somebody/else": 1.0,
    }
    metrics["retrieval/i2t_recall@10"] = 0.8
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render_table(metrics, title="made"))
    shown = console.export_text()
    lines = {line.split("│")[1].strip(): line for line in shown.splitlines() if line.count("│") == 5}
    first = [cell.strip() for cell in lines["image → text R@1"].split("│")[2:5]]
    assert first == ["50.0 %", "40.0 % – 60.0 %", "0.2 %"]
    assert "75.0 %" in lines["text → image R@10"]
    assert "12.3 %" in lines["image → text R@1, appearance only"]
    assert "0.031" in lines["zero-shot calibration error"]
    assert "50.0 %" in lines["against one word: colour"]
    assert "500 images" in shown
    assert "else" not in shown
    assert render_table({}).row_count == 0
