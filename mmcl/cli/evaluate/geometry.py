"""`mmcl eval geometry`."""

from __future__ import annotations

from typing import Annotated

import typer

from mmcl.cli.console import check_json_file
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


def geometry(
    model: Model,
    data: Data,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours of the hubness.")] = 10,
    max_rows: Annotated[
        int, typer.Option("--max-rows", min=2, help="Images and texts that pairs are looked at of; more are sampled.")
    ] = 10_000,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """Measure how embeddings lie in their space: alignment, uniformity, modality gap, effective rank, hubs.

    Example: mmcl eval geometry runs/emoji path/to/emoji:test
    """
    check_json_file(json_file)
    embedder, dataset = open_both(
        model, data, device=device, columns=columns, images=images, precision=precision, cache=cache
    )
    from mmcl.evaluation import GeometryEvaluator

    evaluator = GeometryEvaluator(dataset, batch_size=batch_size, k=k, max_rows=max_rows)
    judge(evaluator, embedder, title=f"{model} on {dataset.name}", json_file=json_file)
