"""`mmcl merge interpolate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl.cli.console import check_json_file, make_console, watch_work
from mmcl.cli.evaluate.options import (
    BatchSize,
    Cache,
    Columns,
    Device,
    Images,
    Precision,
    check_page_file,
    open_data,
)
from mmcl.cli.merge.options import (
    METRIC,
    BatchNorm,
    Force,
    Json,
    Metric,
    Out,
    batch_norm_refresher,
    build_judge,
    features_folder,
    finish,
    is_test,
    show_table,
)
from mmcl.logs import get_logger

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.hub.merging.judging import Judge

log = get_logger(__name__)


def interpolate(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="The model that fine-tuning started from.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The fine-tuned one, or a checkpoint of its run.")],
    data: Annotated[
        str | None, typer.Option("--data", metavar="DATA", help="Data it was tuned for, that alpha is chosen by.")
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--on", metavar="DATA", help="Data it was not tuned for, which it may forget; may be repeated."),
    ] = None,
    metric: Metric = METRIC,
    on_metric: Annotated[
        str | None, typer.Option("--on-metric", metavar="NAME", help="What counts on --on; default --metric.")
    ] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Write this one, without data.")] = None,
    alphas: Annotated[str | None, typer.Option("--alphas", help="Those judged, such as 0,0.25,0.5,1.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=2, help="So many from 0 to 1; default 11.")] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", help="How alpha is chosen: keep, mean or target; see above.")
    ] = None,
    keep: Annotated[
        float | None, typer.Option("--keep", help="Share of BEFORE's metric kept on --on; default 0.98.")
    ] = None,
    out: Out = None,
    force: Force = False,
    page_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write table and plots as a page.")
    ] = None,
    batch_norm: BatchNorm = None,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """WiSE-FT: (1 - alpha) * BEFORE + alpha * AFTER, and which alpha gains on DATA without losing elsewhere.

    Rules: keep takes the best on DATA among the alphas that keep 98 % (--keep) of what BEFORE had on each --on; mean
    the best mean of DATA and --on; target the best on DATA. Choose on validation data, and report on test data.
    --column and --images are about DATA; the data of --on are read as they are. BEFORE and AFTER are run folders,
    model folders, Hub ids, open_clip:ARCH/PRETRAINED, or runs/NAME/checkpoints/step_N.

    Example: mmcl merge interpolate owner/clip runs/emoji --data path/to/emoji:validation --on path/to/photos:validation
    -o merged --report sweep.html --json sweep.json

    Example: mmcl merge interpolate owner/clip runs/emoji --alpha 0.5 -o merged
    """
    check_json_file(json_file)
    check_page_file(page_file)
    _check_usage(data=data, alpha=alpha, out=out, sweeping=(others, on_metric, alphas, steps, rule, keep, page_file))
    chosen_alphas = _alphas(alphas, steps)
    if out is not None:
        from mmcl.hub.merging.record import check_out

        check_out(out, [before, after], force=force)
    if data is None:
        _write_one(before, after, alpha, batch_norm, batch_size=batch_size, out=out, force=force, json_file=json_file)
        return
    from mmcl.hub.merging.choosing import KEEP

    keep = KEEP if keep is None else keep
    _check_rule(rule, keep, others)
    target = open_data(data, columns=columns, images=images)
    data_sets = {data: target, **{other: open_data(other, columns=None, images=None) for other in others or []}}
    asked = _Asked(before, after, chosen_alphas, rule, keep, batch_norm, batch_size)
    embedding = {"device": device, "precision": precision, "folder": features_folder(cache=cache)}
    _sweep(asked, data_sets, metric, on_metric or metric, embedding, out, force, page_file, json_file)


@dataclass(frozen=True)
class _Asked:
    """What is swept, and how alpha is chosen."""

    before: str
    after: str
    alphas: list[float]
    rule: str | None
    keep: float
    batch_norm: str | None
    batch_size: int


def _check_usage(*, data: str | None, alpha: float | None, out: Path | None, sweeping: tuple[Any, ...]) -> None:
    from mmcl.errors import ConfigError

    if data is None and alpha is None:
        raise ConfigError("give --data DATA, by which alpha is chosen, or --alpha 0.5 to write that one")
    if data is not None and alpha is not None:
        raise ConfigError(f"--alpha {alpha:g} is written without data; to judge it, give --alphas {alpha:g}")
    if data is None and any(sweeping):
        raise ConfigError("--on, --on-metric, --alphas, --steps, --rule, --keep and --report need --data to judge on")
    if data is None and out is None:
        raise ConfigError("--alpha writes a model: give -o FOLDER")


def _alphas(alphas: str | None, steps: int | None) -> list[float]:
    from mmcl.errors import ConfigError

    if alphas is not None and steps is not None:
        raise ConfigError("--alphas names the values and --steps their number; give one of them")
    if alphas is None:
        number = steps or 11
        return [step / (number - 1) for step in range(number)]
    try:
        return [float(word) for word in alphas.split(",")]
    except ValueError:
        raise ConfigError(f"--alphas {alphas!r}: want numbers between commas, such as 0,0.25,0.5,1") from None


def _check_rule(rule: str | None, keep: float, others: list[str] | None) -> None:
    """What `choose` would refuse after the sweep is refused before it."""
    from mmcl.errors import ConfigError
    from mmcl.hub.merging.choosing import check_rule

    try:
        check_rule(rule, keep, has_others=bool(others))
    except ConfigError as error:
        raise ConfigError(f"{error} (--rule, --keep, --on)") from error


def _write_one(
    before: str,
    after: str,
    alpha: float,
    batch_norm: str | None,
    *,
    batch_size: int,
    out: Path,
    force: bool,
    json_file: Path | None,
) -> None:
    from mmcl.hub.merging import interpolate as merge
    from mmcl.hub.merging import open_source
    from mmcl.hub.merging.record import MergeRecord

    refresh = batch_norm_refresher(batch_norm, batch_size=batch_size)
    model = merge(open_source(before), open_source(after), alpha)
    if refresh is not None and alpha not in (0, 1):
        refresh(model)
    settings = {"alpha": alpha, **({"batch_norm": batch_norm} if batch_norm else {})}
    record = MergeRecord("wise_ft", [before, after], settings)
    finish(model, record, out=out, force=force, json_file=json_file)


def _sweep(
    asked: _Asked,
    data_sets: dict[str, ImageTextDataset],
    metric: str,
    on_metric: str,
    embedding: dict[str, Any],
    out: Path | None,
    force: bool,
    page_file: Path | None,
    json_file: Path | None,
) -> None:
    from mmcl.evaluation.forgetting import short_names
    from mmcl.hub.merging import choose, open_source, sweep
    from mmcl.hub.merging import interpolate as merge
    from mmcl.hub.merging.page import sweep_page, sweep_rows
    from mmcl.hub.merging.record import MergeRecord
    from mmcl.hub.merging.shared_parts import SharedParts

    names = short_names([dataset.name for dataset in data_sets.values()])
    metrics = {name: on_metric if number else metric for number, name in enumerate(names)}
    judges: dict[str, Judge] = {
        name: build_judge(dataset, metrics[name], data=data, batch_size=asked.batch_size)
        for name, (data, dataset) in zip(names, data_sets.items())
    }
    refresh = batch_norm_refresher(asked.batch_norm, batch_size=asked.batch_size)
    before, after = open_source(asked.before), open_source(asked.after)
    shared = SharedParts.of([before, after], refreshed=refresh is not None, batch_size=asked.batch_size, **embedding)
    console = make_console()
    with watch_work(console) as progress:
        found = sweep(
            before, after, judges, metrics, alphas=asked.alphas, make_embedder=shared, refresh=refresh,
            progress=progress,
        )  # fmt: skip
    choice = choose(found, rule=asked.rule, keep=asked.keep)
    title = f"{asked.before} to {asked.after}"
    show_table(console, title, *sweep_rows(found, choice))
    notes = [f"{shared.describe()}"] if shared.describe() else []
    console.print(f"chosen: alpha {choice.alpha:g}, {choice.reason}", markup=False, soft_wrap=True)
    optimistic = _test_note(data_sets, names)
    if optimistic:
        log.warning(optimistic)
        notes.append(optimistic)
    if page_file is not None:
        page = sweep_page(found, choice, title=title, notes=tuple(f"{note[0].upper()}{note[1:]}." for note in notes))
        console.print(f"report: {page.write(page_file)}", markup=False, soft_wrap=True)
    model = None
    if out is not None:
        model = merge(before, after, choice.alpha)
        if refresh is not None and choice.alpha not in (0, 1):
            refresh(model)
    point = next(point for point in found.points if point.alpha == choice.alpha)
    settings: dict[str, Any] = {"alpha": choice.alpha, "chosen_by": choice.reason}
    if asked.batch_norm:
        settings["batch_norm"] = asked.batch_norm
    record = MergeRecord("wise_ft", [asked.before, asked.after], settings, point.metrics)
    more = {**found.to_dict(), "chosen": choice.to_dict()}
    finish(model, record, out=out, force=force, json_file=json_file, more=more)


def _test_note(data_sets: dict[str, ImageTextDataset], names: list[str]) -> str:
    tests = [name for name, dataset in zip(names, data_sets.values()) if is_test(dataset)]
    if not tests:
        return ""
    return (
        f"alpha is chosen on test data ({', '.join(tests)}), so that the figures of the chosen one there are "
        f"optimistic; choose on validation data, and judge the chosen model on test data once"
    )
