"""Which of transformers' dual models holds two towers, and the model with their weights' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmcl.hub.formats.as_transformers.halves import Half, half_of
from mmcl.hub.formats.weight_names.fitting import UnfitError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.saving import empty_dual
from mmcl.models.towers.transformers_loading import first_line, quiet_transformers


@dataclass(frozen=True)
class DualClass:
    """A dual model of transformers.

    Attributes:
        name: before ``Config`` and ``Model``.
        image, text: the kinds of its towers.
        text_pooling: how its text features are made.
        projects: whether linear maps stand behind both towers.
    """

    name: str
    image: str
    text: str
    text_pooling: str = "pooler"
    projects: bool = True


CLASSES = (
    DualClass("CLIP", "clip_vision_model", "clip_text_model"),
    DualClass("Siglip", "siglip_vision_model", "siglip_text_model", projects=False),
    DualClass("MetaClip2", "metaclip_2_vision_model", "metaclip_2_text_model"),
    DualClass("ChineseCLIP", "chinese_clip_vision_model", "chinese_clip_text_model", text_pooling="cls"),
    DualClass("AltCLIP", "altclip_vision_model", "altclip_text_model"),
)
VISION_TEXT = "VisionTextDualEncoderModel"


@dataclass(frozen=True)
class DualPlan:
    """How a model is written.

    Attributes:
        empty: the transformers model, without memory for weights.
        image, text: the two sides.
    """

    empty: Any
    image: Half
    text: Half

    @property
    def class_name(self) -> str:
        """Such as ``"CLIPModel"``."""
        return type(self.empty).__name__

    def state(self, model: DualEncoder) -> dict[str, Tensor]:
        """All weights under the class' names, on the CPU."""
        parameters = dict(self.empty.named_parameters())
        state = {f"vision_model.{name}": value for name, value in self.image.state.items()}
        state |= {f"text_model.{name}": value for name, value in self.text.state.items()}
        if "visual_projection.weight" in parameters:
            state["visual_projection.weight"] = self.image.projection
            state["text_projection.weight"] = self.text.projection
        state["logit_scale"] = model.log_logit_scale.reshape(parameters["logit_scale"].shape)
        if "logit_bias" in parameters:
            bias = torch.zeros(1) if model.logit_bias is None else model.logit_bias
            state["logit_bias"] = bias.reshape(parameters["logit_bias"].shape)
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def plan_dual(model: DualEncoder) -> DualPlan:
    """The class of transformers that fits a model best.

    Raises:
        UnfitError: none holds it; says what of which tower is in the way.
    """
    image, text = half_of(model.image), half_of(model.text)
    reasons = []
    for kind in CLASSES:
        if (kind.image, kind.text) == (image.kind, text.kind):
            reason = _misfit(kind, image, text)
            empty = None if reason else _build(kind, image, text)
            if empty is not None:
                return DualPlan(empty, image, text)
            reasons.append(reason or f"the towers are not those that {kind.name}Model builds from their configs")
    reason = image.pooling_obstacle or text.pooling_obstacle
    empty = None if reason else empty_dual([(h.config, h.feature_dim) for h in (image, text)], image.embedding_dim)
    if empty is not None and _holds(empty, image, text):
        return DualPlan(empty, image, text)
    reasons.append(reason or f"a {VISION_TEXT} builds its towers from their configs alone, and not these")
    raise UnfitError(reasons[0])


def _misfit(kind: DualClass, image: Half, text: Half) -> str | None:
    """Why a class does not hold two towers of its own kinds; None where it does."""
    name = f"{kind.name}Model"
    for half, pooling in ((image, "pooler"), (text, kind.text_pooling)):
        if pooling == "pooler" and half.pooling_obstacle:
            return half.pooling_obstacle
        if half.pooling != pooling:
            return f"the {half.modality} tower is pooled by {half.pooling!r}, and a {name} pools it by {pooling!r}"
        if half.projects and not kind.projects:
            return f"the {half.modality} head is a projection, for which a {name} has no place"
    return None


def _build(kind: DualClass, image: Half, text: Half) -> Any | None:
    import transformers

    values = {"projection_dim": image.embedding_dim} if kind.projects else {}
    for side, half in (("vision", image), ("text", text)):
        values[f"{side}_config"] = half.config.to_dict() | {"_name_or_path": ""}  # a path of this machine
    try:
        with quiet_transformers(), torch.device("meta"):
            config = getattr(transformers, f"{kind.name}Config")(**values)
            empty = getattr(transformers, f"{kind.name}Model")(config)
    except (ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise UnfitError(f"a {kind.name}Model cannot be built of these towers ({first_line(error)})") from error
    return empty if _holds(empty, image, text) else None


def _holds(empty: Any, image: Half, text: Half) -> bool:
    """Whether a model has just the weights of two towers, in their shapes."""
    wanted = {f"vision_model.{name}": shape for name, shape in image.shapes.items()}
    wanted |= {f"text_model.{name}": shape for name, shape in text.shapes.items()}
    own = {name: value.shape for name, value in empty.state_dict().items()}
    towers = {name: shape for name, shape in own.items() if name.startswith(("vision_model.", "text_model."))}
    for side, half in (("visual", image), ("text", text)):
        shape = own.get(f"{side}_projection.weight")
        if shape is not None and tuple(shape) != (half.embedding_dim, half.feature_dim):
            return False
    return towers == wanted
