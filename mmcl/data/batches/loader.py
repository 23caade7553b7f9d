"""`BatchLoader`: a data set's batches for any training loop, every row once an epoch, resumable at any batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch

from mmcl.batch import Batch
from mmcl.data.batches.reader_processes import PREFETCH, Reader, ReaderProcesses
from mmcl.errors import ConfigError


class Batches(Protocol):
    """Which rows meet, such as ``mmcl.negatives.samplers.RandomBatches``."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int) -> list[Any]: ...

    def share(self, batch: Any, *, rank: int, world_size: int) -> Any: ...


class BatchLoader:
    """A data set's batches: iterating gives one process's part of what is left of the epoch, then the next epoch.

    The order depends on the sampler's seed and the epoch alone; each row comes to exactly one process, through one of
    its workers, once an epoch. The trainer of ``mmcl train`` reads through the same workers.

    Args:
        reader: row numbers to batches: ``mmcl.data.BatchReader``.
        batches: the batches of an epoch, and a process's share of each: ``mmcl.negatives.samplers``.
        rank, world_size: this process among those that train together.
        workers: reader processes; 0: batches are read here.
        prefetch: batches that each of them reads ahead.
        device: where batches go; for a GPU they are pinned in memory.

    Attributes:
        epoch: that is being read.
        batch: batches of it that were handed out.

    Raises:
        ConfigError: ``rank`` is not below ``world_size``, or ``workers`` or ``prefetch`` makes no sense.

    Example:
        >>> from mmcl.config import CaptionsSection
        >>> from mmcl.data import BatchLoader, BatchReader, ImagePixels, load
        >>> from mmcl.models.towers.preprocessing import ImagePreprocessing
        >>> from mmcl.negatives.samplers import RandomBatches
        >>> data = load("shapes?train=10&test=4:train")
        >>> pixels = ImagePixels(data, ImagePreprocessing((32, 32)))
        >>> reader = BatchReader(data, pixels, lambda texts: {}, captions=CaptionsSection(), seed=0)
        >>> loader = BatchLoader(reader, RandomBatches(len(data), 5, seed=0))
        >>> [tuple(batch.image["pixel_values"].shape) for batch in loader]
        [(5, 3, 32, 32), (5, 3, 32, 32)]
        >>> loader.state_dict()
        {'epoch': 1, 'batch': 0}
    """

    def __init__(
        self,
        reader: Reader,
        batches: Batches,
        *,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        prefetch: int = PREFETCH,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank is {rank} of {world_size} process(es); want 0 to {world_size - 1}")
        if workers < 0 or prefetch < 1:
            raise ConfigError(f"workers is {workers} and prefetch {prefetch}; want 0 or more, and 1 or more")
        self.batches, self.rank, self.world_size = batches, rank, world_size
        self.epoch = self.batch = 0
        self._processes = ReaderProcesses(reader, workers=workers, prefetch=prefetch, device=device)

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """The batches that are left of the epoch.

        A batch counts as done once it is handed out. Rows whose image cannot be read are not in the batch's tensors
        but in its ``skipped``.

        Raises:
            DataError: a worker died; see ``ReaderProcesses.read``.
        """
        if self.batch >= len(self):
            self.epoch, self.batch = self.epoch + 1, 0
        whole = self.batches.epoch(self.epoch)[self.batch :]
        shares = (self.batches.share(rows, rank=self.rank, world_size=self.world_size) for rows in whole)
        for batch in self._processes.read(self.epoch, shares):
            self.batch += 1
            yield batch
        self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where the loader stands: what a checkpoint keeps."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there: the next batch is the one that would have come next.

        Raises:
            ConfigError: the epoch has fewer batches than the state counts: it is of other data or another batch size.
        """
        if not 0 <= state["batch"] <= len(self):
            raise ConfigError(
                f"the state is at batch {state['batch']} of an epoch, which has {len(self)}; give the same data and "
                f"batch size"
            )
        self.epoch, self.batch = state["epoch"], state["batch"]

    def close(self) -> None:
        """Let the workers go; iterating starts others."""
        self._processes.close()
