"""Towers from open_clip: their features lie in the shared space already."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.logs import quiet_root_logger
from mmcl.models.towers.open_clip_folder import (
    CONFIG,
    OWN_KEY,
    names_repository,
    opened_alone,
    own_timm_config,
)
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.models.towers.text_preprocessing import OpenClipText
from mmcl.models.towers.tower import Tower, TowerOutput
from mmcl.models.towers.transformers_loading import first_line, parse_json

# Halves that are not asked for, in place of those that the Hub would be asked for.
NO_IMAGE = {"image_size": 8, "patch_size": 8, "width": 8, "head_width": 8, "layers": 1}
NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


class OpenClipTower(Tower):
    """One half of an open_clip model, its projection included.

    Args:
        model: ``model.visual`` or ``model.text`` of a CustomTextCLIP or CoCa.
        modality: ``"image"`` or ``"text"``.
        preprocessing: see ``Tower``.
        name: open_clip's name, or a folder.
        config: open_clip's ``model_cfg``.

    Attributes:
        tower_config: what open_clip reads from the Hub to build the half, of transformers or of timm; else None.
    """

    def __init__(self, model: Any, modality: str, preprocessing: Any, *, name: str, config: dict[str, Any]) -> None:
        super().__init__()
        self.modality, self.model, self.preprocessing = modality, model, preprocessing
        self.feature_dim = config["embed_dim"]
        self.poolings, self.default_pooling = ("pooler",), "pooler"
        self.spec = {"family": "open_clip", "name": name, "config": config}
        self.tower_config = None
        if modality == "text" and config["text_cfg"].get("hf_model_name"):
            self.tower_config = model.config.to_diff_dict()
            self.tower_config.pop("_name_or_path", None)  # where it was read from
        elif modality == "image" and names_repository(config):
            self.tower_config = own_timm_config(name)

    def forward(self, **inputs: Tensor) -> TowerOutput:
        """pixel_values (b, 3, h, w), or input_ids (b, t) -> features (b, f)."""
        features = self.model(inputs["pixel_values"] if self.modality == "image" else inputs["input_ids"])
        # CoCa's halves give their tokens too.
        return TowerOutput(None, None, features[0] if isinstance(features, tuple) else features)

    def save_config(self, folder: Path) -> None:
        """Write what ``restore_open_clip_tower`` reads: configs, and a tokenizer that open_clip does not carry."""
        folder.mkdir(parents=True, exist_ok=True)
        config = self.spec["config"]
        if self.modality == "image" and config["text_cfg"].get("hf_model_name"):
            config = config | {"text_cfg": NO_TEXT}
        elif self.modality == "text" and names_repository(config):
            config = config | {"vision_cfg": NO_IMAGE}
        content = {"model_cfg": config, "preprocess_cfg": {}}
        (folder / CONFIG).write_text(json.dumps(content, indent=2), encoding="utf-8")
        if self.modality == "text":
            self.preprocessing.save(folder)
        if self.tower_config is not None:
            (folder / "config.json").write_text(json.dumps(self.tower_config, indent=2), encoding="utf-8")


def _reference(name: str) -> str:
    return f"local-dir:{name}" if os.path.isdir(name) else name


@contextmanager
def _source(name: str) -> Iterator[str]:
    """What open_clip makes a model of; a folder with all it needs is opened without the Hub."""
    if not os.path.isdir(name):
        yield name
        return
    with opened_alone(name) as folder:
        yield f"local-dir:{folder}"


def read_open_clip_config(name: str) -> dict[str, Any]:
    """The ``model_cfg`` of an architecture, or of a folder with an ``open_clip_config.json``.

    Raises:
        ConfigError: no such architecture; the folder has no config.
    """
    import open_clip

    if os.path.isdir(name):
        path = Path(name) / CONFIG
        if not path.is_file():
            raise ConfigError(f"open_clip:{name}: the folder has no {CONFIG}")
        config = parse_json(path).get("model_cfg")
        if not isinstance(config, dict) or "embed_dim" not in config:
            raise ConfigError(f"{path} has no model_cfg with an embed_dim")
        return config
    with quiet_root_logger():
        config = open_clip.get_model_config(name)
    if config is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=4, cutoff=0.5)
        hint = f"; it has {', '.join(near)}" if near else ""
        raise ConfigError(f"open_clip has no architecture {name!r}, and there is no such folder{hint}")
    return config


def create_open_clip(
    name: str, checkpoint: str | None, *, image_size: int | None = None, load_weights: bool = True
) -> Any:
    """An open_clip model with its text half as a module of its own.

    Args:
        name: open_clip's name, or a folder with an ``open_clip_config.json`` and weights.
        checkpoint: a tag of pretrained weights or a file; None for random weights; a folder brings its own.
        image_size: pixels of its input; default its own.
        load_weights: false leaves a folder's weights aside.

    Raises:
        ConfigError: no such architecture or weights, they cannot be reached, or do not fit.
    """
    import open_clip

    read_open_clip_config(name)
    try:
        with quiet_root_logger(), _source(name) as source:
            return open_clip.create_model(
                source,
                pretrained=checkpoint,
                load_weights=load_weights,
                force_custom_text=True,
                force_image_size=image_size,
                pretrained_text=False,
            )
    except Exception as error:  # torch.load, safetensors and the Hub raise many kinds
        known = [tag for arch, tag in open_clip.list_pretrained() if arch == name]
        want = f"; want a file, or one of {', '.join(known[:6])}" if known else ""
        shown = f"{name}/{checkpoint}" if checkpoint else name
        raise ConfigError(f"open_clip:{shown} cannot be built or loaded ({first_line(error)}){want}") from error


def build_open_clip_tower(
    name: str,
    modality: str,
    *,
    checkpoint: str | None,
    pretrained: bool,
    max_length: int | None,
    size: int | None = None,
) -> OpenClipTower:
    """One half of an open_clip model.

    Args:
        name: open_clip's name, such as ``"ViT-B-32"``, or a folder.
        modality: ``"image"`` or ``"text"``.
        checkpoint: a tag of pretrained weights or a file.
        pretrained: false builds random weights.
        max_length: tokens kept (text).
        size: pixels of its input (image).

    Raises:
        ConfigError: no such architecture or weights; ``pretrained`` without a checkpoint; a wrong ``max_length``.
    """
    if pretrained and checkpoint is None and not os.path.isdir(name):
        raise ConfigError(f"open_clip:{name} names no weights: want open_clip:{name}/PRETRAINED, or pretrained: false")
    model = create_open_clip(name, checkpoint if pretrained else None, image_size=size, load_weights=pretrained)
    return build_open_clip_half(model, name, modality, max_length=max_length, size=size)


def build_open_clip_half(
    model: Any, name: str, modality: str, *, max_length: int | None = None, size: int | None = None
) -> OpenClipTower:
    """One half of an open_clip model as a tower, with the preprocessing the model says it wants."""
    config = read_open_clip_config(name)
    if size is not None:
        config["vision_cfg"]["image_size"] = size
    if modality == "text":
        preprocessing = _text_preprocessing(model.text, name, config, max_length)
        if preprocessing.trim and not hasattr(model.text, "config"):
            model.text.transformer.register_forward_pre_hook(_fit_mask, with_kwargs=True)
        return OpenClipTower(model.text, "text", preprocessing, name=name, config=config)
    preprocessing = None if size else _own_preprocessing(name)
    preprocessing = preprocessing or _image_preprocessing(model.visual.preprocess_cfg, name)
    return OpenClipTower(model.visual, "image", preprocessing, name=name, config=config)


def _fit_mask(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """open_clip's causal mask is of the full length, whatever the length of the tokens (b, t, f)."""
    length = args[0].shape[1]
    return args, kwargs | {"attn_mask": kwargs["attn_mask"][:length, :length]}


def _text_preprocessing(text: Any, name: str, config: dict[str, Any], max_length: int | None) -> OpenClipText:
    import open_clip

    longest = config["text_cfg"].get("context_length", 77)
    try:
        with quiet_root_logger():
            tokenizer = open_clip.get_tokenizer(_reference(name))
    except (OSError, ValueError) as error:
        raise ConfigError(f"open_clip:{name}: its tokenizer cannot be had ({first_line(error)})") from error
    pad = _padding_to_cut(text, tokenizer)
    if max_length is not None and (max_length > longest or (pad is None and max_length != longest)):
        reads = "exactly" if pad is None else "at most"
        raise ConfigError(f"model.text.max_length is {max_length}; open_clip:{name} reads {reads} {longest} tokens")
    return OpenClipText(tokenizer, max_length=max_length or longest, trim=pad is not None, pad=pad or 0)


def _padding_to_cut(text: Any, tokenizer: Any) -> int | None:
    """The token behind captions that changes nothing, so that it may be cut off; None where there is none such.

    Under a causal mask no token sees those after it, and the end token is found by its number, CLIP's being the
    highest. Towers of transformers mask it.
    """
    import open_clip

    own = isinstance(tokenizer, open_clip.SimpleTokenizer)
    inner = getattr(tokenizer, "tokenizer", None)
    pad = 0 if own else getattr(inner, "pad_token_id", None)
    if not own and getattr(inner, "padding_side", None) != "right":
        return None
    if hasattr(text, "config"):  # of transformers; a last token would be padding
        return pad if pad == text.config.pad_token_id and not own else None
    if getattr(text, "attn_mask", None) is None or text.cls_emb is not None:
        return None
    found_by_number = text.pool_type == "argmax" if own else text.pool_type == "eos" and text.eos_id != pad
    return pad if found_by_number else None


def _own_preprocessing(name: str) -> ImagePreprocessing | None:
    """The preprocessing that mmcl wrote beside open_clip's, which cannot say all; None in folders of others."""
    if not os.path.isdir(name):
        return None
    values = parse_json(Path(name) / CONFIG).get(OWN_KEY, {}).get("image_preprocessing")
    try:
        return None if values is None else ImagePreprocessing(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{Path(name) / CONFIG}: {OWN_KEY}.image_preprocessing is not mmcl's ({error})") from error


def _image_preprocessing(config: dict[str, Any], name: str) -> ImagePreprocessing:
    size = config["size"]
    size = (size, size) if isinstance(size, int) else tuple(size)
    if config["resize_mode"] == "squash":
        resize_to: Any = size
    elif config["resize_mode"] == "shortest" and size[0] == size[1]:
        resize_to = size[0]
    else:
        raise ConfigError(
            f"open_clip:{name}: resize_mode {config['resize_mode']!r} to {size} pixels is not supported; mmcl does "
            f"squash, and shortest to a square"
        )
    return ImagePreprocessing(
        size, resize_to, config["interpolation"], config["mean"], config["std"], crop_rounding="even"
    )


def restore_open_clip_tower(folder: Path, modality: str, preprocessing: dict[str, Any], *, name: str) -> OpenClipTower:
    """A tower with random weights from what ``OpenClipTower.save_config`` wrote.

    Raises:
        ConfigError: the folder is not complete.
    """
    max_length = preprocessing["max_length"] if modality == "text" else None
    model = create_open_clip(str(folder), None, load_weights=False)
    tower = build_open_clip_half(model, str(folder), modality, max_length=max_length)
    if modality == "image":
        tower.preprocessing = ImagePreprocessing(**preprocessing)
    tower.spec["name"] = name
    return tower
