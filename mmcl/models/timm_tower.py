"""Image towers from timm."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.preprocessing import ImagePreprocessing
from mmcl.models.tower import Tower, TowerOutput

log = get_logger(__name__)


class TimmTower(Tower):
    """A timm model without its classifier.

    Args:
        model: from ``timm.create_model(..., num_classes=0)``.
        preprocessing: see ``Tower``.
        name: timm's name.
        options: further arguments it was created with.
    """

    def __init__(self, model: Any, preprocessing: ImagePreprocessing, *, name: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.modality, self.model, self.preprocessing = "image", model, preprocessing
        self.num_prefix_tokens = getattr(model, "num_prefix_tokens", 0)
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        # Some models (MobileNetV3) widen between tokens and pooled features; then only their own pooling fits.
        self.feature_dim = getattr(model, "head_hidden_size", None) or model.num_features
        token_poolings = ("mean", "max", "attention") if self.feature_dim == model.num_features else ()
        cls = ("cls",) if self.num_prefix_tokens else ()
        self.poolings = ("pooler", *(cls if token_poolings else ()), *token_poolings)
        self.default_pooling = "pooler"
        self.spec = {"family": "timm", "name": name, "options": options}
        # Convolutions are several times faster channels-last on a CPU; a ViT does not care.
        self.convolutional = self.num_prefix_tokens == 0 and not hasattr(model, "pos_embed")
        if self.convolutional:
            model.to(memory_format=torch.channels_last)

    def forward(self, pixel_values: Tensor) -> TowerOutput:
        """pixel_values (b, 3, h, w) -> tokens and timm's own pooled features."""
        if self.convolutional:
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        features = self.model.forward_features(pixel_values)
        pooled = self.model.forward_head(features, pre_logits=True)
        tokens = features
        if tokens.ndim == 4:
            tokens = tokens.flatten(1, 2) if self.channels_last else tokens.flatten(2).transpose(1, 2)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        mask[:, : self.num_prefix_tokens] = False
        return TowerOutput(tokens, mask, pooled)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A state dict from ``.safetensors``, or from a torch file read with ``weights_only`` (no code is run).

    Raises:
        ConfigError: the file is missing or is no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"checkpoint {str(path)!r} does not exist")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a damaged or unsafe file
        raise ConfigError(
            f"checkpoint {str(path)!r} cannot be read safely ({type(error).__name__}); save it as .safetensors"
        ) from error
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else weights
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ConfigError(f"checkpoint {str(path)!r} holds no state dict of tensors")
    return weights


def _match(weights: dict[str, Tensor], wanted: dict[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Fit a checkpoint to a model: by name, or else tensor by tensor in order when every shape agrees."""
    if set(wanted) <= set(weights):
        return {key: weights[key] for key in wanted}
    if [v.shape for v in weights.values()] == [v.shape for v in wanted.values()]:
        log.info("%s: names differ, %d tensors matched by order and shape", source, len(wanted))
        return dict(zip(wanted, weights.values()))
    lacking = sorted(set(wanted) - set(weights))
    raise ConfigError(
        f"checkpoint {source!r} does not fit the model: {len(lacking)} of {len(wanted)} weights are missing "
        f"(first: {', '.join(lacking[:3])}), and the shapes do not agree in order either"
    )


def _load_checkpoint(model: Any, name: str, checkpoint: str) -> None:
    import timm

    weights = read_weights(checkpoint)
    wanted = model.state_dict()
    if not set(wanted) <= set(weights):
        # In order, a checkpoint's classifier stands behind the rest: match it with a model that has one.
        classifier = [v for v in weights.values()][-1]
        full = timm.create_model(name, num_classes=classifier.shape[0]).state_dict()
        weights = _match(weights, full, source=checkpoint)
    model.load_state_dict(_match(weights, wanted, source=checkpoint))


def build_timm_tower(
    name: str, *, checkpoint: str | None, pretrained: bool, size: int | None, options: dict[str, Any]
) -> TimmTower:
    """An image tower from timm.

    Args:
        name: timm's name, such as ``"vit_small_patch16_224"``.
        checkpoint: a file of weights; without one, ``pretrained`` weights are fetched from the Hub.
        pretrained: false builds random weights.
        size: pixels of its input; default the model's own.
        options: further arguments of ``timm.create_model``.

    Raises:
        ConfigError: timm has no such model, the weights cannot be had, or do not fit.
    """
    import timm

    if not timm.is_model(name.partition(".")[0]):
        near = timm.list_models(f"*{name.partition('.')[0].split('_')[0]}*")[:4]
        raise ConfigError(f"timm has no model {name!r}" + (f"; it has {', '.join(near)} ..." if near else ""))
    arguments = dict(options)
    if size and "img_size" not in arguments and "vit" in name:
        arguments["img_size"] = size
    try:
        model = timm.create_model(name, pretrained=pretrained and not checkpoint, num_classes=0, **arguments)
    except (OSError, RuntimeError, TypeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"timm:{name}: cannot be built ({first}). Offline, give weights with timm:{name}?checkpoint=FILE, "
            f"or pretrained: false for random ones (HF_HUB_OFFLINE={os.environ.get('HF_HUB_OFFLINE', '')!r})"
        ) from error
    if checkpoint and pretrained:
        _load_checkpoint(model, name, checkpoint)
    data = timm.data.resolve_model_data_config(model)
    edge = size or data["input_size"][-1]
    preprocessing = ImagePreprocessing(
        (edge, edge),
        "squash" if data["crop_mode"] == "squash" else "crop",
        None if data["crop_mode"] == "squash" else int(edge / data["crop_pct"]),
        data["interpolation"],
        data["mean"],
        data["std"],
    )
    return TimmTower(model, preprocessing, name=name, options=arguments)
