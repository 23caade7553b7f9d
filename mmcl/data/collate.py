"""`BatchReader`: row numbers in, one `Batch` of tower inputs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from mmcl.batch import Batch, SkippedRow
from mmcl.config import CaptionsSection
from mmcl.data.augment import ImageAugmentation, row_seed, sample_caption
from mmcl.data.dataset import ImageTextDataset
from mmcl.errors import DataError


class ImageFeatures(Protocol):
    """Features of a data set's images, computed before."""

    def __call__(self, rows: Sequence[int], views: Sequence[int]) -> Tensor: ...

    num_views: int
    skipped: dict[int, SkippedRow]


class ImagePixels:
    """Reads, augments and preprocesses images; what cannot be read is named, not raised.

    Args:
        dataset: where the images are.
        preprocessing: the tower's: ``resize_pixels`` and ``normalize``.
        augmentation: random changes, or None.
    """

    def __init__(
        self, dataset: ImageTextDataset, preprocessing: object, augmentation: ImageAugmentation | None = None
    ) -> None:
        self.images, self.preprocessing, self.augmentation = dataset.images, preprocessing, augmentation

    def __call__(self, rows: Sequence[int], seeds: Sequence[int]) -> tuple[dict[str, Tensor], list[SkippedRow]]:
        """Rows and their seeds -> ``pixel_values`` (b, 3, h, w) of those that can be read, and those that cannot."""
        if self.augmentation is None and hasattr(self.images, "read_many"):
            pixels = self.images.read_many(rows)
            if tuple(pixels.shape[-2:]) == self.preprocessing.size:
                return {"pixel_values": self.preprocessing.normalize(pixels)}, []
        pixels, skipped = [], []
        for row, seed in zip(rows, seeds):
            try:
                image = self.images.read(row)
                if self.augmentation is None:
                    pixels.append(self.preprocessing.resize_pixels(image))
                else:
                    pixels.append(self.augmentation(image, seed=seed))
            except DataError as error:
                skipped.append(SkippedRow(row, self.images.describe(row), str(error)))
        if not pixels:
            return {"pixel_values": torch.empty(0)}, skipped
        return {"pixel_values": self.preprocessing.normalize(torch.stack(pixels))}, skipped


class BatchReader(torch.utils.data.Dataset):
    """A data set whose items are whole batches: ``reader.__getitems__(rows)`` gives one ``Batch``.

    All randomness comes from (seed, epoch, row): any process, with any number of workers, reads the same batch.

    Args:
        dataset: the rows.
        image: row numbers to image inputs (``ImagePixels``), or cached features.
        text: captions to text inputs: a tower's tokenizer, or a look-up of cached features.
        captions: which caption of a row a step takes.
        seed: the run's seed.
    """

    def __init__(
        self,
        dataset: ImageTextDataset,
        image: ImagePixels | ImageFeatures,
        text: Callable[[Sequence[str]], dict[str, Tensor]],
        *,
        captions: CaptionsSection,
        seed: int,
    ) -> None:
        self.dataset, self.image, self.text, self.captions, self.seed = dataset, image, text, captions, seed
        self.group_ids = dataset.group_ids()
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """The batch of these rows; unreadable rows are left out of its tensors and named in ``skipped``.

        Raises:
            DataError: no row of the batch can be read.
        """
        seeds = [row_seed(self.seed, self.epoch, row) for row in rows]
        image, skipped = self._image_inputs(rows, seeds)
        dropped = {skip.row for skip in skipped}
        if len(dropped) == len(rows):
            reasons = "; ".join(f"{skip.source}: {skip.reason}" for skip in skipped[:3])
            raise DataError(f"{self.dataset.name}: no image of a whole batch can be read ({reasons})")
        kept = [(row, seed) for row, seed in zip(rows, seeds) if row not in dropped]
        index = torch.tensor([row for row, _ in kept])
        return Batch(
            image=image,
            text=self.text([self.caption(row, seed) for row, seed in kept]),
            group_ids=self.group_ids[index],
            rows=index,
            skipped=skipped,
        )

    def _image_inputs(self, rows: Sequence[int], seeds: Sequence[int]) -> tuple[dict[str, Tensor], list[SkippedRow]]:
        if isinstance(self.image, ImagePixels):
            return self.image(rows, seeds)
        skipped = [self.image.skipped[row] for row in rows if row in self.image.skipped]
        readable = [(row, seed) for row, seed in zip(rows, seeds) if row not in self.image.skipped]
        views = [seed % self.image.num_views for _, seed in readable]
        return {"features": self.image([row for row, _ in readable], views)}, skipped

    def caption(self, row: int, seed: int) -> str:
        """The caption that a row brings under a seed."""
        return sample_caption(self.dataset.texts(row), self.dataset.value("tags", row), self.captions, seed=seed)
