"""`mmcl data inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmcl.cli.console import check_json_file, make_console, watch_work, write_json
from mmcl.cli.evaluate.options import Columns, Data, Images, renamed_columns

if TYPE_CHECKING:
    from rich.console import Console

    from mmcl.data.dataset import ImageTextDataset
    from mmcl.data.summary.inspecting import Inspection

SHOWN_VALUES = 10
AllImages = Annotated[bool, typer.Option("--all-images", help="Look at every image, not at a sample.")]
NoImages = Annotated[bool, typer.Option("--no-images", help="Look at no image.")]
SampleImages = Annotated[int, typer.Option(min=1, help="Images of each split to look at, drawn by lot.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that decode images; 0: this one does.")]
Seed = Annotated[int, typer.Option(help="Of what is drawn by lot.")]


def inspect(
    data: Data,
    report: Annotated[Path | None, typer.Option(metavar="PAGE.html", help="Write a page with thumbnails.")] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the figures: data, splits, overlaps, hints."),
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="Rows of each split shown on the page.")] = 24,
    sample_images: SampleImages = 1_000,
    all_images: AllImages = False,
    no_images: NoImages = False,
    workers: Workers = 0,
    seed: Seed = 0,
    columns: Columns = None,
    images: Images = None,
) -> None:
    """Show what data hold: rows, captions, languages, labels, groups, image sizes, and what will hurt training.

    All splits stand side by side; DATA:SPLIT shows one. Languages are a guess, image figures are those of a sample.

    Example: mmcl data inspect path/to/emoji --report page.html
    """
    check_json_file(json_file)
    _check_report(report)
    console = make_console()
    number = how_many_images(sample_images, all_images=all_images, no_images=no_images)
    inspection, datasets = measure(
        data, columns=columns, images=images, sample_images=number, workers=workers, seed=seed, console=console
    )
    print_inspection(inspection, console)
    if report is not None:
        from mmcl.data.summary.page import summary_page

        page = summary_page(
            inspection.summaries, datasets, title=data, hints=inspection.hints, overlaps=inspection.overlaps,
            scans=inspection.scans, samples=0 if no_images else samples,
        )  # fmt: skip
        console.print(f"report: {page.write(report)}", soft_wrap=True, markup=False)
    write_json(json_file, inspection.as_dict())


def _check_report(path: Path | None) -> None:
    """Refuse a page that could not be written, before the data are measured."""
    from mmcl.errors import ConfigError

    if path is not None and path.is_dir():
        raise ConfigError(f"--report {path}: it is a folder; name a file in it, such as {path / 'page.html'}")
    if path is not None and path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--report {path}: the page is HTML; name a file that ends in .html")


def how_many_images(sample_images: int, *, all_images: bool, no_images: bool) -> int | None:
    """The number that the options ask for; None for all.

    Raises:
        ConfigError: --all-images and --no-images together.
    """
    from mmcl.errors import ConfigError

    if all_images and no_images:
        raise ConfigError("--all-images and --no-images contradict each other; leave one out")
    return None if all_images else 0 if no_images else sample_images


def measure(
    data: str,
    *,
    columns: list[str] | None,
    images: Path | None,
    sample_images: int | None,
    workers: int,
    seed: int,
    console: Console,
) -> tuple[Inspection, dict[str, ImageTextDataset]]:
    """Load every split of DATA (or the one it names) and measure it.

    Raises:
        DataError, ConfigError: as ``load_all``.
    """
    from mmcl import data as sources
    from mmcl.data.summary.inspecting import inspect_splits, named_splits

    with watch_work(console) as progress:
        splits = sources.load_all(data, columns=renamed_columns(columns), images=images, progress=progress)
        whole = sources.parse_reference(data).split is None
        inspection = inspect_splits(
            splits, data=data, whole=whole, sample_images=sample_images, seed=seed, workers=workers, progress=progress
        )
    return inspection, named_splits(splits)


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Tables of all splits side by side, what splits share, why rows were left out, and hints."""
    from rich.table import Table
    from rich.text import Text

    from mmcl.data.summary.figures import reason_rows, sections, value_rows

    summaries = inspection.summaries
    table = Table("", title=Text(inspection.data), title_style="bold")
    for split in summaries:
        table.add_column(Text(split))
    for section in sections(summaries):
        table.add_section()
        table.add_row(Text(section.title, style="bold"))
        for what, *cells in section.rows:
            table.add_row(Text("  " + what), *map(Text, cells))
    labels = value_rows({split: summary.labels for split, summary in summaries.items()}, shown=SHOWN_VALUES)
    if labels:
        table.add_section()
        table.add_row(Text("Most frequent labels", style="bold"))
        for what, *cells in labels:
            table.add_row(Text("  " + what), *map(Text, cells))
    console.print(table)
    reasons = reason_rows(summaries)
    if reasons:
        left_out = Table("split", "reason", "rows", "first place", title="Rows left out")
        for row in reasons:
            left_out.add_row(*map(Text, row))
        console.print(left_out)
    for overlap in inspection.overlaps:
        groups = "" if overlap.groups is None else f", groups {overlap.groups:,}"
        line = f"{overlap.first} and {overlap.second} have in common: captions {overlap.captions:,}{groups}"
        console.print(Text(line), soft_wrap=True)
    print_hints(inspection, console)


def print_hints(inspection: Inspection, console: Console) -> None:
    """What to know before training, one a line."""
    from rich.text import Text

    if not inspection.hints:
        console.print("\nNothing that would hurt training was found in these figures.")
        return
    console.print(Text("\nBefore training:", style="bold"))
    for hint in inspection.hints:
        console.print(Text(f"- {hint}"), soft_wrap=True)
