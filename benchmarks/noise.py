"""What handling wrong captions brings: a recipe on clean data, on data with shuffled captions, and with handling.

    python benchmarks/noise.py -o noise.json --data path/to/emoji         # emoji, 30 %, seeds 0, 1, 2
    python benchmarks/noise.py -o shapes.json --recipe quickstart --data 'shapes?train=2000&image_size=32'
    python benchmarks/noise.py -o none.json --share 0 --data path/to/emoji        # what handling costs on clean data
    python benchmarks/noise.py -o digits.json --by label --recipe digits --data path/to/digits --metrics zeroshot/top1

A share of the training groups get their captions (and tags) from one another, in a derangement drawn by the seed: each
of them has the caption of another group, on all of its images (--by group), or a share of the rows do (--by row), and
have its label and group as well (--by label). Validation and test keep their own. The recipe picks its checkpoint on
validation; test is judged once, with that checkpoint. Settings are to be chosen by the validation columns alone.

The runs follow one another in this process, and runs that are finished are not run again: the folder of runs is the
memory. A run's listing of suspicious pairs is compared with the pairs that were shuffled.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]

# Row -> whether captions are shuffled, and what it changes in the recipe.
ROWS: dict[str, tuple[bool, list[str]]] = {
    "clean": (False, []),
    "shuffled": (True, []),
    "small_loss": (True, ["noise.method=small_loss"]),
    "mixture": (True, ["noise.method=mixture"]),
    "ema_agreement": (True, ["noise.method=ema_agreement"]),
    "cross_fit": (True, ["noise.method=cross_fit"]),
    "clean, cross_fit": (False, ["noise.method=cross_fit"]),
    "clean, ema_agreement": (False, ["noise.method=ema_agreement"]),
}
RECALLS = ("retrieval/i2t_recall@10", "retrieval/t2i_recall@10")
TEST = "test"


def derangement(ids: np.ndarray, *, forbidden: np.ndarray, seed: int) -> np.ndarray:
    """(k,) a permutation of ``ids`` in which none comes to stand where ``forbidden`` says the same as of itself.

    Args:
        ids: (k,) what is permuted.
        forbidden: what may not stay in its place, indexed by id: the group of a row, or of a group itself.
        seed: of the draw.
    """
    draw = np.random.default_rng(seed)
    given = draw.permutation(ids)
    for _ in range(10_000):
        same = np.flatnonzero(forbidden[given] == forbidden[ids])
        if not len(same):
            return given
        for place in same:
            other = draw.integers(len(given))
            given[[place, other]] = given[[other, place]]
    raise SystemExit(f"no derangement of {len(ids)} found; raise --share")


def sources(groups: np.ndarray, *, share: float, by: str, seed: int) -> np.ndarray:
    """(n,) the row that each row takes its caption from: itself, but for a share of the groups or rows."""
    rows, draw = np.arange(len(groups)), np.random.default_rng(1000 + seed)
    if share == 0:
        return rows
    if by != "group":
        picked = draw.permutation(len(groups))[: round(share * len(groups))]
        taken = rows.copy()
        taken[picked] = derangement(picked, forbidden=groups, seed=2000 + seed)
        return taken
    names, first = np.unique(groups, return_index=True)
    picked = draw.permutation(len(names))[: round(share * len(names))]
    of_group = np.arange(len(names))
    of_group[picked] = derangement(picked, forbidden=of_group, seed=2000 + seed)
    taken = first[of_group[np.searchsorted(names, groups)]]
    return np.where(of_group[np.searchsorted(names, groups)] == np.searchsorted(names, groups), rows, taken)


@contextmanager
def shuffled_captions(share: float, by: str, seed: int) -> Iterator[list[np.ndarray]]:
    """Within it, a training learns from shuffled captions; which rows they are is put into the list."""
    from mmcl.builders import training
    from mmcl.data.dataset import ImageTextDataset

    load_splits, fingerprint = training.load_splits, ImageTextDataset.fingerprint
    wrong: list[np.ndarray] = []

    def load(recipe: Any, **options: Any) -> Any:
        splits = load_splits(recipe, **options)
        train = splits.train
        train.__dict__["kept_fingerprint"] = fingerprint(train)  # the images are the same: so are their features
        taken = sources(train.group_ids().numpy(), share=share, by=by, seed=seed)
        wrong.append(taken != np.arange(len(taken)))
        changed = {"texts", "tags"} | ({"label", "group"} if by == "label" else set())
        for name in changed & {*train.table.column_names}:
            place = train.table.column_names.index(name)
            train.table = train.table.set_column(
                place, train.table.field(name), train.table[name].take(pa.array(taken))
            )
        return splits

    training.load_splits = load
    ImageTextDataset.fingerprint = lambda self: self.__dict__.get("kept_fingerprint") or fingerprint(self)
    try:
        yield wrong
    finally:
        training.load_splits, ImageTextDataset.fingerprint = load_splits, fingerprint


def run(given: argparse.Namespace, row: str, seed: int) -> dict[str, Any]:
    """Run one row with one seed, unless it has been run: metrics of both splits, and which wrong pairs were found."""
    from mmcl.builders import training
    from mmcl.config import load_recipe

    is_shuffled, changes = ROWS[row]
    share = given.share if is_shuffled else 0.0
    how = f"{share:g} by {given.by}" if share else "0"
    name = "".join(letter if letter.isalnum() else "_" for letter in f"{row} {how} {seed}")
    folder = given.runs.resolve() / name
    memory = folder / "noise.json"
    if memory.exists():
        return json.loads(memory.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    data = [f"data.path={given.data}"] if given.data else []
    settings = [*data, f"run.dir={folder}", f"run.seed={seed}", *changes, *given.override]
    recipe = load_recipe(given.recipe, settings)
    with shuffled_captions(share, given.by, seed) as wrong:
        done = training.train(recipe)
    best = max(done.result.evaluations, key=lambda record: record[recipe.evaluate.metric])
    found = {
        "validation": {name: best[name] for name in given.metrics},
        "test": {name: done.metrics[TEST][name] for name in given.metrics},
        "seconds": done.result.progress.seconds,
    }
    listing = folder / "suspicious_pairs.csv"
    if listing.exists():
        found["detection"] = detection(listing, wrong[0])
    memory.write_text(json.dumps(found, indent=1))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return found


def detection(listing: Path, wrong: np.ndarray) -> dict[str, float]:
    """Which of the listed pairs are wrong, and which of the wrong ones are listed."""
    with listing.open(newline="", encoding="utf-8") as file:
        rows = [int(record["row"]) for record in csv.DictReader(file)]
    hits = int(wrong[rows].sum()) if rows else 0
    return {
        "listed": len(rows),
        "precision": hits / len(rows) if rows else float("nan"),
        "recall": hits / int(wrong.sum()) if wrong.any() else float("nan"),
        "wrong_share": float(wrong.mean()),
    }


def score(found: dict[str, Any], split: str) -> float:
    """The mean of the metrics, in percent."""
    return 100 * statistics.mean(found[split].values())


def recovered(results: dict[str, dict[int, Any]], row: str, split: str) -> float | None:
    """The share of what shuffling cost that handling brings back; None where there is nothing to compare."""
    rows = [results.get(name) for name in ("clean", "shuffled", row)]
    if not all(rows) or row in ("clean", "shuffled") or not ROWS[row][0]:
        return None
    clean, shuffled, handled = (statistics.mean(score(f, split) for f in by_seed.values()) for by_seed in rows)
    return (handled - shuffled) / (clean - shuffled) if clean > shuffled else None


def table(results: dict[str, dict[int, dict[str, Any]]], metrics: Sequence[str]) -> str:
    """Mean and standard deviation over seeds, a row a line, as Markdown."""
    heads = ["captions", "validation", "test", *(f"test {name}" for name in metrics)]
    heads += ["recovered (validation / test)", "seconds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row, by_seed in results.items():
        cells: list[str] = []
        columns = [[score(found, split) for found in by_seed.values()] for split in ("validation", "test")]
        columns += [[100 * found["test"][name] for found in by_seed.values()] for name in metrics]
        for values in columns:
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        shares = [recovered(results, row, split) for split in ("validation", "test")]
        cells.append(" / ".join("" if share is None else f"{100 * share:.0f} %" for share in shares))
        cells.append(f"{statistics.mean(found['seconds'] for found in by_seed.values()):.0f}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="emoji", help="a recipe's name or file")
    parser.add_argument("--data", help="DATA in place of the recipe's own")
    parser.add_argument("--share", type=float, default=0.3, help="share of the training captions that are shuffled")
    parser.add_argument("--by", choices=("group", "row", "label"), default="group", help="what exchanges captions")
    parser.add_argument("--metrics", nargs="+", default=RECALLS, help="what is measured; their mean counts")
    parser.add_argument("--rows", default="clean;shuffled;cross_fit", help="which rows, separated by semicolons")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of the runs, and of the shuffling")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "noise", help="folder of the runs")
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file; a Markdown page is written beside it")
    parser.add_argument("override", nargs="*", help="key=value for every run, such as train.max_steps=20")
    given = parser.parse_args(arguments)
    if not 0 <= given.share < 1:
        parser.error(f"--share is {given.share}; want 0 <= share < 1")
    rows = [row.strip() for row in given.rows.split(";")]
    for row in rows:
        if row not in ROWS:
            parser.error(f"--rows has {row!r}; want some of {'; '.join(ROWS)}")
    sys.path.insert(0, str(ROOT))  # not installed: the checkout's
    results: dict[str, dict[int, dict[str, Any]]] = {row: {} for row in rows}
    for seed in map(int, given.seeds.split(",")):
        for row in rows:
            found = results[row][seed] = run(given, row, seed)
            shown = {split: round(score(found, split), 2) for split in ("validation", "test")}
            print(row, seed, shown, found.get("detection", ""), flush=True)
    how = (
        f"`{given.recipe}`, {100 * given.share:g} % of the training captions shuffled by {given.by}; "
        f"seeds {given.seeds}; mean ± standard deviation, in percent. {platform.machine()}, {os.cpu_count()} cores."
    )
    how += f" The mean of {' and '.join(given.metrics)}."
    given.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"recipe": given.recipe, "share": given.share, "by": given.by, "overrides": given.override}
    given.out.write_text(json.dumps({**settings, "rows": ROWS, "results": results}, indent=1) + "\n")
    page = f"# What handling wrong captions brings\n\n{how}\n\n{table(results, given.metrics)}\n"
    given.out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
