"""What the benchmarks share: interleaved timing, rows of a table, the machine's name, files of results."""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

MOST_SECONDS = 60.0  # a group of timings begins no further round after so long
PACKAGES = (
    "torch", "open_clip_torch", "transformers", "sentence-transformers", "lightly", "pytorch-metric-learning",
    "info-nce-pytorch", "memeff", "inf-cl", "triton", "clip-benchmark", "torchmetrics", "scikit-learn", "torchvision",
    "simplejpeg", "pillow", "datasets", "webdataset", "pyarrow", "pandas",
)  # fmt: skip


@dataclass(frozen=True)
class Heading:
    """What stands above a table.

    Attributes:
        title: what is compared.
        how: how it was measured; ``{dim}`` and ``{allocator}`` are filled in.
    """

    title: str
    how: str


LOSSES = Heading(
    "Losses side by side",
    "Forward + backward, D = {dim}; the best time of rounds in which all calls take turns; memory beyond the inputs at "
    "the peak, in fresh processes; allocator: {allocator}.",
)


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        sizes: batch sizes, or numbers of images to evaluate on, ascending.
        dim: size of the embeddings.
        threads: of torch.
        repeats: rounds of every group of timings; None: as many as the size deserves.
        quick: whether this is a trial of the script, with figures that mean nothing.
        peers: names of packages to compare with; empty: all.
        keep_memory: whether freed memory is kept by the allocator, for all.
    """

    sizes: tuple[int, ...] = (256, 1024, 4096, 16384)
    dim: int = 512
    threads: int = 1
    repeats: int | None = None
    quick: bool = False
    peers: tuple[str, ...] = ()
    keep_memory: bool = False

    def rounds(self, size: int) -> int:
        """Rounds of timings at a batch size."""
        if self.repeats is not None:
            return self.repeats
        return 2 if self.quick or size > 4096 else 20 if size <= 1024 else 5

    @property
    def large(self) -> tuple[int, ...]:
        """The sizes at which large batches are measured."""
        return tuple(size for size in self.sizes if size >= 4096) or self.sizes[-1:]

    def wants(self, package: str) -> bool:
        """Whether to compare with a package."""
        return not self.peers or package in self.peers

    def prepare(self) -> None:
        """Set up this process: its threads and its allocator."""
        torch.set_num_threads(self.threads)
        if self.keep_memory:
            from mmcl.cli.memory import keep_freed_memory

            keep_freed_memory()


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        group: the name it is asked for by.
        what: what was measured.
        peer: what it was compared with, or why not.
        ours: mmcl's figure; None: not measured.
        theirs: the peer's.
        unit: "s", "bytes", "error", "x" (times another figure) or "count".
        ratio: ours over theirs; None where there is none.
        must_be: what the ratio, or our figure, must be; empty: shown for comparison.
        holds: whether it is.
        details: what else goes into the file.
    """

    group: str
    what: str
    peer: str
    ours: float | None = None
    theirs: float | None = None
    unit: str = ""
    ratio: float | None = None
    must_be: str = ""
    holds: bool | None = None
    details: dict[str, object] = field(default_factory=dict)


def compared(
    group: str,
    what: str,
    ours: float,
    peer: str,
    theirs: float,
    *,
    unit: str,
    at_most: float | None = None,
    **details: object,
) -> Row:
    """A row with a ratio, which must be at most ``at_most``."""
    ratio = ours / theirs if theirs else float("inf")
    must_be = "" if at_most is None else f"<= {f'1/{round(1 / at_most)}' if at_most <= 1 / 8 else f'{at_most:.2f}'}"
    holds = None if at_most is None else ratio <= at_most
    return Row(group, what, peer, ours, theirs, unit, ratio, must_be, holds, details)


def bounded(group: str, what: str, ours: float, peer: str, *, unit: str, at_most: float, **details: object) -> Row:
    """A row whose figure itself must be at most ``at_most``: an error, or memory."""
    must_be = f"<= {shown(at_most, unit)}"
    return Row(group, what, peer, ours, unit=unit, must_be=must_be, holds=ours <= at_most, details=details)


def unmeasured(group: str, what: str, peer: str, why: str, *, ours: float | None = None, unit: str = "") -> Row:
    """A row that says why a comparison is missing."""
    return Row(group, what, f"{peer}: {why}", ours=ours, unit=unit)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def times(
    calls: dict[str, Callable[[], object]], *, rounds: int, device: torch.device | str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of every call, round after round: all calls share what else the machine does meanwhile.

    Calls change places from round to round, so that none always comes behind the same one.
    """
    device, names = torch.device(device), list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    begin = time.perf_counter()
    for number in range(rounds):
        if number > 0 and time.perf_counter() - begin > MOST_SECONDS:
            break
        for name in names[number % len(names) :] + names[: number % len(names)]:
            gc.collect()
            synchronise(device)
            start = time.perf_counter()
            calls[name]()
            synchronise(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def times_and_results(
    calls: dict[str, Callable[[], object]], *, rounds: int
) -> tuple[dict[str, list[float]], dict[str, object]]:
    """`times`, and what each call returned the last time."""
    results: dict[str, object] = {}

    def kept(name: str, call: Callable[[], object]) -> Callable[[], None]:
        return lambda: results.__setitem__(name, call())

    return times({name: kept(name, call) for name, call in calls.items()}, rounds=rounds), results


def say(text: str) -> None:
    """Progress, beside the results."""
    print(text, file=sys.stderr, flush=True)


# -- where it ran ------------------------------------------------------------------------------------------------


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "") or (
        platform.processor() or platform.machine()
    )


def _commit() -> str:
    """The commit of the mmcl that is measured; its version where it does not run from a checkout."""
    import mmcl

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(mmcl.__file__).parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return f"{commit} with changes" if commit and git("status", "--porcelain", ".") else commit or mmcl.__version__
    except OSError:  # no git
        return mmcl.__version__


def versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine(settings: Settings) -> dict[str, object]:
    """Where and when this ran."""
    import psutil

    cuda = torch.cuda.is_available()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "bf16_products": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        "allocator": "freed memory kept" if settings.keep_memory else "as the system has it",
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": _commit(),
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


# -- how it is shown ---------------------------------------------------------------------------------------------


def shown(value: float | None, unit: str) -> str:
    """A figure with its unit."""
    if value is None:
        return "–"
    if unit == "s":
        return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"
    if unit == "bytes":
        return f"{value / 2**20:.1f} MiB"
    return {"error": f"{value:.1e}", "x": f"{value:.2f}x"}.get(unit, f"{value:g}")


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""

    def cells(row: Row) -> Iterator[str]:
        yield row.what
        yield shown(row.ours, row.unit)
        yield row.peer if row.theirs is None else f"{shown(row.theirs, row.unit)} {row.peer}"
        yield "–" if row.ratio is None else f"{row.ratio:.2g}" if row.ratio < 0.1 else f"{row.ratio:.2f}"
        yield row.must_be or "–"
        yield "–" if row.holds is None else "yes" if row.holds else "**no**"

    head = ["| what | mmcl | peer | ratio | must be | holds |", "|---|---|---|---|---|---|"]
    return "\n".join(head + ["| " + " | ".join(cells(row)) + " |" for row in rows])


def summary(rows: Sequence[Row]) -> str:
    """How many of the rows that must hold do."""
    judged = [row for row in rows if row.holds is not None]
    missing = sum(row.theirs is None and row.holds is None for row in rows)
    return f"{sum(row.holds for row in judged)} of {len(judged)} hold; {missing} not measured"


def report(rows: Sequence[Row], about: dict[str, object], settings: Settings, heading: Heading = LOSSES) -> str:
    """The table under a heading that says where it was measured."""
    names = ", ".join(f"{name} {version}" for name, version in versions().items())
    where = about["gpu"] or about["processor"]
    lines = [
        f"# {heading.title}: {where}",
        f"{about['processor']}, {about['cores']} cores, {about['threads']} thread(s), {about['memory_gib']} GiB"
        + (f"; {about['gpu']}" if about["gpu"] else "")
        + f". {about['system']}, Python {about['python']}. Load at the start: {about['load']}.",
        f"{names}; mmcl at {about['commit']}; {about['when']}.",
        heading.how.format(dim=settings.dim, allocator=about["allocator"]),
    ]
    if settings.quick:
        lines.append("**A quick trial of the script: the figures mean nothing.**")
    for group in dict.fromkeys(row.group for row in rows):
        lines += [f"## {group}", table([row for row in rows if row.group == group])]
    return "\n\n".join([*lines, summary(rows)]) + "\n"


def write(
    path: Path, rows: Sequence[Row], about: dict[str, object], settings: Settings, heading: Heading = LOSSES
) -> None:
    """Everything as JSON, and the table beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": about, "versions": versions(), "settings": asdict(settings), "rows": [asdict(r) for r in rows]}
    path.write_text(json.dumps(result, indent=1, allow_nan=True) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(report(rows, about, settings, heading), encoding="utf-8")
