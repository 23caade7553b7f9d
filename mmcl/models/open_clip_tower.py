"""Towers from open_clip: their features lie in the shared space already."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.models.preprocessing import ImagePreprocessing, OpenClipText
from mmcl.models.tower import Tower, TowerOutput


class OpenClipTower(Tower):
    """One half of an open_clip model, its projection included.

    Args:
        model: ``model.visual`` or ``model.text`` of a CustomTextCLIP.
        modality: ``"image"`` or ``"text"``.
        preprocessing: see ``Tower``.
        arch: open_clip's name.
        feature_dim: size of the shared space.
    """

    def __init__(self, model: Any, modality: str, preprocessing: Any, *, arch: str, feature_dim: int) -> None:
        super().__init__()
        self.modality, self.model, self.preprocessing, self.feature_dim = modality, model, preprocessing, feature_dim
        self.poolings, self.default_pooling = ("pooler",), "pooler"
        self.spec = {"family": "open_clip", "name": arch}

    def forward(self, **inputs: Tensor) -> TowerOutput:
        """pixel_values (b, 3, h, w), or input_ids (b, t) -> features (b, f)."""
        features = self.model(inputs["pixel_values"] if self.modality == "image" else inputs["input_ids"])
        return TowerOutput(None, None, features)


def create_open_clip(arch: str, checkpoint: str | None) -> Any:
    """An open_clip model with its text half as a module of its own.

    Raises:
        ConfigError: no such architecture or weights, or they cannot be reached.
    """
    import open_clip

    if open_clip.get_model_config(arch) is None:
        near = [name for name in open_clip.list_models() if name.lower().startswith(arch.lower()[:5])][:5]
        raise ConfigError(f"open_clip has no architecture {arch!r}" + (f"; it has {', '.join(near)}" if near else ""))
    quiet = logging.getLogger()
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # open_clip warns on the root logger that random weights are random
    try:
        return open_clip.create_model(arch, pretrained=checkpoint, force_custom_text=True)
    except (RuntimeError, OSError, ValueError) as error:
        known = [tag for name, tag in open_clip.list_pretrained() if name == arch]
        raise ConfigError(
            f"open_clip:{arch}/{checkpoint}: the weights cannot be had ({str(error).strip().splitlines()[0]}); "
            f"want a file, or one of {', '.join(known[:6])}"
        ) from error
    finally:
        quiet.setLevel(level)


def build_open_clip_tower(
    arch: str, modality: str, *, checkpoint: str | None, pretrained: bool, max_length: int | None
) -> OpenClipTower:
    """One half of an open_clip model.

    Args:
        arch: open_clip's name, such as ``"ViT-B-32"``.
        modality: ``"image"`` or ``"text"``.
        checkpoint: a tag of pretrained weights or a file.
        pretrained: false builds random weights.
        max_length: tokens kept (text).

    Raises:
        ConfigError: no such architecture or weights; ``pretrained`` without a checkpoint.
    """
    if pretrained and checkpoint is None:
        raise ConfigError(f"open_clip:{arch} names no weights: want open_clip:{arch}/PRETRAINED, or pretrained: false")
    model = create_open_clip(arch, checkpoint if pretrained else None)
    return build_open_clip_half(model, arch, modality, max_length=max_length)


def build_open_clip_half(model: Any, arch: str, modality: str, *, max_length: int | None = None) -> OpenClipTower:
    """One half of an open_clip model as a tower, with the preprocessing the model says it wants."""
    import open_clip

    dim = open_clip.get_model_config(arch)["embed_dim"]
    if modality == "text":
        return OpenClipTower(model.text, "text", OpenClipText(arch, max_length=max_length), arch=arch, feature_dim=dim)
    config = model.visual.preprocess_cfg
    size = config["size"]
    size = (size, size) if isinstance(size, int) else tuple(size)
    crop = config["resize_mode"] == "shortest"
    preprocessing = ImagePreprocessing(
        size,
        "crop" if crop else "squash",
        min(size) if crop else None,
        config["interpolation"],
        config["mean"],
        config["std"],
    )
    return OpenClipTower(model.visual, "image", preprocessing, arch=arch, feature_dim=dim)
