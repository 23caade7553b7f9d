"""What a training starts from: towers by their names, or both sides of a model that exists (`model.init_from`)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from mmcl.config import SIGLIP_START, HeadSection, ModelSection, Recipe
from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.encoder import build_head
from mmcl.models.fingerprint import encoder_fingerprint
from mmcl.models.heads import head_description
from mmcl.models.opening.locating import locate
from mmcl.models.opening.opening import open_dual_encoder

log = get_logger(__name__)


def build_starting_model(recipe: Recipe, *, captions: Iterable[str] = ()) -> DualEncoder:
    """Build what a recipe starts from.

    Args:
        recipe: its ``model`` section names two towers, or one model in ``init_from``.
        captions: the training captions; a tiny text tower makes its vocabulary of them, unless it brings its own.

    Returns:
        The model in training mode. From ``init_from``: that model's towers, heads, scale and bias; where the recipe
        says another ``head`` or ``embedding_dim`` than the model has, new heads on its towers; where it says a scale or
        bias, those.

    Raises:
        ConfigError: a tower cannot be built, the model cannot be opened, or sizes do not agree.

    Example:
        >>> from mmcl.config import recipe_from_tree
        >>> recipe = recipe_from_tree({"data": {"path": "shapes"}}, source="example")
        >>> build_starting_model(recipe, captions=["a red circle"]).embedding_dim
        256
    """
    if recipe.model.init_from is None:
        return build_dual_encoder(recipe.model, captions=captions)
    return _start_from(recipe.model.init_from, recipe.model, sigmoid="sigmoid" in recipe.loss.names).train()


def _start_from(reference: str, section: ModelSection, *, sigmoid: bool) -> DualEncoder:
    located = locate(reference)
    with torch.random.fork_rng(devices=[]):  # new heads start the same, whatever the opening drew
        model = open_dual_encoder(located)
    version = f"revision {located.revision}" if located.revision else f"fingerprint {_fingerprint(model)}"
    log.info("training starts from model.init_from=%s (%s, %s)", reference, located.kind, version)
    _renew_heads(model, section)
    _set_logits(model, section, sigmoid=sigmoid)
    return model


def _fingerprint(model: DualEncoder) -> str:
    """Twelve digits of each side's, enough to tell models of one log apart."""
    return "-".join(encoder_fingerprint(encoder)[:12] for encoder in (model.image, model.text))


def _renew_heads(model: DualEncoder, section: ModelSection) -> None:
    dim = section.embedding_dim if section.says("embedding_dim") else model.embedding_dim
    for encoder, tower in ((model.image, section.image), (model.text, section.text)):
        own, said = HeadSection.model_validate(head_description(encoder.head)), section.says(f"{encoder.modality}.head")
        if dim == model.embedding_dim and not (said and not _same_head(tower.head, own)):
            continue
        # A model whose features are its embeddings has no head of another size; the usual one is linear.
        wanted = tower.head if said or own.name == "none" else own
        encoder.head = build_head(wanted, encoder.tower, dim)
        log.info(
            "model.init_from: the %s side gets a new %s head, %d to %d values, in the place of its own",
            encoder.modality,
            wanted.name,
            encoder.tower.feature_dim,
            dim,
        )
    model.embedding_dim = dim


def _same_head(one: HeadSection, other: HeadSection) -> bool:
    """Whether two sections build the same head: what only other heads read does not count."""
    read = {"none": ("name",), "linear": ("name", "input_dropout", "bias")}
    keys = read.get(one.name, tuple(key for key in HeadSection.model_fields if key != "bias"))
    return all(getattr(one, key) == getattr(other, key) for key in keys)


@torch.no_grad()
def _set_logits(model: DualEncoder, section: ModelSection, *, sigmoid: bool) -> None:
    """What the recipe says of scale and bias; a sigmoid loss gives a model without bias the start that SigLIP has."""
    said = {key: getattr(section, key) for key in ("logit_scale", "logit_bias") if section.says(key)}
    if sigmoid and model.logit_bias is None:
        start = {key: value for key, value in SIGLIP_START.items() if key not in said}
        if start:
            values = ", ".join(f"model.{key}={value:g}" for key, value in start.items())
            log.info("the sigmoid loss starts from %s, as SigLIP does (arXiv:2303.15343)", values)
        said |= start
    if section.says("logit_scale_max"):
        model.logit_scale_max = section.logit_scale_max
    if "logit_scale" in said:
        if not 0 < said["logit_scale"] <= model.logit_scale_max * (1 + 1e-6):
            raise ConfigError(
                f"model.logit_scale is {said['logit_scale']}; want 0 < logit_scale <= {model.logit_scale_max}"
            )
        model.log_logit_scale.fill_(math.log(said["logit_scale"]))
    if "logit_bias" in said:
        bias = said["logit_bias"]
        model.logit_bias = None if bias is None else torch.nn.Parameter(torch.tensor([float(bias)]))
    model.clamp_logit_scale()
    if section.says("logit_scale_learnable"):
        model.log_logit_scale.requires_grad_(section.logit_scale_learnable)
