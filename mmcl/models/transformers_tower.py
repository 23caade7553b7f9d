"""Towers from Hugging Face transformers: any vision model, any text model with hidden states."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.preprocessing import ImagePreprocessing, TextPreprocessing
from mmcl.models.tower import Tower, TowerOutput

log = get_logger(__name__)


def _load(what: str, name: str, call: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a transformers loader; its many errors become one sentence."""
    try:
        return call(*args, **kwargs)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = "folder" if os.path.isdir(name) else "local folder, and no model of that id could be fetched"
        raise ConfigError(
            f"{what} {name!r}: not a usable {where} ({first}). Check the name and the network, or download it first "
            f"(hf download {name}) and give its folder"
        ) from error


def load_config(name: str) -> Any:
    """The transformers config of an id or folder; runs no remote code.

    Raises:
        ConfigError: no such model, or it cannot be reached.
    """
    from transformers import AutoConfig

    return _load("model", name, AutoConfig.from_pretrained, name, trust_remote_code=False)


def load_pretrained(name: str) -> Any:
    """The whole transformers model of an id or folder, float32; runs no remote code.

    Raises:
        ConfigError: no such model, or it cannot be reached.
    """
    from transformers import AutoModel

    return _load("model", name, AutoModel.from_pretrained, name, trust_remote_code=False).float()


def is_dual(config: Any) -> bool:
    """Whether a config describes an image and a text tower together (CLIP, SigLIP, VisionTextDualEncoder ...)."""
    return getattr(config, "vision_config", None) is not None and getattr(config, "text_config", None) is not None


class TransformersTower(Tower):
    """A transformers encoder.

    Args:
        model: the module, as ``AutoModel`` gives it.
        modality: ``"image"`` or ``"text"``.
        preprocessing: see ``Tower``.
        default_pooling: see ``Tower``.
        name: what it was asked for as.
        projection: see ``Tower``.
    """

    def __init__(
        self,
        model: Any,
        modality: str,
        preprocessing: ImagePreprocessing | TextPreprocessing,
        *,
        default_pooling: str,
        name: str,
        projection: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.modality, self.model, self.preprocessing = modality, model, preprocessing
        self.projection = projection
        config = model.config
        self.feature_dim = getattr(config, "hidden_size", None) or config.hidden_sizes[-1]
        names = {n.rpartition(".")[2] for n, _ in model.named_parameters()}
        has_cls = modality == "text" or bool(names & {"cls_token", "class_embedding"})
        registers = getattr(config, "num_register_tokens", 0) if modality == "image" else 0
        self.num_prefix_tokens = int(modality == "image" and has_cls) + (registers or 0)
        self.poolings = tuple(
            pooling
            for pooling in ("cls", "mean", "max", "pooler", "attention")
            if (pooling != "cls" or has_cls) and (pooling != "pooler" or self._has_pooler())
        )
        self.default_pooling = default_pooling
        self.spec = {"family": "transformers", "name": name, "config": config.to_dict()}

    def _has_pooler(self) -> bool:
        names = [name for name, _ in self.model.named_modules()]
        pooling_part = any(n.rpartition(".")[2] in ("pooler", "head", "post_layernorm") for n in names)
        return pooling_part or self.model.config.model_type in ("clip_text_model", "siglip_text_model", "convnext")

    def forward(self, **inputs: Tensor) -> TowerOutput:
        """Keyword inputs of the transformers model -> tokens, their mask and the model's own pooled output."""
        output = self.model(**inputs, return_dict=True)
        tokens, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)
        if tokens.ndim == 4:  # convolutional: (b, f, h, w)
            tokens = tokens.flatten(2).transpose(1, 2)
        if pooled is not None and pooled.ndim > 2:
            pooled = pooled.flatten(1)
        if self.modality == "text" and "attention_mask" in inputs:
            mask = inputs["attention_mask"].bool()
        else:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
            mask[:, : self.num_prefix_tokens] = False  # class and register tokens are no patches
        return TowerOutput(tokens, mask, pooled)


def _tower_class(config: Any) -> Any:
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    return MODEL_MAPPING[type(config)] if type(config) in MODEL_MAPPING else AutoModel


def build_module(config: Any) -> Any:
    """A transformers module with random weights."""
    from transformers import AutoModel

    model = _load("model config", config.model_type, AutoModel.from_config, config, trust_remote_code=False)
    return _encoder_half(model)


def _encoder_half(model: Any) -> Any:
    return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model


def _load_module(name: str, config: Any) -> tuple[Any, set[str]]:
    """A pretrained module and the names of weights the checkpoint lacked."""
    loader = _tower_class(config)
    model, info = _load(
        "model", name, loader.from_pretrained, name, config=config, trust_remote_code=False, output_loading_info=True
    )
    return _encoder_half(model.float()), set(info["missing_keys"])


def _pretrained_projection(name: str, modality: str) -> Tensor | None:
    """The bias-free projection that a dual checkpoint holds for one side."""
    full = load_pretrained(name)
    layer = getattr(full, "visual_projection" if modality == "image" else "text_projection", None)
    return None if layer is None else layer.weight.detach().float().clone()


def _read_json(name: str, file: str) -> dict[str, Any] | None:
    """A JSON file of a local folder or a Hub model; None where it has none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    path = Path(name) / file
    if not os.path.isdir(name):
        try:
            path = Path(hf_hub_download(name, file))
        except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
            return None
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def image_preprocessing(name: str, config: Any, *, pretrained: bool, size: int | None) -> ImagePreprocessing:
    """The preprocessing of a vision model, from its ``preprocessor_config.json``.

    Raises:
        ConfigError: a pretrained model without one: guessing mean and size would quietly ruin its features.
    """
    found = _read_json(name, "preprocessor_config.json")
    if found is not None:
        preprocessing = ImagePreprocessing.from_image_processor(found.get("image_processor", found), source=name)
        return preprocessing.with_size(size) if size else preprocessing
    edge = size or getattr(config, "image_size", None)
    edge = edge[0] if isinstance(edge, (list, tuple)) else edge
    if pretrained or edge is None:
        raise ConfigError(
            f"{name!r} has no preprocessor_config.json, which says the size, mean and standard deviation that its "
            f"images need; add the file, or use pretrained: false with model.image.image_size"
        )
    return ImagePreprocessing((edge, edge))


def text_preprocessing(name: str, config: Any, *, max_length: int | None) -> TextPreprocessing:
    """The tokenizer of a text model, with its maximum length."""
    from transformers import AutoTokenizer

    tokenizer = _load("tokenizer", name, AutoTokenizer.from_pretrained, name, trust_remote_code=False)
    sentence = _read_json(name, "sentence_bert_config.json") or {}
    positions = getattr(config, "max_position_embeddings", None)
    if positions and config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= 2  # these count positions from the padding index + 1
    limits = [sentence.get("max_seq_length"), tokenizer.model_max_length, positions]
    longest = min(int(limit) for limit in limits if limit and limit < 10**6) if any(limits) else 512
    if max_length is not None and max_length > longest:
        raise ConfigError(f"model.text.max_length is {max_length}; {name!r} reads at most {longest} tokens")
    siglip = config.model_type.startswith("siglip")  # trained on fixed-length text without a mask
    return TextPreprocessing(
        tokenizer,
        max_length=longest if siglip else (max_length or longest),
        padding="max_length" if siglip else "longest",
        use_mask=not siglip,
    )


def _default_pooling(name: str, modality: str, config: Any, missing: set[str], *, pretrained: bool) -> str:
    """What the tower was trained with: a sentence-transformers folder says so; else its pooler if that was trained."""
    modes = _read_json(name, "1_Pooling/config.json") if pretrained and modality == "text" else None
    if modes is not None:
        for pooling, key in (("mean", "mean_tokens"), ("cls", "cls_token"), ("max", "max_tokens")):
            if modes.get(f"pooling_mode_{key}") or modes.get("pooling_mode") == pooling:
                return pooling
    untrained = any("pooler" in key for key in missing)
    if pretrained and untrained:
        return "mean" if modality == "text" else "cls"
    return "pooler"


def build_transformers_tower(
    name: str, modality: str, *, pretrained: bool, size: int | None, max_length: int | None, options: dict[str, Any]
) -> TransformersTower:
    """A tower from a transformers id or folder.

    Args:
        name: id or folder; of a dual model (CLIP, SigLIP ...) the matching half is taken, its projection with it.
        modality: ``"image"`` or ``"text"``.
        pretrained: false builds random weights from the config.
        size, max_length: override the tower's own input size (image) or number of tokens (text).
        options: config values of a random tower.

    Raises:
        ConfigError: no such model or tokenizer, an unknown option, or no preprocessing to be found.
    """
    config = load_config(name)
    dual = is_dual(config)
    if dual:
        config = config.vision_config if modality == "image" else config.text_config
    for key, value in options.items():
        if not hasattr(config, key):
            raise ConfigError(f"model.{modality}.options.{key}: {type(config).__name__} has no such value")
        setattr(config, key, value)
    if modality == "image":
        preprocessing: Any = image_preprocessing(name, config, pretrained=pretrained, size=size)
    else:
        preprocessing = text_preprocessing(name, config, max_length=max_length)
    model, missing = _load_module(name, config) if pretrained else (build_module(config), set())
    tower = TransformersTower(
        model,
        modality,
        preprocessing,
        default_pooling=_default_pooling(name, modality, config, missing, pretrained=pretrained),
        name=name,
        projection=_pretrained_projection(name, modality) if dual and pretrained else None,
    )
    if tower.default_pooling not in tower.poolings:
        tower.default_pooling = "mean" if modality == "text" or "cls" not in tower.poolings else "cls"
    return tower
