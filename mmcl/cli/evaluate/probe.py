"""`mmcl eval probe`."""

from __future__ import annotations

from typing import Annotated

import typer

from mmcl.cli.console import check_json_file
from mmcl.cli.evaluate.fitting import Train, Validation, open_fitted, read_numbers
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


def probe(
    model: Model,
    data: Data,
    train: Train = None,
    validation: Validation = None,
    shots: Annotated[
        str, typer.Option("--shots", metavar="K,K,...", help="Images a class of the few-shot probes; '' for none.")
    ] = "1,2,4,8,16",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Draws of each of those.")] = 5,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """Fit a linear classifier on frozen image embeddings: all training images, and few of each class.

    The regularisation is chosen on validation data, never on DATA.

    Example: mmcl eval probe runs/emoji path/to/emoji:test --shots 1,4,16
    """
    check_json_file(json_file)
    numbers = read_numbers(shots, option="--shots")
    fitted = open_fitted("probe", data, train=train, validation=validation, columns=columns, images=images)
    embedder, dataset = open_both(
        model, data, device=device, columns=columns, images=images, precision=precision, cache=cache
    )
    from mmcl.evaluation import LinearProbeEvaluator

    evaluator = LinearProbeEvaluator(dataset, **fitted, batch_size=batch_size, shots=numbers, seeds=seeds)
    judge(evaluator, embedder, title=f"{model} on {dataset.name}", json_file=json_file)
