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
    open_data,
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
    csls: Annotated[
        bool, typer.Option("--csls", help="Also with hubs corrected by CSLS, reported apart under its own names.")
    ] = False,
    csls_k: Annotated[int, typer.Option("--csls-k", min=1, help="Neighbours of --csls.")] = 10,
    querybank: Annotated[
        str | None,
        typer.Option(
            "--querybank", metavar="DATA", help="Also with hubs corrected by queries of other data, such as DATA:train."
        ),
    ] = None,
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

    --csls looks at the whole gallery and at all queries together, --querybank at queries of other data: what they find
    is no figure of the model alone, and stands apart (retrieval/csls_i2t_recall@1 ...), with what it gains.

    Example: mmcl eval retrieval runs/emoji path/to/emoji:test --json retrieval.json --report failures.html

    Example: mmcl eval retrieval runs/emoji path/to/emoji:test --csls --querybank path/to/emoji:train
    """
    check_json_file(json_file)
    check_page_file(page_file)
    embedder, dataset = open_both(
        model, data, device=device, columns=columns, images=images, precision=precision, cache=cache
    )
    from mmcl.evaluation import FoilEvaluator, RetrievalEvaluator
    from mmcl.evaluation.report import retrieval_page
    from mmcl.evaluation.report.retrieval_rows import correction_notes

    evaluator = RetrievalEvaluator(
        dataset, batch_size=batch_size, same_modality=same_modality, folds=folds, csls=csls_k if csls else None,
        querybank=None if querybank is None else open_data(querybank, columns=columns, images=images),
    )  # fmt: skip
    title = f"{model} on {dataset.name}"
    with watch_embedding(embedder, make_console()):
        result = evaluator.rank(embedder)
        metrics = evaluator.judge(result)
        if dataset.has("foils"):
            metrics |= FoilEvaluator(dataset, batch_size=batch_size)(embedder)
    report(metrics, title=title, json_file=json_file)
    for note in correction_notes(metrics):
        make_console().print(note, markup=False)
    if page_file is not None and is_main_process():
        page = retrieval_page(result, dataset, metrics, title=title)
        make_console().print(f"report: {page.write(page_file)}", markup=False, soft_wrap=True)
