"""`mmcl merge soup`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl.cli.console import make_console, watch_work
from mmcl.cli.evaluate.options import BatchSize, Cache, Columns, Device, Images, Precision, open_data
from mmcl.cli.merge.options import (
    METRIC,
    BatchNorm,
    Force,
    Json,
    Metric,
    Out,
    Outputs,
    batch_norm_refresher,
    build_judge,
    features_folder,
    finish,
    is_test,
    show_table,
)
from mmcl.logs import get_logger

if TYPE_CHECKING:
    from mmcl.hub.merging.soups import Soup
    from mmcl.models.dual_encoder import DualEncoder

log = get_logger(__name__)


def soup(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Runs, checkpoints, folders or Hub ids.")],
    greedy: Annotated[bool, typer.Option("--greedy", help="Take in only what helps on --data.")] = False,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DATA", help="Held-out data that models and soups are judged on.")
    ] = None,
    metric: Metric = METRIC,
    weights: Annotated[
        str | None, typer.Option("--weights", help="One a model, summing to 1, such as 0.5,0.3,0.2; default equal.")
    ] = None,
    out: Out = None,
    force: Force = False,
    batch_norm: BatchNorm = None,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
    precision: Precision = "fp32",
    cache: Cache = True,
) -> None:
    """The mean of several models' weights: all of them, or (--greedy) those that help on held-out data.

    The models should have been fine-tuned from one start. The greedy soup takes them from the best to the worst, and
    keeps each with which the mean is no worse than without. Without --data nothing is judged.

    Example: mmcl merge soup runs/a runs/b runs/c --greedy --data path/to/emoji:validation -o runs/soup --json soup.json

    Example: mmcl merge soup runs/a/checkpoints/step_00000200 runs/a/checkpoints/step_00000300 -o averaged
    """
    shares = _weights(weights, len(models))
    _check_usage(models, greedy=greedy, data=data, weights=weights, batch_norm=batch_norm)
    outputs = Outputs(out, force, json_file)
    outputs.check(models)
    if data is None:
        _mix(models, shares, batch_norm, batch_size=batch_size, outputs=outputs)
        return
    from mmcl.hub.merging.record import MergeRecord
    from mmcl.hub.merging.shared_parts import SharedParts
    from mmcl.hub.merging.soups import judged_soup
    from mmcl.hub.merging.sources import SourceModels

    dataset = open_data(data, columns=columns, images=images)
    judge = build_judge(dataset, metric, data=data, batch_size=batch_size)
    embedding: dict[str, Any] = {"device": device, "precision": precision, "batch_size": batch_size}
    embedding["folder"] = features_folder(cache=cache)

    def make_embedder(example: DualEncoder, equal: set[str]) -> SharedParts:
        return SharedParts.from_equal(example, equal, **embedding)

    console = make_console()
    with watch_work(console) as progress:
        found = judged_soup(
            SourceModels(models), judge, metric, greedy=greedy, weights=shares if weights else None, names=models,
            make_embedder=make_embedder, progress=progress,
        )  # fmt: skip
    show_table(console, f"soup on {dataset.name}", *soup_rows(found, weighted=weights is not None))
    if is_test(dataset):
        log.warning("%s is test data: a soup that was chosen there looks better than it is; judge on others", data)
    settings = {"weights": list(found.weights.values()), "method": "greedy" if greedy else "mean"}
    metrics = {dataset.name: found.greedy if greedy else found.mixed}
    record = MergeRecord("soup", models, settings, metrics)
    finish(found.model, record, outputs, more={"judged": found.to_dict()})


def soup_rows(found: Soup, *, weighted: bool) -> tuple[list[str], list[list[str]]]:
    """The table of single models and soups: what counts, and each model's share of the result."""
    from mmcl.hub.merging.page import write_metric

    def line(name: str, metrics: dict[str, Any], share: str) -> list[str]:
        return [name, write_metric(found.metric, found.value(metrics)), share]

    rows = [line(name, metrics, f"{found.weights[name]:.3g}") for name, metrics in found.singles.items()]
    rows.append(line("weighted soup" if weighted else "uniform soup", found.mixed, ""))
    if found.greedy is not None:
        members = sum(step.kept for step in found.steps)
        rows.append(line(f"greedy soup of {members}", found.greedy, ""))
    return ["model", found.metric, "share"], rows


def _weights(weights: str | None, count: int) -> list[float] | None:
    from mmcl.errors import ConfigError

    if weights is None:
        return None
    try:
        found = [float(word) for word in weights.split(",")]
    except ValueError:
        raise ConfigError(f"--weights {weights!r}: want numbers between commas, such as 0.5,0.3,0.2") from None
    from mmcl.hub.merging.state_averages import check_weights

    return check_weights(found, count)


def _check_usage(
    models: list[str], *, greedy: bool, data: str | None, weights: str | None, batch_norm: str | None
) -> None:
    from mmcl.errors import ConfigError

    if len(models) < 2:
        raise ConfigError(f"a soup is made of at least two models, got {models[0]}")
    twice = next((name for number, name in enumerate(models) if name in models[:number]), None)
    if twice is not None:
        raise ConfigError(f"{twice} is named twice; to count it more, give --weights")
    if greedy and data is None:
        raise ConfigError("--greedy needs --data DATA, held-out data by which models are taken in")
    if greedy and weights is not None:
        raise ConfigError("--greedy finds the members itself and takes no --weights; leave one of them out")
    if batch_norm is not None and data is not None:
        raise ConfigError("--batch-norm goes with a soup that is not judged: write it, and judge it with mmcl eval")


def _mix(
    models: list[str], shares: list[float] | None, batch_norm: str | None, *, batch_size: int, outputs: Outputs
) -> None:
    from mmcl.errors import ConfigError
    from mmcl.hub.merging.record import MergeRecord
    from mmcl.hub.merging.soups import mix
    from mmcl.hub.merging.sources import SourceModels

    if outputs.out is None:
        raise ConfigError("there is nothing to do: give -o FOLDER to write the soup, or --data to judge it")
    refresh = batch_norm_refresher(batch_norm, batch_size=batch_size)
    model = mix(SourceModels(models), shares, names=models)
    if refresh is not None:
        refresh(model)
    settings: dict[str, Any] = {"weights": shares or [1 / len(models)] * len(models), "method": "mean"}
    if batch_norm:
        settings["batch_norm"] = batch_norm
    finish(model, MergeRecord("soup", models, settings), outputs)
