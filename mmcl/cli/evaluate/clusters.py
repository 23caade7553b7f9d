"""`mmcl eval clusters`."""

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


def clusters(
    model: Model,
    data: Data,
    clusters: Annotated[
        int | None, typer.Option("--clusters", min=2, help="Clusters of k-means; default as many as labels.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="kmeans or hdbscan; may be repeated; default both.")
    ] = None,
    modality: Annotated[str, typer.Option("--modality", help="image, or text: the captions.")] = "image",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of k-means.")] = 5,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """Compare clusters of the embeddings with the labels: NMI, ARI, accuracy by the best matching.

    Example: mmcl eval clusters runs/emoji path/to/emoji:test --clusters 20
    """
    check_json_file(json_file)
    embedder, dataset = open_both(
        model, data, device=device, columns=columns, images=images, precision=precision, cache=cache
    )
    from mmcl.evaluation import ClusterEvaluator

    evaluator = ClusterEvaluator(
        dataset,
        batch_size=batch_size,
        clusters=clusters,
        methods=method or ("kmeans", "hdbscan"),
        modality=modality,
        seeds=seeds,
    )
    judge(evaluator, embedder, title=f"{model} on {dataset.name}", json_file=json_file)
