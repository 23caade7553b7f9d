"""`mmcl eval domains`."""

from __future__ import annotations

from typing import Annotated

import typer

from mmcl.cli.console import check_json_file
from mmcl.cli.evaluate.fitting import Train, open_fitted
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
    judge,
    open_both,
)


def domains(
    model: Model,
    data: Data,
    train: Train = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="DOMAIN", help="Fit on this domain alone; default each in turn.")
    ] = None,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """Fit a linear classifier on one domain and judge it on the others; find images again in another domain.

    DATA needs a column domain; --column domain=YOURS names yours.

    Example: mmcl eval domains runs/emoji path/to/emoji:test
    """
    check_json_file(json_file)
    fitted = open_fitted("domains", data, train=train, columns=columns, images=images)
    embedder, dataset = open_both(
        model, data, device=device, columns=columns, images=images, precision=precision, cache=cache
    )
    from mmcl.evaluation import DomainShiftEvaluator

    evaluator = DomainShiftEvaluator(dataset, **fitted, batch_size=batch_size, source=source)
    judge(evaluator, embedder, title=f"{model} on {dataset.name}", json_file=json_file)
