"""`BatchReader`: row numbers in, one `Batch` of tower inputs out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from mmcl.batch import Batch, HardNegatives, SkippedRow
from mmcl.config import CaptionsSection
from mmcl.data.augment.captions import CaptionSampler
from mmcl.data.augment.images import ImageAugmentation
from mmcl.data.augment.seeds import row_seeds
from mmcl.data.augment.tokens import TokenDropout
from mmcl.data.dataset import ImageStore, ImageTextDataset
from mmcl.data.images.decoding import largest_reduction
from mmcl.data.mining.hard_negatives import HardNegativeChoice
from mmcl.errors import DataError


class ImageFeatures(Protocol):
    """Features of a data set's images, computed before; ``skipped`` are rows that have none."""

    def __call__(self, rows: Sequence[int], views: Sequence[int]) -> Tensor: ...

    num_views: int
    skipped: dict[int, SkippedRow]


class ImagePixels:
    """Reads, augments and preprocesses images; what cannot be read is named, not raised.

    Args:
        dataset: where the images are.
        preprocessing: the tower's: ``resize_pixels`` and ``normalize``, ``size`` and ``resize_to``.
        augmentation: random changes, or None.
        decode: ``"exact"``, or ``"scaled"``: a JPEG is decoded at half, a quarter or an eighth of its size where what
            is kept of it still has the tower's size. Quicker; the pixels differ a little (about 2 of 255 on average).
    """

    def __init__(
        self,
        dataset: ImageTextDataset,
        preprocessing: Any,
        augmentation: ImageAugmentation | None = None,
        *,
        decode: Literal["exact", "scaled"] = "exact",
    ) -> None:
        self.images, self.preprocessing = dataset.images, preprocessing
        self.augmentation, self.decode = augmentation, decode
        importlib.import_module("torchvision.transforms.v2")  # now: each worker would take seconds for it

    def __call__(self, rows: Sequence[int], seeds: Sequence[int]) -> tuple[dict[str, Tensor], list[SkippedRow]]:
        """Rows and their seeds -> ``pixel_values`` (b, 3, h, w) of those that can be read, and those that cannot."""
        if self.augmentation is None and hasattr(self.images, "read_many"):
            return {"pixel_values": self.preprocessing.normalize(self._resize(self.images.read_many(rows)))}, []
        read = self._read_reduced if self.decode == "scaled" and hasattr(self.images, "read_reduced") else self._read
        pixels, skipped = [], []
        for row, seed in zip(rows, seeds):
            try:
                pixels.append(read(row, seed))
            except DataError as error:
                skipped.append(skipped_image(self.images, row, error))
        if not pixels:
            return {}, skipped
        return {"pixel_values": self.preprocessing.normalize(torch.stack(pixels))}, skipped

    def _read(self, row: int, seed: int) -> Tensor:
        image = self.images.read(row)
        return self._resize(image) if self.augmentation is None else self.augmentation(image, seed=seed)

    def _read_reduced(self, row: int, seed: int) -> Tensor:
        """The same from an image that is decoded no larger than what is kept of it needs."""
        augmentation, box = self.augmentation, None

        def reduction(height: int, width: int) -> int:
            nonlocal box
            box = None if augmentation is None else augmentation.draw_crop(height, width, seed)
            if box is None:
                return largest_reduction(height, width, at_least=_resized(self.preprocessing))
            return largest_reduction(box.height, box.width, at_least=augmentation.size)

        image, full = self.images.read_reduced(row, reduction)
        if augmentation is None:
            return self._resize(image)
        # Only a JPEG asks for its reduction; another image draws its crop when it is augmented.
        crop = None if box is None else box.on(full, (image.shape[1], image.shape[2]))
        return augmentation(image, seed=seed, crop=crop)

    def _resize(self, images: Tensor) -> Tensor:
        return self.preprocessing.resize_pixels(images)


def _resized(preprocessing: Any) -> tuple[int, int]:
    """Height and width that an image must have, so that the tower's own resize enlarges nothing."""
    to = preprocessing.resize_to
    to = (to, to) if isinstance(to, int) else to
    return max(to[0], preprocessing.size[0]), max(to[1], preprocessing.size[1])


def skipped_image(images: ImageStore, row: int, error: DataError) -> SkippedRow:
    """The entry of a row whose image cannot be read."""
    place = images.describe(row)
    return SkippedRow(row, place, str(error).removeprefix(f"{place}: "))


class BatchReader(torch.utils.data.Dataset):
    """A data set whose items are whole batches: ``reader.__getitems__(rows)`` gives one ``Batch``.

    All randomness comes from (seed, epoch, row): any process, with any number of workers, reads the same batch.

    Args:
        dataset: the rows.
        image: row numbers to image inputs (``ImagePixels``), or cached features.
        text: captions to text inputs: a tower's tokenizer, or a look-up of cached features.
        captions: which caption of a row a step takes.
        seed: the run's seed.
        negatives: which hard captions and images a row brings; None: none.
    """

    def __init__(
        self,
        dataset: ImageTextDataset,
        image: ImagePixels | ImageFeatures,
        text: Callable[[Sequence[str]], dict[str, Tensor]],
        *,
        captions: CaptionsSection,
        seed: int,
        negatives: HardNegativeChoice | None = None,
    ) -> None:
        self.dataset, self.image, self.text, self.captions, self.seed = dataset, image, text, captions, seed
        self.negatives = negatives
        self._sampler = CaptionSampler(dataset, captions)
        self.group_ids = dataset.group_ids()
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def is_cheap(self) -> bool:
        """Whether images are looked up and not decoded."""
        return not isinstance(self.image, ImagePixels)

    @property
    def unreadable(self) -> list[SkippedRow]:
        """Rows known to be unreadable before any batch is read."""
        return [] if isinstance(self.image, ImagePixels) else list(self.image.skipped.values())

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """The batch of these rows; unreadable rows are left out of its tensors and named in ``skipped``.

        A batch without any readable row has empty inputs. A hard image that cannot be read is left out and named in
        ``skipped`` too, the row it was for stays.
        """
        seeds = row_seeds(self.seed, self.epoch, rows).tolist()
        image, skipped = self._image_inputs(rows, seeds)
        if skipped:
            dropped = {skip.row for skip in skipped}
            kept = [(row, seed) for row, seed in zip(rows, seeds) if row not in dropped]
            rows, seeds = [row for row, _ in kept], [seed for _, seed in kept]
        index = torch.tensor(rows, dtype=torch.int64)
        text = self._text_inputs(self.sampled_captions(rows, seeds), seeds) if len(rows) else {}
        negative_image, also_skipped = self._negative_images(rows, seeds)
        return Batch(
            image=image,
            text=text,
            group_ids=self.group_ids[index],
            rows=index,
            skipped=list(dict.fromkeys([*skipped, *also_skipped])),
            negative_text=self._negative_captions(rows, seeds),
            negative_image=negative_image,
        )

    def _text_inputs(self, captions: Sequence[str], seeds: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        return self.text(captions, seeds=seeds) if isinstance(self.text, TokenDropout) else self.text(captions)

    def _negative_captions(self, rows: Sequence[int], seeds: Sequence[int]) -> HardNegatives | None:
        drawn = None if self.negatives is None else self.negatives.captions(rows, seeds)
        if drawn is None:
            return None
        owners, groups = torch.from_numpy(drawn.owners), torch.from_numpy(drawn.group_ids)
        # Which of its row's captions each is: by its row and this alone it loses tokens, whatever else is in the batch.
        place = np.arange(len(drawn.owners)) - np.searchsorted(drawn.owners, drawn.owners)
        own = row_seeds(0, 0, np.asarray(seeds, dtype=np.uint64)[drawn.owners] + place.astype(np.uint64))
        return HardNegatives(self._text_inputs(drawn.texts, own), owners, groups)

    def _negative_images(
        self, rows: Sequence[int], seeds: Sequence[int]
    ) -> tuple[HardNegatives | None, list[SkippedRow]]:
        drawn = None if self.negatives is None else self.negatives.images(rows, seeds)
        if drawn is None:
            return None, []
        inputs, skipped = self._image_inputs(drawn.rows, drawn.seeds)
        dropped = {skip.row for skip in skipped}
        kept = torch.tensor([row not in dropped for row in drawn.rows])
        if not kept.any():
            return None, skipped
        groups = self.group_ids[torch.tensor(drawn.rows)]
        return HardNegatives(inputs, torch.from_numpy(drawn.owners)[kept], groups[kept]), skipped

    def _image_inputs(self, rows: Sequence[int], seeds: Sequence[int]) -> tuple[dict[str, Tensor], list[SkippedRow]]:
        if isinstance(self.image, ImagePixels):
            return self.image(rows, seeds)
        missing = self.image.skipped
        skipped = [missing[row] for row in rows if row in missing]
        readable = [(row, seed % self.image.num_views) for row, seed in zip(rows, seeds) if row not in missing]
        if not readable:
            return {}, skipped
        return {"features": self.image(*map(list, zip(*readable)))}, skipped

    def sampled_captions(self, rows: Sequence[int], seeds: Sequence[int]) -> list[str]:
        """The caption that each row brings under its seed."""
        return self._sampler(rows, seeds)
