"""Batches through worker processes, in order, without touching the global random state."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

import torch

from mmcl.batch import Batch
from mmcl.training.protocols import Reader

MOST_WORKERS = 8


def number_of_workers(asked: int | str, *, device: torch.device, is_cheap: bool) -> int:
    """Reader processes: what was asked for; ``"auto"``: none on a CPU or for mere look-ups, up to 8 beside a GPU."""
    if isinstance(asked, int):
        return asked
    if device.type == "cpu" or is_cheap:
        return 0
    return min(MOST_WORKERS, max(1, (os.cpu_count() or 2) - 1))


def batch_loader(
    reader: Reader, rows: Iterable[list[int]], *, workers: int, device: torch.device, seed: int
) -> Iterable[Batch]:
    """The batches of these rows, in order.

    Args:
        reader: makes a batch of row numbers; all its randomness comes from (seed, epoch, row).
        rows: row numbers of each batch; taken as they are needed.
        workers: reader processes; 0 reads in this one.
        device: where batches go; memory is pinned for a GPU.
        seed: of the loader's own generator, so that it leaves torch's global one alone.
    """
    return torch.utils.data.DataLoader(
        reader,
        batch_sampler=rows,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_trainer,
        generator=torch.Generator().manual_seed(seed),
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _leave_signals_to_the_trainer(worker: int) -> None:
    # Ctrl-C and batch systems signal the whole process group; a reader that died of it would bring the trainer down
    # before it could write its checkpoint.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
