"""A suite on several processes: those of a launcher, or workers started here; none waits for another before the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import torch

from mmcl.embedder import start_processes
from mmcl.errors import ConfigError, MmclError
from mmcl.evaluation.suite import Share


def launched_share() -> Share | None:
    """The share of this process under ``accelerate launch`` or ``torchrun``; None where it runs alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return Share(int(os.environ.get("RANK", "0")), count) if count > 1 else None


def share_of(text: str) -> Share:
    """``2/4``, the second of four parts, as a ``Share``.

    Raises:
        ConfigError: it is no such pair, or the part is beyond the number of parts.
    """
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal()):
        raise ConfigError(f"share {text!r}: want PART/PARTS, such as 1/4 for the first of four")
    return Share(int(part) - 1, int(parts))


def device_of(share: Share) -> str | None:
    """The GPU of a share, in turn, where there are several; None leaves the choice to the model."""
    if share.count == 1 or not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ.get('LOCAL_RANK', share.index)) % torch.cuda.device_count()}"


def wait_for_all() -> None:
    """Wait until every process of the launch gets here; the only time that they speak to one another."""
    # Joined this late: nothing before can take the processes for one job and divide a batch among them.
    if start_processes():
        torch.distributed.barrier()


def run_workers(number: int, arguments: Sequence[str]) -> None:
    """Run ``mmcl ARGUMENTS --share K/NUMBER`` in that many processes, and wait for them.

    Args:
        number: of processes; each has its part of the machine's threads.
        arguments: of the command.

    Raises:
        MmclError: one ended before its share was through (a cell that failed is no such end).
    """
    threads = str(max(1, (os.cpu_count() or 1) // number))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    command = [sys.executable, "-m", "mmcl", *arguments]
    workers = [
        subprocess.Popen([*command, "--share", f"{part}/{number}"], env=environment, stdin=subprocess.DEVNULL)
        for part in range(1, number + 1)
    ]
    try:
        codes = [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
                worker.wait()
    # 1 is also the code of errors; a share that ended early shows in the cells that are missing.
    if bad := [f"{part} (code {code})" for part, code in enumerate(codes, 1) if code not in (0, 1)]:
        raise MmclError(f"worker {', '.join(bad)} of {number} ended early; finished cells are kept: run it again")
