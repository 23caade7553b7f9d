"""`load(MODEL)`: any model by its name, as an `Embedder`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from mmcl.data.vectors import load_vectors
from mmcl.embedder.dual_encoder_embedder import DualEncoderEmbedder
from mmcl.embedder.interface import Embedder
from mmcl.embedder.precision import check_precision, find_device
from mmcl.embedder.sentence_embedder import SentenceTransformersEmbedder
from mmcl.embedder.vectors_embedder import VectorsEmbedder
from mmcl.errors import ConfigError, require
from mmcl.models.opening import open_dual_encoder


def load(reference: str | Path, *, device: str | None = None, precision: str = "fp32") -> Embedder:
    """Load any model by its name.

    Args:
        reference: a run folder or folder of an mmcl model; a folder or Hub id of a transformers model with two towers
            (CLIP, SigLIP, VisionTextDualEncoder); ``open_clip:ARCH[/PRETRAINED]``; ``sentence-transformers:NAME``;
            ``vectors:FILE.npz`` or ``.safetensors``.
        device: where it runs; default the GPU where there is one.
        precision: ``"fp32"``, or what the model runs in under autocast: ``"bf16"``, ``"fp16"`` (GPUs alone). Heads
            and norms stay in float32.

    Returns:
        An ``Embedder``. An open_clip architecture without pretrained weights has random ones, always the same.

    Raises:
        ConfigError: there is no such model, it cannot be reached or read, or no such device or precision here.

    Example:
        >>> model = load("runs/quickstart")                       # doctest: +SKIP
        >>> model.encode_text(["a red circle"]).shape             # doctest: +SKIP
        torch.Size([1, 256])
    """
    reference, found = str(reference), find_device(device)
    check_precision(precision, found)
    if reference.startswith("vectors:"):
        return VectorsEmbedder(load_vectors(reference.removeprefix("vectors:")))
    if reference.startswith("sentence-transformers:"):
        model = _sentence_transformer(reference, str(found))
        return SentenceTransformersEmbedder(model, precision=precision)
    return DualEncoderEmbedder(open_dual_encoder(reference), device=found, precision=precision)


def _sentence_transformer(reference: str, device: str) -> Any:
    library = require("sentence_transformers", extra="sentence-transformers")
    from mmcl.models.references import resolve_path
    from mmcl.models.transformers_loading import first_line, quiet_transformers

    name = resolve_path(reference.removeprefix("sentence-transformers:"))
    try:
        with quiet_transformers() if os.path.isdir(name) else contextlib.nullcontext():
            return library.SentenceTransformer(name, device=device)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{reference!r} cannot be loaded ({first_line(error)})") from error
