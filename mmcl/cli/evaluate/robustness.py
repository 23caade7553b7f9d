"""`mmcl eval robustness`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcl.cli.console import check_json_file, make_console, watch_work
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
    open_both,
    report,
)

_LIST = "Names with commas between them, all, or none."


def robustness(
    model: Model,
    data: Data,
    corruptions: Annotated[str, typer.Option("--corruptions", help=f"Of images, such as fog,snow. {_LIST}")] = "all",
    severities: Annotated[
        str, typer.Option("--severities", help="Of corruptions, 1 to 5, such as 1,3,5.")
    ] = "1,2,3,4,5",
    texts: Annotated[str, typer.Option("--texts", help=f"Changes of captions, such as typos. {_LIST}")] = "all",
    attacks: Annotated[str, typer.Option("--attacks", help=f"fgsm, pgd. {_LIST}")] = "all",
    epsilons: Annotated[str, typer.Option("--epsilons", help="Of attacks, in 1/255 of the pixel range.")] = "1,4",
    max_images: Annotated[
        int | None, typer.Option("--max-images", min=1, help="Judge a random sample of so many rows.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the sample and of all that is drawn.")] = 0,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="One class a line, or label<TAB>name, or JSON {label: name}.")
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            "--templates", metavar="NAME|FILE", help="plain, photo, photo80 or art, or a file: one a line, with {}."
        ),
    ] = None,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """Zero-shot and retrieval on corrupted images (ImageNet-C's 15 kinds), rewritten captions and attacked pixels.

    All 75 corruptions take as long as 75 evaluations; broken off, the same command goes on where it was.

    Example: mmcl eval robustness runs/emoji path/to/emoji:test --severities 1,3,5 --max-images 500
    """
    check_json_file(json_file)
    options = {
        "severities": _numbers("--severities", severities, int),
        "epsilons": _numbers("--epsilons", epsilons, float),
        "max_images": max_images,
        "seed": seed,
    }
    embedder, dataset = open_both(
        model, data, device=device, columns=columns, images=images, precision=precision, cache=cache
    )
    from mmcl.evaluation import RobustnessEvaluator, load_classes, load_templates
    from mmcl.evaluation.report import render_robustness

    for name, value in (("corruptions", corruptions), ("texts", texts), ("attacks", attacks)):
        if value != "all":
            options[name] = [] if value == "none" else _split(value)
    if classes:
        options["classes"] = load_classes(classes)
    if templates:
        options["templates"] = load_templates(templates)
    with watch_work(make_console()) as progress:
        evaluator = RobustnessEvaluator(dataset, batch_size=batch_size, **options)
        if progress is not None:
            evaluator.progress = lambda done, total: progress("conditions", done, total)
        embedder.progress = progress
        metrics = evaluator(embedder)
    report(metrics, title=f"{model} on {dataset.name}", json_file=json_file)
    make_console().print(render_robustness(metrics))


def _split(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


def _numbers(option: str, value: str, kind: type) -> list[float]:
    from mmcl.errors import ConfigError

    try:
        return [kind(number) for number in _split(value)]
    except ValueError:
        raise ConfigError(f"{option} {value!r}: want numbers with commas between them, such as 1,3,5") from None
