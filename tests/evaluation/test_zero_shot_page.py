"""The page and the tables of a zero-shot classifier: what is in them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from mmcl.evaluation import MultiLabelEvaluator, ZeroShotEvaluator, render_table
from mmcl.evaluation.report import multi_label_page, render_baselines, render_classes, zero_shot_page
from mmcl.evaluation.report.class_tables import baseline_rows
from mmcl.evaluation.zero_shot.class_metrics import ClassLine
from mmcl.evaluation.zero_shot.evaluator import judge_prediction


class Words(HTMLParser):
    """The texts of a page and how often each tag and class stands in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.classes: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.classes += (dict(attrs).get("class") or "").split()

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


def make_case(make_dataset: Callable, table_embedder: type, *, num_classes: int, num_images: int):
    g = torch.Generator().manual_seed(0)
    names = [f"<b>c{index}</b>" for index in range(num_classes)]
    axes = F.normalize(torch.randn(num_classes, 16, generator=g), dim=1)
    which = [index % (num_classes - 1) for index in range(num_images)]  # the last class has no image
    images = F.normalize(axes[which] + 0.35 * torch.randn(num_images, 16, generator=g), dim=1)
    texts = {f"{prefix}{name}": axes[index] for prefix in ("", "a ") for index, name in enumerate(names)}
    tags = [[names[index]] for index in which]
    dataset = make_dataset(
        [[f"picture {row}"] for row in range(num_images)], label=[names[index] for index in which], tags=tags
    )
    return dataset, table_embedder(images, texts, logit_scale=10.0), names


@pytest.mark.parametrize("num_classes", [6, 40])
def test_a_page_holds_all_sections(make_dataset: Callable, table_embedder: type, num_classes: int) -> None:
    dataset, embedder, names = make_case(make_dataset, table_embedder, num_classes=num_classes, num_images=160)
    evaluator = ZeroShotEvaluator(dataset, classes=names, templates=["{}", "a {}"])
    prediction = evaluator.predict(embedder)
    metrics = judge_prediction(prediction) | {"zeroshot/chance_top1": 1 / num_classes}
    html = zero_shot_page(prediction, metrics, dataset, title="a <model>", notes=["a note."]).html()
    read = Words(html)
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == [
        "Figures",
        "Beside what it takes no trained model for",
        "Curves",
        "Confusion",
        "Classes",
        "Templates",
        "The surest mistakes",
    ]
    assert read.tags.count("svg") == 2
    assert "a note." in read.texts
    assert f"{100 * metrics['zeroshot/top1']:.1f} %" in read.texts
    assert "b" not in read.tags  # names of classes run nothing
    assert "1 without an image: candidates only." in read.texts
    assert {"a {}", "all together"} <= set(read.texts)
    num_wrong = int((prediction.predicted != prediction.labels).sum())
    assert num_wrong > 0
    assert read.classes.count("card") == min(24, num_wrong)
    assert read.classes.count("wrong") == read.classes.count("right") == read.classes.count("card")
    assert read.tags.count("img") == read.classes.count("card")
    whole_matrix = f"{num_classes} {names[-1]}" in read.texts
    assert whole_matrix == (num_classes <= 30)


def test_the_surest_mistake_comes_first(make_dataset: Callable, table_embedder: type) -> None:
    dataset, embedder, names = make_case(make_dataset, table_embedder, num_classes=6, num_images=160)
    prediction = ZeroShotEvaluator(dataset, classes=names, templates=["{}"]).predict(embedder)
    html = zero_shot_page(prediction, judge_prediction(prediction), dataset, title="t").html()
    shown = [int(row) for row in re.findall(r'<span class="score">row (\d+)</span>', html)]
    probabilities = (10.0 * prediction.scores).softmax(1).amax(1)
    position = {row: index for index, row in enumerate(prediction.rows.tolist())}
    sure = [float(probabilities[position[row]]) for row in shown]
    assert sure == sorted(sure, reverse=True)
    wrong = prediction.predicted != prediction.labels
    assert sure[0] == pytest.approx(float(probabilities[wrong].max()))
    assert "Templates" not in html  # there is one alone


def test_no_mistake_and_one_class(make_dataset: Callable, table_embedder: type) -> None:
    axes = torch.eye(2)
    dataset = make_dataset([["x"]] * 4, label=["a"] * 4)
    embedder = table_embedder(axes[[0, 0, 0, 0]], {"a": axes[0], "b": axes[1]})
    prediction = ZeroShotEvaluator(dataset, classes=["a", "b"], templates=["{}"]).predict(embedder)
    read = Words(zero_shot_page(prediction, judge_prediction(prediction), dataset, title="t").html())
    assert "There is none." in read.texts
    assert "A ROC curve needs two classes that occur; there is one." in read.texts
    assert read.tags.count("svg") == 1


def test_the_page_of_several_labels_lists_classes_that_occur(make_dataset: Callable, table_embedder: type) -> None:
    dataset, embedder, names = make_case(make_dataset, table_embedder, num_classes=6, num_images=60)
    evaluator = MultiLabelEvaluator(dataset, classes=names, templates=["{}"])
    prediction = evaluator.predict(embedder)
    read = Words(multi_label_page(prediction, evaluator(embedder), title="t", notes=["why."]).html())
    assert names[0] in read.texts
    assert names[-1] not in read.texts
    assert {"mAP", "average precision", "why."} <= set(read.texts)


def text_of(table: object) -> str:
    console = Console(file=io.StringIO(), width=160, emoji=False)
    console.print(table)
    return console.file.getvalue()


def test_baselines_stand_beside_each_figure() -> None:
    metrics = {
        "zeroshot/top1": 0.5,
        "zeroshot/ece": 0.1234,
        "zeroshot/chance_top1": 0.1,
        "zeroshot/raw_linear_top1": 0.3,
        "zeroshot/raw_linear_ece": 0.05,
    }
    header, rows = baseline_rows(metrics, "zeroshot")
    assert header == ["figure", "this model", "chance", "raw pixels, linear"]
    assert rows == [["top-1", "50.0 %", "10.0 %", "30.0 %"], ["calibration error", "0.123", "", "0.050"]]
    assert "raw pixels, linear" in text_of(render_baselines(metrics))
    assert render_baselines({"zeroshot/top1": 0.5}).row_count == 0


def test_classes_are_listed_from_the_worst() -> None:
    lines = [ClassLine(f"c[/x]{index}", 3, 2, 0.5, 0.5, index / 30, None) for index in range(25)]
    table = render_classes([ClassLine("none", 0, 1, None, None, None, None), *lines])
    assert table.row_count == 20
    text = text_of(table)
    assert text.index("c[/x]0") < text.index("c[/x]1 ")
    assert "c[/x]24" not in text
    assert "none" not in text
    assert render_classes(lines[:3]).row_count == 3


def test_templates_and_labels_have_rows_in_the_table_of_metrics() -> None:
    table = render_table({"zeroshot/template_top1_min": 0.25, "zeroshot/template_top1_max": 0.5})
    assert "25.0 % to 50.0 %" in text_of(table)
    table = render_table({"multilabel/map": 0.25, "multilabel/map_ci95": [0.2, 0.3], "multilabel/chance_map": 0.1})
    assert table.row_count == 1
    assert "20.0 % – 30.0 %" in text_of(table)
    assert "10.0 %" in text_of(table)
