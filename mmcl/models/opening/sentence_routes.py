"""One route of sentence-transformers' `Router` as an `Encoder`: tower, pooling, head."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from mmcl.errors import ConfigError
from mmcl.models.encoder import Encoder
from mmcl.models.opening.sentence_heads import SentenceLayer, SentenceModule, build_sentence_head, read_layer
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.models.towers.text_preprocessing import TextPreprocessing
from mmcl.models.towers.timm_tower import TimmTower, read_weights
from mmcl.models.towers.tower import Tower
from mmcl.models.towers.transformers_inputs import image_preprocessing, text_preprocessing
from mmcl.models.towers.transformers_loading import encoder_half, first_line, load_config, load_pretrained, parse_json
from mmcl.models.towers.transformers_tower import TransformersTower

# How models that were saved before the library knew pooling_mode say it.
_LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def read_route(modules: list[SentenceModule], modality: str) -> tuple[Encoder, int]:
    """A route as an encoder.

    Args:
        modules: of the route, in order.
        modality: ``"image"`` or ``"text"``.

    Returns:
        The encoder, and the size of its embeddings.

    Raises:
        ConfigError: a module that mmcl has no counterpart of, or files that do not fit.
    """
    if not modules or modules[0].kind not in ("Transformer", "CLIPModel"):
        found = modules[0].kind if modules else "nothing"
        raise ConfigError(f"the {modality} route starts with {found}; mmcl reads routes that start with a Transformer")
    first, behind = modules[0], [module for module in modules[1:] if module.kind not in ("Normalize", "Dropout")]
    pooling, layers = _read_pooling(first, behind, modality)
    if modality == "image":
        tower = _image_tower(first.folder, "cls" if pooling == "mean of places" else pooling)
    else:
        tower = _text_tower(first.folder, pooling)
    if pooling == "mean of places":
        pooling, layers[0] = "mean", _without_class_token(layers[0], tower, first.folder)
    elif pooling == "mean" and modality == "image" and tower.num_prefix_tokens:
        raise ConfigError(
            f"{first.folder}: the mean is taken over the class token too, where mmcl takes it over places alone"
        )
    if pooling not in tower.poolings:
        raise ConfigError(f"{first.folder}: pooled by {pooling!r}; mmcl has {', '.join(tower.poolings)} for this tower")
    head, dim = build_sentence_head(layers, tower.feature_dim, first.folder)
    return Encoder(tower, head, pooling=pooling), dim


def _read_pooling(
    first: SentenceModule, behind: list[SentenceModule], modality: str
) -> tuple[str, list[SentenceLayer]]:
    """mmcl's word for how tokens become features, and the layers behind that."""
    settings = _settings(first.folder)
    default = {modality: {"method": "forward", "method_output_name": "last_hidden_state"}}
    method = (settings.get("modality_config") or default).get(modality) or {}
    output = method.get("method_output_name")
    if method.get("method") != "forward" or output not in ("last_hidden_state", "pooler_output"):
        raise ConfigError(f"{first.folder}: takes {output!r} of {method.get('method')!r}, which mmcl does not")
    mode: Any = None
    if behind and behind[0].kind == "Pooling":
        mode = _pooling_mode(behind[0].config())
        behind = behind[1:]
    layers = [read_layer(module) for module in behind]
    if output == "pooler_output":
        if mode not in (None, "mean"):
            raise ConfigError(f"{first.folder}: its pooled output is pooled again by {mode!r}, which mmcl does not")
        return "pooler", layers
    if mode == ["cls", "mean"] and modality == "image" and layers and layers[0].kind == "Dense":
        return "mean of places", layers
    if mode not in ("cls", "mean", "max"):
        raise ConfigError(f"{first.folder}: pooled by {mode!r}; mmcl reads cls, mean and max")
    return mode, layers


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "sentence_bert_config.json"
    return parse_json(path) if path.is_file() else {}


def _pooling_mode(config: dict[str, Any]) -> Any:
    mode = config.get("pooling_mode")
    if mode is None:
        mode = [word for key, word in _LEGACY_POOLINGS.items() if config.get(key)] or "mean"
    return mode[0] if isinstance(mode, list) and len(mode) == 1 else mode


def _text_tower(folder: Path, pooling: str) -> TransformersTower:
    settings = _settings(folder)
    config = load_config(str(folder))
    preprocessing = text_preprocessing(str(folder), config, max_length=None)
    tokenizer, told = preprocessing.tokenizer, (settings.get("processing_kwargs") or {}).get("text") or {}
    if settings.get("do_lower_case"):
        from tokenizers import normalizers

        backend = tokenizer.backend_tokenizer
        own = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    preprocessing = TextPreprocessing(
        tokenizer,
        max_length=preprocessing.max_length,
        padding="max_length" if told.get("padding", preprocessing.padding) == "max_length" else "longest",
        use_mask=told.get("return_attention_mask", preprocessing.use_mask),
    )
    full, _ = load_pretrained(str(folder), config=config)
    return TransformersTower(encoder_half(full), "text", preprocessing, name=str(folder), default_pooling=pooling)


def _image_tower(folder: Path, pooling: str) -> Tower:
    config = parse_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if config.get("model_type") == "timm_wrapper":
        return _timm_tower(folder, config)
    preprocessing = image_preprocessing(str(folder), None, pretrained=True, size=None)
    full, _ = load_pretrained(str(folder))
    return TransformersTower(encoder_half(full), "image", preprocessing, name=str(folder), default_pooling=pooling)


def _timm_preprocessing(folder: Path, config: dict[str, Any]) -> ImagePreprocessing:
    """What timm's image processor does, whose config is the model's; another has a file of its own."""
    import timm

    if (folder / "preprocessor_config.json").is_file():
        return image_preprocessing(str(folder), None, pretrained=True, size=None)
    data = timm.data.resolve_data_config(config.get("pretrained_cfg") or {}, model=None)
    size = tuple(data["input_size"][-2:])
    resize_to = tuple(math.floor(edge / data["crop_pct"]) for edge in size)
    if data["crop_mode"] not in ("center", "squash") or (data["crop_mode"] == "center" and size[0] != size[1]):
        raise ConfigError(
            f"{folder}: images are cut in the mode {data['crop_mode']!r} to {size} pixels; mmcl does squash, and "
            f"center to a square"
        )
    return ImagePreprocessing(
        size,
        resize_to if data["crop_mode"] == "squash" else resize_to[0],
        data["interpolation"],
        data["mean"],
        data["std"],
        crop_rounding="even",
    )


def _timm_tower(folder: Path, config: dict[str, Any]) -> TimmTower:
    import timm

    name, options = config.get("architecture", ""), config.get("model_args") or {}
    weights = read_weights(folder / "model.safetensors")
    try:
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are all replaced
            model = timm.create_model(name, pretrained=False, num_classes=0, **options)
        model.load_state_dict({key.removeprefix("timm_model."): value for key, value in weights.items()})
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{folder}: timm cannot build {name!r} with these weights ({first_line(error)})") from error
    return TimmTower(model, _timm_preprocessing(folder, config), name=name, options=options)


def _without_class_token(layer: SentenceLayer, tower: Tower, folder: Path) -> SentenceLayer:
    """The map of the mean of places alone, from one of class token and mean of all; see mmcl's export."""
    with torch.no_grad():
        num_tokens = tower(**tower.example()).tokens.shape[1]
    of_class, of_mean = layer.weight.double().chunk(2, dim=1)
    weight = of_mean * ((num_tokens - 1) / num_tokens)
    if tower.num_prefix_tokens != 1 or not torch.allclose(of_class * (1 - num_tokens), weight, rtol=1e-4, atol=1e-6):
        raise ConfigError(f"{folder}: pooled by ['cls', 'mean']; mmcl reads cls, mean and max, one at a time")
    return SentenceLayer("Dense", weight.float(), layer.bias, layer.activation)
