"""A dual encoder as a folder: `mmcl.json` and weights in safetensors, readable by plain transformers where expressible.

Where both towers are transformers', pooled by their own pooler and projected by plain linear heads, the weights are
written as a `VisionTextDualEncoderModel`; `mmcl.json` lies beside it and mmcl reads the same files. Any other model is
written under mmcl's own names, and `mmcl.json` says why. No pickle is written or read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mmcl
from mmcl.config import HeadSection
from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.adapters.lora import without_adapters
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder, build_head
from mmcl.models.heads import LinearHead, head_description
from mmcl.models.towers.open_clip_tower import OpenClipTower, restore_open_clip_tower
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.models.towers.text_preprocessing import TextPreprocessing
from mmcl.models.towers.timm_tower import TimmTower
from mmcl.models.towers.tower import Tower
from mmcl.models.towers.transformers_loading import (
    build_module,
    first_line,
    load_pretrained,
    load_tokenizer,
    parse_json,
    quiet_transformers,
)
from mmcl.models.towers.transformers_tower import TransformersTower

log = get_logger(__name__)

FORMAT = 1
DESCRIPTION = "mmcl.json"
WEIGHTS = "model.safetensors"


def transformers_obstacle(model: DualEncoder) -> str | None:
    """Why plain transformers cannot hold a model as a VisionTextDualEncoder; None where it can."""
    for encoder in (model.image, model.text):
        tower, side = encoder.tower, encoder.modality
        if not isinstance(tower, TransformersTower):
            return f"the {side} tower is not transformers'"
        if (reason := tower_obstacle(encoder)) is not None:
            return reason
        if not isinstance(encoder.head, LinearHead) or encoder.head.projection.bias is not None:
            return f"the {side} head is not linear without bias"
    dual, names = _empty_dual(model), set(_dual_state(model))
    if dual is None or names != set(dual.state_dict()):
        return "a VisionTextDualEncoder builds its towers from their configs alone, and not these"
    return None


def tower_obstacle(encoder: Encoder) -> str | None:
    """Why a VisionTextDualEncoder pools a transformers tower otherwise than an encoder does; None where it does not."""
    tower, side = encoder.tower, encoder.modality
    if encoder.pooling != "pooler":
        return f"the {side} tower is pooled by {encoder.pooling!r}, not by its own pooler"
    if not tower.pools_flat:
        return f"the {side} tower's pooler output is no vector"
    if tower.resizes_positions:
        return f"the {side} tower reads images of another size than its config says"
    return None


def _empty_dual(model: DualEncoder) -> Any | None:
    towers = (model.image.tower, model.text.tower)
    return empty_dual([(tower.model.config, tower.feature_dim) for tower in towers], model.embedding_dim)


def empty_dual(towers: Sequence[tuple[Any, int]], embedding_dim: int) -> Any | None:
    """The VisionTextDualEncoderModel that two towers' configs describe, without memory for weights.

    Args:
        towers: (config, size of the features) of the image and of the text tower.
        embedding_dim: size of the embeddings.

    Returns:
        The model; None where transformers cannot build it of these.
    """
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if any(type(config) not in MODEL_MAPPING for config, _ in towers):
        return None  # asked for it, transformers would import every model it knows before it refuses
    # ConvNeXt's config has no hidden_size, which is where the size of the projection is read. Where a tower was read
    # from is a path of this machine.
    image, text = (
        config.to_dict() | {"hidden_size": feature_dim, "_name_or_path": ""} for config, feature_dim in towers
    )
    try:
        with quiet_transformers(), torch.device("meta"):
            config = VisionTextDualEncoderConfig(vision_config=image, text_config=text, projection_dim=embedding_dim)
            return VisionTextDualEncoderModel(config)
    except (ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        log.debug("no VisionTextDualEncoder for this model: %s", first_line(error))
        return None


def _dual_state(model: DualEncoder) -> dict[str, Tensor]:
    state = {f"vision_model.{name}": value for name, value in model.image.tower.model.state_dict().items()}
    state |= {f"text_model.{name}": value for name, value in model.text.tower.model.state_dict().items()}
    return state | {
        "visual_projection.weight": model.image.head.projection.weight.detach(),
        "text_projection.weight": model.text.head.projection.weight.detach(),
        "logit_scale": model.log_logit_scale.detach().reshape(()),
    }


def _describe(encoder: Encoder) -> dict[str, Any]:
    return {
        "tower": encoder.tower.spec,
        "pooling": encoder.pooling,
        "head": head_description(encoder.head),
        "preprocessing": encoder.tower.preprocessing.to_dict(),
    }


def save_pretrained(model: DualEncoder, folder: str | Path) -> Path:
    """Write a model as a folder that ``mmcl.load`` reads, and plain transformers too where it can hold the model.

    Args:
        model: the model; nothing of it is changed. LoRA adapters are written as part of the weights.
        folder: made when missing; files of an earlier model in it are replaced.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = without_adapters(model)
    obstacle = transformers_obstacle(model)
    description = {
        "format": FORMAT,
        "mmcl_version": mmcl.__version__,
        "layout": "mmcl" if obstacle else "vision_text_dual_encoder",
        **({"not_transformers_because": obstacle} if obstacle else {}),
        "embedding_dim": model.embedding_dim,
        "logit_scale_max": model.logit_scale_max,
        "logit_scale_learnable": model.log_logit_scale.requires_grad,
        "logit_bias": None if model.logit_bias is None else float(model.logit_bias.item()),
        "image": _describe(model.image),
        "text": _describe(model.text),
    }
    # Gone first and written last: a folder that holds it is complete.
    for stale in (DESCRIPTION, "config.json"):
        (folder / stale).unlink(missing_ok=True)
    if obstacle:
        _save_own_layout(model, folder)
    else:
        with quiet_transformers():
            _empty_dual(model).save_pretrained(str(folder), state_dict=_dual_state(model))
    for encoder in (model.image, model.text):
        if isinstance(encoder.tower, OpenClipTower):
            encoder.tower.save_config(folder / f"open_clip_{encoder.modality}")
    processor = model.image.tower.preprocessing.image_processor_config()
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2), encoding="utf-8")
    if isinstance(model.text.tower.preprocessing, TextPreprocessing):
        model.text.tower.preprocessing.save(folder)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, default=str), encoding="utf-8")
    for weights in folder.glob("*.safetensors"):  # which safetensors lets nobody else read, whatever the umask
        shutil.copymode(folder / DESCRIPTION, weights)
    return folder


def _save_own_layout(model: DualEncoder, folder: Path) -> None:
    from safetensors.torch import save_file

    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def from_pretrained(folder: str | Path) -> DualEncoder:
    """Read a folder that ``save_pretrained`` wrote.

    Raises:
        ConfigError: the folder holds no mmcl model, one of a newer format, or one whose weights do not fit.
    """
    folder = Path(folder)
    if not (folder / DESCRIPTION).is_file():
        raise ConfigError(f"{folder} holds no mmcl model (no {DESCRIPTION})")
    description = parse_json(folder / DESCRIPTION)
    if description.get("format") != FORMAT:
        raise ConfigError(
            f"{folder / DESCRIPTION}: format {description.get('format')!r}, this mmcl reads {FORMAT}; upgrade mmcl"
        )
    dual = load_pretrained(str(folder))[0] if description["layout"] == "vision_text_dual_encoder" else None
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are all replaced
        model = DualEncoder(
            _restore_encoder(description, "image", folder, dual and dual.vision_model),
            _restore_encoder(description, "text", folder, dual and dual.text_model),
            embedding_dim=description["embedding_dim"],
            logit_scale=min(1.0, description["logit_scale_max"]),
            logit_scale_max=description["logit_scale_max"],
            logit_scale_learnable=description["logit_scale_learnable"],
            logit_bias=description["logit_bias"],
        )
    if dual is None:
        _load_own_layout(model, folder)
    else:
        with torch.no_grad():
            model.image.head.projection.weight.copy_(dual.visual_projection.weight)
            model.text.head.projection.weight.copy_(dual.text_projection.weight)
            model.log_logit_scale.copy_(dual.logit_scale.reshape(1))
    return model.eval()


def _load_own_layout(model: DualEncoder, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        missing, unexpected = model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{folder / WEIGHTS} cannot be read into the model described beside it ({reason})") from error
    if missing or unexpected:
        raise ConfigError(
            f"{folder / WEIGHTS} does not fit the model described beside it: {len(missing)} weights missing "
            f"({', '.join(missing[:3])}), {len(unexpected)} unknown ({', '.join(unexpected[:3])}); it may have been "
            f"written with another version of transformers, timm or open_clip"
        )


def _restore_encoder(description: dict[str, Any], modality: str, folder: Path, module: Any) -> Encoder:
    side = description[modality]
    tower = _restore_tower(side, modality, folder, module)
    tower.choose_pooling(side["pooling"])
    head = build_head(HeadSection.model_validate(side["head"]), tower, description["embedding_dim"])
    return Encoder(tower, head, pooling=side["pooling"])


def _restore_tower(side: dict[str, Any], modality: str, folder: Path, module: Any) -> Tower:
    """A tower from its description, with random weights unless ``module`` brings them."""
    spec = side["tower"]
    if spec["family"] == "open_clip":
        own = folder / f"open_clip_{modality}"
        return restore_open_clip_tower(own, modality, side["preprocessing"], name=spec["name"])
    if modality == "image":
        preprocessing: Any = ImagePreprocessing(**side["preprocessing"])
    else:
        preprocessing = TextPreprocessing(load_tokenizer(str(folder)), **side["preprocessing"])
    if spec["family"] == "timm":
        import timm

        module = timm.create_model(spec["name"], num_classes=0, **spec["options"])
        return TimmTower(module, preprocessing, name=spec["name"], options=spec["options"])
    if module is None:
        from transformers import AutoConfig

        values = dict(spec["config"])
        module = build_module(AutoConfig.for_model(values.pop("model_type"), **values))
    return TransformersTower(
        module, modality, preprocessing, name=spec["name"], config=spec["config"], default_pooling=side["pooling"]
    )
