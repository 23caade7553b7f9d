"""The processes that read a run's batches, and how many there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from mmcl.config import DataSection
from mmcl.data.batches.reader_processes import ReaderProcesses, deaths_explained
from mmcl.doctor.finding import Finding
from mmcl.doctor.live.dead_workers import death_of_worker
from mmcl.errors import DataError
from mmcl.training.protocols import Reader

MOST_WORKERS = 8


def number_of_workers(asked: int | str, *, device: torch.device, is_cheap: bool) -> int:
    """Reader processes of one training process.

    ``"auto"`` means none on a CPU: there torch computes on every core it is given, so a reader takes from the model
    what it adds to the data, and what it hands over costs a fifth on top (``benchmarks/data.py``, loader). It means
    none for mere look-ups either, which cost less than being sent.
    Beside a GPU it means as many as there are cores for each process of this machine but one, up to 8.

    Args:
        asked: a number, which is kept, or ``"auto"``.
        device: where the model runs.
        is_cheap: whether batches are looked up and not decoded.
    """
    if isinstance(asked, int):
        return asked
    if device.type == "cpu" or is_cheap:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun and accelerate
    return min(MOST_WORKERS, max(1, cores // processes - 1))


def start_readers(reader: Reader, section: DataSection, device: torch.device) -> ReaderProcesses:
    """What reads a run's batches: worker processes as ``data.workers`` and ``data.prefetch`` say, or this process."""
    workers = number_of_workers(section.workers, device=device, is_cheap=reader.is_cheap)
    return ReaderProcesses(reader, workers=workers, prefetch=section.prefetch, device=device)


@contextmanager
def deaths_examined(readers: Callable[[], ReaderProcesses | None], tell: Callable[[Finding], object]) -> Iterator[None]:
    """Within it, the death of a reader process is a DataError that names its signal and the usual cause of that.

    Args:
        readers: the reader processes as they are; None: none.
        tell: told the finding before the error is raised.

    Raises:
        DataError: a reader process died.
    """
    try:
        with deaths_explained():
            yield
    except DataError as error:
        said, _, _ = str(error).partition("; the usual cause")
        if not said.startswith("a reader process died"):
            raise
        processes = readers()
        finding = death_of_worker(str(error), [] if processes is None else processes.exit_codes())
        tell(finding)
        raise DataError(f"{said}. {finding.evidence} {finding.next_step}") from error
