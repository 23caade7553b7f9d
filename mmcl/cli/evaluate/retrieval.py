"""`mmcl eval retrieval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcl.cli.console import check_json_file, make_console, watch_embedding
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
    check_page_file,
    open_both,
    report,
)
from mmcl.logs import is_main_process


def retrieval(
    model: Model,
    data: Data,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Also the mean over so many folds; COCO's 1K figures take 5.")
    ] = None,
    same_modality: Annotated[
        bool,
        typer.Option("--same-modality/--no-same-modality", help="Also images among images, captions among captions."),
    ] = True,
    page_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write the worst queries, with pictures.")
    ] = None,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """Recall@1/5/10 both ways, MRR, nDCG, mAP, R-precision, median and mean rank, 95 % intervals.

    A hit is any item of the query's group. Images are also ranked among images and captions among captions, where
    groups hold several.

    Example: mmcl eval retrieval runs/emoji path/to/emoji:test --json retrieval.json --report failures.html
    """
    check_json_file(json_file)
    check_page_file(page_file)
    embedder, dataset = open_both(
        model, data, device=device, columns=columns, images=images, precision=precision, cache=cache
    )
    from mmcl.evaluation import FoilEvaluator, RetrievalEvaluator
    from mmcl.evaluation.report import retrieval_page

    evaluator = RetrievalEvaluator(dataset, batch_size=batch_size, same_modality=same_modality, folds=folds)
    title = f"{model} on {dataset.name}"
    with watch_embedding(embedder, make_console()):
        result = evaluator.rank(embedder)
        metrics = evaluator.judge(result)
        if dataset.has("foils"):
            metrics |= FoilEvaluator(dataset, batch_size=batch_size)(embedder)
    report(metrics, title=title, json_file=json_file)
    if page_file is not None and is_main_process():
        page = retrieval_page(result, dataset, metrics, title=title)
        make_console().print(f"report: {page.write(page_file)}", markup=False, soft_wrap=True)
