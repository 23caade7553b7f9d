"""`scan_images`: the facts of every image of a data set, found once and kept."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather

from mmcl.data.cache_folder import cache_folder
from mmcl.data.dataset import ImageStore, ImageTextDataset
from mmcl.data.scan.facts import FACTS, image_facts
from mmcl.errors import DataError

CHUNK_ROWS = 1024  # images a file: what a broken-off scan loses at most, times the workers
LAYOUT = 1  # part of the folder's name; raise it when the same images give other facts

ProgressCallback = Callable[[str, int, int], None]
WHAT = "scanning images"


def scan_images(dataset: ImageTextDataset, *, workers: int = 0, progress: ProgressCallback | None = None) -> pa.Table:
    """Look at every image of a data set once.

    What is found lies in mmcl's cache folder under ``scans``, named after the images; a broken-off scan goes on, and a
    later one of the same images reads it. The table is mapped from those files: a million rows take no memory to
    speak of.

    Args:
        dataset: any; an empty one gives an empty table.
        workers: processes that decode beside this one; 0: this one does.
        progress: told what is done, how much of it, and of how much.

    Returns:
        One row an image, in order, with the columns of ``FACTS``: ``problem`` (null: readable), ``format``, ``mode``,
        ``width``, ``height``, ``num_bytes``, ``frames``, ``rotated``, ``digest`` (of the encoded bytes), ``phash``,
        ``mean``, ``std``. What an unreadable image does not tell is null.

    Raises:
        DataError: the cache folder cannot be written, or a worker process died.

    Example:
        >>> from mmcl.data import load
        >>> table = scan_images(load("shapes?train=4&test=2:test"))
        >>> table.num_rows, table["problem"].null_count
        (2, 2)
    """
    if not len(dataset):
        return FACTS.empty_table()
    folder = cache_folder() / "scans" / f"{dataset.images.fingerprint()[:32]}_{LAYOUT}"
    starts = range(0, len(dataset), CHUNK_ROWS)
    missing = [start for start in starts if _read(folder, start) is None]
    done = sum(min(CHUNK_ROWS, len(dataset) - start) for start in starts) - sum(
        min(CHUNK_ROWS, len(dataset) - start) for start in missing
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if missing and progress is not None:
            progress(WHAT, done, len(dataset))
        for start, table in _scanned(dataset.images, missing, workers=workers):
            _write(folder, start, table)
            done += table.num_rows
            if progress is not None:
                progress(WHAT, done, len(dataset))
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror or error}); set MMCL_CACHE elsewhere") from error
    return pa.concat_tables([_read(folder, start) for start in starts])


def _scanned(images: ImageStore, starts: list[int], *, workers: int) -> Iterator[tuple[int, pa.Table]]:
    """The facts of the chunks that begin at ``starts``, as they are found."""
    if workers < 1 or len(starts) == 0:
        for start in starts:
            yield start, _scan_rows(images, start)
        return
    # Forked workers share the store's memory, as those of torch's loaders do.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(images, stop))
    waiting: dict[Future, int] = {}
    left = iter(starts)
    try:
        while True:
            for start in left:
                waiting[pool.submit(_work, start)] = start
                if len(waiting) > 2 * workers:  # so many results at most wait in memory
                    break
            if not waiting:
                break
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield waiting.pop(future), future.result()
    except BaseException:
        stop.set()  # workers give up between two images
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: dict[str, object] = {}


def _start_worker(images: ImageStore, stop: object) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and sets ``stop``
    torch.set_num_threads(1)
    _worker.update(images=images, stop=stop)


def _work(start: int) -> pa.Table:
    return _scan_rows(_worker["images"], start, stopped=_worker["stop"].is_set)


def _scan_rows(images: ImageStore, start: int, *, stopped: Callable[[], bool] = lambda: False) -> pa.Table:
    rows = []
    for row in range(start, min(len(images), start + CHUNK_ROWS)):
        if stopped():
            break
        rows.append(image_facts(images, row))
    return pa.Table.from_pylist(rows, schema=FACTS)


def _path(folder: Path, start: int) -> Path:
    return folder / f"rows_{start:09d}.arrow"


def _read(folder: Path, start: int) -> pa.Table | None:
    """The facts that begin at a row, mapped from their file; None where it is missing or damaged."""
    with suppress(FileNotFoundError, pa.ArrowInvalid):
        table = feather.read_table(_path(folder, start), memory_map=True)
        return table if table.schema.equals(FACTS) else None
    return None


def _write(folder: Path, start: int, table: pa.Table) -> None:
    partial = folder / f".{start}.{os.getpid()}.partial"
    feather.write_feather(table, partial, compression="uncompressed")  # compressed files cannot be mapped
    os.replace(partial, _path(folder, start))
