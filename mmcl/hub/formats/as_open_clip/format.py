"""The export format `open_clip`: a config and weights that plain open_clip opens, from a folder or from the Hub.

The config names no file of the machine it was written on. A text tower that open_clip builds with transformers is
found by the name of a repository, so that such a model is exported for one (``ExportOptions.repo_id``): the tower's
config and tokenizer lie in the folder, and the name is the repository's own.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.hub.formats.as_open_clip.half import Half, ObstacleError
from mmcl.hub.formats.as_open_clip.hub_names import PLACEHOLDER, name_sources
from mmcl.hub.formats.as_open_clip.opened import OpenClipModel
from mmcl.hub.formats.format import ExportOptions, Format, Opened
from mmcl.logs import quiet_root_logger
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder
from mmcl.models.towers.open_clip_folder import CONFIG, HUB, OWN_KEY, opened_alone
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.models.towers.transformers_loading import first_line, parse_json, quiet_transformers

if TYPE_CHECKING:
    pass

WEIGHTS = "open_clip_model.safetensors"


@dataclass(frozen=True)
class _Prepared:
    """A model in open_clip's words, as yet without the name under which its text tower is found."""

    config: dict[str, Any]
    state: dict[str, Tensor]
    image: Half
    text: Half
    preprocessing: ImagePreprocessing


def _image_half(encoder: Encoder) -> Half:
    family = encoder.tower.spec["family"]
    if family == "open_clip":
        from mmcl.hub.formats.as_open_clip.own_towers import open_clip_image_half

        return open_clip_image_half(encoder)
    if family == "timm":
        from mmcl.hub.formats.as_open_clip.timm_models import timm_half

        return timm_half(encoder)
    from mmcl.hub.formats.as_open_clip.vision import transformers_image_half

    return transformers_image_half(encoder)


def _text_half(encoder: Encoder) -> Half:
    if encoder.tower.spec["family"] == "open_clip":
        from mmcl.hub.formats.as_open_clip.own_towers import open_clip_text_half

        return open_clip_text_half(encoder)
    from mmcl.hub.formats.as_open_clip.text import transformers_text_half

    return transformers_text_half(encoder)


@torch.no_grad()
def _prepare(model: DualEncoder) -> _Prepared:
    """A model as open_clip's config and weights.

    Raises:
        ObstacleError: open_clip cannot say it.
    """
    if any(".lora_" in name for name, _ in model.named_parameters()):
        raise ObstacleError("the towers hold LoRA adapters beside their weights; merge them first (mmcl merge lora)")
    image, text = _image_half(model.image), _text_half(model.text)
    activations = {half.quick_gelu for half in (image, text)} - {None}
    if len(activations) > 1:
        raise ObstacleError("one tower has GELU and the other QuickGELU, and open_clip has one of them for both")
    config = {
        "embed_dim": model.embedding_dim,
        "vision_cfg": image.config,
        "text_cfg": text.config,
        "quick_gelu": activations == {True},
        "custom_text": True,
    }
    state = {f"visual.{name}": value for name, value in image.state.items()}
    state |= {f"text.{name}": value for name, value in text.state.items()}
    state["logit_scale"] = model.log_logit_scale.reshape(())
    if model.logit_bias is not None:
        config["init_logit_bias"] = float(model.logit_bias.item())
        state["logit_bias"] = model.logit_bias.reshape(())
    # Copies: safetensors writes no tensor twice, and none that is a view of another.
    state = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    return _Prepared(config, state, image, text, model.image.tower.preprocessing)


def _check(prepared: _Prepared) -> None:
    """That open_clip builds these weights from this config.

    Raises:
        ObstacleError: names or shapes differ.
    """
    import open_clip

    with tempfile.TemporaryDirectory(prefix="mmcl_open_clip_") as folder:
        names = {"hf_model_name": PLACEHOLDER} if prepared.text.tower_config is not None else {}
        _write_configs(Path(folder), prepared, names, of_repository=PLACEHOLDER)
        with (
            opened_alone(folder) as alone,
            quiet_root_logger(),
            quiet_transformers(),
            torch.random.fork_rng(devices=[]),
        ):
            config = parse_json(alone / CONFIG)["model_cfg"]
            del config["custom_text"]
            try:
                with torch.device("meta"):
                    built = open_clip.CustomTextCLIP(**config)
            except (RuntimeError, TypeError, ValueError, AssertionError, KeyError, AttributeError) as error:
                raise ObstacleError(f"open_clip does not build the towers ({first_line(error)})") from error
    wanted = {name: tuple(value.shape) for name, value in built.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in prepared.state.items()}
    differ = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if differ:
        side = "image" if differ[0].startswith("visual.") else "text"
        raise ObstacleError(
            f"open_clip builds another {side} tower than the model's: {len(differ)} weights differ "
            f"({differ[0]}: {found.get(differ[0])}, open_clip has {wanted.get(differ[0])})"
        )


def _obstacle(model: DualEncoder) -> str | None:
    try:
        _check(_prepare(model))
    except ConfigError as error:  # conversions of names raise it for towers that are not quite CLIP's
        return f"{error}; onnx holds it, and sentence-transformers may"
    return None


def _preprocess(preprocessing: ImagePreprocessing) -> tuple[dict[str, Any], list[str]]:
    """``preprocess_cfg``, and what of a preprocessing it cannot say."""
    size, resize_to = preprocessing.size, preprocessing.resize_to
    keeps_aspect = isinstance(resize_to, int) and size[0] == size[1]
    mode = "shortest" if keeps_aspect else "squash"
    edges = (resize_to, resize_to) if isinstance(resize_to, int) else resize_to
    notes = []
    if keeps_aspect and resize_to != size[0]:
        notes.append(
            f"open_clip cannot resize to {resize_to} pixels and cut {size[0]} out: its transform resizes to {size[0]}, "
            f"so that images keep a rim which the source model does not see"
        )
    elif edges != size or (isinstance(resize_to, int) and not keeps_aspect):
        notes.append(f"open_clip's transform squashes images to {size}; the source model resizes to {resize_to} first")
    interpolation = preprocessing.interpolation
    if interpolation not in ("bicubic", "bilinear"):
        notes.append(f"open_clip's transform resizes bicubically, the source model by {interpolation}")
        interpolation = "bicubic"
    values = {"size": list(size), "mode": "RGB", "mean": list(preprocessing.mean), "std": list(preprocessing.std)}
    return values | {"interpolation": interpolation, "resize_mode": mode}, notes


def _write_configs(
    folder: Path, prepared: _Prepared, names: Mapping[str, str], *, of_repository: str, combined: bool = False
) -> None:
    """``config.json``, where a tower's config must be found in the repository, and ``open_clip_config.json``.

    Args:
        names: ``hf_model_name`` and ``hf_tokenizer_name``, as far as they are needed.
        of_repository: the folder's own id on the Hub.
    """
    towers = [half.tower_config for half in (prepared.text, prepared.image) if half.tower_config is not None]
    if towers and not combined:
        _write_json(folder / "config.json", {key: value for tower in towers for key, value in tower.items()})
    vision = prepared.config["vision_cfg"]
    if prepared.image.tower_config is not None:
        vision = vision | {"timm_model_name": HUB + of_repository}
    model = prepared.config | {"vision_cfg": vision, "text_cfg": prepared.config["text_cfg"] | names}
    # open_clip passes the last over; read back by mmcl, the model sees images as before.
    own = {OWN_KEY: {"image_preprocessing": prepared.preprocessing.to_dict()}}
    _write_json(folder / CONFIG, {"model_cfg": model, "preprocess_cfg": _preprocess(prepared.preprocessing)[0], **own})


def _write(model: DualEncoder, folder: Path, options: ExportOptions) -> Sequence[str]:
    from safetensors.torch import save_file

    prepared = _prepare(model)
    names, notes = name_sources(model, prepared.image, prepared.text, options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)  # gone first and written last: a folder that holds it is complete
    save_file(prepared.state, folder / WEIGHTS, metadata={"format": "pt"})
    if prepared.text.tokenizer is not None:
        _save_tokenizer(prepared.text.tokenizer, folder, combined=options.combined)
    _write_configs(folder, prepared, names, of_repository=options.repo_id or PLACEHOLDER, combined=options.combined)
    return [*notes, *_preprocess(prepared.preprocessing)[1], *prepared.image.notes, *prepared.text.notes]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _save_tokenizer(tokenizer: Any, folder: Path, *, combined: bool) -> None:
    path = folder / "tokenizer_config.json"
    if combined and path.is_file():
        return  # the model's own, which is the same
    tokenizer.save_pretrained(str(folder))
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.pop("name_or_path", None) is not None:  # where it was loaded from
        _write_json(path, values)


def _open(folder: Path, options: ExportOptions) -> Mapping[str, Opened]:
    return {"": OpenClipModel(Path(folder))}


FORMAT = Format(
    name="open_clip",
    obstacle=_obstacle,
    write=_write,
    open=_open,
    tolerances={"": 1e-5},
    reference=lambda folder: f"open_clip:{folder}",
    needs=(CONFIG, WEIGHTS),
)
