"""`open_dual_encoder(MODEL)`: any model with an image and a text tower by its name, as a `DualEncoder`."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.references import parse_tower, resolve_path


def open_dual_encoder(reference: str | Path) -> DualEncoder:
    """Open a model whose towers can be run, trained on, merged and exported.

    Args:
        reference: a run folder or folder of an mmcl model; a folder or Hub id of a transformers model with two towers;
            ``open_clip:ARCH[/PRETRAINED]``.

    Returns:
        The model in evaluation mode. An open_clip architecture without weights has random ones, always the same.

    Raises:
        ConfigError: there is no such model, it cannot be reached or read, or it has not two towers.
    """
    reference = str(reference)
    if reference.startswith("open_clip:"):
        return _open_clip(reference)
    if reference == "tiny" or reference.startswith("timm:"):
        raise ConfigError(f"{reference!r} is a tower, not a model of images and texts; name it in model.image.name")
    return _folder_or_id(os.path.expanduser(resolve_path(reference)))


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


def _open_clip(reference: str) -> DualEncoder:
    from mmcl.models.dual_sources import dual_encoder_from_open_clip

    named = parse_tower(reference)
    # Weights that are not loaded are drawn; every process and every run draws the same.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return dual_encoder_from_open_clip(named.name, named.checkpoint)


def _folder_or_id(reference: str) -> DualEncoder:
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
