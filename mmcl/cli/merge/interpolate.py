"""`mmcl merge interpolate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmcl.cli.evaluate.options import BatchSize, Cache, Columns, Device, Images, Precision, open_data
from mmcl.cli.merge.options import METRIC, BatchNorm, Force, Json, Metric, Out, Outputs, batch_norm_refresher, finish
from mmcl.cli.merge.sweeping import SweepRequest, run_sweep


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
    _check_usage(data=data, alpha=alpha, out=out, sweeping=(others, on_metric, alphas, steps, rule, keep, page_file))
    chosen_alphas = _alphas(alphas, steps)
    outputs = Outputs(out, force, json_file, page_file)
    outputs.check([before, after])
    if data is None:
        _write_one(before, after, alpha, batch_norm, batch_size=batch_size, outputs=outputs)
        return
    from mmcl.hub.merging.choosing import KEEP, check_rule

    keep = KEEP if keep is None else keep
    check_rule(rule, keep, has_others=bool(others))
    request = SweepRequest(
        before, after, chosen_alphas, metric, on_metric or metric, rule, keep, batch_norm, batch_size, device,
        precision, cache,
    )  # fmt: skip
    data_sets = {data: open_data(data, columns=columns, images=images)}
    for other in others or []:
        if other in data_sets:
            from mmcl.errors import ConfigError

            raise ConfigError(f"--on {other} is named twice, or is --data; name other data")
        data_sets[other] = open_data(other, columns=None, images=None)
    run_sweep(request, data_sets, outputs)


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


def _write_one(
    before: str, after: str, alpha: float, batch_norm: str | None, *, batch_size: int, outputs: Outputs
) -> None:
    from mmcl.hub.merging import interpolate as merge
    from mmcl.hub.merging import open_source
    from mmcl.hub.merging.record import MergeRecord

    refresh = batch_norm_refresher(batch_norm, batch_size=batch_size)
    model = merge(open_source(before), open_source(after), alpha)
    if refresh is not None and alpha not in (0, 1):
        refresh(model)
    settings = {"alpha": alpha, **({"batch_norm": batch_norm} if batch_norm else {})}
    finish(model, MergeRecord("wise_ft", [before, after], settings), outputs)
