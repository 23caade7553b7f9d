"""What `mmcl plan` foretells, and what `mmcl train` then takes: peak memory and time of six recipes.

Each recipe is planned first, and then trained by the command in a process of its own, with the caches as the plan found
them. The peak is the kernel's own for the whole process, the time that from its start to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEMORY_MUST_BE, TIME_MUST_BE = 0.15, 0.25  # how far the forecast may be from what was taken, relative to that
SMALL = ("train.max_steps=40", "evaluate.every_steps=20")
EMOJI = ("emoji", "data.path={emoji}")
UNFROZEN = ("model.image.freeze=false", "model.text.freeze=false")


@dataclass(frozen=True)
class Case:
    """One recipe.

    Attributes:
        name: of the case.
        recipe: arguments of both commands; ``{emoji}`` is the folder of the data.
        cached: whether features are computed before the plan, by another training.
    """

    name: str
    recipe: tuple[str, ...]
    cached: bool = False


CASES = (
    Case("quickstart", ("quickstart", "data.path=shapes?train=4000&validation=300&test=300&test_seen=300", *SMALL)),
    Case(
        "cached features",
        (*EMOJI, "data.max_rows=600", "train.max_steps=400", "evaluate.every_epochs=20"),
        cached=True,
    ),
    Case("empty cache", (*EMOJI, "data.max_rows=250", "train.max_steps=200", "evaluate.every_epochs=20")),
    Case(
        "towers unfrozen",
        (*EMOJI, *UNFROZEN, "data.max_rows=64", "train.batch_size=16", "train.max_steps=8", "evaluate.every_steps=8"),
    ),
    Case(
        "gradient caching",
        (
            "quickstart", "data.path=shapes?train=2048&validation=200&test=200&test_seen=200", "train.batch_size=512",
            "train.micro_batch_size=64", "train.max_steps=12", "evaluate.every_steps=12",
        ),
    ),
    Case(
        "sigmoid at a large batch",
        (
            "quickstart", "data.path=shapes?train=2048&validation=200&test=200&test_seen=200", "loss.name=sigmoid",
            "train.batch_size=1024", "train.max_steps=8", "evaluate.every_steps=8",
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Forecast and fact of one recipe.

    Attributes:
        name: of the case; ``recipe`` its arguments.
        planned_seconds, seconds: of the whole command.
        planned_mib, mib: peak memory of the whole process.
        training_mib: what ``metrics.jsonl`` says of the peak at its last step.
        line_mib, measured_mib: of a step at the wanted batch: what the line through small batches says, and what was
            measured.
        plan_seconds: what the plan itself took.
        load: of the machine before the plan, before the training, and behind it.
    """

    name: str
    recipe: list[str]
    planned_seconds: float
    seconds: float
    planned_mib: float
    mib: float
    training_mib: float
    line_mib: float
    measured_mib: float
    plan_seconds: float
    load: list[float]

    @property
    def memory_error(self) -> float:
        """Forecast over fact, less one."""
        return self.planned_mib / self.mib - 1

    @property
    def time_error(self) -> float:
        """Forecast over fact, less one."""
        return self.planned_seconds / self.seconds - 1

    @property
    def holds(self) -> bool:
        """Whether both forecasts are near enough."""
        return abs(self.memory_error) <= MEMORY_MUST_BE and abs(self.time_error) <= TIME_MUST_BE


def run_command(*arguments: str, cache: Path) -> tuple[float, float]:
    """Seconds and peak MiB of ``mmcl ARGUMENTS`` in a process of its own; what it says goes to the standard error."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MMCL_CACHE": str(cache)}
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "mmcl", *arguments], env=environment, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"mmcl {' '.join(arguments)} ended with code {process.returncode}")
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def load() -> float:
    """Programs that wanted a core in the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else -1.0


def compare(case: Case, folder: Path, emoji: str) -> Outcome:
    """Plan a recipe, train it, and put both beside one another."""
    cache, run = folder / "cache", folder / "run"
    recipe = [part.format(emoji=emoji) for part in case.recipe]
    if case.cached:
        run_command("train", *recipe, f"run.dir={folder / 'before'}", "train.max_steps=1", cache=cache)
    loads = [load()]
    plan_seconds, _ = run_command("plan", *recipe, f"run.dir={run}", "--json", str(folder / "plan.json"), cache=cache)
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    loads.append(load())
    seconds, mib = run_command("train", *recipe, f"run.dir={run}", cache=cache)
    loads.append(load())
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    memory = plan["memory"]
    return Outcome(
        name=case.name,
        recipe=recipe,
        planned_seconds=plan["time"]["total"],
        seconds=seconds,
        planned_mib=memory["peak"] / 2**20,
        mib=mib,
        training_mib=max(record.get("peak_memory_mb", 0.0) for record in records),
        line_mib=memory["line"] / 2**20,
        measured_mib=memory["measured"] / 2**20,
        plan_seconds=plan_seconds,
        load=loads,
    )


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as Markdown."""
    lines = [
        "| recipe | peak foretold | taken | off | time foretold | taken | off | line at this batch | holds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        line = f"{one.line_mib:.0f} MiB, measured {one.measured_mib:.0f}"
        lines.append(
            f"| {one.name} | {one.planned_mib:.0f} MiB | {one.mib:.0f} MiB | {100 * one.memory_error:+.0f} % "
            f"| {one.planned_seconds:.1f} s | {one.seconds:.1f} s | {100 * one.time_error:+.0f} % "
            f"| {line} | {'yes' if one.holds else '**no**'} |"
        )
    must = f"Must be within {100 * MEMORY_MUST_BE:.0f} % (memory) and {100 * TIME_MUST_BE:.0f} % (time)."
    return "\n".join([*lines, "", f"{sum(one.holds for one in outcomes)} of {len(outcomes)} hold. {must}"]) + "\n"


def main() -> None:
    """Compare the cases that are asked for, and write what was found after each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [case.name for case in CASES]
    parser.add_argument("--only", default=",".join(names), help="some cases")
    parser.add_argument("--emoji", default="../shared/data/emoji", help="folder of the emoji data")
    parser.add_argument("-o", "--output", type=Path, help="the JSON file; the table goes beside it as .md")
    options = parser.parse_args()
    wanted = [name.strip() for name in options.only.split(",")]
    cases = [case for case in CASES if case.name in wanted]
    if len(cases) != len(wanted):
        parser.error(f"--only is {options.only!r}; want some of {','.join(names)}")
    emoji = str(Path(options.emoji).absolute())
    outcomes: list[Outcome] = []
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="mmcl-plan-benchmark-") as folder:
            outcomes.append(compare(case, Path(folder), emoji))
        print(table(outcomes), flush=True)
        if options.output is not None:
            write(options.output, outcomes)


def write(path: Path, outcomes: list[Outcome]) -> None:
    """Everything as JSON, and the table beside it."""
    about = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.platform()}",
        "threads": os.environ.get("OMP_NUM_THREADS", "as torch chooses"),
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    result = {**about, "outcomes": [{**asdict(one), "holds": one.holds} for one in outcomes]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(table(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main()
