"""mmcl's losses and gradient caching beside those of other packages, in one run: time, memory, rounding errors.

    python benchmarks/loss.py -o benchmarks/results/NAME.json

prints a table of ratios and writes it as JSON and Markdown. benchmarks/README.md says what each row means.
"""

from __future__ import annotations

from command import Benchmark, run

# Name on the command line -> module and function that yield its rows.
GROUPS = {
    "info_nce": "loss_speed",
    "sigmoid": "loss_speed",
    "nt_xent": "loss_speed",
    "bf16": "loss_speed",
    "memory": "loss_memory",
    "accuracy": "loss_accuracy",
    "gradient_caching": "gradient_caching",
    "cuda": "loss_cuda",
}

BENCHMARK = Benchmark(
    __doc__,
    GROUPS,
    sizes=(256, 1024, 4096, 16384),
    quick_sizes=(64,),
    least_size=2,
    sizes_help="batch sizes",
    keep_memory=True,
)


if __name__ == "__main__":
    run(BENCHMARK)
