"""mmcl's evaluation beside that of other packages, in one run: time, memory, and whether the numbers are equal.

    python benchmarks/evaluation.py -o benchmarks/results/NAME.json

prints a table of ratios and writes it as JSON and Markdown. benchmarks/README.md says what each row means.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from pathlib import Path

# Name on the command line -> module and function that yield its rows.
GROUPS = {
    "agreement": "evaluation_agreement",
    "retrieval": "evaluation_retrieval",
    "memory": "evaluation_retrieval",
    "evaluator": "evaluation_retrieval",
    "zero_shot": "evaluation_zero_shot",
    "fits": "evaluation_fits",
}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""

    def names(text: str) -> tuple[str, ...]:
        return tuple(filter(None, text.split(",")))

    def sizes(text: str) -> tuple[int, ...]:
        return tuple(sorted({int(size) for size in names(text)}))

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", type=names, default=tuple(GROUPS), help=f"some of {','.join(GROUPS)}")
    parser.add_argument("--sizes", type=sizes, help="images, each with 5 captions (default 5000,20000; quick: 60)")
    parser.add_argument("--dim", type=int, help="size of the embeddings (default 512; quick: 16)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--repeats", type=int, help="rounds of every group of timings (default: by size)")
    parser.add_argument("--peers", type=names, default=(), help="packages to compare with (default: all installed)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a trial of the script")
    parser.add_argument("-o", "--output", type=Path, help="the JSON file; the table goes beside it as .md")
    options = parser.parse_args(given)
    for name in options.only:
        if name not in GROUPS:
            parser.error(f"--only has {name!r}; want some of {','.join(GROUPS)}")
    for name, value in (("--threads", options.threads), ("--repeats", options.repeats), ("--dim", options.dim)):
        if value is not None and value < 1:
            parser.error(f"{name} is {value}; want at least 1")
    if options.sizes is not None and (not options.sizes or options.sizes[0] < 20):
        parser.error(f"--sizes is {','.join(map(str, options.sizes)) or 'empty'}; want sizes of 20 or more")
    return options


def main(given: list[str] | None = None) -> None:
    """Measure, print the table, write the files."""
    options = arguments(given)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # read once, when torch is imported
    if importlib.util.find_spec("mmcl") is None:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # not installed: the checkout's
    from measuring import Heading, Settings, machine, report, write

    heading = Heading(
        "Evaluation side by side",
        "Five captions an image, D = {dim}; the best time of rounds in which all calls take turns; memory beyond the "
        "embeddings at the peak, in fresh processes.",
    )
    settings = Settings(
        sizes=options.sizes or ((60,) if options.quick else (5000, 20000)),
        dim=options.dim or (16 if options.quick else Settings.dim),
        threads=options.threads,
        repeats=options.repeats,
        quick=options.quick,
        peers=options.peers,
    )
    settings.prepare()
    about, rows = machine(settings), []
    for name in options.only:
        measure = getattr(importlib.import_module(GROUPS[name]), name)
        for row in measure(settings):
            rows.append(row)
            if options.output is not None:  # what was measured is kept, should a later row fail
                write(options.output, rows, about, settings, heading)
    print(report(rows, about, settings, heading))


if __name__ == "__main__":
    main()
