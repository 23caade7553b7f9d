"""`recipe: auto` beside the recipes that were made by hand, on the test split of each data set.

    python benchmarks/auto.py -o benchmarks/results/NAME.json --emoji path/to/emoji

trains both recipes of emoji, digits and shapes (``--only`` some of them) in fresh processes and writes what each scored
once on the test split, with what was chosen and why; the table goes beside it as .md. ``--splits validation`` reads the
best score on the validation split instead, which is what settings may be chosen by. Needs the extra ``weights``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import Settings, machine, say, versions

POINTS = 2.0  # percentage points that the automatic recipe may be worse
# Data -> the recipe made by hand, and the metrics whose mean counts.
COMPARED: dict[str, tuple[str, tuple[str, ...]]] = {
    "emoji": ("emoji", ("retrieval/i2t_recall@1", "retrieval/t2i_recall@1")),
    "digits": ("digits", ("zeroshot/top1",)),
    "shapes": ("quickstart", ("retrieval/i2t_recall@1", "retrieval/t2i_recall@1")),
}


def _mmcl(*arguments: str) -> float:
    """Run the command in a fresh process; its seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mmcl", *arguments], check=True, stdout=sys.stderr)
    return time.perf_counter() - began


def train_one(
    recipe: str, name: str, data: str, folder: Path, *, seed: int, at_end: bool, more: list[str]
) -> dict[str, Any]:
    """Train, unless the folder holds the finished run already; its scores and, of ``auto``, what was chosen."""
    metrics, seconds = folder / "metrics.jsonl", None
    finished = (folder / "evaluation.json").is_file() if at_end else (folder / "model").is_dir()
    if not finished:
        given = [f"data.path={data}", f"run.dir={folder}", f"run.seed={seed}", f"evaluate.at_end={json.dumps(at_end)}"]
        seconds = _mmcl("train", recipe, *given, *more)
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    choices = folder / "choices.md"
    return {
        "recipe": recipe,
        "seed": seed,
        "seconds": None if seconds is None else round(seconds, 1),
        "validation": [record for record in records if "epoch" in record and "loss" not in record],
        "test": json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["test"] if at_end else None,
        # Where the data lie is a path of this machine.
        "choice": choices.read_text(encoding="utf-8").replace(data, name) if choices.is_file() else None,
    }


def score(run: dict[str, Any], names: tuple[str, ...]) -> float:
    """Percent: the mean of the metrics on the test split, or of the best evaluation on the validation split."""
    judged = [run["test"]] if run["test"] is not None else run["validation"]
    return max(100 * sum(one[name] for name in names) / len(names) for one in judged)


def compare(name: str, data: str, runs: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both recipes on one data set, every seed."""
    by_hand, names = COMPARED[name]
    scores: dict[str, list[float]] = {}
    kept: dict[str, list[dict[str, Any]]] = {}
    for recipe in (by_hand, "auto"):
        for seed in options.seeds:
            folder = runs / f"{name}-{recipe}-{seed}"
            say(f"{name}: {recipe}, seed {seed} -> {folder}")
            run = train_one(recipe, name, data, folder, seed=seed, at_end=options.splits == "test", more=options.set)
            scores.setdefault(recipe, []).append(score(run, names))
            kept.setdefault(recipe, []).append(run)
    hand, auto = (sum(scores[recipe]) / len(scores[recipe]) for recipe in (by_hand, "auto"))
    return {
        "data": name,
        "by_hand": by_hand,
        "metrics": list(names),
        "split": options.splits,
        "scores": scores,
        "hand": round(hand, 2),
        "auto": round(auto, 2),
        "difference": round(auto - hand, 2),
        "holds": auto >= hand - POINTS,
        "runs": kept,
    }


def table(result: dict[str, Any]) -> str:
    """A line for each data set, in Markdown."""
    about, asked = result["about"], result["asked"]
    lines = [
        f"# recipe: auto beside recipes made by hand: {about['gpu'] or about['processor']}",
        f"{about['cores']} cores, {about['memory_gib']} GiB. {about['system']}, Python {about['python']}. Load at the "
        f"start: {about['load']}. mmcl at {about['commit']}; {about['when']}. Seeds {asked['seeds']}, "
        f"{asked['splits']} split; per cent, the mean of the metrics; seconds of the whole command.",
        "| data | metrics | recipe by hand | its score (seconds) | auto (seconds) | difference | at most "
        f"{result['allowed_points']:g} below |\n|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [row["data"], ", ".join(row["metrics"]), row["by_hand"]]
        for recipe, mean in ((row["by_hand"], row["hand"]), ("auto", row["auto"])):
            seconds = [run["seconds"] for run in row["runs"][recipe] if run["seconds"] is not None]
            took = f"{sum(seconds) / len(seconds):.0f} s" if seconds else "trained before"
            cells.append(f"{mean:.1f} ({took})")
        cells += [f"{row['difference']:+.1f}", "yes" if row["holds"] else "**no**"]
        lines[-1] += "\n| " + " | ".join(cells) + " |"
    return "\n\n".join(lines) + "\n"


def main() -> None:
    """Read the options, train, print a line for each data set, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--only", default=",".join(COMPARED), help="some of emoji,digits,shapes")
    parser.add_argument("--emoji", default="../shared/data/emoji", help="the emoji data (mmcl data make emoji)")
    parser.add_argument("--digits", help="the digits data; made where it is not given")
    parser.add_argument("--shapes", default="shapes", help="the built-in scenes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    parser.add_argument("--splits", choices=("test", "validation"), default="test", help="what is judged")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs; finished ones in it are read again")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of both recipes, for a trial")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := [name for name in wanted if name not in COMPARED]:
        parser.error(f"--only: there is no {unknown[0]!r}; known are {', '.join(COMPARED)}")
    about = {**machine(Settings()), "versions": versions()}
    asked = {"seeds": options.seeds, "splits": options.splits, "set": options.set}
    with tempfile.TemporaryDirectory() as scratch:
        runs = options.runs or Path(scratch)
        rows = []
        for name in wanted:
            data = getattr(options, name)
            if data is None:
                data = str(Path(scratch) / "digits")
                _mmcl("data", "make", "digits", "-o", data)
            row = compare(name, data, runs, options)
            rows.append(row)
            say(f"{name}: by hand {row['hand']:.1f}, auto {row['auto']:.1f} ({'holds' if row['holds'] else 'FAILS'})")
            result = {"about": about, "asked": asked, "allowed_points": POINTS, "rows": rows}
            options.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            options.out.with_suffix(".md").write_text(table(result), encoding="utf-8")


if __name__ == "__main__":
    main()
