"""Parts written by several processes at once."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import Any

import torch

from mmcl.data.writing.checking import Progress
from mmcl.data.writing.job import Job, Part, Record
from mmcl.data.writing.parts import write_part
from mmcl.errors import DataError

_POLL_SECONDS = 0.2
_own: dict[str, Any] = {}  # in a worker process: the job, and the counter that all share


def write_parts(
    job: Job, parts: Sequence[Part], *, workers: int, progress: Progress | None, of: int
) -> dict[int, Record]:
    """Write parts, in this process or in several.

    Args:
        job: what is written.
        parts: which parts of it.
        workers: processes; 0 for this one.
        progress: told "writing", how many rows are done, and of how many.
        of: rows of all parts, those among them that were written before.

    Returns:
        Part number -> record.

    Raises:
        DataError: a worker process was killed from outside; and what ``write_part`` raises.
    """
    if workers == 0 or len(parts) < 2:
        return _write_here(job, parts, progress, of)
    return _write_in_processes(job, parts, min(workers, len(parts)), progress, of)


def _write_here(job: Job, parts: Sequence[Part], progress: Progress | None, of: int) -> dict[int, Record]:
    done = of - sum(part.stop - part.start for part in parts)

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("writing", done, of)

    return {part.number: write_part(job, part, tick=tick) for part in parts}


def _context() -> BaseContext:
    # A forked process has the tables and indexes of its parent, where a spawned one is sent a copy of each.
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def _write_in_processes(
    job: Job, parts: Sequence[Part], workers: int, progress: Progress | None, of: int
) -> dict[int, Record]:
    context = _context()
    counter = context.Value("q", of - sum(part.stop - part.start for part in parts))
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(job, counter))
    records: dict[int, Record] = {}
    try:
        pending = {pool.submit(_write_one, part) for part in parts}
        while pending:
            done, pending = wait(pending, timeout=_POLL_SECONDS)
            for future in done:
                number, record = future.result()
                records[number] = record
            if progress is not None:
                progress("writing", counter.value, of)
    except BrokenProcessPool as error:
        raise DataError(
            f"{job.out}: a worker process was killed, perhaps for want of memory; go on with fewer workers"
        ) from error
    except BaseException:
        # Parts appear whole or not at all: there is nothing to wait for.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return records


def _start_worker(job: Job, counter: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    torch.set_num_threads(1)
    _own.update(job=job, counter=counter)


def _write_one(part: Part) -> tuple[int, Record]:
    def tick() -> None:
        with _own["counter"].get_lock():
            _own["counter"].value += 1

    return part.number, write_part(_own["job"], part, tick=tick)
