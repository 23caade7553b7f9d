"""`mmcl eval foils`."""

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


def foils(
    model: Model,
    data: Data,
    generate: Annotated[
        bool, typer.Option("--generate", help="Make foils of English captions by exchanging words, by rule.")
    ] = False,
    negatives: Annotated[
        bool, typer.Option("--negatives", help="Also judge the column negatives where the data have foils.")
    ] = False,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """Compositionality: the right caption against false ones, by kind of what is false in them.

    Judged is the column foils (kind, caption, foil), or else negatives (a list of hard captions a row).

    Example: mmcl eval foils runs/quickstart shapes:test --json foils.json
    """
    check_json_file(json_file)
    embedder, dataset = open_both(
        model, data, device=device, columns=columns, images=images, precision=precision, cache=cache
    )
    from mmcl.evaluation import FoilEvaluator

    evaluator = FoilEvaluator(dataset, batch_size=batch_size, generate=generate, negatives=negatives or None)
    judge(evaluator, embedder, title=f"{model} on {dataset.name}", json_file=json_file)
