"""How many reader processes a run has."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch

from mmcl.batch import Batch
from mmcl.data.batches.reader_processes import PREFETCH, ReaderProcesses, deaths_explained
from mmcl.training.protocols import Reader

__all__ = ["MOST_WORKERS", "ReaderProcesses", "batch_loader", "deaths_explained", "number_of_workers"]

MOST_WORKERS = 8


def number_of_workers(asked: int | str, *, device: torch.device, is_cheap: bool) -> int:
    """Reader processes of one training process.

    ``"auto"`` means none on a CPU: there torch computes on every core it is given, so a reader takes from the model
    what it adds to the data, and handing float32 pixels from process to process costs about half of what decoding them
    does (``benchmarks/data.py``, loader). It means none for mere look-ups either, which cost less than being sent.
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


def batch_loader(
    reader: Reader,
    rows: Iterable[list[int]],
    *,
    workers: int,
    device: torch.device,
    seed: int = 0,
    prefetch: int = PREFETCH,
) -> Iterable[Batch]:
    """The batches of these rows, in order, of the epoch that the reader stands at.

    Args:
        reader: makes a batch of row numbers; all its randomness comes from (seed, epoch, row).
        rows: row numbers of each batch; taken as they are needed.
        workers: reader processes; 0 reads in this one.
        device: where batches go; memory is pinned for a GPU.
        seed: has no effect: nothing is drawn here.
        prefetch: batches that each worker reads ahead.
    """
    processes = ReaderProcesses(reader, workers=workers, prefetch=prefetch, device=device)
    return processes.read(reader.epoch, rows)
