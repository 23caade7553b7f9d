"""`ModelFacts`: what a card says of a model itself, read off the opened model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcl.hub.card.public_names import tower_name
from mmcl.hub.card.source import CardSource

if TYPE_CHECKING:
    from mmcl.models.dual_encoder import DualEncoder
    from mmcl.models.encoder import Encoder

SIDES = ("image", "text")


@dataclass(frozen=True)
class SideFacts:
    """One of the two encoders.

    Attributes:
        modality: ``image`` or ``text``.
        name: of the tower, as everybody may read it.
        architecture: of the tower, such as ``bert, 6 layers of 384``; empty where it does not say.
        num_parameters: of tower, pooling and head.
        pooling, head: how features become embeddings.
        reads: what goes in: the image size, or the number of tokens.
        trained: what of it was trained, as the recipe says; empty where there is no recipe.
    """

    modality: str
    name: str
    architecture: str
    num_parameters: int
    pooling: str
    head: str
    reads: str
    trained: str


@dataclass(frozen=True)
class ModelFacts:
    """A model as a card describes it.

    Attributes:
        sides: the image encoder and the text encoder.
        embedding_dim: of the shared space.
        num_parameters: of everything.
        logit_scale: factor from scores to logits.
        logit_bias: added to them, or None.
        max_length, padding: how captions are tokenised.
        families: of the towers' libraries: transformers, timm, open_clip, tiny.
        obstacle: why plain transformers cannot open the folder; None where it can.
    """

    sides: tuple[SideFacts, SideFacts]
    embedding_dim: int
    num_parameters: int
    logit_scale: float
    logit_bias: float | None
    max_length: int | None
    padding: str
    families: tuple[str, str]
    obstacle: str | None


def read_facts(model: DualEncoder, source: CardSource) -> ModelFacts:
    """What a card says of a model.

    Args:
        model: opened from ``source.model``.
        source: for the names that its recipe gives to the towers.
    """
    from mmcl.models.saving import transformers_obstacle

    bias = model.logit_bias
    return ModelFacts(
        sides=(_side(model.image, source), _side(model.text, source)),
        embedding_dim=model.embedding_dim,
        num_parameters=model.num_parameters(),
        logit_scale=float(model.logit_scale.item()),
        logit_bias=None if bias is None else float(bias.item()),
        max_length=getattr(model.text.tower.preprocessing, "max_length", None),
        padding=getattr(model.text.tower.preprocessing, "padding", "longest"),
        families=(model.image.tower.spec["family"], model.text.tower.spec["family"]),
        obstacle=transformers_obstacle(model),
    )


def _side(encoder: Encoder, source: CardSource) -> SideFacts:
    from mmcl.models.heads import head_description

    spec, side = encoder.tower.spec, encoder.modality
    named = source.value(f"model.{side}.name")
    head = head_description(encoder.head)
    inner = head.get("hidden_dims") if head["name"] == "mlp" else None
    return SideFacts(
        modality=side,
        name=tower_name(str(named or spec["name"])),
        architecture=_architecture(spec),
        num_parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        pooling=encoder.pooling,
        head=f"{head['name']}" + (f" ({', '.join(map(str, inner))} wide inside)" if inner else ""),
        reads=_reads(encoder),
        trained=_trained(source, side),
    )


def _architecture(spec: Mapping[str, Any]) -> str:
    config = spec.get("config") or {}
    if not config.get("model_type"):
        return {"timm": "timm", "open_clip": "open_clip"}.get(spec["family"], "")
    layers, width = config.get("num_hidden_layers"), config.get("hidden_size")
    sized = isinstance(layers, int) and isinstance(width, int)
    return str(config["model_type"]) + (f", {layers} layers of {width}" if sized else "")


def _reads(encoder: Encoder) -> str:
    preprocessing = encoder.tower.preprocessing
    size, length = getattr(preprocessing, "size", None), getattr(preprocessing, "max_length", None)
    if encoder.modality == "image" and size:
        height, width = size
        return f"images of {height} × {width} pixels"
    return f"up to {length} tokens" if length else ""


def _trained(source: CardSource, side: str) -> str:
    """What the recipe says of a tower's weights, in a few words."""
    if not source.recipe:
        return ""
    freeze, until = source.value(f"model.{side}.freeze"), source.value(f"model.{side}.freeze_until_epoch")
    start = "pretrained" if source.value(f"model.{side}.pretrained") is not False else "random weights"
    if source.value(f"model.{side}.name") in (None, "tiny"):
        start = "random weights"
    if freeze is True:
        kept = "frozen; the head alone was trained" if until is None else f"frozen until epoch {until:g}"
    elif freeze == "biases":
        kept = "its biases alone trained"
    elif freeze:
        kept = f"first {freeze} blocks frozen" if isinstance(freeze, int) else "partly frozen"
    else:
        kept = "trained whole"
    if rank := source.value(f"model.{side}.lora.rank"):
        kept = f"frozen; LoRA adapters of rank {rank} trained and merged"
    return f"{start}, {kept}"
