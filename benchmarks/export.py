"""Exported ONNX graphs beside the models they were made of: CPU latency at batch 1 and 32, and sizes, in one run.

    python benchmarks/export.py -o benchmarks/results/NAME.json

prints a table of ratios and writes it as JSON and Markdown. Needs the extra ``onnx``. Weights are random, which changes
no time. benchmarks/README.md says what each row means.
"""

from __future__ import annotations

from importlib import metadata

from command import Benchmark, run

# Name on the command line -> module and function that yield its rows.
GROUPS = {
    "latency": "export_latency",
    "whole": "export_latency",
    "products": "export_latency",
    "files": "export_latency",
    "compiled": "export_latency",
}


def _version() -> str:
    try:
        return metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        return "is not installed"


BENCHMARK = Benchmark(
    __doc__,
    GROUPS,
    sizes=(1, 32),
    quick_sizes=(1, 2),
    least_size=1,
    sizes_help="batch sizes",
    title="ONNX graphs beside torch",
    how=f"onnxruntime {_version()} on the CPU. Encoders (tower, pooling, head, norm) on inputs that are prepared "
    "already, captions of 16 tokens, embeddings of {dim}; the same number of threads on both sides; the best time of "
    "rounds in which all calls take turns. int8 graphs are run as the runtime runs them, item by item.",
)


if __name__ == "__main__":
    run(BENCHMARK)
