"""What the commands of `mmcl merge` share: their options, how data become judges, and how results are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl.cli.console import check_json_file, make_console, write_json
from mmcl.cli.evaluate.options import check_page_file

if TYPE_CHECKING:
    from rich.console import Console

    from mmcl.data.dataset import ImageTextDataset
    from mmcl.hub.merging.judging import Judge
    from mmcl.hub.merging.record import MergeRecord
    from mmcl.models.dual_encoder import DualEncoder

METRIC = "retrieval/mean_recall@1"
BATCH_NORM_IMAGES = 1_000

Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where the merged model is written.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the model in a folder that is not empty.")]
Metric = Annotated[str, typer.Option("--metric", metavar="NAME", help="What counts, such as zeroshot/top1.")]
BatchNorm = Annotated[
    str | None,
    typer.Option(
        "--batch-norm", metavar="DATA", help="Estimate batch norms' statistics anew on up to 1,000 images of DATA."
    ),
]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")]


@dataclass(frozen=True)
class Outputs:
    """Where a command's results go; None: nowhere."""

    out: Path | None = None
    force: bool = False
    json_file: Path | None = None
    page_file: Path | None = None

    def check(self, sources: Sequence[str]) -> None:
        """Refuse what could not be written, or would be lost, before the work is done.

        Raises:
            ConfigError: names the option.
            MissingDependencyError: a page is wanted, and what draws its plots is not installed.
        """
        check_json_file(self.json_file)
        check_page_file(self.page_file)
        if self.out is not None:
            from mmcl.hub.merging.record import check_out

            check_out(self.out, sources, force=self.force)


def build_judge(dataset: ImageTextDataset, metric: str, *, data: str, batch_size: int) -> Judge:
    """What measures the task of a metric on some data: its numbers alone, without intervals.

    Args:
        dataset: to judge on.
        metric: such as ``retrieval/mean_recall@1``; what is before the slash is the task.
        data: the name of ``dataset``, for tasks that fit on its split ``train``.
        batch_size: items a forward pass.

    Raises:
        ConfigError: no such task, a task that needs what the data lack, or a metric without a task.
    """
    from mmcl.build import build_evaluator
    from mmcl.builders.evaluation import allows, find_task, with_train_split, with_validation_split
    from mmcl.errors import ConfigError
    from mmcl.evaluation.suite import numbers

    task, slash, _ = metric.partition("/")
    if not slash:
        raise ConfigError(f"metric is {metric!r}; want TASK/NAME, such as {METRIC}")
    if not allows(task, dataset):
        wanted = " or ".join(find_task(task).columns())
        raise ConfigError(f"{dataset.name} has no column {wanted}, which {metric} needs; give another metric for it")
    keywords = find_task(task).keywords()
    options: dict[str, Any] = {key: False for key in ("confidence", "same_modality") if key in keywords}
    options = with_validation_split(task, with_train_split(task, options, data), data)
    evaluator = build_evaluator(task, dataset, batch_size=batch_size, options=options)

    def judge(embedder: Any) -> dict[str, float]:
        return {name: value for name, (value, _) in numbers(evaluator(embedder)).items()}

    return judge


def is_test(dataset: ImageTextDataset) -> bool:
    """Whether a data set is a test split, by its name."""
    from mmcl.data.splits.names import canonical_split

    return canonical_split(dataset.name.rpartition(":")[2]) == "test"


def features_folder(*, cache: bool) -> Path | None:
    """Where features of towers that models share are kept; None: nowhere for longer than the command."""
    from mmcl.data.cache_folder import cache_folder

    return cache_folder() / "features" if cache else None


def batch_norm_refresher(data: str | None, *, batch_size: int) -> Callable[[DualEncoder], None] | None:
    """What estimates a model's batch norms anew on some data; None for None.

    Raises:
        DataError: the data cannot be read, or fewer than two of their images.
    """
    if data is None:
        return None
    from mmcl import data as sources
    from mmcl.errors import DataError
    from mmcl.hub.merging.batch_statistics import reestimate_batch_norm

    dataset = sources.load(data)
    images, texts = [], []
    for row in range(min(len(dataset), BATCH_NORM_IMAGES)):
        try:
            images.append(dataset.images.read(row))
        except DataError:
            continue  # commands that judge name what is unreadable
        if dataset.has("texts"):
            texts.extend(dataset.column("texts")[row][:1])
    if len(images) < 2:
        raise DataError(f"--batch-norm {data}: {len(images)} of its images can be read; want at least 2")
    return lambda model: reestimate_batch_norm(model, images, texts, batch_size=batch_size)


def finish(
    model: DualEncoder | None, record: MergeRecord, outputs: Outputs, *, more: Mapping[str, Any] | None = None
) -> None:
    """Write the merged model where ``-o`` was given, say so, and write ``--json``."""
    from mmcl.hub.merging.record import write_merged

    written = {}
    if outputs.out is not None and model is not None:
        write_merged(model, outputs.out, record, force=outputs.force)
        make_console().print(f"written: {outputs.out}", markup=False, soft_wrap=True)
        written = {"out": str(outputs.out)}
    write_json(outputs.json_file, {**record.to_dict(), **(more or {}), **written})


def show_table(console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; its first column is set to the left, the others to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
