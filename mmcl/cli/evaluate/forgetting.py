"""`mmcl eval forgetting`."""

from __future__ import annotations

from pathlib import Path
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
    check_page_file,
    open_data,
    open_model,
)
from mmcl.logs import is_main_process


def forgetting(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="The model that training started from.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The trained one.")],
    data: Data,
    others: Annotated[
        list[str], typer.Option("--on", metavar="DATA", help="Data it was not trained for; may be repeated.")
    ],
    page_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write the table and the verdict as a page.")
    ] = None,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """What training on DATA gained there, and lost elsewhere: retrieval R@1, and zero-shot top-1 where labels exist.

    --column and --images are about DATA; the data of --on are read as they are.

    Example: mmcl eval forgetting owner/clip runs/emoji path/to/emoji:test --on path/to/photos:test
    """
    check_json_file(json_file)
    check_page_file(page_file)
    datasets = [open_data(data, columns=columns, images=images)]
    datasets += [open_data(other, columns=None, images=None) for other in others]
    old, new = (open_model(model, device=device, precision=precision, cache=cache) for model in (before, after))
    from mmcl.evaluation import measure_forgetting
    from mmcl.evaluation.forgetting import short_names
    from mmcl.evaluation.report import render_forgetting

    named = dict(zip(short_names([dataset.name for dataset in datasets]), datasets))
    console = make_console()
    with watch_embedding(old, console), watch_embedding(new, console):
        found = measure_forgetting(old, new, named, batch_size=batch_size)
    console.print(render_forgetting(found, title=f"before: {before}, after: {after}"))
    for line in found.verdict():
        console.print(line, markup=False)
    write_json(json_file, found.to_metrics())
    if page_file is not None and is_main_process():
        from mmcl.hub.merging.training_effect import TrainingEffect

        page = TrainingEffect(found).page(title=f"before: {before}, after: {after}")
        console.print(f"report: {page.write(page_file)}", markup=False, soft_wrap=True)
