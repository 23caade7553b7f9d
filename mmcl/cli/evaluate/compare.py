"""`mmcl eval compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from mmcl.cli.console import check_json_file, make_console, watch_embedding, write_json
from mmcl.cli.evaluate.options import (
    BatchSize,
    Cache,
    Columns,
    Data,
    Device,
    Images,
    Json,
    Precision,
    open_data,
    open_model,
)


def compare(
    model_a: Annotated[str, typer.Argument(metavar="MODEL_A", help="Any model, as for the other commands.")],
    model_b: Annotated[str, typer.Argument(metavar="MODEL_B", help="What it is compared with.")],
    data: Data,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", metavar="TASK", help="retrieval or zeroshot; may be repeated.")
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="Such as i2t_recall@1; may be repeated. The fewer, the sharper."),
    ] = None,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """Two models on the same items: differences with 95 % intervals and p-values.

    Items of one group are resampled and permuted together. Images that only one model can read are left out of both.
    p-values are corrected for the number of metrics, so name those that you mean to judge by.

    Example: mmcl eval compare runs/a runs/b path/to/emoji:test --metric i2t_recall@1 --metric t2i_recall@1
    """
    check_json_file(json_file)
    dataset = open_data(data, columns=columns, images=images)
    a, b = (open_model(model, device=device, precision=precision, cache=cache) for model in (model_a, model_b))
    from mmcl.evaluation import compare_models
    from mmcl.evaluation.report import render_comparison

    console = make_console()
    with watch_embedding(a, console), watch_embedding(b, console):
        found = compare_models(
            a, b, dataset, tasks=tasks or ("retrieval",), metrics=metrics or None, batch_size=batch_size
        )
    console.print(render_comparison(found, title=f"A: {model_a}, B: {model_b}, on {dataset.name}"))
    write_json(json_file, found.to_metrics())
