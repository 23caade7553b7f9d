"""`Embedder`: raw items in, unit vectors out — and `load(MODEL)`, which makes one of any model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.batch import SkippedRow
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.decoding import to_image_tensor
from mmcl.data.vectors import VectorFile, load_vectors
from mmcl.errors import ConfigError, DataError, ShapeError, require
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder


class Embedder(Protocol):
    """What evaluators, indexes and plots know of a model.

    Attributes:
        embedding_dim: d.
        modalities: a subset of ``{"image", "text"}``.
        logit_scale: from scores to logits.
    """

    embedding_dim: int
    modalities: frozenset[str]
    logit_scale: float

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        """Items to embeddings: float32 on the CPU, (n, d), unit rows, in order, no gradient; n = 0 gives (0, d)."""
        ...

    def encode_image(self, images: Sequence[Any], *, batch_size: int = 64) -> Tensor:
        """``embed`` of images: paths, encoded bytes, PIL images, uint8 tensors (3, h, w) or arrays (h, w, 3)."""
        ...

    def encode_text(self, texts: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """``embed`` of texts."""
        ...


class FeatureSource(Protocol):
    """Where features of towers that do not change may come from instead of the tower."""

    def images(self, encoder: Encoder, dataset: ImageTextDataset) -> Any: ...

    def texts(self, encoder: Encoder, texts: Sequence[str]) -> Callable[[Sequence[str]], dict[str, Tensor]]: ...


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


class _EncodeMixin:
    """The field's names for the two calls people make most."""

    modalities: frozenset[str]

    def encode_image(self, images: Sequence[Any], *, batch_size: int = 64) -> Tensor:
        """Images to embeddings (n, d); see ``embed``."""
        return self.embed(images, "image", batch_size=batch_size)

    def encode_text(self, texts: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """Texts to embeddings (n, d); see ``embed``."""
        return self.embed(texts, "text", batch_size=batch_size)

    def _check(self, items: Sequence[Any], modality: str, batch_size: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; want at least 1")
        if modality not in self.modalities:
            raise ConfigError(f"modality is {modality!r}; this model embeds {', '.join(sorted(self.modalities))}")
        if isinstance(items, (str, bytes)) or not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
            raise ShapeError(f"items is a {type(items).__name__}; want a list of {modality}s, even of one")
        if modality == "text":
            for row, item in enumerate(items):
                if not isinstance(item, str):
                    raise ShapeError(f"text {row} is a {type(item).__name__}; want a string")


class DualEncoderEmbedder(_EncodeMixin):
    """An mmcl model, or any model read as one, seen from the evaluation side.

    Texts are sorted by length and padded to the longest of their batch only, images are decoded batch by batch.

    Args:
        model: the model; it is moved to ``device`` and left in evaluation mode.
        device: where it runs; default the GPU where there is one.
        features: where features of frozen towers come from; None: towers run.
    """

    def __init__(
        self,
        model: DualEncoder,
        *,
        device: str | torch.device | None = None,
        features: FeatureSource | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval()
        self.embedding_dim = model.embedding_dim
        self.modalities = frozenset({"image", "text"})
        self._features = features

    @property
    def logit_scale(self) -> float:
        """The factor from scores to logits."""
        return float(self.model.logit_scale.detach())

    @torch.no_grad()  # not inference_mode: what is embedded may be trained on, as linear probes do
    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        """Items to embeddings; see ``Embedder``.

        Args:
            items: images (paths, bytes, PIL images, uint8 tensors or arrays) or texts.
            modality: ``"image"`` or ``"text"``.
            batch_size: items a forward pass.

        Returns:
            (n, d) float32 on the CPU, unit rows, in the items' order.

        Raises:
            DataError: an image cannot be read.
            ConfigError: the model does not have the modality.
        """
        self._check(items, modality, batch_size)
        self.model.eval()
        encoder = self.model.encoder(modality)
        if len(items) == 0:
            return torch.empty(0, self.embedding_dim)
        if modality == "image":
            preprocess = encoder.tower.preprocessing
            parts = [
                self._run(encoder, preprocess([to_image_tensor(item) for item in chunk]))
                for chunk in _chunks(items, batch_size)
            ]
            return torch.cat(parts)
        return self._embed_texts(encoder, list(items), batch_size)

    def _run(self, encoder: Encoder, inputs: dict[str, Tensor]) -> Tensor:
        return encoder(**{name: value.to(self.device) for name, value in inputs.items()}).float().cpu()

    def _embed_texts(self, encoder: Encoder, texts: list[str], batch_size: int) -> Tensor:
        tokenize = encoder.tower.preprocessing
        if self._features is not None and encoder.has_fixed_features:
            tokenize = self._features.texts(encoder, texts)
            return torch.cat([self._run(encoder, tokenize(chunk)) for chunk in _chunks(texts, batch_size)])
        order = np.argsort(tokenize.lengths(texts), kind="stable")
        embeddings = torch.empty(len(texts), self.embedding_dim)
        for chunk in _chunks(order, batch_size):
            embeddings[chunk] = self._run(encoder, tokenize([texts[i] for i in chunk]))
        return embeddings

    @torch.no_grad()
    def embed_dataset_images(
        self, dataset: ImageTextDataset, *, batch_size: int = 64
    ) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
        """See ``embed_images``."""
        encoder = self.model.encoder("image")
        self.model.eval()
        if self._features is None or not encoder.has_fixed_features:
            return _embed_readable(self, dataset, batch_size)
        cached = self._features.images(encoder, dataset)
        rows = np.asarray([row for row in range(len(dataset)) if row not in cached.skipped], dtype=np.int64)
        parts = [
            self._run(encoder, {"features": cached(chunk.tolist(), [0] * len(chunk))})
            for chunk in _chunks(rows, batch_size)
        ]
        embeddings = torch.cat(parts) if parts else torch.empty(0, self.embedding_dim)
        return embeddings, rows, list(cached.skipped.values())


class SentenceTransformersEmbedder(_EncodeMixin):
    """A sentence-transformers model, with images where it takes them.

    Args:
        model: a ``SentenceTransformer``.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.embedding_dim = len(model.encode(["a"], show_progress_bar=False)[0])
        takes_images = getattr(model, "supports", None)
        images = takes_images("image") if callable(takes_images) else hasattr(model[0], "processor")
        self.modalities = frozenset({"image", "text"} if images else {"text"})
        self.logit_scale = 20.0  # sentence-transformers' own fixed scale

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        """Items to embeddings; see ``Embedder``."""
        self._check(items, modality, batch_size)
        if len(items) == 0:
            return torch.empty(0, self.embedding_dim)
        if modality == "image":
            from torchvision.transforms.v2.functional import to_pil_image

            items = [to_pil_image(to_image_tensor(item)) for item in items]
        encoded = self.model.encode(list(items), batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
        return F.normalize(encoded.float().cpu(), dim=-1)


class VectorsEmbedder(_EncodeMixin):
    """Embeddings computed elsewhere, looked up by id.

    Args:
        vectors: the file.
    """

    def __init__(self, vectors: VectorFile) -> None:
        self.vectors = vectors
        self.embedding_dim = vectors.image.shape[1]
        self.modalities = frozenset({"image", "text"})
        self.logit_scale = 100.0  # a file holds no scale; CLIP's ceiling

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        """Ids to embeddings; see ``Embedder``.

        Raises:
            DataError: an id that the file does not hold.
        """
        self._check(items, modality, batch_size)
        vectors = self.vectors.image_rows(items) if modality == "image" else self.vectors.text_rows(items)
        return F.normalize(torch.from_numpy(vectors), dim=-1)

    def embed_dataset_images(
        self, dataset: ImageTextDataset, *, batch_size: int = 64
    ) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
        """See ``embed_images``; images are found by the data set's ``id`` column."""
        return self.embed(dataset.column("id"), "image"), np.arange(len(dataset)), []


def _embed_readable(
    embedder: Embedder, dataset: ImageTextDataset, batch_size: int
) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
    parts, rows, skipped = [], [], []
    for chunk in _chunks(range(len(dataset)), batch_size):
        images = []
        for row in chunk:
            try:
                images.append(dataset.images.read(row))
                rows.append(row)
            except DataError as error:
                skipped.append(SkippedRow(row, dataset.images.describe(row), str(error)))
        if images:
            parts.append(embedder.embed(images, "image", batch_size=batch_size))
    embeddings = torch.cat(parts) if parts else torch.empty(0, embedder.embedding_dim)
    return embeddings, np.asarray(rows, dtype=np.int64), skipped


def embed_images(
    embedder: Embedder, dataset: ImageTextDataset, *, batch_size: int = 64
) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
    """Embed the images of a data set that can be read, in bounded memory.

    Args:
        embedder: any.
        dataset: any.
        batch_size: images a forward pass.

    Returns:
        (n, d) embeddings, the (n,) row numbers they belong to, and the rows that could not be read.
    """
    own = getattr(embedder, "embed_dataset_images", None)
    if own is not None:
        return own(dataset, batch_size=batch_size)
    return _embed_readable(embedder, dataset, batch_size)


def _mmcl_folder(reference: str) -> Path | None:
    """The folder of an mmcl model that a reference names, local or on the Hub; None where it is another's model."""
    from mmcl.models.saving import DESCRIPTION

    for folder in (Path(reference), Path(reference) / "model"):
        if (folder / DESCRIPTION).is_file():
            return folder
    if os.path.isdir(reference) or reference.count("/") != 1:
        return None
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from mmcl.models.transformers_loading import check_reachable

    check_reachable(reference)
    try:
        huggingface_hub.hf_hub_download(reference, DESCRIPTION)
        return Path(huggingface_hub.snapshot_download(reference))
    except LocalEntryNotFoundError as error:
        if isinstance(huggingface_hub.try_to_load_from_cache(reference, "config.json"), str):
            return None  # a transformers model that was fetched before
        raise ConfigError(
            f"there is no folder {reference!r}, and the Hub cannot be reached to look for a model of that name; check "
            f"the name and the network, or download it first (hf download {reference}) and give its folder"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError):
        return None  # it is no mmcl model; whether it is one of transformers' is seen later


def load(reference: str | Path, *, device: str | None = None) -> Embedder:
    """Load any model by its name.

    Args:
        reference: a run folder or folder of an mmcl model; a folder or Hub id of a transformers model with two towers
            (CLIP, SigLIP, VisionTextDualEncoder); ``open_clip:ARCH[/PRETRAINED]``; ``sentence-transformers:NAME``;
            ``vectors:FILE.npz`` or ``.safetensors``.
        device: where it runs; default the GPU where there is one.

    Returns:
        An ``Embedder``.

    Raises:
        ConfigError: there is no such model, or it cannot be reached or read.

    Example:
        >>> model = load("runs/quickstart")                       # doctest: +SKIP
        >>> model.encode_text(["a red circle"]).shape             # doctest: +SKIP
        torch.Size([1, 256])
    """
    from mmcl.models.references import parse_tower, resolve_path

    reference = str(reference)
    if reference.startswith("vectors:"):
        return VectorsEmbedder(load_vectors(reference.removeprefix("vectors:")))
    if reference.startswith("sentence-transformers:"):
        library = require("sentence_transformers", extra="sentence-transformers")
        name = resolve_path(reference.removeprefix("sentence-transformers:"))
        from mmcl.models.transformers_loading import first_line, quiet_transformers

        try:
            with quiet_transformers() if os.path.isdir(name) else contextlib.nullcontext():
                return SentenceTransformersEmbedder(library.SentenceTransformer(name, device=device))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ConfigError(f"{reference!r} cannot be loaded ({first_line(error)})") from error
    if reference.startswith("open_clip:"):
        from mmcl.models.dual_sources import dual_encoder_from_open_clip

        named = parse_tower(reference)
        return DualEncoderEmbedder(dual_encoder_from_open_clip(named.name, named.checkpoint), device=device)
    if reference == "tiny" or reference.startswith("timm:"):
        raise ConfigError(f"{reference!r} is a tower, not a model of images and texts; name it in model.image.name")
    return DualEncoderEmbedder(_dual_encoder(os.path.expanduser(resolve_path(reference))), device=device)


def _dual_encoder(reference: str) -> DualEncoder:
    if os.path.isfile(reference):
        raise ConfigError(f"{reference} is a file; a model is a folder, a Hub id, or vectors:FILE")
    is_folder = os.path.isdir(reference)
    if not is_folder and (not reference or reference.startswith((".", "/", "~", "runs/")) or reference.count("/") > 1):
        raise ConfigError(f"there is no model folder {reference!r} (looked in {Path(reference).absolute()})")
    folder = _mmcl_folder(reference)
    if folder is not None:
        from mmcl.models.saving import from_pretrained

        return from_pretrained(folder)
    if is_folder and not (Path(reference) / "config.json").is_file():
        hint = ""
        if (Path(reference) / "config.yaml").is_file():
            hint = "; it holds a run that has not saved a model yet"
        raise ConfigError(f"{reference}: neither an mmcl model (mmcl.json) nor a transformers one (config.json){hint}")
    from mmcl.models.dual_sources import dual_encoder_from_transformers

    return dual_encoder_from_transformers(reference)
