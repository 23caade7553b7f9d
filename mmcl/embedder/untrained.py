"""`untrained`: the same architecture with random weights, the baseline that shows what training is worth."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmcl.config import HeadSection
from mmcl.embedder.cached import CachedEmbedder
from mmcl.embedder.dual_encoder_embedder import DualEncoderEmbedder
from mmcl.embedder.interface import Embedder
from mmcl.embedder.sentence_embedder import SentenceTransformersEmbedder
from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder, build_head
from mmcl.models.heads import head_description
from mmcl.models.towers.open_clip_tower import OpenClipTower, create_open_clip
from mmcl.models.towers.timm_tower import TimmTower
from mmcl.models.towers.tower import Tower
from mmcl.models.towers.transformers_loading import build_module

log = get_logger(__name__)


def untrained(embedder: Embedder, seed: int = 0) -> Embedder | None:
    """A model of the same architecture and preprocessing with weights as they are drawn before any training.

    Towers are built again by their own libraries, which draw each parameter as its layer starts (nothing is shuffled or
    scaled), heads and pooling by mmcl; batch statistics are those of a new layer, and the scale starts at 1/0.07.

    Args:
        embedder: any; it is not changed.
        seed: of the weights. The same seed gives the same weights; the global generator stays as it is.

    Returns:
        The embedder, on the same device and in the same precision, cached as the given one is; None where there are no
        weights (``vectors:`` files), or the architecture cannot be built again.
    """
    if isinstance(embedder, CachedEmbedder):
        inner = untrained(embedder.inner, seed)
        if inner is None:
            return None
        return CachedEmbedder(inner, folder=embedder.folder, shared=embedder.shared, progress=embedder.progress)
    redraw = {DualEncoderEmbedder: _dual_encoder, SentenceTransformersEmbedder: _sentence_transformer}
    for kind, draw in redraw.items():
        if isinstance(embedder, kind):
            try:
                with torch.random.fork_rng(devices=[]):
                    # The CPU's alone: weights are drawn there. Not the draw of a model that is loaded without weights.
                    torch.default_generator.manual_seed(seed + 0x5EED)
                    model = draw(embedder.model)
            except (ConfigError, RuntimeError, TypeError, AttributeError) as error:
                log.warning("no untrained model of the same architecture can be built (%s)", str(error).split("\n")[0])
                return None
            if kind is SentenceTransformersEmbedder:
                return SentenceTransformersEmbedder(model, precision=embedder.precision)
            return DualEncoderEmbedder(model, device=embedder.device, precision=embedder.precision)
    return None


def _dual_encoder(model: DualEncoder) -> DualEncoder:
    scale = min(1 / 0.07, model.logit_scale_max)
    return DualEncoder(
        _encoder(model.image, model.embedding_dim),
        _encoder(model.text, model.embedding_dim),
        embedding_dim=model.embedding_dim,
        logit_scale=scale,
        logit_scale_max=model.logit_scale_max,
        logit_bias=None if model.logit_bias is None else -10.0,  # SigLIP's start, arXiv:2303.15343 section 3
    )


def _encoder(encoder: Encoder, embedding_dim: int) -> Encoder:
    tower = copy.deepcopy(encoder.tower).cpu()
    tower.model.load_state_dict(_random_module(tower).state_dict())
    tower.projection = None  # a head would start from it
    head = build_head(HeadSection.model_validate(head_description(encoder.head)), tower, embedding_dim)
    return Encoder(tower, head, pooling=encoder.pooling)


def _random_module(tower: Tower) -> nn.Module:
    """The tower's module with weights as its library draws them."""
    if isinstance(tower, TimmTower):
        import timm

        return timm.create_model(tower.spec["name"], pretrained=False, num_classes=0, **tower.spec["options"])
    if isinstance(tower, OpenClipTower):
        with tempfile.TemporaryDirectory() as folder:
            tower.save_config(Path(folder))
            whole = create_open_clip(folder, None, load_weights=False)
        return whole.visual if tower.modality == "image" else whole.text
    return build_module(copy.deepcopy(tower.model.config))


def _sentence_transformer(model: Any) -> Any:
    from transformers import PreTrainedModel

    drawn = copy.deepcopy(model).cpu()
    done: set[int] = set()
    for module in drawn.modules():  # from the outermost inwards
        if id(module) in done:
            continue
        if isinstance(module, PreTrainedModel):
            module.load_state_dict(type(module)._from_config(copy.deepcopy(module.config)).state_dict())
            done.update(id(part) for part in module.modules())
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif next(module.parameters(recurse=False), None) is not None:
            raise ConfigError(f"a {type(module).__name__} does not say how it starts")
    return drawn.to(model.device)
