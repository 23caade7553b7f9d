"""mmcl's data beside other ways to read them, in one run: decoding, storage, loading, tokens, tables, audit.

    python benchmarks/data.py -o benchmarks/results/NAME.json

prints a table of ratios and writes it as JSON and Markdown. benchmarks/README.md says what each row means.
"""

from __future__ import annotations

from importlib.util import find_spec

from command import Benchmark, run

# Name on the command line -> module and function that yield its rows.
GROUPS = {
    "decode": "data_images",
    "loader": "data_images",
    "tokens": "data_tokens",
    "storage": "data_storage",
    "tables": "data_tables",
    "audit": "data_audit",
}
BENCHMARK = Benchmark(
    __doc__,
    {name: module for name, module in GROUPS.items() if find_spec(module)},
    sizes=(20000,),
    quick_sizes=(40,),
    least_size=10,
    sizes_help="files of the storage rows",
    title="Data side by side",
    how="The best time of rounds in which all calls take turns, after a first one that does not count: files are in "
    "the page cache, for all.",
)


if __name__ == "__main__":
    run(BENCHMARK)
