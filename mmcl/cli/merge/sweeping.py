"""The sweep of `mmcl merge interpolate`: judged, shown, chosen from, written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcl.cli.console import make_console, watch_work
from mmcl.cli.merge.options import (
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
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.hub.merging.choosing import Choice
    from mmcl.hub.merging.wise_ft import Sweep
    from mmcl.models.dual_encoder import DualEncoder

log = get_logger(__name__)


@dataclass(frozen=True)
class SweepRequest:
    """What is swept, how it is judged, and how alpha is chosen."""

    before: str
    after: str
    alphas: list[float]
    metric: str
    on_metric: str
    rule: str | None
    keep: float
    batch_norm: str | None
    batch_size: int
    device: str | None
    precision: str
    cache: bool

    @property
    def title(self) -> str:
        """Of table and page."""
        return f"{self.before} to {self.after}"


def run_sweep(request: SweepRequest, data_sets: dict[str, ImageTextDataset], outputs: Outputs) -> None:
    """Judge every alpha, choose one, and write what was asked for.

    Args:
        request: see there.
        data_sets: by the names they were given by; the first is the one that was tuned for.
        outputs: where results go.
    """
    from mmcl.hub.merging import choose, open_source
    from mmcl.hub.merging import interpolate as merge
    from mmcl.hub.merging.page import sweep_page, sweep_rows
    from mmcl.hub.merging.record import MergeRecord

    refresh = batch_norm_refresher(request.batch_norm, batch_size=request.batch_size)
    before, after = open_source(request.before), open_source(request.after)
    found, shared = _judge(request, data_sets, before, after, refresh)
    choice = choose(found, rule=request.rule, keep=request.keep)
    console = make_console()
    show_table(console, request.title, *sweep_rows(found, choice))
    console.print(f"chosen: alpha {choice.alpha:g}, {choice.reason}", markup=False, soft_wrap=True)
    notes = [note for note in (shared, _test_note([*zip(found.metrics, data_sets.values())])) if note]
    for note in notes[bool(shared) :]:
        log.warning(note)
    if outputs.page_file is not None:
        page = sweep_page(found, choice, title=request.title, notes=[f"{note[0].upper()}{note[1:]}." for note in notes])
        console.print(f"report: {page.write(outputs.page_file)}", markup=False, soft_wrap=True)
    model = None
    if outputs.out is not None:
        model = merge(before, after, choice.alpha)
        if refresh is not None and choice.alpha not in (0, 1):
            refresh(model)
    record = MergeRecord("wise_ft", [request.before, request.after], _settings(request, choice), found.at(choice.alpha))
    finish(model, record, outputs, more={**found.to_dict(), "chosen": choice.to_dict()})


def _judge(
    request: SweepRequest,
    data_sets: dict[str, ImageTextDataset],
    before: DualEncoder,
    after: DualEncoder,
    refresh: Callable[[DualEncoder], None] | None,
) -> tuple[Sweep, str]:
    """What each alpha is worth, and a clause about what was run once for all of them."""
    from mmcl.evaluation.forgetting import short_names
    from mmcl.hub.merging import check_mergeable, sweep
    from mmcl.hub.merging.shared_parts import SharedParts

    names = short_names([dataset.name for dataset in data_sets.values()])
    metrics = {name: request.on_metric if number else request.metric for number, name in enumerate(names)}
    judges = {
        name: build_judge(dataset, metrics[name], data=data, batch_size=request.batch_size)
        for name, (data, dataset) in zip(names, data_sets.items())
    }
    check_mergeable(before, after, names=(request.before, request.after))
    shared = SharedParts.of(
        [before, after], refreshed=refresh is not None, device=request.device, precision=request.precision,
        folder=features_folder(cache=request.cache), batch_size=request.batch_size,
    )  # fmt: skip
    with watch_work(make_console()) as progress:
        found = sweep(
            before, after, judges, metrics, alphas=request.alphas, make_embedder=shared, refresh=refresh,
            progress=progress,
        )  # fmt: skip
    return found, shared.describe()


def _settings(request: SweepRequest, choice: Choice) -> dict[str, Any]:
    settings: dict[str, Any] = {"alpha": choice.alpha, "chosen_by": choice.reason}
    return settings | ({"batch_norm": request.batch_norm} if request.batch_norm else {})


def _test_note(data_sets: list[tuple[str, ImageTextDataset]]) -> str:
    tests = [name for name, dataset in data_sets if is_test(dataset)]
    if not tests:
        return ""
    return (
        f"alpha is chosen on test data ({', '.join(tests)}), so that the figures of the chosen one there are "
        f"optimistic; choose on validation data, and judge the chosen model on test data once"
    )
