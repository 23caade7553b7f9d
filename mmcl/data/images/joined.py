"""The images of several stores as one store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mmcl.data.dataset import ImageStore
from mmcl.data.images.encoded import EncodedImages, encoded_image
from mmcl.data.images.files import FileImages


class JoinedImages(EncodedImages):
    """Rows that lead to the images of several stores; the stores themselves are shared, not copied.

    Args:
        stores: at least one.
        owner: (n,) int64, which store an image is in.
        rows: (n,) int64, its row there.
    """

    def __init__(self, stores: Sequence[ImageStore], owner: np.ndarray, rows: np.ndarray) -> None:
        self.stores, self.owner, self.rows = list(stores), owner, rows
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.owner)

    def _at(self, row: int) -> tuple[ImageStore, int]:
        return self.stores[int(self.owner[row])], int(self.rows[row])

    def encoded(self, row: int) -> bytes:
        """The image as its store keeps it; as PNG where that keeps pixels. Raises DataError when it is missing."""
        return encoded_image(*self._at(row))

    def read(self, row: int) -> Tensor:
        """Image ``row``, upright RGB, uint8 (3, h, w). Raises DataError when it is missing or no image."""
        store, inner = self._at(row)
        return store.read(inner)

    def read_reduced(self, row: int, reduction: Callable[[int, int], int]) -> tuple[Tensor, tuple[int, int]]:
        """As the row's store does; a store of pixels gives the whole image."""
        store, inner = self._at(row)
        if isinstance(store, EncodedImages):
            return store.read_reduced(inner, reduction)
        pixels = store.read(inner)
        return pixels, (pixels.shape[1], pixels.shape[2])

    def describe(self, row: int) -> str:
        """What the row's store says."""
        store, inner = self._at(row)
        return store.describe(inner)

    def select(self, rows: np.ndarray) -> JoinedImages:
        """A store of these rows alone, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        return type(self)(self.stores, self.owner[index], self.rows[index])

    def fingerprint(self) -> str:
        """A hash of the fingerprints of the stores' used images, and of their order."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for number, store in enumerate(self.stores):
                own = self.rows[self.owner == number]
                digest.update((store.select(own).fingerprint() if len(own) else "").encode() + b"\x1e")
            digest.update(np.ascontiguousarray(self.owner, dtype=np.int64).tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


class JoinedArrays(JoinedImages):
    """Rows that lead to several stores of pixels of one size, which read many images at once."""

    def read_many(self, rows: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        """The images of these rows, uint8 (b, 3, h, w); (0, 3, h, w) for none."""
        index = np.asarray(rows, dtype=np.int64)
        owner, inner = self.owner[index], self.rows[index]
        parts = [store.read_many(inner[owner == number]) for number, store in enumerate(self.stores)]
        order = np.argsort(owner, kind="stable")
        pixels = torch.cat(parts)
        found = torch.empty_like(pixels)
        found[torch.from_numpy(order)] = pixels
        return found


class JoinedBlocks(JoinedImages):
    """Rows that lead to several stores, of which one at least is fetched block by block."""

    @property
    def reads_whole_blocks(self) -> bool:
        """Whether random batches would fetch a block for nearly every image of a store."""
        return any(getattr(store, "reads_whole_blocks", False) for store in self.stores)

    def blocks(self) -> np.ndarray:
        """(n,) int64: the block each image is in; a store without any counts as blocks of the others' mean size."""
        own = {
            number: store.select(self.rows[self.owner == number]).blocks()
            for number, store in enumerate(self.stores)
            if hasattr(store, "blocks") and (self.owner == number).any()
        }
        sizes = [len(blocks) / len(np.unique(blocks)) for blocks in own.values()]
        mean = max(1, round(float(np.mean(sizes)))) if sizes else 1
        found, start = np.empty(len(self), dtype=np.int64), 0
        for number in np.unique(self.owner).tolist():
            places = self.owner == number
            numbers = own[number] if number in own else np.arange(int(places.sum())) // mean
            found[places] = start + numbers
            start += int(numbers.max()) + 1
        return found

    def blocks_in_memory(self) -> int:
        """How many blocks, be they the largest, a process can keep at once; at least one."""
        counts = [store.blocks_in_memory() for store in self.stores if hasattr(store, "blocks_in_memory")]
        return min(counts, default=max(1, len(np.unique(self.blocks()))))


def join_images(stores: Sequence[ImageStore]) -> ImageStore:
    """The images of several stores, one after another; the only store itself where there is one.

    What comes can read many images at once where every store can and all hold images of one size, and knows blocks
    where one of them does.
    """
    if len(stores) == 1:
        return stores[0]
    owner = np.repeat(np.arange(len(stores), dtype=np.int64), [len(store) for store in stores])
    rows = np.concatenate([np.arange(len(store), dtype=np.int64) for store in stores])
    if any(hasattr(store, "blocks") for store in stores):
        return JoinedBlocks(stores, owner, rows)
    sizes = {store.read_many([]).shape[1:] if hasattr(store, "read_many") else None for store in stores}
    return (JoinedArrays if len(sizes) == 1 and None not in sizes else JoinedImages)(stores, owner, rows)


def image_files(images: ImageStore) -> list[str | None]:
    """The file of each image, as an absolute path; None where an image is no file of its own."""
    if isinstance(images, FileImages):
        root = os.path.abspath(images.root)
        return [os.path.normpath(os.path.join(root, path)) for path in images.paths.to_pylist()]
    if isinstance(images, JoinedImages):
        files: list[str | None] = [None] * len(images)
        for number, store in enumerate(images.stores):
            places = np.flatnonzero(images.owner == number)
            for place, file in zip(places.tolist(), image_files(store.select(images.rows[places]))):
                files[place] = file
        return files
    return [None] * len(images)
