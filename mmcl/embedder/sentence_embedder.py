"""`SentenceTransformersEmbedder`: a sentence-transformers model, with images where it takes them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcl.data.images.decoding import to_image_tensor
from mmcl.embedder.interface import EncodeMixin
from mmcl.embedder.out_of_memory import FittingBatches
from mmcl.embedder.precision import autocast, check_precision
from mmcl.models.fingerprint import config_values, update_with_state
from mmcl.models.opening.sentence_sources import CONFIG, LOGIT_SCALE
from mmcl.models.towers.transformers_loading import read_json


class SentenceTransformersEmbedder(EncodeMixin):
    """A sentence-transformers model, with images where it takes them.

    A batch that does not fit into memory is halved.

    Args:
        model: a ``SentenceTransformer``.
        precision: ``"fp32"``, or what the model runs in under autocast: ``"bf16"``, ``"fp16"`` (GPUs alone); its dense
            layers too, while norms are taken in float32.

    Raises:
        ConfigError: no such precision on the model's device.
    """

    def __init__(self, model: Any, *, precision: str = "fp32") -> None:
        self.model, self.precision = model, precision
        self.device = torch.device(getattr(model, "device", None) or "cpu")
        check_precision(precision, self.device)
        self._batches = FittingBatches()
        self.embedding_dim = len(model.encode(["a"], show_progress_bar=False)[0])
        takes_images = getattr(model, "supports", None)
        images = takes_images("image") if callable(takes_images) else hasattr(model[0], "processor")
        self.modalities = frozenset({"image", "text"} if images else {"text"})
        self.logit_scale = _logit_scale(model)

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        """Items to embeddings; see ``Embedder``."""
        self._check(items, modality, batch_size)
        if len(items) == 0:
            return torch.empty(0, self.embedding_dim)
        if modality == "image":
            return torch.cat(self._batches.run("image", items, batch_size, self._encode_images))
        order = np.argsort([len(text) for text in items], kind="stable")  # short with short: little padding

        def forward(rows: np.ndarray) -> Tensor:
            return self._encode([items[row] for row in rows])

        embeddings = torch.empty(len(items), self.embedding_dim)
        embeddings[order] = torch.cat(self._batches.run("text", order, batch_size, forward))
        return embeddings

    def _encode_images(self, images: Sequence[Any]) -> Tensor:
        from torchvision.transforms.v2.functional import to_pil_image

        return self._encode([to_pil_image(to_image_tensor(image)) for image in images])

    def _encode(self, items: list[Any]) -> Tensor:
        with autocast(self.precision, self.device):
            encoded = self.model.encode(items, batch_size=len(items), convert_to_tensor=True, show_progress_bar=False)
        return F.normalize(encoded.float().cpu(), dim=-1)

    def fingerprint(self) -> str | None:
        """A hash of all that embeddings depend on: weights, modules, prompts, tokenizer, precision, kind of device."""
        if not isinstance(self.model, nn.Module):
            return None
        digest = hashlib.blake2b()
        update_with_state(digest, self.model.state_dict())
        for module in self.model.modules():
            config = getattr(module, "config", None)
            if hasattr(config, "to_dict"):
                digest.update(config_values(config.to_dict()).encode())
        prompts = [getattr(self.model, name, None) for name in ("prompts", "default_prompt_name")]
        read = [_preprocessing(module) for module in self.model.modules() if hasattr(module, "processor")]
        told = [repr(self.model), prompts, read, self.precision, self.device.type]
        digest.update(json.dumps(told, sort_keys=True, default=str).encode())
        return digest.hexdigest()


def _logit_scale(model: Any) -> float:
    """What the model's folder tells, where mmcl wrote it; a CLIP-like model's own; else the library's fixed scale."""
    inner = getattr(model, "transformers_model", None)
    name = getattr(getattr(inner, "config", None), "name_or_path", None)
    told = (read_json(name, CONFIG) if name else None) or {}
    own = told.get("mmcl")
    scale = own.get("logit_scale") if isinstance(own, dict) else None
    if isinstance(scale, (int, float)) and 0 < scale < math.inf:
        return float(scale)
    learnt = getattr(inner, "logit_scale", None)
    return math.exp(learnt.item()) if isinstance(learnt, Tensor) else LOGIT_SCALE


def _preprocessing(module: Any) -> list[Any]:
    """What a module's processor, tokenizer and image processor say of themselves."""
    processor = getattr(module, "processor", None)
    told: list[Any] = [getattr(module, "max_seq_length", None)]
    for part in (processor, getattr(module, "tokenizer", None), getattr(processor, "image_processor", None)):
        backend = getattr(part, "backend_tokenizer", None)
        if backend is not None:
            told.append(backend.to_str())
        elif hasattr(part, "get_vocab"):
            told.append(part.get_vocab())
        if hasattr(part, "to_dict"):
            told.append(part.to_dict())
    return told
