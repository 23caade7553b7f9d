"""Image towers from timm."""

from __future__ import annotations

import difflib
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.models.towers.tower import Tower, TowerOutput
from mmcl.models.towers.transformers_loading import first_line

log = get_logger(__name__)

NUM_STAGES = 3  # of pooling: stages


class TimmTower(Tower):
    """A timm model without its classifier. What it gives is found by running it once, on one image.

    Args:
        model: from ``timm.create_model(..., num_classes=0)``.
        preprocessing: see ``Tower``.
        name: timm's name.
        options: further arguments it was created with.

    Raises:
        ConfigError: the model does not take images of that size.
    """

    def __init__(self, model: Any, preprocessing: ImagePreprocessing, *, name: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.modality, self.model, self.preprocessing = "image", model, preprocessing
        self.spec = {"family": "timm", "name": name, "options": options}
        self.num_prefix_tokens = getattr(model, "num_prefix_tokens", 0)
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        # Convolutions are several times faster channels-last on a CPU; a ViT does not care.
        self.convolutional = self.num_prefix_tokens == 0 and not hasattr(model, "pos_embed")
        if self.convolutional:
            model.to(memory_format=torch.channels_last)
        self._stages = 0  # how many of the last stages are pooled beside the model's own features
        tokens, self.feature_dim = self._try_out()
        # Some models (MobileNetV3) widen between tokens and pooled features; then only their own pooling fits.
        token_poolings = ("mean", "max", "attention") if tokens is not None and tokens == self.feature_dim else ()
        has_cls = bool(token_poolings) and getattr(model, "cls_token", None) is not None
        self.poolings = ("pooler", *(("cls",) if has_cls else ()), *token_poolings)
        self.default_pooling = "pooler"
        if self.convolutional and hasattr(model, "forward_intermediates"):
            self.poolings += ("stages",)

    def choose_pooling(self, pooling: str) -> None:
        """``stages``: the model's own features, then the mean and the maximum over places of its last three stages.

        Earlier stages see colour and texture, which the last one gives up for the classes it was trained to tell apart;
        what was frozen can then still be read (cf. Hariharan et al. 2015, arXiv:1411.5752).
        """
        if pooling == "stages" and pooling in self.poolings and not self._stages:
            self._stages, self.poolings, self.default_pooling = NUM_STAGES, ("stages",), "stages"
            self.feature_dim = self._try_out()[1]

    def _try_out(self) -> tuple[int | None, int]:
        """Sizes of a token (None: there are no tokens) and of the pooled features."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                output = self(**self.example())
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            raise ConfigError(
                f"timm:{self.spec['name']} does not take images of {self.preprocessing.size} pixels "
                f"({first_line(error)}); set model.image.image_size"
            ) from error
        finally:
            self.model.train(training)
        return None if output.tokens is None else output.tokens.shape[-1], output.pooled.shape[-1]

    def forward(self, pixel_values: Tensor) -> TowerOutput:
        """pixel_values (b, 3, h, w) -> tokens and timm's own pooled features."""
        if self.convolutional:
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        if self._stages:
            return self._pooled_stages(pixel_values)
        features = self.model.forward_features(pixel_values)
        pooled = self.model.forward_head(features, pre_logits=True)
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            return TowerOutput(None, None, pooled)
        tokens = features
        if tokens.ndim == 4:
            tokens = tokens.flatten(1, 2) if self.channels_last else tokens.flatten(2).transpose(1, 2)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        mask[:, : self.num_prefix_tokens] = False
        return TowerOutput(tokens, mask, pooled)

    def _pooled_stages(self, pixel_values: Tensor) -> TowerOutput:
        last, stages = self.model.forward_intermediates(pixel_values, indices=self._stages)  # each (b, c, h, w)
        pooled = [self.model.forward_head(last, pre_logits=True)]
        pooled += [stage.mean((2, 3)) for stage in reversed(stages)] + [
            stage.amax((2, 3)) for stage in reversed(stages)
        ]
        return TowerOutput(None, None, torch.cat(pooled, dim=1))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A state dict from ``.safetensors``, or from a torch file read with ``weights_only`` (no code is run).

    Raises:
        ConfigError: the file is missing or is no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"checkpoint {str(path)!r} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load and safetensors raise many kinds for a damaged or unsafe file
        raise ConfigError(
            f"checkpoint {str(path)!r} cannot be read safely ({type(error).__name__}): it is damaged, or a pickle that "
            f"would run code; save its tensors as .safetensors"
        ) from error
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else weights
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ConfigError(f"checkpoint {str(path)!r} holds no state dict of tensors")
    return weights


def _match(weights: dict[str, Tensor], wanted: dict[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Fit a checkpoint to a model: by name, or else tensor by tensor in order when every shape agrees."""
    if set(wanted) <= set(weights):
        wrong = [key for key in wanted if weights[key].shape != wanted[key].shape]
        if not wrong:
            return {key: weights[key] for key in wanted}
        raise ConfigError(
            f"checkpoint {source!r} does not fit the model: {wrong[0]} has shape {tuple(weights[wrong[0]].shape)}, the "
            f"model wants {tuple(wanted[wrong[0]].shape)} ({len(wrong)} such weights)"
        )
    if [v.shape for v in weights.values()] == [v.shape for v in wanted.values()]:
        log.info("%s: names differ, %d tensors matched by order and shape", source, len(wanted))
        return dict(zip(wanted, weights.values()))
    lacking = sorted(set(wanted) - set(weights))
    raise ConfigError(
        f"checkpoint {source!r} does not fit the model: {len(lacking)} of {len(wanted)} weights are missing "
        f"(first: {', '.join(lacking[:3])}), and the shapes do not agree in order either"
    )


def _load_checkpoint(model: Any, name: str, checkpoint: str, options: dict[str, Any]) -> None:
    import timm

    weights = read_weights(checkpoint)
    wanted = model.state_dict()
    last = [*weights.values()][-1]
    if not set(wanted) <= set(weights) and last.ndim:
        # In order, a checkpoint's classifier stands behind the rest: match it with a model that has one.
        with torch.random.fork_rng(devices=[]):
            full = timm.create_model(name, num_classes=last.shape[0], **options).state_dict()
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

    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=4, cutoff=0.5)
        raise ConfigError(f"timm has no model {name!r}" + (f"; it has {', '.join(near)} ..." if near else ""))
    arguments = dict(options)
    try:
        own = timm.get_pretrained_cfg(name)
        if size and own is not None and own.fixed_input_size:
            arguments.setdefault("img_size", size)
        size = size or arguments.get("img_size")
        model = timm.create_model(name, pretrained=pretrained and not checkpoint, num_classes=0, **arguments)
    except (OSError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"timm:{name}: cannot be built ({first_line(error)}). Offline, give weights with "
            f"timm:{name}?checkpoint=FILE, or pretrained: false for random ones "
            f"(HF_HUB_OFFLINE={os.environ.get('HF_HUB_OFFLINE', '')!r})"
        ) from error
    if checkpoint and pretrained:
        _load_checkpoint(model, name, checkpoint, arguments)
    return TimmTower(model, _preprocessing(model, size, name), name=name, options=arguments)


def _preprocessing(model: Any, size: int | None, name: str) -> ImagePreprocessing:
    """What ``timm.data.create_transform`` does in evaluation."""
    import timm

    data = timm.data.resolve_model_data_config(model)
    height, width = (size, size) if size else data["input_size"][-2:]
    larger = tuple(math.floor(edge / data["crop_pct"]) for edge in (height, width))
    if data["crop_mode"] == "squash":
        resize_to: Any = larger
    elif data["crop_mode"] == "center" and height == width:
        resize_to = larger[0]
    else:
        raise ConfigError(
            f"timm:{name}: its images are cut in the mode {data['crop_mode']!r} to {(height, width)} pixels; mmcl does "
            f"squash, and center to a square"
        )
    return ImagePreprocessing(
        (height, width), resize_to, data["interpolation"], data["mean"], data["std"], crop_rounding="even"
    )
