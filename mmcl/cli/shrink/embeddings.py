"""`mmcl shrink embeddings`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    open_both,
)
from mmcl.logs import is_main_process

if TYPE_CHECKING:
    from rich.table import Table


def embeddings(
    model: Model,
    data: Data,
    rescore: Annotated[
        int, typer.Option("--rescore", min=1, help="Candidates scored again, for each result wanted.")
    ] = 4,
    kind: Annotated[str | None, typer.Option("--kind", help="Write them as float16, int8 or binary.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="A .safetensors or .npz file.")
    ] = None,
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
    """What embeddings cost in float16, int8 and one bit a value, with and without scoring the best again.

    The gallery is coded, queries are not. Ties count against the model. With --kind and -o the embeddings are written
    in that coding; vectors:FILE reads them as any others.

    Example: mmcl shrink embeddings runs/emoji path/to/emoji:test --report codes.html

    Example: mmcl shrink embeddings runs/emoji path/to/emoji --kind int8 -o emoji-int8.safetensors
    """
    check_json_file(json_file)
    check_page_file(page_file)
    from mmcl.data.embedding_codes import KINDS
    from mmcl.errors import ConfigError

    if (kind is None) != (out is None):
        raise ConfigError("--kind and -o FILE go together: the coding, and where the embeddings are written")
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"--kind {kind}: want one of {', '.join(KINDS)}")
    if kind is not None and out is not None:
        from mmcl.hub.vectors_export import check_vectors_file

        check_vectors_file(out, kind)
    embedder, dataset = open_both(model, data, device=device, columns=columns, images=images, cache=cache)
    from mmcl.evaluation.retrieval.galleries import embed_galleries
    from mmcl.hub.shrinking.coded_retrieval import SCHEMES, coded_recalls
    from mmcl.hub.shrinking.pages import codes_page

    console = make_console()
    with watch_embedding(embedder, console):
        galleries = embed_galleries(embedder, dataset, batch_size=batch_size)
    results = {scheme: coded_recalls(galleries, scheme, rescore=rescore) for scheme in SCHEMES}
    title = f"{model} on {dataset.name}"
    console.print(_table(results, title))
    if page_file is not None and is_main_process():
        console.print(f"report: {codes_page(results, title=title).write(page_file)}", markup=False, soft_wrap=True)
    if kind is not None and out is not None:
        from mmcl.hub.vectors_export import export_vectors

        with watch_embedding(embedder, console):
            export_vectors(embedder, dataset, out, batch_size=batch_size, dtype=kind)
        console.print(f'{out}: {kind}; mmcl.load("vectors:{out}")', markup=False, soft_wrap=True)
    write_json(json_file, results)


def _table(results: dict[str, dict[str, float]], title: str) -> Table:
    from rich.table import Table

    from mmcl.hub.shrinking.pages import short_name

    names = [name for name in next(iter(results.values())) if "recall@" in name]
    table = Table(title=f"{title}, per cent", title_justify="left")
    for column in ("gallery", "bytes", *map(short_name, names)):
        table.add_column(column, justify="left" if column == "gallery" else "right", no_wrap=True)
    for scheme, found in results.items():
        cells = [f"{100 * found[name]:.1f}" for name in names]
        table.add_row(scheme, f"{found['bytes_per_embedding']:,.0f}", *cells)
    return table
