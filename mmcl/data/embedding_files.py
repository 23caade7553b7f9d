"""Embeddings of many items in one file, computed chunk by chunk: what a broken-off run has computed is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CHUNK_ROWS = 1024  # what a broken-off run loses at most


def stored_embeddings(
    path: Path,
    shape: tuple[int, int],
    compute: Callable[[int, int], np.ndarray],
    *,
    progress: Callable[[int, int], None],
) -> Tensor:
    """The embeddings in a file, those that are missing computed first.

    Args:
        path: ``.npy``; a mark for each finished chunk lies beside it. Its folder exists and is named after all that the
            embeddings depend on.
        shape: (n, d).
        compute: (start, stop) -> (stop - start, d) float32.
        progress: told how many of how many are done.

    Returns:
        (n, d) float32, mapped from the file: read as it is used, not held. Do not write in it.

    Raises:
        OSError: the folder cannot be written.
    """
    marks = {start: path.with_name(f"{path.stem}_{start:09d}.done") for start in range(0, shape[0], CHUNK_ROWS)}
    if not path.exists():
        for mark in marks.values():
            mark.unlink(missing_ok=True)  # of a file that was removed
        if shape[0] == 0:
            return torch.empty(shape)  # nothing can be mapped
        unfinished = path.with_suffix(".partial")
        np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float32, shape=shape).flush()
        unfinished.replace(path)
    file = np.lib.format.open_memmap(path, mode="r+")
    for start, mark in marks.items():
        stop = min(shape[0], start + CHUNK_ROWS)
        if not mark.exists():
            progress(start, shape[0])
            file[start:stop] = compute(start, stop)
            file.flush()
            mark.touch()
        progress(stop, shape[0])
    return torch.from_numpy(file)
