"""What each way of choosing negatives brings or costs: the quickstart's recipe with one thing changed at a time.

    python benchmarks/negatives.py                      # every row, seeds 0, 1, 2; about 50 minutes on two cores
    python benchmarks/negatives.py --rows 'plain,queue of 1024' --seeds 0 --workers 1

Every run has the same data, steps and batch size. Runs that are finished are not run again: the folder of runs is the
memory, and what broke off is started anew. Results go to benchmarks/results/negatives.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# Row -> what it changes in the quickstart.
ROWS: dict[str, list[str]] = {
    "plain": [],
    "swapped captions": ["negatives.captions_per_row=3"],
    "hardest 16 of the batch": ["loss.mining=hardest", "loss.mining_count=16"],
    "queue of 1024": ["negatives.queue_size=1024"],
    "false-negative filter": ["loss.false_negative_margin=0.1"],
    "no group twice in a batch": ["batches.name=unique_groups"],
}
# What is printed of each split: a heading, and the metrics whose mean it is.
COLUMNS: dict[str, tuple[str, ...]] = {
    "R@1": ("retrieval/i2t_recall@1", "retrieval/t2i_recall@1"),
    "binding": ("foils/binding",),
    "relation": ("foils/relation",),
    "colour": ("foils/colour",),
    "shape": ("foils/shape",),
    "texture": ("foils/texture",),
    "count": ("foils/count",),
}
SPLITS = {"test": "unseen combinations", "test_seen": "seen combinations"}


def train(folder: Path, row: str, seed: int, extra: list[str]) -> dict[str, Any]:
    """Run one row with one seed, unless it has been run: its evaluation and its seconds."""
    name = "".join(letter if letter.isalnum() else "_" for letter in row)
    run = folder / f"{name}-{seed}"
    result = run / "evaluation.json"
    if not result.exists():
        shutil.rmtree(run, ignore_errors=True)
        command = [sys.executable, "-m", "mmcl", "train", "quickstart", f"run.dir={run}", f"run.seed={seed}"]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, *ROWS[row], *extra], cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode != 0 or not result.exists():
            raise SystemExit(f"{row}, seed {seed}: {done.stderr[-2000:]}")
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = max(record.get("seconds", 0.0) for record in steps)
    return {**json.loads(result.read_text()), "seconds": seconds}


def columns_of(metrics: dict[str, float]) -> dict[str, float]:
    """One split's metrics as percentages, under the table's headings."""
    return {
        heading: 100 * statistics.mean(metrics[name] for name in names)
        for heading, names in COLUMNS.items()
        if all(name in metrics for name in names)
    }


def table(results: dict[str, dict[int, dict[str, Any]]], split: str) -> str:
    """Mean and standard deviation over seeds, a row a line, as Markdown."""
    lines = ["| changed | " + " | ".join(COLUMNS) + " | seconds |", "|---" * (len(COLUMNS) + 2) + "|"]
    for row, by_seed in results.items():
        cells = []
        for heading in COLUMNS:
            values = [columns_of(run[split])[heading] for run in by_seed.values()]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        seconds = statistics.mean(run["seconds"] for run in by_seed.values())
        lines.append(f"| {row} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    return "\n".join(lines)


def report(results: dict[str, dict[int, dict[str, Any]]], extra: list[str]) -> str:
    """The Markdown page of the results."""
    seeds = sorted({seed for by_seed in results.values() for seed in by_seed})
    parts = [
        "# What each way of choosing negatives brings or costs",
        f"`python benchmarks/negatives.py`; seeds {', '.join(map(str, seeds))}; mean ± standard deviation, in percent; "
        f"seconds of training on one thread, other runs beside it. {platform.machine()}, {os.cpu_count()} cores. "
        + (f"Beside what the rows say: `{' '.join(extra)}`. " if extra else "")
        + "One word or pair of words exchanged in the caption (binding, relation ...): chance is 50.",
    ]
    parts += [f"## {title}\n\n{table(results, split)}" for split, title in SPLITS.items()]
    changes = [
        f"- {row}: `{' '.join(changes) or 'the recipe as it is'}`" for row, changes in ROWS.items() if row in results
    ]
    return "\n\n".join([*parts, "## What was changed\n\n" + "\n".join(changes)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="which rows, separated by commas; default all")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the runs")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs side by side, one thread each")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "negatives", help="folder of the runs")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "benchmarks" / "results" / "negatives.json")
    parser.add_argument("override", nargs="*", help="key=value for every run, such as train.max_steps=20")
    given = parser.parse_args()
    rows = [row.strip() for row in given.rows.split(",")]
    for row in rows:
        if row not in ROWS:
            parser.error(f"--rows has {row!r}; want some of {', '.join(ROWS)}")
    jobs = [(row, int(seed)) for seed in given.seeds.split(",") for row in rows]
    results: dict[str, dict[int, dict[str, Any]]] = {row: {} for row in rows}
    with ThreadPoolExecutor(given.workers) as pool:
        runs = pool.map(lambda job: train(given.runs.resolve(), *job, given.override), jobs)
        for (row, seed), run in zip(jobs, runs):
            results[row][seed] = run
            print(row, seed, {k: round(v, 1) for k, v in columns_of(run["test"]).items()}, flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"overrides": given.override, "rows": ROWS, "results": results}, indent=1) + "\n")
    page = report(results, given.override)
    given.out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
