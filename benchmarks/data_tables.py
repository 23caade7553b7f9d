"""Opening a table of a million rows, beside `datasets` and pandas: seconds and memory, each in a fresh process."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from measuring import Row, Settings, bounded, compared, say, unmeasured
from peak_memory import PeakError, peak_memory

ROWS = 1_000_000
QUICK_ROWS = 20_000
FEW = 100  # rows of the table that every program opens first, so that its imports do not count
SUFFIXES = ("jsonl", "csv", "parquet")
MOST_SECONDS = 5.0
MOST_BYTES = 1e9
WORDS = (
    "a", "red", "green", "old", "young", "dog", "cat", "man", "woman", "boat", "river", "bridge", "train", "runs",
)  # fmt: skip
PEERS = ("datasets", "pandas")


def write_tables(folder: Path, rows: int, name: str) -> None:
    """The same rows as ``NAME.jsonl``, ``.csv`` and ``.parquet``: image path, caption, label and group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(0)
    made = [
        {
            "image": f"images/{number // 1000:05d}/{number:09d}.jpg",
            "caption": " ".join(rng.choices(WORDS, k=11)),
            "label": WORDS[number % len(WORDS)],
            "group": f"g{number // 2}",
        }
        for number in range(rows)
    ]
    with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in made)
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(made[0]))
        writer.writeheader()
        writer.writerows(made)
    pq.write_table(pa.Table.from_pylist(made), folder / f"{name}.parquet")


def _open_mmcl(path: str) -> object:
    from mmcl.data import load

    return load(path)


def _open_datasets(path: str) -> object:
    import datasets

    datasets.disable_progress_bars()
    kind = {"jsonl": "json"}.get(path.rpartition(".")[2], path.rpartition(".")[2])
    cache = tempfile.mkdtemp(dir=Path(path).parent)  # a cache would hold the table from the last time
    try:
        return datasets.load_dataset(kind, data_files=path, split="train", cache_dir=cache)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _open_pandas(path: str) -> object:
    import pandas

    if path.endswith("jsonl"):
        return pandas.read_json(path, lines=True)
    return pandas.read_csv(path) if path.endswith("csv") else pandas.read_parquet(path)


OPENERS: dict[str, Callable[[str], object]] = {
    "mmcl": _open_mmcl,
    "datasets": _open_datasets,
    "pandas": _open_pandas,
}


def one_opening(settings: Settings, *, program: str, path: str, few: str, result: str) -> Callable[[], object]:
    """What a fresh process measures: one program opens one table; its seconds go into a file.

    Args:
        settings: of this run.
        program: a key of ``OPENERS``.
        path: the table.
        few: a small one of the same kind, opened first.
        result: the file for the seconds.
    """
    opener = OPENERS[program]
    opener(few)

    def work() -> None:
        start = time.perf_counter()
        table = opener(path)
        seconds = {"open": time.perf_counter() - start, "rows": len(table)}
        if program == "mmcl":
            start = time.perf_counter()
            table.group_ids()
            seconds["group_ids"] = time.perf_counter() - start
        Path(result).write_text(json.dumps(seconds), encoding="utf-8")

    return work


def _measured(settings: Settings, folder: Path, suffix: str, program: str) -> tuple[dict[str, float], int]:
    """The seconds of the quickest round and the memory of the hungriest."""
    result, rounds = folder / "seconds.json", []
    for _ in range(settings.repeats or (1 if settings.quick else 2)):
        peak = peak_memory(
            "data_tables", "one_opening", settings, program=program, path=str(folder / f"many.{suffix}"),
            few=str(folder / f"few.{suffix}"), result=str(result),
        )  # fmt: skip
        rounds.append((json.loads(result.read_text(encoding="utf-8")), peak))
    return min((found for found, _ in rounds), key=lambda found: found["open"]), max(peak for _, peak in rounds)


def tables(settings: Settings) -> Iterator[Row]:
    """Time and peak memory of opening a table: against bounds, and beside the peers on the same file."""
    rows = QUICK_ROWS if settings.quick else ROWS
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmcl_tables_")))
        say(f"writing tables of {rows:,} rows ...")
        write_tables(folder, rows, "many")
        write_tables(folder, FEW, "few")
        for suffix in SUFFIXES:
            yield from _of_one_kind(settings, folder, suffix, rows)


def _of_one_kind(settings: Settings, folder: Path, suffix: str, rows: int) -> Iterator[Row]:
    what = f"{rows:,} rows of {suffix} opened"
    say(f"{what} ...")
    seconds, peak = _measured(settings, folder, suffix, "mmcl")
    yield bounded("tables", f"{what}: time", seconds["open"], "", unit="s", at_most=MOST_SECONDS)
    yield bounded("tables", f"{what}: peak memory", peak, "", unit="bytes", at_most=MOST_BYTES)
    grouping = f"{rows:,} rows of {suffix}: group_ids()"
    yield bounded("tables", grouping, seconds["group_ids"], "", unit="s", at_most=MOST_SECONDS)
    for peer in PEERS:
        if not settings.wants(peer):
            continue
        if importlib.util.find_spec(peer) is None:
            yield unmeasured("tables", f"{what}: time", peer, "not installed", ours=seconds["open"], unit="s")
            continue
        try:
            their_seconds, their_peak = _measured(settings, folder, suffix, peer)
        except PeakError as error:
            yield unmeasured("tables", f"{what}: time", peer, f"failed ({error})", ours=seconds["open"], unit="s")
            continue
        name = f"{peer} (into a new cache)" if peer == "datasets" else peer
        yield compared("tables", f"{what}: time", seconds["open"], name, their_seconds["open"], unit="s")
        yield compared("tables", f"{what}: peak memory", peak, name, their_peak, unit="bytes")
