"""mmcl's evaluation beside that of other packages, in one run: time, memory, and whether the numbers are equal.

    python benchmarks/evaluation.py -o benchmarks/results/NAME.json

prints a table of ratios and writes it as JSON and Markdown. benchmarks/README.md says what each row means.
"""

from __future__ import annotations

from command import Benchmark, run

# Name on the command line -> module and function that yield its rows.
GROUPS = {
    "agreement": "evaluation_agreement",
    "retrieval": "evaluation_retrieval",
    "memory": "evaluation_retrieval",
    "evaluator": "evaluation_retrieval",
    "zero_shot": "evaluation_zero_shot",
    "fits": "evaluation_fits",
}

BENCHMARK = Benchmark(
    __doc__,
    GROUPS,
    sizes=(5000, 20000),
    quick_sizes=(60,),
    least_size=20,
    sizes_help="images, each with 5 captions",
    title="Evaluation side by side",
    how="Five captions an image, D = {dim}; the best time of rounds in which all calls take turns; memory beyond the "
    "embeddings at the peak, in fresh processes.",
)


if __name__ == "__main__":
    run(BENCHMARK)
