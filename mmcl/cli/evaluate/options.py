"""What the commands of `mmcl eval` share: their arguments, and how models and data are opened and results shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl.cli.console import make_console, write_json

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Run folder, Hub id, open_clip:ARCH/PRETRAINED, vectors:FILE ...")
]
Data = Annotated[
    str, typer.Argument(metavar="DATA", help="Folder, table, shards, Hub id or shapes; DATA:SPLIT picks a split.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Items a forward pass.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the metrics as JSON.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; default the GPU where there is one.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="NAME=YOURS", help="Where your data calls a column otherwise, such as text=title."
    ),
]
Images = Annotated[Path | None, typer.Option("--images", help="Folder that a table's image paths are relative to.")]


def open_both(
    model: str, data: str, *, device: str | None, columns: list[str] | None, images: Path | None
) -> tuple[Embedder, ImageTextDataset]:
    """The data first: they are quick to check, a model may be slow to load."""
    from mmcl import data as sources
    from mmcl.embedder import load
    from mmcl.errors import ConfigError

    renamed = {}
    for pair in columns or []:
        name, sign, yours = pair.partition("=")
        if not sign:
            raise ConfigError(f"--column {pair!r}: want NAME=YOURS, such as text=title")
        renamed[name] = yours
    dataset = sources.load(data, columns=renamed, images=images)
    return load(model, device=device), dataset


def report(metrics: dict[str, Any], *, title: str, json_file: Path | None) -> None:
    """Show the metrics as a table, and write them where ``--json`` was given."""
    from mmcl.evaluation import render_table

    make_console().print(render_table(metrics, title=title))
    write_json(json_file, metrics)
