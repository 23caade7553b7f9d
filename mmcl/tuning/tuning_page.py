"""A search as a page: the best over time, what each setting explains, slices, and the spread over seeds."""

from __future__ import annotations

import math

from mmcl.pages.figures import draw_bars, draw_lines
from mmcl.pages.page import Page
from mmcl.tuning.confirming import ASKED
from mmcl.tuning.mattering import Influence
from mmcl.tuning.metric import Metric
from mmcl.tuning.request import TuneResult
from mmcl.tuning.results import StageReport, candidate_rows, changed_rows, headline_rows, verdict
from mmcl.tuning.trial_book import TrialRecord


def tuning_page(result: TuneResult, reports: list[StageReport]) -> Page:
    """The page of a search.

    Args:
        result: of the search.
        reports: of its stages.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    page = Page(f"mmcl tune {result.asked.name}")
    for sentence in verdict(result):
        page.paragraph(sentence)
    page.paragraph(f"Train the winner with: mmcl train {result.best}")
    if result.choice.winner.settings:
        page.table(["key", "as asked", "winner"], changed_rows(result), caption="The winner's settings")
    if headlines := headline_rows(result):
        page.table(["validation, mean of the seeds", "as asked", "winner"], headlines)
    if not result.unfinished:
        _add_seeds(page, result)
    for report in reports:
        _add_stage(page, report, result.metric)
    return page


def _label(metric: Metric) -> str:
    return f"{metric.name}{' (%)' if metric.is_fraction else ''}"


def _scale(metric: Metric) -> float:
    return 100.0 if metric.is_fraction else 1.0


def _add_seeds(page: Page, result: TuneResult) -> None:
    page.heading("Other seeds")
    choice, metric = result.choice, result.metric
    if choice.seeds:
        lines = {
            one.label: (list(choice.seeds), [_scale(metric) * one.values[seed] for seed in choice.seeds])
            for one in choice.candidates
        }
        drawn = draw_lines(lines, x_label="run.seed", y_label=_label(metric))
        page.figure(drawn, caption="The same settings, trained with seeds that the search has not seen.")
    else:
        page.paragraph("Nothing was repeated with other seeds: part of what the search found is luck.")
    page.table(*candidate_rows(result))


def _add_stage(page: Page, report: StageReport, metric: Metric) -> None:
    page.heading(f"Stage {report.stage.name}")
    page.paragraph(f"{report.counts}.")
    page.figure(_over_time(report.records, metric), caption="The best completed trial so far, and every trial.")
    if report.warning:
        page.paragraph(f"{report.warning}.")
    for one in report.influences:
        page.paragraph(one.sentence(metric))
    shares = [one for one in report.influences if one.importance is not None]
    if shares:
        names = [one.setting.key.rpartition(".")[2] + _side(one.setting.key) for one in shares]
        drawn = draw_bars(names, {"": [one.importance for one in shares]}, x_label="", y_label="share of variance")
        complete = sum(record.is_complete for record in report.records)
        page.figure(drawn, caption=f"Importance of each setting (fANOVA), on {complete} completed trials.")
    for one in report.influences:
        page.figure(_slice(one, metric), caption=f"{one.setting.key}: {one.setting.describe()}")
    rows = [
        [r.number, r.state, metric.show(r.value), f"{r.seconds:.1f} s", _written(r), r.reason] for r in report.records
    ]
    page.table(["trial", "state", metric.name, "time", "settings", "reason"], rows)


def _side(key: str) -> str:
    return f" {key.split('.')[1]}" if key.startswith(("model.image.", "model.text.")) else ""


def _written(record: TrialRecord) -> str:
    words = [f"{key}={value}" for key, value in record.settings.items()]
    return f"{ASKED}: {' '.join(words)}" if record.number == 0 else " ".join(words)


def _over_time(records: list[TrialRecord], metric: Metric) -> str:
    complete = [record for record in records if record.is_complete]
    minutes, best = [], []
    for record in complete:
        value = _scale(metric) * record.value
        ahead = not best or metric.better(value, best[-1])
        minutes.append(record.at / 60)
        best.append(value if ahead else best[-1])
    lines = {"best so far": (minutes, best)}
    lines["trials"] = ([record.at / 60 for record in complete], [_scale(metric) * record.value for record in complete])
    return draw_lines(lines, x_label="minutes", y_label=_label(metric))


def _slice(one: Influence, metric: Metric) -> str:
    factor = _scale(metric)
    if one.setting.choices:
        names = [f"{part.name} ({part.trials})" for part in one.parts]
        bars = {"mean": [factor * part.mean for part in one.parts], "best": [factor * part.best for part in one.parts]}
        return draw_bars(names, bars, x_label=f"{one.setting.key} (trials)", y_label=_label(metric))
    log = one.setting.log
    x = [math.log10(part.middle) if log else part.middle for part in one.parts]
    lines = {
        name: (x, [factor * getattr(part, attribute) for part in one.parts])
        for name, attribute in (("best of third", "best"), ("mean of third", "mean"), ("worst of third", "worst"))
    }
    label = f"log10 of {one.setting.key}" if log else one.setting.key
    return draw_lines(lines, x_label=label, y_label=_label(metric))
