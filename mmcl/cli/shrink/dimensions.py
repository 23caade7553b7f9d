"""`mmcl shrink dimensions`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    check_page_file,
    open_data,
    open_model,
)
from mmcl.logs import is_main_process

if TYPE_CHECKING:
    from rich.table import Table


def dimensions(
    model: Model,
    data: Data,
    dims: Annotated[
        str | None,
        typer.Option("--dims", metavar="64,32", help="Sizes to judge; default the model's own, halved again."),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="TASK", help="Default retrieval and zeroshot; may be repeated."),
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", min=2, metavar="N", help="Write the model that gives N values alone.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="OUT", help="Folder for that model.")] = None,
    page_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write a page with the curve.")
    ] = None,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    cache: Cache = True,
) -> None:
    """Judge a model on the first values of its embeddings, and write the smaller model.

    Meant for models trained with loss.matryoshka_dims; other models lose more. Everything is embedded once.

    Example: mmcl shrink dimensions runs/emoji path/to/emoji:test --dims 256,128,64,32 --report curve.html

    Example: mmcl shrink dimensions runs/emoji path/to/emoji:validation --keep 64 -o emoji-64
    """
    check_json_file(json_file)
    check_page_file(page_file)
    from mmcl.errors import ConfigError

    if (keep is None) != (out is None):
        raise ConfigError("--keep N and -o OUT go together: the size of the smaller model, and where it is written")
    sizes = None if dims is None else parse_dims(dims)
    if out is not None:
        from mmcl.hub.exporting import check_out

        check_out(out)
    dataset = open_data(data, columns=columns, images=images)
    embedder = open_model(model, device=device, cache=cache)
    from mmcl.build import build_evaluator, run_evaluators
    from mmcl.builders.evaluation import allows
    from mmcl.hub.shrinking.pages import dimension_page
    from mmcl.hub.shrinking.truncation import default_dims, dimension_curve

    wanted = [name for name in tasks or ("retrieval", "zeroshot") if allows(name, dataset)]
    evaluators = [build_evaluator(name, dataset, batch_size=batch_size) for name in wanted]
    console = make_console()
    with watch_embedding(embedder, console):
        curve = dimension_curve(
            embedder,
            lambda smaller: run_evaluators(evaluators, smaller),
            sizes or default_dims(embedder.embedding_dim),
        )
    title = f"{model} on {dataset.name}"
    console.print(_table(curve, title))
    if page_file is not None and is_main_process():
        console.print(f"report: {dimension_page(curve, title=title).write(page_file)}", markup=False, soft_wrap=True)
    if keep is not None and out is not None:
        _write(model, keep, out)
        console.print(f'{out}: {keep} values an embedding; mmcl.load("{out}")', markup=False, soft_wrap=True)
    write_json(json_file, {str(dim): metrics for dim, metrics in curve.items()})


def parse_dims(text: str) -> list[int]:
    """``64,32`` as numbers.

    Raises:
        ConfigError: something else stands there.
    """
    from mmcl.errors import ConfigError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--dims {text!r}: want whole numbers with commas between them, such as 128,64,32") from error


def _table(curve: dict[int, dict[str, Any]], title: str) -> Table:
    from rich.table import Table

    from mmcl.hub.shrinking.pages import short_name, shown_metrics

    names = shown_metrics(curve)
    table = Table(title=f"{title}\nper cent, and in brackets how much of the whole is kept", title_justify="left")
    for column in ("values", "bytes", *map(short_name, names)):
        table.add_column(column, justify="right")
    whole = curve[max(curve)]
    for dim, metrics in curve.items():
        cells = []
        for name in names:
            kept = f" ({100 * metrics[name] / whole[name]:.0f})" if metrics is not whole and whole[name] else ""
            cells.append(f"{100 * metrics[name]:.1f}{kept}")
        table.add_row(f"{dim:,}", f"{4 * dim:,}", *cells)
    return table


def _write(model: str, size: int, out: Path) -> None:
    from mmcl.hub.shrinking.truncation import truncate
    from mmcl.models.opening.opening import open_dual_encoder
    from mmcl.models.saving import save_pretrained

    save_pretrained(truncate(open_dual_encoder(model), size), out)
