"""A dual encoder as a folder: `mmcl.json` with weights in safetensors, readable by plain transformers where expressible.

Where both towers are transformers', pooled by their own pooler and projected by plain linear heads, the weights are
written as a `VisionTextDualEncoderModel`; `mmcl.json` lies beside it and mmcl reads the same files. Any other model is
written under mmcl's own names. No pickle is written or read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import mmcl
from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder
from mmcl.models.heads import IdentityHead, LinearHead, MlpHead
from mmcl.models.preprocessing import ImagePreprocessing, OpenClipText, TextPreprocessing
from mmcl.models.tower import Tower
from mmcl.models.transformers_tower import TransformersTower

log = get_logger(__name__)

FORMAT = 1
DESCRIPTION = "mmcl.json"
WEIGHTS = "model.safetensors"


def transformers_obstacle(model: DualEncoder) -> str | None:
    """Why plain transformers cannot hold a model as a VisionTextDualEncoder; None where it can."""
    for encoder in (model.image, model.text):
        if not isinstance(encoder.tower, TransformersTower):
            return f"the {encoder.modality} tower is not transformers'"
        if not hasattr(encoder.tower.model.config, "hidden_size"):
            return f"the {encoder.modality} tower's config has no hidden_size"
        if encoder.pooling != "pooler":
            return f"the {encoder.modality} tower is pooled by {encoder.pooling!r}, not by its own pooler"
        if not isinstance(encoder.head, LinearHead) or encoder.head.projection.bias is not None:
            return f"the {encoder.modality} head is not linear without bias"
    return None


def _head_description(head: torch.nn.Module) -> dict[str, Any]:
    if isinstance(head, IdentityHead):
        return {"name": "none"}
    if isinstance(head, LinearHead):
        dropout, bias = head.dropout.p, head.projection.bias is not None
        return {"name": "linear", "input_dropout": dropout, "bias": bias}
    if isinstance(head, MlpHead):
        linears = [m for m in head.layers if isinstance(m, torch.nn.Linear)]
        dropouts = [m.p for m in head.layers if isinstance(m, torch.nn.Dropout)]
        norm, activation = head.layers[2], head.layers[3]
        return {
            "name": "mlp",
            "hidden_dims": [m.out_features for m in linears[:-1]],
            "input_dropout": dropouts[0],
            "dropout": dropouts[-1],
            "norm": {"LayerNorm": "layer", "BatchNorm1d": "batch"}.get(type(norm).__name__, "none"),
            "activation": type(activation).__name__.lower(),
        }
    raise ConfigError(f"a head of type {type(head).__name__} cannot be saved")


def _describe(encoder: Encoder) -> dict[str, Any]:
    return {
        "tower": encoder.tower.spec,
        "pooling": encoder.pooling,
        "head": _head_description(encoder.head),
        "preprocessing": encoder.tower.preprocessing.to_dict(),
    }


def save_pretrained(model: DualEncoder, folder: str | Path) -> Path:
    """Write a model as a folder that ``mmcl.load`` reads, and plain transformers too where it can hold the model.

    Args:
        model: the model; nothing of it is changed.
        folder: made when missing; files of an earlier model in it are replaced.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    obstacle = transformers_obstacle(model)
    description = {
        "format": FORMAT,
        "mmcl_version": mmcl.__version__,
        "layout": "mmcl" if obstacle else "vision_text_dual_encoder",
        **({"not_transformers_because": obstacle} if obstacle else {}),
        "embedding_dim": model.embedding_dim,
        "logit_scale_max": model.logit_scale_max,
        "logit_bias": None if model.logit_bias is None else float(model.logit_bias.item()),
        "image": _describe(model.image),
        "text": _describe(model.text),
    }
    if obstacle:
        _save_own_layout(model, folder)
    else:
        _save_transformers_layout(model, folder)
    preprocessing = model.image.tower.preprocessing
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing.image_processor_config(), indent=2))
    model.text.tower.preprocessing.save(folder)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, default=str))
    return folder


def _save_own_layout(model: DualEncoder, folder: Path) -> None:
    from safetensors.torch import save_file

    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def _as_transformers(model: DualEncoder, image_model: Any, text_model: Any) -> Any:
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        image_model.config, text_model.config, projection_dim=model.embedding_dim
    )
    return VisionTextDualEncoderModel(config, vision_model=image_model, text_model=text_model)


def _save_transformers_layout(model: DualEncoder, folder: Path) -> None:
    # The constructor rewrites its halves' configs and initialises what it adds, so the halves lend their configs back.
    image_model, text_model = model.image.tower.model, model.text.tower.model
    configs = image_model.config, text_model.config
    with torch.random.fork_rng(devices=[]):
        dual = _as_transformers(model, image_model, text_model)
    try:
        with torch.no_grad():
            dual.visual_projection.weight = model.image.head.projection.weight
            dual.text_projection.weight = model.text.head.projection.weight
            dual.logit_scale.copy_(model.log_logit_scale.reshape(()))
        dual.save_pretrained(str(folder))
    finally:
        image_model.config, text_model.config = configs


def from_pretrained(folder: str | Path) -> DualEncoder:
    """Read a folder that ``save_pretrained`` wrote.

    Raises:
        ConfigError: the folder holds no mmcl model, one of a newer format, or one whose weights do not fit.
    """
    folder = Path(folder)
    if not (folder / DESCRIPTION).is_file():
        raise ConfigError(f"{folder} holds no mmcl model (no {DESCRIPTION})")
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if description.get("format") != FORMAT:
        raise ConfigError(
            f"{folder / DESCRIPTION}: format {description.get('format')!r}, this mmcl reads {FORMAT}; upgrade mmcl"
        )
    transformers_layout = description["layout"] == "vision_text_dual_encoder"
    modules = _transformers_modules(folder) if transformers_layout else {}
    model = DualEncoder(
        _restore(description, "image", folder, modules),
        _restore(description, "text", folder, modules),
        embedding_dim=description["embedding_dim"],
        logit_scale=min(1.0, description["logit_scale_max"]),
        logit_scale_max=description["logit_scale_max"],
        logit_bias=description["logit_bias"],
    )
    if transformers_layout:
        with torch.no_grad():
            model.image.head.projection.weight.copy_(modules["dual"].visual_projection.weight)
            model.text.head.projection.weight.copy_(modules["dual"].text_projection.weight)
            model.log_logit_scale.copy_(modules["dual"].logit_scale.reshape(1))
    else:
        _load_own_layout(model, folder)
    return model.eval()


def _transformers_modules(folder: Path) -> dict[str, Any]:
    from transformers import VisionTextDualEncoderModel

    dual = VisionTextDualEncoderModel.from_pretrained(str(folder)).float()
    return {"dual": dual, "image": dual.vision_model, "text": dual.text_model}


def _load_own_layout(model: DualEncoder, folder: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(folder / WEIGHTS)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ConfigError(
            f"{folder / WEIGHTS} does not fit the model described beside it: {len(missing)} weights missing "
            f"({', '.join(missing[:3])}), {len(unexpected)} unknown ({', '.join(unexpected[:3])}); it may have been "
            f"written with another version of transformers, timm or open_clip"
        )


def _restore(description: dict[str, Any], modality: str, folder: Path, modules: dict[str, Any]) -> Encoder:
    from mmcl.config import HeadSection
    from mmcl.models.encoder import build_head

    side = description[modality]
    tower = restore_tower(side, modality, folder, module=modules.get(modality))
    head = build_head(HeadSection.model_validate(side["head"]), tower, description["embedding_dim"])
    return Encoder(tower, head, pooling=side["pooling"])


def restore_tower(side: dict[str, Any], modality: str, folder: Path, *, module: Any = None) -> Tower:
    """A tower from its description, with random weights unless ``module`` brings them."""
    spec = side["tower"]
    if modality == "image":
        preprocessing: Any = ImagePreprocessing(**side["preprocessing"])
    elif spec["family"] == "open_clip":
        preprocessing = OpenClipText(**side["preprocessing"])
    else:
        from transformers import AutoTokenizer

        preprocessing = TextPreprocessing(AutoTokenizer.from_pretrained(str(folder)), **side["preprocessing"])
    if spec["family"] == "timm":
        import timm

        from mmcl.models.timm_tower import TimmTower

        module = timm.create_model(spec["name"], num_classes=0, **spec["options"])
        return TimmTower(module, preprocessing, name=spec["name"], options=spec["options"])
    if spec["family"] == "open_clip":
        from mmcl.models.open_clip_tower import build_open_clip_half, create_open_clip

        full = create_open_clip(spec["name"], None)
        tower = build_open_clip_half(full, spec["name"], modality)
        tower.preprocessing = preprocessing
        return tower
    if module is None:
        from transformers import AutoConfig

        from mmcl.models.transformers_tower import build_module

        config = dict(spec["config"])
        module = build_module(AutoConfig.for_model(config.pop("model_type"), **config))
    return TransformersTower(module, modality, preprocessing, default_pooling=side["pooling"], name=spec["name"])
