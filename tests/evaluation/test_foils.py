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
    with pytest.raises(DataError, match="neither foils nor negatives.*--generate"):
        FoilEvaluator(make_dataset(TEXTS))
    with pytest.raises(DataError, match="no row has foils"):
        FoilEvaluator(make_dataset(TEXTS, foils=[None, [], None, []]))
    with pytest.raises(DataError, match="row 1: a foil needs"):
        FoilEvaluator(make_dataset(TEXTS, foils=[None, [foil(None, "a", "b")], None, None]))
    with pytest.raises(DataError, match="cannot be called 'negatives'"):
        FoilEvaluator(make_dataset(TEXTS, foils=[[foil("negatives", "a", "b")], None, None, None]))
    with pytest.raises(DataError, match="cannot be called 'mean'"):
        FoilEvaluator(make_dataset(TEXTS, foils=[[foil("mean", "a", "b")], None, None, None]))


def naive_negatives(images: list, captions: list[list], negatives: list[list]) -> tuple[float, float, float]:
    """Right against all, the mean share beaten, and chance, by loops over captions."""
    right, shares, chance = [], [], []
    for image, own, others in zip(images, captions, negatives):
        for caption in own if others else []:
            score = sum(a * b for a, b in zip(image, caption))
            beaten = [score > sum(a * b for a, b in zip(image, other)) for other in others]
            right.append(all(beaten))
            shares.append(sum(beaten) / len(beaten))
            chance.append(1 / (1 + len(beaten)))
    return tuple(sum(one) / len(one) for one in (right, shares, chance))


def test_negatives_equal_a_naive_loop(make_dataset: Callable, table_embedder: type) -> None:
    g = torch.Generator().manual_seed(1)
    rows = 40
    texts = [[f"{row} is so", f"{row} is this"][: 1 + row % 2] for row in range(rows)]
    negatives = [[f"{row} is not {n}" for n in range(row % 4)] or None for row in range(rows)]
    images = F.normalize(torch.randn(rows, 5, generator=g), dim=1)
    words = [text for cell in texts + [cell or [] for cell in negatives] for text in cell]
    table = dict(zip(words, F.normalize(torch.randn(len(words), 5, generator=g), dim=1)))
    evaluator = FoilEvaluator(make_dataset(texts, negatives=negatives))
    metrics = evaluator(table_embedder(images, table))
    expected = naive_negatives(
        images.tolist(),
        [[table[text].tolist() for text in cell] for cell in texts],
        [[table[text].tolist() for text in cell or []] for cell in negatives],
    )
    found = [metrics[f"foils/{name}"] for name in ("negatives", "negatives_pairwise", "negatives_chance")]
    assert found == pytest.approx(expected)
    assert metrics["foils/mean"] == metrics["foils/negatives_pairwise"] != metrics["foils/negatives"]
    assert metrics["foils/negatives_count"] == sum(len(own) for own, cell in zip(texts, negatives) if cell)
    assert metrics["foils/num_images"] == 30
    low, high = metrics["foils/negatives_ci95"]
    assert low <= metrics["foils/negatives"] <= high
    one = F.normalize(torch.ones(5), dim=0)
    collapsed = evaluator(table_embedder(images, dict.fromkeys(words, one)))
    assert (collapsed["foils/negatives"], collapsed["foils/negatives_pairwise"]) == (0, 0)


def test_negatives_that_are_true_are_dropped(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(3)
    images = axes[torch.tensor([0, 0, 1])]
    embedder = table_embedder(images, {"red": axes[0], "scarlet": axes[0], "blue": axes[1], "green": axes[2]})
    texts = [["red"], ["scarlet"], ["blue"]]
    negatives = [["scarlet", "blue", "blue"], ["red"], ["green", ""]]
    metrics = FoilEvaluator(make_dataset(texts, group=["warm", "warm", "cold"], negatives=negatives))(embedder)
    assert metrics["foils/num_dropped"] == 2
    assert (metrics["foils/negatives"], metrics["foils/negatives_count"]) == (1, 2)
    assert metrics["foils/negatives_chance"] == 0.5
    apart = FoilEvaluator(make_dataset(texts, negatives=negatives))(embedder)
    assert apart["foils/num_dropped"] == 0
    assert apart["foils/negatives"] == pytest.approx(1 / 3)  # "scarlet" and "red" tie, which is wrong for both


def test_which_columns_are_judged(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(3)
    embedder = table_embedder(axes[torch.tensor([0, 1, 2, 0])], {"red": axes[0], "blue": axes[1], "ball": axes[2]})
    dataset = make_dataset(TEXTS, foils=FOILS, negatives=[["blue"], None, ["red", "blue"], None])
    plain = FoilEvaluator(dataset)(embedder)
    assert plain == FoilEvaluator(make_dataset(TEXTS, foils=FOILS))(embedder)
    both = FoilEvaluator(dataset, negatives=True)(embedder)
    assert {name: both[name] for name in plain if name != "foils/num_images"} == {
        name: plain[name] for name in plain if name != "foils/num_images"
    }
    assert (both["foils/num_images"], both["foils/negatives"], both["foils/negatives_count"]) == (4, 1, 2)
    with pytest.raises(DataError, match="no column 'negatives'"):
        FoilEvaluator(make_dataset(TEXTS, foils=FOILS), negatives=True)


def test_foils_made_by_rule(make_dataset: Callable, table_embedder: type) -> None:
    texts = [["a red cup left of a blue plate"], ["two dogs"], ["a cup"], ["a big dog", "a little dog"]]
    dataset = make_dataset(texts)
    evaluator = FoilEvaluator(dataset, generate=True)
    made = [foil for cell in evaluator._foils for foil in cell]
    assert {foil["kind"] for foil in made} == {"attribute", "count", "relation", "swap"}
    words = {text for foil in made for text in (foil["caption"], foil["foil"])}
    axes = torch.eye(2)
    image = axes[0].expand(4, 2)
    embedder = table_embedder(image, {word: axes[0] if [word] in texts else axes[1] for word in words})
    metrics = evaluator(embedder)
    assert [metrics[f"foils/{kind}"] for kind in ("attribute", "count", "relation", "swap", "mean")] == [1] * 5
    assert metrics["foils/num_dropped"] == 2  # "a big dog" and "a little dog" are said of one image
    assert metrics["foils/num_images"] == 2
    embedder.texts = {word: vector.flip(0) for word, vector in embedder.texts.items()}
    assert evaluator(embedder)["foils/mean"] == 0
    with pytest.raises(DataError, match="no caption holds a word that the rules exchange"):
        FoilEvaluator(make_dataset([["cup"], ["Hund"]]), generate=True)


def test_shapes_hold_the_three_kinds() -> None:
    from mmcl import data
    from mmcl.data.shapes.captions import FOIL_KINDS

    cells = data.load("shapes?test=60:test").column("foils")
    kinds = {foil["kind"] for cell in cells for foil in cell}
    assert kinds == set(FOIL_KINDS) >= {"binding", "relation", "count"}
    assert all(foil["caption"] != foil["foil"] for cell in cells for foil in cell)


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
