"""What the benchmarks' scripts share: their options, and the way from measured rows to the tables."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Benchmark:
    """One script.

    Attributes:
        about: its docstring; the first line is its description.
        groups: name on the command line -> module with a function of that name, which yields its rows.
        sizes: default of ``--sizes``.
        quick_sizes: the same with ``--quick``.
        least_size: smallest that makes sense.
        sizes_help: what the sizes are.
        title, how: what stands above the table, see ``measuring.Heading``; empty: that of the losses.
        keep_memory: whether ``--keep-memory`` is offered.
    """

    about: str
    groups: dict[str, str]
    sizes: tuple[int, ...]
    quick_sizes: tuple[int, ...]
    least_size: int
    sizes_help: str
    title: str = ""
    how: str = ""
    keep_memory: bool = False


def arguments(benchmark: Benchmark, given: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""

    def names(text: str) -> tuple[str, ...]:
        return tuple(filter(None, text.split(",")))

    def sizes(text: str) -> tuple[int, ...]:
        return tuple(sorted({int(size) for size in names(text)}))

    groups, least = benchmark.groups, benchmark.least_size
    shown = f"default {','.join(map(str, benchmark.sizes))}; quick: {','.join(map(str, benchmark.quick_sizes))}"
    parser = argparse.ArgumentParser(description=benchmark.about.partition("\n")[0])
    parser.add_argument("--only", type=names, default=tuple(groups), help=f"some of {','.join(groups)}")
    parser.add_argument("--sizes", type=sizes, help=f"{benchmark.sizes_help} ({shown})")
    parser.add_argument("--dim", type=int, help="size of the embeddings (default 512; quick: 16)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--repeats", type=int, help="rounds of every group of timings (default: by size)")
    parser.add_argument("--peers", type=names, default=(), help="packages to compare with (default: all installed)")
    if benchmark.keep_memory:
        parser.add_argument("--keep-memory", action="store_true", help="let the allocator keep freed memory, for all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a trial of the script")
    parser.add_argument("-o", "--output", type=Path, help="the JSON file; the table goes beside it as .md")
    options = parser.parse_args(given)
    for name in options.only:
        if name not in groups:
            parser.error(f"--only has {name!r}; want some of {','.join(groups)}")
    for name, value in (("--threads", options.threads), ("--repeats", options.repeats), ("--dim", options.dim)):
        if value is not None and value < 1:
            parser.error(f"{name} is {value}; want at least 1")
    if options.sizes is not None and (not options.sizes or options.sizes[0] < least):
        parser.error(f"--sizes is {','.join(map(str, options.sizes)) or 'empty'}; want sizes of {least} or more")
    return options


def run(benchmark: Benchmark, given: list[str] | None = None) -> None:
    """Measure, print the table, write the files."""
    options = arguments(benchmark, given)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # read once, when torch is imported
    if importlib.util.find_spec("mmcl") is None:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # not installed: the checkout's
    from measuring import LOSSES, Heading, Settings, machine, report, write

    heading = Heading(benchmark.title, benchmark.how) if benchmark.title else LOSSES
    settings = Settings(
        sizes=options.sizes or (benchmark.quick_sizes if options.quick else benchmark.sizes),
        dim=options.dim or (16 if options.quick else Settings.dim),
        threads=options.threads,
        repeats=options.repeats,
        quick=options.quick,
        peers=options.peers,
        keep_memory=benchmark.keep_memory and options.keep_memory,
    )
    settings.prepare()
    about, rows = machine(settings), []
    for name in options.only:
        measure = getattr(importlib.import_module(benchmark.groups[name]), name)
        for row in measure(settings):
            rows.append(row)
            if options.output is not None:  # what was measured is kept, should a later row fail
                write(options.output, rows, about, settings, heading)
    print(report(rows, about, settings, heading))
