"""`mmcl eval zeroshot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl.cli.console import check_json_file, make_console, watch_embedding
from mmcl.cli.evaluate.options import (
    BatchSize,
    Cache,
    Columns,
    Data,
    Device,
    Images,
    Json,
    Model,
    Precision,
    check_page_file,
    open_both,
    open_data,
    report,
)
from mmcl.errors import ConfigError, DataError
from mmcl.logs import is_main_process

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder
    from mmcl.evaluation.report import Page


def zeroshot(
    model: Model,
    data: Data,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="One class a line, or label<TAB>name, or JSON {label: name}.")
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            "--templates", metavar="NAME|FILE", help="plain, photo, photo80 or art, or a file: one a line, with {}."
        ),
    ] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="JSON {label: [whole prompts]}.")] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="COLUMN", help="Judge a column of lists, such as tags: mAP."),
    ] = None,
    min_count: Annotated[
        int, typer.Option("--min-count", min=1, help="With --labels: labels of fewer images are left out.")
    ] = 5,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Also judge random weights and a linear model of pixels.")
    ] = True,
    train: Annotated[
        str | None,
        typer.Option("--train", metavar="DATA", help="What the linear model is fitted on; default DATA:train."),
    ] = None,
    page_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write curves, classes and mistakes as a page.")
    ] = None,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """Classify images by prompts alone: top-1/5, mean per class, F1, ROC AUC, calibration, confusion.

    Without files, classes are the data's labels and a few general templates are filled with them. Every figure stands
    beside chance, the largest class, the same model with random weights, and a linear model of raw pixels.

    Example: mmcl eval zeroshot runs/emoji path/to/emoji:test --templates photo80 --report zeroshot.html
    """
    check_json_file(json_file)
    check_page_file(page_file)
    if train is not None and not baselines:
        raise ConfigError("--train is for the linear model that --no-baselines leaves out; give one of the two")
    from mmcl.evaluation import load_classes, load_prompts, load_templates

    options = {
        "classes": load_classes(classes) if classes else None,
        "templates": load_templates(templates) if templates else None,
        "prompts": load_prompts(prompts) if prompts else None,
        "baselines": baselines,
        "batch_size": batch_size,
    }
    embedder, dataset = open_both(
        model, data, device=device, columns=columns, images=images, precision=precision, cache=cache
    )
    column = labels or "label"
    if train is not None:
        options["train"] = open_data(train, columns=columns, images=images)
        options["train"].column(column)
    elif baselines:
        options["train"] = _train_split(data, column, columns=columns, images=images)
    title = f"{model} on {dataset.name}"
    with watch_embedding(embedder, make_console()):
        if labels:
            options |= {"labels_column": labels, "min_count": min_count}
            found, page = _several_labels(embedder, dataset, options, title=title, paged=page_file is not None)
        else:
            found, page = _one_label(embedder, dataset, options, title=title, paged=page_file is not None)
    tables = found.pop("tables")
    report(found, title=title, json_file=json_file)
    for table in tables:
        make_console().print(table)
    if page is not None and page_file is not None and is_main_process():
        make_console().print(f"report: {page.write(page_file)}", markup=False, soft_wrap=True)


def _one_label(
    embedder: Embedder, dataset: ImageTextDataset, options: dict[str, Any], *, title: str, paged: bool
) -> tuple[dict[str, Any], Page | None]:
    """Metrics, what ``--json`` adds to them and the tables under them; and the page where one is asked for."""
    from dataclasses import asdict

    from mmcl.evaluation import ZeroShotEvaluator
    from mmcl.evaluation.report import render_classes, render_confusion, zero_shot_page
    from mmcl.evaluation.zero_shot.baselines import Baselines
    from mmcl.evaluation.zero_shot.evaluator import judge_prediction

    evaluator = ZeroShotEvaluator(dataset, **options)
    prediction = evaluator.predict(embedder)
    compared = evaluator.compare(embedder, prediction) if options["baselines"] else Baselines()
    metrics = judge_prediction(prediction) | compared.metrics("zeroshot")
    lines = prediction.table()
    tables = [render_confusion(prediction), render_classes(lines), *_compared(metrics, "zeroshot", compared.notes)]
    found: dict[str, Any] = {
        **metrics,
        "zeroshot/templates": dict(prediction.template_top1),
        "zeroshot/classes": {one.label: {k: v for k, v in asdict(one).items() if k != "label"} for one in lines},
        "zeroshot/notes": list(compared.notes),
        "tables": tables,
    }
    page = zero_shot_page(prediction, metrics, dataset, title=title, notes=compared.notes) if paged else None
    return found, page


def _several_labels(
    embedder: Embedder, dataset: ImageTextDataset, options: dict[str, Any], *, title: str, paged: bool
) -> tuple[dict[str, Any], Page | None]:
    """As `_one_label`, where an image has several labels."""
    from mmcl.evaluation import MultiLabelEvaluator
    from mmcl.evaluation.report import multi_label_page
    from mmcl.evaluation.zero_shot.baselines import Baselines
    from mmcl.evaluation.zero_shot.multi_label import judge_multi_label

    evaluator = MultiLabelEvaluator(dataset, **options)
    prediction = evaluator.predict(embedder)
    compared = evaluator.compare(embedder, prediction) if options["baselines"] else Baselines()
    metrics = judge_multi_label(prediction) | compared.metrics("multilabel")
    tables = list(_compared(metrics, "multilabel", compared.notes))
    page = multi_label_page(prediction, metrics, title=title, notes=compared.notes) if paged else None
    return {**metrics, "multilabel/notes": list(compared.notes), "tables": tables}, page


def _compared(metrics: dict[str, Any], task: str, notes: tuple[str, ...]) -> list[Any]:
    """The table of baselines with the notes on it, where there are any."""
    from rich.text import Text

    from mmcl.evaluation.report import render_baselines

    table = render_baselines(metrics, task=task)
    return [*([table] if table.row_count else []), *(Text(note) for note in notes)]


def _train_split(data: str, column: str, *, columns: list[str] | None, images: Path | None) -> ImageTextDataset | None:
    """The split ``train`` of DATA, where there is one with the column, and another one is judged."""
    from mmcl import data as sources

    reference = sources.parse_reference(data)
    if reference.split in (None, "train") or reference.base.startswith("vectors:"):
        return None
    try:
        found = open_data(f"{reference.base}:train", columns=columns, images=images)
    except DataError:
        return None
    return found if found.has(column) else None
