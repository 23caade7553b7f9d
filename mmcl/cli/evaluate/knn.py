"""`mmcl eval knn`."""

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


def knn(
    model: Model,
    data: Data,
    train: Train = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours that vote; 1 and 5 are given beside it.")] = 20,
    temperature: Annotated[
        float, typer.Option("--temperature", help="The smaller, the more the nearest ones decide.")
    ] = 0.07,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """Classify images by the vote of their nearest training images.

    Where DATA is what is fitted on again, no image is its own neighbour.

    Example: mmcl eval knn runs/emoji path/to/emoji:test --k 10
    """
    check_json_file(json_file)
    fitted = open_fitted("knn", data, train=train, columns=columns, images=images)
    embedder, dataset = open_both(
        model, data, device=device, columns=columns, images=images, precision=precision, cache=cache
    )
    from mmcl.evaluation import KNNEvaluator

    evaluator = KNNEvaluator(dataset, **fitted, batch_size=batch_size, k=k, temperature=temperature)
    judge(evaluator, embedder, title=f"{model} on {dataset.name}", json_file=json_file)
