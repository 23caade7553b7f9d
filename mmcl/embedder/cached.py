"""`CachedEmbedder`: what a model made of a data set or of texts is kept, and found again by model and data."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmcl.batch import SkippedRow
from mmcl.data.chunk_files import ALONE, Chunk, computed_chunks, stored_chunks
from mmcl.data.dataset import ImageStore, ImageTextDataset
from mmcl.embedder.dataset_images import embed_images
from mmcl.embedder.interface import Embedder, EncodeMixin
from mmcl.embedder.joining import Embedded, joined_rows, mapped_rows
from mmcl.embedder.processes import all_processes
from mmcl.embedder.vectors_embedder import VectorsEmbedder
from mmcl.errors import ConfigError
from mmcl.logs import get_logger

log = get_logger(__name__)

LAYOUT = 1  # of the files; part of every key
CHUNK_ROWS = 1024  # rows a file: what a broken-off run loses at most, and what processes share out
MAPPED_BYTES = 2 * 2**30  # larger results are mapped from one file, not held
HELD_BYTES = 2**30  # without a folder: the results used last are held, up to so much

# An upgrade of what runs the models may change their numbers.
_LIBRARIES = ("torch", "torchvision", "transformers", "timm", "open_clip_torch", "sentence-transformers")

# Called with what is embedded, how much is done, and of how much.
ProgressCallback = Callable[[str, int, int], None]


def fingerprint(embedder: Embedder) -> str | None:
    """A hash of all that a model's embeddings depend on.

    Args:
        embedder: any; one of another kind than mmcl's may bring a method ``fingerprint() -> str``.

    Returns:
        Hexadecimal digits; None for an embedder that cannot say.
    """
    own = getattr(embedder, "fingerprint", None)
    return own() if callable(own) else None


class CachedEmbedder(EncodeMixin):
    """An embedder that embeds the images of a data set, or a list of texts, once.

    Rows are embedded in chunks of 1,024, in batches of ``batch_size`` inside each: neither the number of processes nor
    what is found already changes a bit of the result. (``batch_size``, the device and the number of threads may change
    the last bits; the first two are part of the key.) Items given one by one (``encode_image``) are embedded anew, and
    so are ``vectors:`` files, which are looked up anyway. All other attributes are those of ``inner``.

    Args:
        inner: any embedder; it must not change while it is wrapped.
        folder: where the files are; None, or a model that has no ``fingerprint``: in memory, the results used last.
        shared: true when every process calls at once and with the same: they divide the work, and each gets all of it.
        progress: told how far it is.
    """

    def __init__(
        self,
        inner: Embedder,
        *,
        folder: Path | str | None = None,
        shared: bool = False,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.inner = inner
        self.folder = None if folder is None else Path(folder)
        self.shared, self.progress = shared, progress
        self.embedding_dim, self.modalities = inner.embedding_dim, inner.modalities
        self._model: str | None = None
        self._held: OrderedDict[str, Embedded] = OrderedDict()

    @property
    def logit_scale(self) -> float:
        """The factor from scores to logits."""
        return self.inner.logit_scale

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name.startswith("__"):  # while it is copied or unpickled there is no inner yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    def fingerprint(self) -> str | None:
        """That of ``inner``, computed once."""
        if self._model is None:
            self._model = fingerprint(self.inner)
        return self._model

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        """Items to embeddings; see ``Embedder``. Texts are kept and found again, images are not."""
        self._check(items, modality, batch_size)
        if modality == "image" or not len(items) or isinstance(self.inner, VectorsEmbedder):
            return self.inner.embed(items, modality, batch_size=batch_size)
        texts = list(items)

        def compute(start: int, stop: int) -> Chunk:
            return Chunk(self.inner.embed(texts[start:stop], "text", batch_size=batch_size).numpy(), [])

        digest = hashlib.sha256()
        for text in texts:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return self._embedded("text", digest.hexdigest(), len(texts), compute, batch_size, "texts").embeddings

    def embed_dataset_images(
        self, dataset: ImageTextDataset, *, batch_size: int = 64
    ) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
        """See ``embed_images``.

        Raises:
            ConfigError: the folder cannot be written; processes that share the work ask for different things.
        """
        if isinstance(self.inner, VectorsEmbedder):
            return tuple(self.inner.embed_dataset_images(dataset, batch_size=batch_size))
        title = f"images of {dataset.name}"

        def compute(start: int, stop: int) -> Chunk:
            part = self._part(dataset, start, stop, title)
            embeddings, rows, skipped = embed_images(self.inner, part, batch_size=batch_size)
            values = np.full((stop - start, self.embedding_dim), np.nan, dtype=np.float32)
            values[rows] = embeddings.numpy()
            return Chunk(values, [replace(row, row=row.row + start) for row in skipped])

        digest = hashlib.sha256(dataset.images.fingerprint().encode())
        if "id" in dataset.table.column_names:  # what embeddings computed elsewhere are found by
            digest.update(json.dumps(dataset.column("id")).encode())
        return tuple(self._embedded("image", digest.hexdigest(), len(dataset), compute, batch_size, title))

    # -- chunks --------------------------------------------------------------------------------------------------

    def _embedded(
        self, kind: str, data: str, total: int, compute: Callable[[int, int], Chunk], batch_size: int, title: str
    ) -> Embedded:
        sharing = all_processes() if self.shared else ALONE
        # In memory and alone there is no other model to be mistaken for, and the weights need not be read.
        model = None if self.folder is None and sharing is ALONE else self.fingerprint()
        parts = [LAYOUT, model, kind, data, batch_size, self.embedding_dim, _versions()]
        key = f"{kind}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}"
        _check_same(sharing.gather(key))

        def progress(done: int, of: int) -> None:
            self._tell(title, done, of)

        if self.folder is None or model is None:
            if key not in self._held:
                chunks = computed_chunks(total, compute, chunk_rows=CHUNK_ROWS, sharing=sharing, progress=progress)
                self._hold(key, joined_rows(chunks, total, self.embedding_dim))
            self._held.move_to_end(key)
            held = self._held[key]
            return Embedded(held.embeddings.clone(), held.rows.copy(), list(held.skipped))
        folder = self.folder / key
        try:
            chunks = stored_chunks(
                folder, total, compute, chunk_rows=CHUNK_ROWS, sharing=sharing, progress=progress,
                found=lambda missing, of: log.info("%s: embedding %d of %d chunks into %s", title, missing, of, folder),
            )  # fmt: skip
            progress(total, total)
            if total * self.embedding_dim * 4 <= MAPPED_BYTES:
                return joined_rows(chunks, total, self.embedding_dim)
            return mapped_rows(folder, chunks, total, self.embedding_dim, sharing)
        except OSError as error:
            raise ConfigError(
                f"embeddings cannot be kept in {folder} ({error.strerror or error}); set the environment variable "
                f"MMCL_CACHE to a folder that can be written, or give --no-cache"
            ) from error

    def _hold(self, key: str, embedded: Embedded) -> None:
        """Hold a result; those used longest ago go, the new one never."""
        self._held[key] = embedded
        while len(self._held) > 1 and sum(held.embeddings.nbytes for held in self._held.values()) > HELD_BYTES:
            self._held.popitem(last=False)

    def _part(self, dataset: ImageTextDataset, start: int, stop: int, title: str) -> ImageTextDataset:
        """Some rows of a data set, whose reading moves the progress on."""
        images: ImageStore = dataset.images.select(np.arange(start, stop))
        if self.progress is not None:
            images = _CountedImages(images, lambda row: self._tell(title, start + row + 1, len(dataset)))
        table = dataset.table.slice(start, stop - start)
        if "negative_rows" in table.column_names:  # they count from the first row of the whole
            table = table.drop_columns("negative_rows")
        return ImageTextDataset(images, table, name=dataset.name)

    def _tell(self, title: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(title, done, total)


class _CountedImages:
    """An image store that tells of every image read."""

    def __init__(self, images: ImageStore, tell: Callable[[int], None]) -> None:
        self._images, self._tell = images, tell

    def __len__(self) -> int:
        return len(self._images)

    def read(self, row: int) -> Tensor:
        self._tell(row)
        return self._images.read(row)

    def describe(self, row: int) -> str:
        return self._images.describe(row)

    def select(self, rows: np.ndarray) -> ImageStore:
        return self._images.select(rows)

    def fingerprint(self) -> str:
        return self._images.fingerprint()


def _versions() -> list[str]:
    found = []
    for library in _LIBRARIES:
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    return found


def _check_same(keys: list[str]) -> None:
    """Processes that divide the work must hold one model and ask for one thing."""
    if len(set(keys)) > 1:
        raise ConfigError(
            f"{len(keys)} processes share the embedding, but hold different models or data; give the model weights "
            f"(a model with random weights is another one in every process), and the same data to all"
        )
