"""`DualEncoderEmbedder`: an mmcl model, or any model read as one, seen from the evaluation side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmcl.batch import SkippedRow
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.images.decoding import to_image_tensor
from mmcl.embedder.dataset_images import embed_readable
from mmcl.embedder.interface import EncodeMixin, check_modality
from mmcl.embedder.out_of_memory import FittingBatches
from mmcl.embedder.precision import autocast, check_precision, find_device
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder
from mmcl.models.fingerprint import encoder_fingerprint


class FeatureSource(Protocol):
    """Where features of towers that do not change may come from instead of the tower."""

    def images(self, encoder: Encoder, dataset: ImageTextDataset) -> Any: ...

    def texts(self, encoder: Encoder, texts: Sequence[str]) -> Callable[[Sequence[str]], dict[str, Tensor]]: ...


class DualEncoderEmbedder(EncodeMixin):
    """An mmcl model, or any model read as one, seen from the evaluation side.

    Texts are sorted by length and padded to the longest of their batch only, images are decoded batch by batch. A batch
    that does not fit into memory is halved.

    Args:
        model: the model; it is moved to ``device`` and left in evaluation mode.
        device: where it runs; default the GPU where there is one.
        features: where features of frozen towers come from; None: towers run.
        precision: ``"fp32"``, or what towers run in under autocast: ``"bf16"``, ``"fp16"`` (GPUs alone). Pooled
            features, heads and norms stay in float32.

    Raises:
        ConfigError: no such device or precision here.
    """

    def __init__(
        self,
        model: DualEncoder,
        *,
        device: str | torch.device | None = None,
        features: FeatureSource | None = None,
        precision: str = "fp32",
    ) -> None:
        self.device = find_device(device)
        check_precision(precision, self.device)
        self.precision = precision
        self.model = model.to(self.device).eval()
        self.embedding_dim = model.embedding_dim
        self.modalities = frozenset({"image", "text"})
        self._features = features
        self._batches = FittingBatches()

    @property
    def logit_scale(self) -> float:
        """The factor from scores to logits."""
        return float(self.model.logit_scale.detach())

    @property
    def pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """((3,) mean, (3,) std) of pixels in [0, 1]: ``pixel_values = (pixels - mean) / std``."""
        preprocessing = self.model.image.tower.preprocessing
        return torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)

    def image_inputs(self, images: Sequence[Any]) -> dict[str, Tensor]:
        """Images to what the image encoder takes, on the device.

        Args:
            images: paths, bytes, PIL images, uint8 tensors (3, h, w) or arrays (h, w, 3); at least one.

        Returns:
            ``{"pixel_values": (b, 3, H, W) float32}``, resized, cropped and normalised.

        Raises:
            ShapeError: ``images`` is no list.
            DataError: an image cannot be read.
        """
        self._check(images, "image", 1)
        inputs = self.model.image.tower.preprocessing([to_image_tensor(image) for image in images])
        return {name: value.to(self.device) for name, value in inputs.items()}

    def embed_inputs(self, inputs: dict[str, Tensor], modality: str) -> Tensor:
        """What an encoder takes to embeddings, with gradient where gradients are enabled and the inputs want one.

        Args:
            inputs: keyword inputs of the encoder, such as those of ``image_inputs``.
            modality: ``"image"`` or ``"text"``.

        Returns:
            (b, d) float32 unit rows on the device.

        Raises:
            ConfigError: the model does not have the modality.
        """
        check_modality(modality, self.modalities)
        self.model.eval()
        encoder = self.model.encoder(modality)
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        features = inputs.get("features")
        if features is None:
            with autocast(self.precision, self.device):
                features = encoder.features(**inputs)
            if self.precision != "fp32":
                features = features.float()
        return encoder(features=features)

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
        if len(items) == 0:
            return torch.empty(0, self.embedding_dim)
        if modality == "text":
            return self._embed_texts(list(items), batch_size)
        preprocess = self.model.image.tower.preprocessing

        def forward(images: Sequence[Any]) -> Tensor:
            return self._run("image", preprocess([to_image_tensor(image) for image in images]))

        return torch.cat(self._batches.run("image", items, batch_size, forward))

    def _run(self, modality: str, inputs: dict[str, Tensor]) -> Tensor:
        return self.embed_inputs(inputs, modality).cpu()

    def _embed_texts(self, texts: list[str], batch_size: int) -> Tensor:
        encoder = self.model.text
        if self._features is not None and encoder.has_fixed_features:
            features, order = self._features.texts(encoder, texts), np.arange(len(texts))
        else:
            tokens = encoder.tower.preprocessing.tokens(texts)
            features, order = None, np.argsort(tokens.lengths, kind="stable")

        def forward(rows: np.ndarray) -> Tensor:
            return self._run("text", tokens.batch(rows) if features is None else features([texts[row] for row in rows]))

        embeddings = torch.empty(len(texts), self.embedding_dim)
        embeddings[order] = torch.cat(self._batches.run("text", order, batch_size, forward))
        return embeddings

    @torch.no_grad()
    def embed_dataset_images(
        self, dataset: ImageTextDataset, *, batch_size: int = 64
    ) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
        """See ``embed_images``."""
        encoder = self.model.image
        self.model.eval()
        if self._features is None or not encoder.has_fixed_features:
            return embed_readable(self, dataset, batch_size)
        cached = self._features.images(encoder, dataset)
        rows = np.asarray([row for row in range(len(dataset)) if row not in cached.skipped], dtype=np.int64)

        def forward(some: np.ndarray) -> Tensor:
            return self._run("image", {"features": cached(some.tolist(), [0] * len(some))})

        parts = self._batches.run("image", rows, batch_size, forward)
        embeddings = torch.cat(parts) if parts else torch.empty(0, self.embedding_dim)
        return embeddings, rows, list(cached.skipped.values())

    def fingerprint(self) -> str:
        """A hash of all that embeddings depend on: weights, preprocessing, precision and kind of device."""
        parts = [encoder_fingerprint(self.model.encoder(modality)) for modality in ("image", "text")]
        return hashlib.blake2b("\x1f".join([*parts, self.precision, self.device.type]).encode()).hexdigest()
