"""A dual encoder's towers as the first modules of sentence-transformers' routes, and what stands in the way."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcl.hub.formats.as_sentence_transformers.modules import TRANSFORMER_CONFIG, write_json
from mmcl.models.encoder import Encoder
from mmcl.models.towers.convolutional_stem import OPTION
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.models.towers.text_preprocessing import TextPreprocessing
from mmcl.models.towers.timm_tower import TimmTower
from mmcl.models.towers.tower import Tower
from mmcl.models.towers.transformers_loading import parse_json, quiet_transformers
from mmcl.models.towers.transformers_tower import TransformersTower

# What transformers writes of how it was asked for a tokenizer.
_OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")


def tower_obstacle(encoder: Encoder) -> str | None:
    """Why the library cannot build and pool an encoder's tower; None where it can. The head is not looked at."""
    tower, side = encoder.tower, encoder.modality
    if encoder.learned_pooling is not None:
        return f"the {side} tower is pooled by {encoder.pooling!r}, which has weights that only onnx carries over"
    if isinstance(tower, TimmTower):
        return _timm_obstacle(encoder)
    if not isinstance(tower, TransformersTower):
        return f"the {side} tower is {tower.spec['family']}'s and not CLIP-shaped; onnx takes it"
    if tower.resizes_positions:
        return f"the {side} tower reads images of another size than its config says; onnx takes it"
    if getattr(tower.model.config, OPTION, False):
        return f"the {side} tower starts with a convolutional stem, which transformers does not build; onnx takes it"
    if empty_module(tower) is None:
        return f"transformers does not build the {side} tower from its config alone; onnx takes it"
    return _pooling_obstacle(encoder)


def _timm_obstacle(encoder: Encoder) -> str | None:
    """timm's models keep their own pooling within transformers; its head may hold layers that mmcl leaves out."""
    tower = encoder.tower
    if encoder.pooling != "pooler" and tower.channels_last:
        return (
            "the image tower's tokens have their features last, which sentence-transformers cannot read; onnx takes it"
        )
    training = tower.model.training
    tower.model.eval()
    try:
        with torch.no_grad():
            features = tower.model.forward_features(random_pixels(tower))
            own, wrapped = tower.model.forward_head(features, pre_logits=True), tower.model.forward_head(features)
    finally:
        tower.model.train(training)
    if encoder.pooling == "pooler" and (own.shape != wrapped.shape or not torch.equal(own, wrapped)):
        return "transformers' wrapper of timm puts more layers behind the image tower than mmcl does; onnx takes it"
    return _pooling_obstacle(encoder)


def _pooling_obstacle(encoder: Encoder) -> str | None:
    """The library pools all tokens of an image; mmcl leaves class and register tokens out of means and maxima."""
    tower, prefix = encoder.tower, encoder.tower.num_prefix_tokens
    if encoder.modality == "text" or prefix == 0 or encoder.pooling in ("cls", "pooler"):
        return None
    if encoder.pooling == "mean" and prefix == 1 and "cls" in tower.poolings:
        return None  # a linear map of the mean of all and of the class token
    return (
        f"the image tower is pooled by {encoder.pooling!r} without its {prefix} class and register tokens, which "
        f"sentence-transformers cannot leave out; onnx takes it"
    )


def random_pixels(tower: Tower) -> Tensor:
    """``pixel_values`` of one image, always the same, where the tower's weights are."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, *tower.preprocessing.size, generator=draw)
    return pixels.to(next(tower.model.parameters()).device)


def mean_of_places_tokens(encoder: Encoder) -> int | None:
    """How many tokens an image has, where its mean leaves a class token out; None where it leaves none out.

    Every image has the same size, so every image has as many.
    """
    if encoder.modality == "text" or encoder.pooling != "mean" or encoder.tower.num_prefix_tokens == 0:
        return None
    with torch.no_grad():
        return encoder.tower(**encoder.tower.example()).tokens.shape[1]


def empty_module(tower: TransformersTower) -> Any | None:
    """The module that ``AutoModel`` builds from a tower's config, without memory for weights; None where it is another.

    A half of a model that AutoModel does not know, a convolutional stem, or the encoder of an encoder-decoder has
    weights of other names.
    """
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    config = tower.model.config
    if type(config) not in MODEL_MAPPING:
        return None
    try:
        with quiet_transformers(), torch.device("meta"):
            module = AutoModel.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, AttributeError, TypeError, RuntimeError):
        return None
    wanted = {name: value.shape for name, value in tower.model.state_dict().items()}
    return module if {name: value.shape for name, value in module.state_dict().items()} == wanted else None


def write_tower(encoder: Encoder, folder: Path) -> None:
    """Write a tower with its tokenizer or image processor as a ``Transformer`` module."""
    tower = encoder.tower
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in tower.model.state_dict().items()}
    weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    if isinstance(tower, TimmTower):
        _write_timm(tower, weights, folder)
    else:
        with quiet_transformers():
            module = empty_module(tower)
            module.config.dtype = torch.float32
            module.save_pretrained(str(folder), state_dict=weights)
    if encoder.modality == "text":
        _write_tokenizer(tower.preprocessing, folder)
    elif not cuts_as_timm(tower):  # otherwise its config says all
        write_json(folder / "preprocessor_config.json", tower.preprocessing.image_processor_config())
    write_json(folder / TRANSFORMER_CONFIG, _transformer_config(encoder))


def _write_tokenizer(preprocessing: TextPreprocessing, folder: Path) -> None:
    preprocessing.save(folder)
    file = folder / "tokenizer_config.json"
    values = {name: value for name, value in parse_json(file).items() if name not in _OF_THIS_MACHINE}
    write_json(file, values | {"model_max_length": preprocessing.max_length})


def _write_timm(tower: TimmTower, weights: dict[str, Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    config = {
        "model_type": "timm_wrapper",
        "architectures": ["TimmWrapperModel"],
        "architecture": tower.spec["name"],
        "model_args": tower.spec["options"],
        "num_classes": 0,
        "label_names": [],
        "num_features": tower.feature_dim,
        "do_pooling": True,
        "pretrained_cfg": timm_data_config(tower.preprocessing),
        "dtype": "float32",
    }
    write_json(folder / "config.json", config)
    named = {f"timm_model.{name}": value for name, value in weights.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})


def _transformer_config(encoder: Encoder) -> dict[str, Any]:
    flat = encoder.pooling == "pooler" and pools_flat(encoder.tower)
    output = "pooler_output" if encoder.pooling == "pooler" else "last_hidden_state"
    config = {
        "transformer_task": "feature-extraction",
        "modality_config": {encoder.modality: {"method": "forward", "method_output_name": output}},
        "module_output_name": "sentence_embedding" if flat else "token_embeddings",
    }
    return config | (text_settings(encoder.tower.preprocessing) if encoder.modality == "text" else {})


def cuts_as_timm(tower: Tower) -> bool:
    """Whether an image processor of timm's is written: the others cut half pixels off on the other side.

    timm's takes RGB pictures alone, so it is written only where it makes a difference.
    """
    preprocessing = tower.preprocessing
    by_timm = isinstance(tower, TimmTower) and preprocessing.interpolation in ("bilinear", "bicubic")
    return by_timm and isinstance(preprocessing.resize_to, int) and preprocessing.crop_rounding == "even"


def timm_data_config(preprocessing: ImagePreprocessing) -> dict[str, Any]:
    """How timm's own transform of a model in evaluation does the same; see ``timm.data.resolve_data_config``."""
    edge, to = preprocessing.size[0], preprocessing.resize_to
    squash = not isinstance(to, int)
    to = to[0] if squash else to
    # timm resizes to floor(size / crop_pct): a short number where it leads there, else one well within the interval.
    shares = (round(edge / to, 3), edge / (to + 0.5))
    return {
        "input_size": [3, *preprocessing.size],
        "crop_pct": next(share for share in shares if math.floor(edge / share) == to),
        "crop_mode": "squash" if squash else "center",
        "interpolation": preprocessing.interpolation,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def pools_flat(tower: Tower) -> bool:
    """Whether a tower's own pooler gives (b, f); a ResNet's gives (b, f, 1, 1)."""
    return not isinstance(tower, TransformersTower) or tower.pools_flat


def text_settings(preprocessing: Any) -> dict[str, Any]:
    """How a ``Transformer`` module makes tokens: as long as mmcl does, padded and masked as the tower was trained."""
    if isinstance(preprocessing, TextPreprocessing):
        fixed, masked = preprocessing.padding == "max_length", preprocessing.use_mask
    else:  # open_clip's: towers that do not stop at the end token read a fixed number, unmasked
        fixed, masked = not preprocessing.trim, preprocessing.trim
    settings: dict[str, Any] = {"return_token_type_ids": False}
    if fixed:
        settings["padding"] = "max_length"
    if not masked:
        settings["return_attention_mask"] = False
    return {
        "max_seq_length": preprocessing.max_length,
        "do_lower_case": False,
        "processing_kwargs": {"text": settings},
    }
