"""What the commands of `mmcl eval` share: their arguments, and how models and data are opened and results shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl.cli.console import make_console, watch_embedding, write_json

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import CachedEmbedder
    from mmcl.evaluation import Evaluator

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Run folder, Hub id, open_clip:ARCH/PRETRAINED, vectors:FILE ...")
]
Data = Annotated[
    str, typer.Argument(metavar="DATA", help="Folder, table, shards, Hub id or shapes; DATA:SPLIT picks a split.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Items a forward pass.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the metrics as JSON.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1; default the GPU where there is one.")]
Precision = Annotated[str, typer.Option("--precision", help="What the model computes in: fp32, bf16, or fp16 (GPU).")]
Cache = Annotated[bool, typer.Option("--cache/--no-cache", help="Keep embeddings on disk, and use those kept before.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="NAME=YOURS", help="Where your data calls a column otherwise, such as text=title."
    ),
]
Images = Annotated[Path | None, typer.Option("--images", help="Folder that a table's image paths are relative to.")]


def open_data(data: str, *, columns: list[str] | None, images: Path | None) -> ImageTextDataset:
    """The data set that DATA, ``--column`` and ``--images`` name."""
    from mmcl import data as sources

    return sources.load(data, columns=renamed_columns(columns), images=images)


def renamed_columns(columns: list[str] | None) -> dict[str, str]:
    """``--column text=title`` as {"text": "title"}.

    Raises:
        ConfigError: one without ``=``.
    """
    from mmcl.errors import ConfigError

    renamed = {}
    for pair in columns or []:
        name, sign, yours = pair.partition("=")
        if not sign:
            raise ConfigError(f"--column {pair!r}: want NAME=YOURS, such as text=title")
        renamed[name] = yours
    return renamed


def open_both(
    model: str,
    data: str,
    *,
    device: str | None,
    columns: list[str] | None,
    images: Path | None,
    precision: str = "fp32",
    cache: bool = True,
) -> tuple[CachedEmbedder, ImageTextDataset]:
    """The data first: they are quick to check, a model may be slow to load.

    What is embedded is kept in mmcl's cache folder, or in memory without ``cache``. Several processes (``torchrun``,
    ``accelerate launch``) divide it among them; every one of them then has all of it.
    """
    dataset = open_data(data, columns=columns, images=images)
    return open_model(model, device=device, precision=precision, cache=cache), dataset


def open_model(model: str, *, device: str | None = None, precision: str = "fp32", cache: bool = True) -> CachedEmbedder:
    """The model alone, as `open_both` opens it."""
    from mmcl.data.cache_folder import cache_folder
    from mmcl.embedder import CachedEmbedder, load, start_processes

    shared = start_processes()
    embedder = load(model, device=device, precision=precision)
    return CachedEmbedder(embedder, folder=cache_folder() / "embeddings" if cache else None, shared=shared)


def check_page_file(path: Path | None) -> None:
    """Refuse a ``--report`` page that could not be written, or not be drawn, before the work is done.

    Raises:
        ConfigError: it is a folder.
        MissingDependencyError: matplotlib is not installed.
    """
    if path is None:
        return
    from mmcl.errors import ConfigError, require

    if path.is_dir():
        raise ConfigError(f"--report {path}: it is a folder; name a file in it")
    require("matplotlib.figure", extra="report")


def report(metrics: dict[str, Any], *, title: str, json_file: Path | None) -> None:
    """Show the metrics as a table, and write them where ``--json`` was given."""
    from mmcl.evaluation import render_table

    make_console().print(render_table(metrics, title=title))
    write_json(json_file, metrics)


def judge(evaluator: Evaluator, embedder: CachedEmbedder, *, title: str, json_file: Path | None) -> None:
    """Run one evaluator with a progress bar, and report what it finds."""
    with watch_embedding(embedder, make_console()):
        metrics = evaluator(embedder)
    report(metrics, title=title, json_file=json_file)
