"""The files of a search: the best recipe, all trials, and what mattered, in Markdown and as a page."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from pathlib import Path
from typing import Any

from mmcl.errors import MissingDependencyError
from mmcl.logs import get_logger
from mmcl.tuning.confirming import ASKED, Candidate
from mmcl.tuning.limits import write_duration
from mmcl.tuning.mattering import Influence, influences, too_few
from mmcl.tuning.request import TuneResult
from mmcl.tuning.stages import Stage
from mmcl.tuning.trial_book import TrialBook, TrialRecord
from mmcl.tuning.trial_runs import PRUNED

log = get_logger(__name__)

# What is told of the winner beside what was searched for.
HEADLINES = (
    *("retrieval/i2t_recall@1", "retrieval/t2i_recall@1", "retrieval/i2t_recall@10", "retrieval/t2i_recall@10"),
    "zeroshot/top1",
)


@dataclasses.dataclass(frozen=True)
class StageReport:
    """What is told of a stage.

    Attributes:
        stage, records: the search.
        influences: what each setting did, most important first.
        warning: that trials are few; None: they are enough.
    """

    stage: Stage
    records: list[TrialRecord]
    influences: list[Influence]
    warning: str | None

    @property
    def counts(self) -> str:
        """``24 trials: 15 complete, 8 pruned, 1 failed``."""
        states = [record.state for record in self.records]
        parts = [f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed") if state in states]
        return f"{len(states)} trial{'' if len(states) == 1 else 's'}: {', '.join(parts)}"


def write_results(result: TuneResult, book: TrialBook) -> None:
    """Write ``best.yaml``, ``trials.jsonl``, ``trials.csv``, ``report.md`` and ``report.html``.

    The page needs matplotlib; without it a warning says so, and the other files are written.
    """
    reports = stage_reports(result, book)
    write_best(result)
    rows = [*result.trials, *result.repeats]
    lines = [json.dumps({"label": row.label, **dataclasses.asdict(row)}, ensure_ascii=False) for row in rows]
    _write(result.folder / "trials.jsonl", "".join(line + "\n" for line in lines))
    _write(result.folder / "trials.csv", as_csv(rows))
    _write(result.folder / "report.md", markdown(result, reports))
    from mmcl.tuning.tuning_page import tuning_page

    try:
        tuning_page(result, reports).write(result.folder / "report.html")
    except MissingDependencyError as error:
        log.warning("no report.html: %s", error)


def stage_reports(result: TuneResult, book: TrialBook) -> list[StageReport]:
    """What is told of each stage that has trials."""
    found = []
    for stage, records in result.stages:
        if records:
            told = influences(book.open(stage.name), stage.space, records, result.metric)
            complete = sum(record.is_complete for record in records)
            found.append(StageReport(stage, records, told, too_few(stage.space, complete)))
    return found


def write_best(result: TuneResult) -> None:
    """Write the recipe that wins, for ``mmcl train``."""
    metric, choice = result.metric, result.choice
    settings = dict(choice.winner.settings)
    comments = [f"Found by mmcl tune among {len(result.trials)} trials: {choice.winner.label}."]
    comments += verdict(result)
    if metric.single is not None:
        settings["evaluate.metric"] = metric.single
    result.asked.write(result.best, settings, comments=comments)


def verdict(result: TuneResult) -> list[str]:
    """Who wins and what the gain is worth, as sentences."""
    metric, choice = result.metric, result.choice
    if result.unfinished:
        return [result.unfinished[0].upper() + result.unfinished[1:] + "."]
    asked, winner = choice.candidates[0], choice.winner
    said = []
    _, records = result.stages[-1]
    if not any(record.is_complete or record.state == PRUNED for record in records[1:]):
        failed = f"{len(records) - 1} of them failed" if len(records) > 1 else "none was begun in time"
        said.append(
            f"Nothing was compared with the recipe as it was asked: no other trial came to its end ({failed}); give a "
            f"longer --budget or more --trials."
        )
    elif winner is asked or winner.label == ASKED:
        said.append(f"No settings were better than the recipe as it was asked on validation ({metric.name}).")
    elif choice.seeds:
        spread = "" if math.isnan(choice.gain_spread) else f" (sd {metric.show_gain(choice.gain_spread).lstrip('+')})"
        said.append(
            f"{metric.name} on validation, mean of {len(choice.seeds)} other seed(s): {metric.show(winner.mean)} "
            f"against {metric.show(asked.mean)} as asked, {metric.show_gain(choice.gain)}{spread}."
        )
    else:
        gain = metric.show_gain(metric.gain(winner.found, asked.found))
        said.append(
            f"{metric.name} on validation, one seed: {metric.show(winner.found)} against {metric.show(asked.found)} as "
            f"asked, {gain}; not repeated with other seeds, so part of this is luck."
        )
    if choice.seeds and not math.isnan(choice.noise_share):
        said.append(
            f"The search's best claimed {metric.show_gain(choice.claimed)}; other seeds show "
            f"{metric.show_gain(choice.kept)}, so {100 * min(1.0, max(0.0, choice.noise_share)):.0f} % of it was luck."
        )
    return said


def candidate_rows(result: TuneResult) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of candidates over the seeds."""
    metric, choice = result.metric, result.choice
    header = ["settings", "search", *(f"seed {seed}" for seed in choice.seeds), "mean", "sd", ""]
    rows = []
    for one in choice.candidates:
        values = [metric.show(one.values[seed]) for seed in choice.seeds]
        spread = "-" if math.isnan(one.spread) else metric.show_gain(one.spread).lstrip("+")
        mark = "wins" if one is choice.winner else ""
        rows.append([one.label, metric.show(one.found), *values, metric.show(one.mean), spread, mark])
    return header, rows


def headline_rows(result: TuneResult) -> list[list[str]]:
    """What other metrics say of the winner, mean over the seeds: name, as asked, winner; empty without repeats."""
    asked, winner = result.choice.candidates[0], result.choice.winner
    if not result.choice.seeds or winner is asked:
        return []
    names = [name for name in HEADLINES if all(name in _means(one) for one in (asked, winner))]
    return [[name, f"{100 * _means(asked)[name]:.2f} %", f"{100 * _means(winner)[name]:.2f} %"] for name in names]


def _means(candidate: Candidate) -> dict[str, float]:
    seeds = list(candidate.metrics.values())
    shared = set.intersection(*(set(metrics) for metrics in seeds)) if seeds else set()
    return {name: sum(metrics[name] for metrics in seeds) / len(seeds) for name in shared}


def changed_rows(result: TuneResult) -> list[list[str]]:
    """The winner's settings beside those of the recipe as it was asked: key, as asked, winner."""
    from mmcl.tuning.settings import as_yaml, value_at

    recipe = result.asked.recipe()
    return [
        [key, as_yaml(value_at(recipe, key)), value] for key, value in sorted(result.choice.winner.settings.items())
    ]


def as_csv(rows: list[TrialRecord]) -> str:
    """Trials as a table: one column for each setting and metric."""
    settings = sorted({key for row in rows for key in row.settings})
    metrics = sorted({name for row in rows for name in row.metrics})
    plain = ("stage", "number", "seed", "state", "value", "seconds", "steps", "reason", "at")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*plain, *settings, *metrics])
    for row in rows:
        values: list[Any] = [getattr(row, name) for name in plain]
        values += [row.settings.get(key, "") for key in settings] + [row.metrics.get(name, "") for name in metrics]
        writer.writerow(["" if value is None else value for value in values])
    return buffer.getvalue()


def markdown(result: TuneResult, reports: list[StageReport]) -> str:
    """``report.md``."""
    lines = [f"# mmcl tune {result.asked.name}", "", *verdict(result), ""]
    took = write_duration(result.seconds)
    lines += [f"{took} of wall time{', stopped by a signal' if result.interrupted else ''}. Train the winner with:", ""]
    lines += ["```", f"mmcl train {result.best}", "```", ""]
    if result.choice.winner.settings:
        lines += ["## The winner", "", *_table(["key", "as asked", "winner"], changed_rows(result)), ""]
    if headlines := headline_rows(result):
        lines += [*_table(["validation, mean of the seeds", "as asked", "winner"], headlines), ""]
    if not result.unfinished:
        lines += ["## Seeds", "", *_table(*candidate_rows(result)), ""]
    for report in reports:
        lines += [f"## What mattered: stage {report.stage.name}", "", f"{report.counts}.", ""]
        lines += [f"**{report.warning}.**", ""] if report.warning else []
        lines += [f"- {one.sentence(result.metric)}{_importance(one)}" for one in report.influences]
        lines += ["", "Searched:", ""]
        lines += [f"- {setting.key}: {setting.describe()}" for setting in report.stage.space]
        lines += [f"- {key}: {value} (in every trial of this stage)" for key, value in report.stage.fixed.items()]
        if failed := [record for record in report.records if record.state == "failed"]:
            lines += ["", "Failed:", "", *(f"- {record.label}: {record.reason}" for record in failed)]
        lines.append("")
    return "\n".join(lines)


def _importance(one: Influence) -> str:
    return "" if one.importance is None else f"; explains {100 * one.importance:.0f} %"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *map(line, rows)]


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def as_json(result: TuneResult, reports: list[StageReport]) -> dict[str, Any]:
    """What ``--json`` writes."""
    choice = result.choice

    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    candidates = [
        {
            "label": one.label,
            "settings": one.settings,
            "found": number(one.found),
            "values": {str(seed): value for seed, value in one.values.items()},
            "mean": number(one.mean),
            "sd": number(one.spread),
        }
        for one in choice.candidates
    ]
    mattered = {
        report.stage.name: [
            {
                "key": one.setting.key,
                "difference": one.difference,
                "standard_error": number(one.error),
                "best": one.best,
                "importance": one.importance,
            }
            for one in report.influences
        ]
        for report in reports
    }
    return {
        "recipe": result.asked.name,
        "metric": result.metric.name,
        "best": str(result.best),
        "winner": choice.winner.label,
        "settings": choice.winner.settings,
        "gain": number(choice.gain),
        "gain_sd": number(choice.gain_spread),
        "claimed_gain": number(choice.claimed),
        "kept_gain": number(choice.kept),
        "seeds": list(choice.seeds),
        "candidates": candidates,
        "stages": {report.stage.name: report.counts for report in reports},
        "what_mattered": mattered,
        "warnings": [report.warning for report in reports if report.warning],
        "unfinished": result.unfinished,
        "interrupted": result.interrupted,
        "seconds": round(result.seconds, 1),
    }
