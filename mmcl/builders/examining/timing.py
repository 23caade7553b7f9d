"""Reading and computing of a few batches, as the run does both."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from mmcl.config import Recipe
from mmcl.data.batches.reader_processes import ReaderProcesses
from mmcl.data.splits.training_splits import Splits
from mmcl.doctor.examination.subject import Timing
from mmcl.doctor.examination.verdict import ProgressCallback
from mmcl.errors import DataError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.training.inputs import TrainingInputs

TIMED_BATCHES, TIMED_ROWS, TIMED_SECONDS = 4, 32, 5.0


def time_batches(
    recipe: Recipe, splits: Splits, model: DualEncoder, progress: ProgressCallback | None = None
) -> Timing | None:
    """Read some rows as the run does, and learn from them.

    Args:
        recipe: what was run.
        splits: its data.
        model: as the run began.
        progress: told how many batches are read.

    Returns:
        Seconds of a batch, in proportion to those of at most 32 rows; None where features are looked up.
    """
    asked = recipe.data.workers
    if recipe.train.feature_cache.enabled and model.image.has_fixed_features:
        return None
    inputs = TrainingInputs(recipe, model, splits.train, None)
    workers = asked if isinstance(asked, int) else 0
    size = min(recipe.train.batch_size, TIMED_ROWS, len(splits.train))
    order = np.random.default_rng(1).permutation(len(splits.train)).tolist()
    rows = [order[first : first + size] for first in range(0, len(order), size)][:TIMED_BATCHES]
    try:
        batch, seconds = _read_all(inputs.reader, rows, progress)
        if workers:
            _try_workers(inputs.reader, rows, workers)
    except DataError as error:
        return Timing(0.0, 0.0, workers, died=str(error)) if "reader process" in str(error) else None
    model.train()
    began = time.perf_counter()
    image, text = model.encode_image(**batch.image), model.encode_text(**batch.text)
    loss = (image @ text.T).logsumexp(1).sum()
    if loss.requires_grad:
        loss.backward()
    took = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    factor = recipe.train.batch_size / size
    return Timing(factor * seconds, factor * took, workers)


def _read_all(reader: Any, rows: list[list[int]], progress: ProgressCallback | None) -> tuple[Any, float]:
    """The last batch, and the mean seconds of one; the first, which pays for all that begins, counts alone if alone."""
    seconds, batch, began = [], None, time.perf_counter()
    for number, part in enumerate(rows):
        mark = time.perf_counter()
        batch = reader.__getitems__(part)
        seconds.append(time.perf_counter() - mark)
        if progress is not None:
            progress("batches read", number + 1, len(rows))
        if time.perf_counter() - began > TIMED_SECONDS:
            break
    if progress is not None:
        progress("batches read", len(rows), len(rows))
    return batch, float(np.mean(seconds[1:] or seconds))


def _try_workers(reader: Any, rows: list[list[int]], workers: int) -> None:
    """Read through the run's reader processes too.

    Raises:
        DataError: one died.
    """
    processes = ReaderProcesses(reader, workers=workers)
    try:
        for _ in processes.read(0, rows):
            pass
    finally:
        processes.close()
