"""`mmcl eval languages`."""

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
    Model,
    Precision,
    open_both,
)


def languages(
    model: Model,
    data: Data,
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            "--language",
            metavar="NAME[=COLUMN]",
            help="Such as de=i18n.de, or de where columns say so; may be repeated.",
        ),
    ] = None,
    common_rows: Annotated[
        bool, typer.Option("--common-rows", help="Only rows that have captions in all of the languages.")
    ] = False,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """Retrieval both ways in every language that the data have captions in.

    Without --language: the fields of a struct column such as i18n, columns such as text_de, and the rows' column lang.

    Example: mmcl eval languages runs/emoji path/to/emoji:test --language en=texts --language de=i18n.de
    """
    check_json_file(json_file)
    embedder, dataset = open_both(
        model, data, device=device, columns=columns, images=images, precision=precision, cache=cache
    )
    from mmcl.evaluation import LanguagesEvaluator
    from mmcl.evaluation.report import render_languages
    from mmcl.evaluation.retrieval.languages import read_languages

    evaluator = LanguagesEvaluator(
        dataset, languages=read_languages(chosen, dataset), common_rows=common_rows, batch_size=batch_size
    )
    console = make_console()
    if not chosen:
        found = ", ".join(f"{name}={column}" for name, column in evaluator.languages.items())
        console.print(f"languages found: {found}", markup=False)
    with watch_embedding(embedder, console):
        metrics = evaluator(embedder)
    console.print(render_languages(metrics, evaluator.languages, title=f"{model} on {dataset.name}"))
    write_json(json_file, metrics)
