"""Batches through worker processes: in order, ahead of time, without touching the global random state."""

from __future__ import annotations

import atexit
import os
import signal
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from mmcl.batch import Batch
from mmcl.errors import DataError, MmclError

PREFETCH = 2  # batches that each worker reads ahead: one is being used, one is ready
_SHOWN = 8  # row numbers in a message


class Reader(Protocol):
    """Row numbers to a batch, such as ``mmcl.data.BatchReader``; its randomness comes from (seed, epoch, row)."""

    epoch: int

    def __len__(self) -> int: ...

    def __getitems__(self, rows: Any) -> Batch: ...


@dataclass(frozen=True)
class _Failure:
    """What a worker sends instead of a batch that it cannot read."""

    error: MmclError | None
    reason: str


class _Reading(torch.utils.data.Dataset):
    """The reader as the workers see it: the epoch comes with the rows, so that workers may outlive an epoch."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitems__(self, asked: tuple[int, Sequence[int]]) -> Batch | _Failure:
        epoch, rows = asked
        if torch.utils.data.get_worker_info() is None:
            return self.reader.__getitems__(rows)
        self.reader.epoch = epoch
        try:
            return self.reader.__getitems__(rows)
        except MmclError as error:
            return _Failure(error, str(error))
        except Exception as error:  # whatever a reader raises must not end the worker with a traceback of its own
            return _Failure(None, f"{type(error).__name__}: {error}")


class _Plan:
    """What is to be read, as it stands whenever the loader begins anew, and what was asked for and has not come."""

    def __init__(self) -> None:
        self.asked: deque[Sequence[int]] = deque()
        self._epoch, self._rows = 0, iter(())

    def begin(self, epoch: int, rows: Iterable[Sequence[int]]) -> None:
        """Forget what was asked for before."""
        self.asked.clear()
        self._epoch, self._rows = epoch, iter(rows)

    def __iter__(self) -> Iterator[tuple[int, Sequence[int]]]:
        for part in self._rows:
            rows = part.tolist() if hasattr(part, "tolist") else list(part)
            self.asked.append(rows)
            yield self._epoch, rows


_RUNNING: weakref.WeakSet[ReaderProcesses] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Workers ignore the signal that ends them when the interpreter does, so they are told in time."""
    for processes in list(_RUNNING):
        processes.close()


@contextmanager
def deaths_explained(asked: Sequence[Sequence[int]] | None = None) -> Iterator[None]:
    """Within it, the death of a worker is a DataError.

    torch raises it wherever the main process happens to be, so loops over batches stand within this too.

    Args:
        asked: where batches are being waited for, the rows of each: the first ones are named.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        # Of what a worker was sending when it died, the rest is a broken connection.
        broken = asked is not None and isinstance(error, OSError | EOFError)
        if not broken and not str(error).startswith("DataLoader worker"):
            raise
        waited = f" while the batch of rows {_listed(asked[0])} was waited for" if asked else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"a reader process died{waited} ({reason}); the usual cause is memory: fewer data.workers, a smaller "
            f"data.prefetch or smaller batches need less, and data.workers=0 reads in the training process itself"
        ) from error


class ReaderProcesses:
    """Workers that read batches ahead and hand them out in order; they stay from epoch to epoch.

    Workers compute on one thread each, leave torch's global random state in this process alone, and ignore Ctrl-C,
    which is for the process that trains. With no worker, batches are read here, when they are asked for.

    Args:
        reader: row numbers to batches. Workers get a copy when they start (``restart`` after changing it).
        workers: reader processes; 0: none.
        prefetch: batches that each of them reads ahead.
        device: where batches go; for a GPU they are pinned in memory.

    Example:
        >>> from mmcl.data.batches.reader_processes import ReaderProcesses
        >>> processes = ReaderProcesses(reader, workers=2)      # doctest: +SKIP
        >>> for batch in processes.read(0, [[3, 1], [2, 0]]):   # doctest: +SKIP
        ...     print(batch.rows)
    """

    def __init__(
        self, reader: Reader, *, workers: int = 0, prefetch: int = PREFETCH, device: torch.device | str = "cpu"
    ) -> None:
        self.reader, self.workers, self.prefetch, self.device = reader, workers, prefetch, torch.device(device)
        self._plan = _Plan()
        self._loader: torch.utils.data.DataLoader | None = None

    def read(self, epoch: int, rows: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """The batches of these rows, in order. Leaving off early and reading others is allowed.

        Args:
            epoch: told to the reader.
            rows: row numbers of each batch; taken as they are needed.

        Raises:
            DataError: a worker died, or met what its reader does not foresee; the message names the batch's rows.
            MmclError: what the reader raised.
        """
        self.reader.epoch = epoch
        self._plan.begin(epoch, rows)
        if self._loader is None:
            self._loader = self._start()
        with deaths_explained(self._plan.asked):
            batches = iter(self._loader)
        while True:
            with deaths_explained(self._plan.asked):
                batch = next(batches, None)
            if batch is None:
                return
            read = self._plan.asked.popleft()
            if isinstance(batch, _Failure):
                raise batch.error or DataError(
                    f"the batch of rows {_listed(read)} cannot be read ({batch.reason}); data.workers=0 shows where"
                )
            yield batch

    def close(self) -> None:
        """Let the workers go; the next ``read`` starts others, with the reader as it then is."""
        batches = getattr(self._loader, "_iterator", None)
        if hasattr(batches, "_shutdown_workers"):  # a loop that was left off may still hold on to it
            batches._shutdown_workers()
        self._loader = None

    restart = close

    def exit_codes(self) -> list[int | None]:
        """How each worker ended: negative, the signal that ended it; None: it runs. Empty without workers."""
        batches = getattr(self._loader, "_iterator", None)
        return [worker.exitcode for worker in getattr(batches, "_workers", ())]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loader": None, "_plan": _Plan()}

    def _start(self) -> torch.utils.data.DataLoader:
        _RUNNING.add(self)
        return torch.utils.data.DataLoader(
            _Reading(self.reader),
            batch_sampler=self._plan,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_prepare_worker,
            generator=torch.Generator().manual_seed(0),  # it would draw from torch's global one
            persistent_workers=self.workers > 0,
            prefetch_factor=self.prefetch if self.workers else None,
        )


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _prepare_worker(worker: int) -> None:
    # Ctrl-C and batch systems signal the whole process group; a reader that died of it would bring the trainer down
    # before it could write its checkpoint.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a worker, and no warning after a fork


def _listed(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:_SHOWN])) + (f" ... ({len(rows)} rows)" if len(rows) > _SHOWN else "")
