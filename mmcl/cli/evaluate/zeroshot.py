"""`mmcl eval zeroshot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcl.cli.console import check_json_file, make_console, watch_images
from mmcl.cli.evaluate.options import BatchSize, Columns, Data, Device, Images, Json, Model, open_both, report


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
    report(judge_prediction(prediction), title=f"{model} on {dataset.name}", json_file=json_file)
    make_console().print(render_confusion(prediction))
