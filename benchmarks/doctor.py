"""Whether `mmcl doctor` names the right cause: small trainings with a fault planted in each, and healthy ones.

    python benchmarks/doctor.py -o benchmarks/results/doctor.json            # all, about ten minutes on one core
    python benchmarks/doctor.py --pretrained data/emoji -o benchmarks/results/doctor_pretrained.json
    python benchmarks/doctor.py --only "pairs shuffled;InfoNCE" -o FILE.json # some

Of a planted fault the cause that the doctor names first counts; of a healthy run that nothing is a fault or a warning,
neither in training nor in the examination.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import doctor_pretrained_plants as pretrained
import torch
import yaml
from doctor_plants import BASE, HEALTHY, PLANTED, Case, Rows, draw_rows, write_table
from measuring import Settings, machine, say
from transformers.utils import logging as transformers_logging

from mmcl.build import train
from mmcl.builders.examining.examine import examine_run
from mmcl.builders.examining.run_records import read_findings
from mmcl.config import Recipe, load_recipe

QUICK = ("pairs shuffled", "everything frozen", "one caption for all", "InfoNCE", "sigmoid")
QUICK_STEPS = 20  # of a planted fault


def make_recipe(case: Case, rows: Rows, folder: Path, own: Path, *, seed: int) -> Recipe:
    """The recipe of one run, with its table and towers.

    Args:
        case: what is planted.
        rows: of the table before anything is changed.
        folder: with ``images/``.
        own: the run's own folder.
        seed: of the run and of what is done to the rows.
    """
    changed = case.rows(rows, random.Random(seed))
    torch.manual_seed(seed)  # of towers with random weights
    extra = case.towers(own, changed)
    table = write_table(own / "table.jsonl", changed, columns=case.columns)
    overrides = [f"data.path={table}", f"data.images={folder / 'images'}"]
    if case.recipe:
        reference: str | Path = case.recipe
        overrides += pretrained.BASE if case.recipe.startswith("emoji") else ()
    else:
        reference = own / "recipe.yaml"
        reference.write_text(yaml.safe_dump({"name": "plant", "data": {"path": str(table)}, **BASE}))
    overrides += [f"run.dir={own / 'run'}", f"run.seed={seed}", f"train.feature_cache.dir={folder / 'features'}"]
    overrides.append("evaluate.at_end=false")
    return load_recipe(reference, [*overrides, *case.overrides, *extra])


def run_case(case: Case, rows: Rows, folder: Path, *, seed: int, quick: bool = False) -> dict[str, Any]:
    """Train one run and examine it.

    Args:
        case: what is planted.
        rows: of the table before anything is changed.
        folder: with ``images/``; the run's own folder is made in it, and removed.
        seed: of the run and of what is done to the rows.
        quick: fewer steps of planted faults.

    Returns:
        What was named, whether it is right, and seconds.
    """
    own = folder / "".join(letter if letter.isalnum() else "_" for letter in case.name)
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    if quick and case.wanted:
        case = dataclasses.replace(case, overrides=(*case.overrides, f"train.max_steps={QUICK_STEPS}"))
    recipe = make_recipe(case, rows, folder, own, seed=seed)
    stopped, began = "", time.perf_counter()
    with case.patch():
        try:
            train(recipe)
        except Exception as error:  # a planted fault may end the training in any way
            stopped = " ".join(str(error).split())[:200]
        trained = time.perf_counter()
        if not (own / "run" / "config.yaml").is_file():
            raise SystemExit(f"{case.name}: the run did not begin: {stopped}")
        case.after(own / "run")
        found = examine_run(own / "run", rows=400)
    live = [finding.cause for finding in read_findings(own / "run")[0] if finding.is_alarm]
    held_out = best_recall(own / "run")
    shutil.rmtree(own)
    named = None if found.first is None else found.first.cause
    # Where the files lay is no result.
    said = json.loads(json.dumps([found.diagnosis, *(f.to_dict() for f in found.findings)]).replace(str(folder), "."))
    alarms = [finding.cause for finding in found.findings if finding.is_alarm]
    return {
        "case": case.name,
        "wanted": list(case.wanted),
        "named": named,
        "right": named in case.wanted if case.wanted else not (alarms or live or stopped),
        "alarms": alarms,
        "alarms_in_training": live,
        "diagnosis": said[0],
        "findings": said[1:],
        "held_out": held_out,
        "facts": found.facts,
        "stopped": stopped.replace(str(folder), "."),
        "train_seconds": round(trained - began, 2),
        "doctor_seconds": round(time.perf_counter() - trained, 2),
    }


def best_recall(run: Path) -> dict[str, float] | None:
    """Image-to-text R@1 of the best evaluation on validation rows, and its chance; None where there was none."""
    names = {"recall": "retrieval/i2t_recall@1", "chance": "retrieval/i2t_chance_recall@1"}
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").is_file() else []
    judged = [record for record in map(json.loads, lines) if all(name in record for name in names.values())]
    best = max(judged, key=lambda record: record[names["recall"]], default=None)
    return None if best is None else {key: round(best[name], 4) for key, name in names.items()}


def report(results: list[dict[str, Any]], about: dict[str, Any], *, seed: int) -> str:
    """The results as Markdown."""
    lines = [
        f"# The doctor's diagnoses: {about['processor']}",
        f"{about['cores']} cores, {about['threads']} thread(s); load at the start {about['load']}; mmcl at "
        f"{about['commit']}; {about['when']}; seed {seed}.",
    ]
    for title, chosen in (("Planted faults", True), ("Healthy runs", False)):
        part = [result for result in results if bool(result["wanted"]) == chosen]
        if not part:
            continue
        right = sum(result["right"] for result in part)
        lines += ["", f"## {title}: {right} of {len(part)} right", ""]
        lines.append(
            "| run | wanted | named first | right | other alarms | in training | held-out R@1 (chance) | training, s "
            "| doctor, s |"
        )
        lines.append("|---" * 9 + "|")
        for result in part:
            others = ", ".join(cause for cause in result["alarms"] if cause != result["named"])
            cells = [result["case"], " or ".join(result["wanted"]) or "none", result["named"] or "none"]
            cells += ["yes" if result["right"] else "**no**", others or "-"]
            cells.append(", ".join(result["alarms_in_training"]) or "-")
            held = result.get("held_out")
            cells.append("-" if held is None else f"{100 * held['recall']:.0f} ({100 * held['chance']:.1f})")
            cells += [f"{result['train_seconds']:.1f}", f"{result['doctor_seconds']:.1f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(given: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file; the table is written beside it")
    parser.add_argument("--only", help="names of some runs, with semicolons between")
    parser.add_argument("--pretrained", metavar="EMOJI", type=Path, help="heads on pretrained towers instead; the data")
    parser.add_argument("--seed", type=int, default=29, help="of data, faults and runs (default 29)")
    parser.add_argument("--quick", action="store_true", help="five runs, three of few steps: a trial of the script")
    options = parser.parse_args(given)
    settings = Settings(quick=options.quick)
    settings.prepare()
    logging.getLogger("mmcl").setLevel(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    names = QUICK if options.quick else tuple(filter(None, (options.only or "").split(";")))
    listed = (*PLANTED, *HEALTHY) if options.pretrained is None else (*pretrained.PLANTED, *pretrained.HEALTHY)
    cases = [case for case in listed if not names or case.name in names]
    if unknown := set(names) - {case.name for case in cases}:
        parser.error(f"no run is called {', '.join(sorted(unknown))}")
    about, results = machine(settings), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MMCL_CACHE"] = str(folder / "cache")
        if options.pretrained is None:
            rows = draw_rows(folder, options.seed)
        else:
            rows = pretrained.read_rows(options.pretrained, options.seed)
            (folder / "images").symlink_to(options.pretrained.resolve())
        for case in cases:
            found = run_case(case, rows, folder, seed=options.seed, quick=options.quick)
            # Where the data lie is no result either.
            results.append(json.loads(json.dumps(found).replace(str(options.pretrained), "data")))
            say(f"{case.name}: {results[-1]['named']} {'' if results[-1]['right'] else '(wrong)'}")
            options.output.write_text(json.dumps({"machine": about, "seed": options.seed, "runs": results}, indent=1))
            options.output.with_suffix(".md").write_text(report(results, about, seed=options.seed), encoding="utf-8")
    print(report(results, about, seed=options.seed))


if __name__ == "__main__":
    main()
