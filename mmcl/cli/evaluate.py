"""`mmcl eval retrieval` and `mmcl eval zeroshot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl.cli.console import check_json_file, make_console, watch_images, write_json

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

app = typer.Typer(help="Judge any model on any data.", no_args_is_help=True)

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Run folder, Hub id, open_clip:ARCH/PRETRAINED, vectors:FILE ...")
]
Data = Annotated[
    str, typer.Argument(metavar="DATA", help="Folder, table, shards, Hub id or shapes; DATA:SPLIT picks a split.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Items a forward pass.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the metrics as JSON.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; default the GPU where there is one.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="NAME=YOURS", help="Where your data calls a column otherwise, such as text=title."
    ),
]
Images = Annotated[Path | None, typer.Option("--images", help="Folder that a table's image paths are relative to.")]


def open_both(
    model: str, data: str, *, device: str | None, columns: list[str] | None, images: Path | None
) -> tuple[Embedder, ImageTextDataset]:
    """The data first: they are quick to check, a model may be slow to load."""
    from mmcl import data as sources
    from mmcl.embedder import load
    from mmcl.errors import ConfigError

    renamed = {}
    for pair in columns or []:
        name, sign, yours = pair.partition("=")
        if not sign:
            raise ConfigError(f"--column {pair!r}: want NAME=YOURS, such as text=title")
        renamed[name] = yours
    dataset = sources.load(data, columns=renamed, images=images)
    return load(model, device=device), dataset


def _report(metrics: dict[str, Any], *, title: str, json_file: Path | None) -> None:
    from mmcl.evaluation import render_table

    make_console().print(render_table(metrics, title=title))
    write_json(json_file, metrics)


@app.command(no_args_is_help=True)
def retrieval(
    model: Model,
    data: Data,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
) -> None:
    """Recall@1/5/10 both ways, MRR, nDCG, mAP, median rank, 95 % intervals.

    Example: mmcl eval retrieval runs/emoji path/to/emoji:test --json retrieval.json
    """
    check_json_file(json_file)
    embedder, dataset = open_both(model, data, device=device, columns=columns, images=images)
    from mmcl.evaluation import FoilEvaluator, RetrievalEvaluator

    with watch_images(dataset, make_console()):
        metrics = RetrievalEvaluator(dataset, batch_size=batch_size)(embedder)
        if dataset.has("foils"):
            metrics |= FoilEvaluator(dataset, batch_size=batch_size)(embedder)
    _report(metrics, title=f"{model} on {dataset.name}", json_file=json_file)


@app.command(no_args_is_help=True)
def zeroshot(
    model: Model,
    data: Data,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="One class a line, or label<TAB>name, or JSON {label: name}.")
    ] = None,
    templates: Annotated[Path | None, typer.Option("--templates", help="One prompt template a line, with {}.")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="JSON {label: [whole prompts]}.")] = None,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
) -> None:
    """Classify images by prompts alone: top-1/5, mean per class, F1, ROC AUC, calibration, confusion.

    Without files, classes are the data's labels and a few general templates are filled with them.

    Example: mmcl eval zeroshot runs/emoji path/to/emoji:test --templates templates.txt
    """
    check_json_file(json_file)
    embedder, dataset = open_both(model, data, device=device, columns=columns, images=images)
    from mmcl.evaluation import ZeroShotEvaluator, load_classes, load_prompts, load_templates
    from mmcl.evaluation.report import render_confusion
    from mmcl.evaluation.zero_shot import judge_prediction

    evaluator = ZeroShotEvaluator(
        dataset,
        classes=load_classes(classes) if classes else None,
        templates=load_templates(templates) if templates else None,
        prompts=load_prompts(prompts) if prompts else None,
        batch_size=batch_size,
    )
    with watch_images(dataset, make_console()):
        prediction = evaluator.predict(embedder)
    _report(judge_prediction(prediction), title=f"{model} on {dataset.name}", json_file=json_file)
    make_console().print(render_confusion(prediction))
