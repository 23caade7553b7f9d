"""`load(MODEL)`: any model by its name, as an `Embedder`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch

from mmcl.data.vectors import load_vectors
from mmcl.embedder.dual_encoder_embedder import DualEncoderEmbedder
from mmcl.embedder.interface import Embedder
from mmcl.embedder.precision import check_precision, find_device
from mmcl.embedder.sentence_embedder import SentenceTransformersEmbedder
from mmcl.embedder.vectors_embedder import VectorsEmbedder
from mmcl.errors import ConfigError, require
from mmcl.models.dual_encoder import DualEncoder


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
    from mmcl.models.references import resolve_path

    reference, found = str(reference), find_device(device)
    check_precision(precision, found)
    if reference.startswith("vectors:"):
        return VectorsEmbedder(load_vectors(reference.removeprefix("vectors:")))
    if reference.startswith("sentence-transformers:"):
        model = _sentence_transformer(reference, str(found))
        return SentenceTransformersEmbedder(model, precision=precision)
    if reference.startswith("open_clip:"):
        model = _open_clip(reference)
    elif reference == "tiny" or reference.startswith("timm:"):
        raise ConfigError(f"{reference!r} is a tower, not a model of images and texts; name it in model.image.name")
    else:
        model = _dual_encoder(os.path.expanduser(resolve_path(reference)))
    return DualEncoderEmbedder(model, device=found, precision=precision)


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


def _open_clip(reference: str) -> DualEncoder:
    from mmcl.models.dual_sources import dual_encoder_from_open_clip
    from mmcl.models.references import parse_tower

    named = parse_tower(reference)
    # Weights that are not loaded are drawn; every process and every run draws the same.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return dual_encoder_from_open_clip(named.name, named.checkpoint)


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
