"""`mmcl export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl.cli.console import check_json_file, make_console, watch_work, write_json
from mmcl.cli.evaluate.options import Columns, Images, Model

if TYPE_CHECKING:
    from rich.console import Console

    from mmcl.data.dataset import ImageTextDataset
    from mmcl.hub import ExportReport
    from mmcl.models.dual_encoder import DualEncoder

VECTORS = "vectors"


def export(
    model: Model,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="OUT", help="Folder to make; vectors: a .safetensors or .npz file."),
    ],
    formats: Annotated[
        list[str],
        typer.Option(
            "--format",
            help="transformers, open_clip, sentence-transformers, onnx, vectors, or all that fit (each in OUT/FORMAT).",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="DATA", help="What is compared on; default the run's own. For vectors: what is embedded."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Images to compare on.")] = 32,
    repo_id: Annotated[
        str | None,
        typer.Option("--repo-id", metavar="OWNER/NAME", help="Where the folder will be pushed; open_clip may need it."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8/--no-int8", help="onnx: write int8 graphs too.")] = True,
    dtype: Annotated[str, typer.Option("--dtype", help="vectors: float32 or float16.")] = "float32",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the reports as JSON.")] = None,
    columns: Columns = None,
    images: Images = None,
) -> None:
    """Write a model in the format of another library, and prove that it is the same model.

    The folder is there only after that library itself has opened it and given the same embeddings of real images and
    captions; how far they are apart is printed, and lies beside it as export_report.json.

    Example: mmcl export runs/emoji --format open_clip -o emoji-open-clip --repo-id owner/name

    Example: mmcl export runs/emoji --format onnx -o emoji-onnx --data path/to/emoji:test

    Example: mmcl export runs/emoji --format vectors --data path/to/emoji:test -o emoji.safetensors
    """
    check_json_file(json_file)
    console = make_console()
    if VECTORS in formats:
        write_json(json_file, _vectors(model, data, out, formats, dtype, columns, images, console))
        return
    from mmcl.cli.evaluate.options import open_data
    from mmcl.hub.formats import FORMATS, ExportOptions, find_format
    from mmcl.models.opening.opening import open_dual_encoder

    wanted = list(FORMATS) if "all" in formats else list(dict.fromkeys(formats))
    for name in wanted:
        find_format(name)
    options = ExportOptions(repo_id=repo_id, int8=int8)
    dataset = None if data is None else open_data(data, columns=columns, images=images)
    dual = open_dual_encoder(model)
    if "all" in formats:
        wanted = _fitting(dual, console)
    single = len(wanted) == 1 and "all" not in formats
    reports = []
    for name in wanted:
        report = _export(dual, model, name, out if single else out / name, dataset, samples, options, console)
        _show(report, console)
        reports.append(report)
    write_json(json_file, {report.format: {"folder": str(report.folder), **report.to_dict()} for report in reports})


def _fitting(model: DualEncoder, console: Console) -> list[str]:
    """The formats that can hold the model, and whose library is there; the others are said, with their reasons.

    Raises:
        ConfigError: there is none.
    """
    from mmcl.errors import ConfigError, MissingDependencyError
    from mmcl.hub.exporting import obstacles, require_library
    from mmcl.hub.formats import find_format

    fitting = []
    for name, why in obstacles(model).items():
        try:
            if why is None:
                require_library(find_format(name))
                fitting.append(name)
        except MissingDependencyError as error:
            why = str(error)
        if why is not None:
            console.print(f"{name}: left out, because {why}", markup=False, soft_wrap=True)
    if not fitting:
        raise ConfigError("--format all: nothing is left to write; the reasons stand above")
    return fitting


def _export(
    model: DualEncoder,
    source: str,
    name: str,
    out: Path,
    data: ImageTextDataset | None,
    samples: int,
    options: Any,
    console: Console,
) -> ExportReport:
    from mmcl.hub import export as export_model

    with watch_work(console) as progress:
        return export_model(
            model, name, out, data=data, samples=samples, options=options, source_folder=source, progress=progress
        )


def _show(report: ExportReport, console: Console) -> None:
    from rich.table import Table

    from mmcl.hub.checking import RECALL_TOLERANCE

    size = sum(report.files.values()) / 1e6
    console.print(
        f"{report.format}: {report.folder} ({len(report.files)} files, {size:,.1f} MB)", markup=False, soft_wrap=True
    )
    table = Table(title=f"largest difference of unit embeddings, {_seen(report)}", title_justify="left")
    for column in ("", "images, same pixels", "captions", "images, own resizing", "allowed", "R@10 i2t / t2i"):
        table.add_column(column, justify="left" if column == "" else "right")
    for variant, found in report.differences.items():
        allowed = report.tolerances[variant]
        recall = found.recall or {}
        table.add_row(
            variant or "fp32",
            f"{found.pixels:.1e}",
            f"{found.texts:.1e}",
            f"{found.images:.1e}",
            f"R@10 -{100 * RECALL_TOLERANCE:.0f} point" if allowed is None else f"{allowed:.0e}",
            " / ".join(f"{100 * change:+.1f}" for change in recall.values()) or "-",
        )
    console.print(table)
    mended = max(found.mended_texts for found in report.differences.values())
    if mended:
        console.print(
            f"- {mended} captions are changed by {report.format} before it reads them; compared as it reads them"
        )
    for note in report.notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)
    console.print(f'open it: mmcl.load("{report.reference}")', markup=False, soft_wrap=True)


def _seen(report: ExportReport) -> str:
    seen = report.samples
    rows = f", R@10 on {seen['rows_for_recall']:,} rows" if seen["rows_for_recall"] else ""
    return f"{seen['images']} images and {seen['captions']} captions of {seen['data']}{rows}"


def _vectors(
    model: str,
    data: str | None,
    out: Path,
    formats: Sequence[str],
    dtype: str,
    columns: list[str] | None,
    images: Path | None,
    console: Console,
) -> dict[str, Any]:
    from mmcl.cli.console import watch_embedding
    from mmcl.cli.evaluate.options import open_both
    from mmcl.errors import ConfigError
    from mmcl.hub.vectors_export import export_vectors

    if len(formats) > 1:
        raise ConfigError(f"--format vectors stands alone; got {', '.join(formats)}")
    if data is None:
        raise ConfigError("--format vectors needs --data DATA: what is embedded")
    embedder, dataset = open_both(model, data, device=None, columns=columns, images=images)
    with watch_embedding(embedder, console):
        result = export_vectors(embedder, dataset, out, dtype=dtype)
    console.print(
        f"{out}: {result['images']:,} images and {result['texts']:,} captions, {result['embedding_dim']} values each; "
        f"read back, and a sample of them embedded again: largest difference {result['largest_difference']:.1e}",
        markup=False,
        soft_wrap=True,
    )
    if result["skipped"]:
        console.print(f"{len(result['skipped']):,} images could not be read:")
        for row in result["skipped"][:10]:
            console.print(f"- {row['source']}: {row['reason']}", markup=False, soft_wrap=True)
    console.print(f'open it: mmcl.load("vectors:{out}")', markup=False, soft_wrap=True)
    return result
