"""sentence-transformers models of images and texts as mmcl's own: read from their files, without the library.

What is read is what the library writes for a model that transformers holds as one (CLIP, SigLIP ...), and for a
`Router` with a route for texts and one for images. Nothing of a repository is run: modules are known by name alone.
"""

from __future__ import annotations

import ast
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.opening.dual_sources import dual_encoder_from_transformers
from mmcl.models.opening.references import resolve_path
from mmcl.models.opening.sentence_heads import SentenceModule
from mmcl.models.opening.sentence_routes import read_route
from mmcl.models.towers.transformers_loading import is_dual, load_config, parse_json

MODULES = "modules.json"
CONFIG = "config_sentence_transformers.json"
# What the library itself takes for a model that names no other.
LOGIT_SCALE = 20.0
_NAMESPACE = "sentence_transformers."


def is_sentence_transformers_folder(folder: str | Path) -> bool:
    """Whether a folder holds a model of sentence-transformers."""
    return (Path(folder) / MODULES).is_file()


def dual_encoder_from_sentence_transformers(name: str | Path) -> DualEncoder:
    """A sentence-transformers model of images and texts as a ``DualEncoder``.

    Args:
        name: a folder with a ``modules.json``, or a Hub id.

    Returns:
        The model in evaluation mode. Its scale is what the folder tells, else the library's fixed 20.

    Raises:
        ConfigError: no such model; it embeds texts alone; it has a module that mmcl does not know, or that is code of
            its repository; or its weights are pickles.

    Example:
        >>> model = dual_encoder_from_sentence_transformers("clip-st")    # doctest: +SKIP
        >>> model.encode_text(**model.text.tower.preprocessing(["a red apple"])).shape    # doctest: +SKIP
        torch.Size([1, 512])
    """
    folder = _find_folder(str(name))
    told = _read(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    prompt = (told.get("prompts") or {}).get(told.get("default_prompt_name"))
    if prompt:
        raise ConfigError(
            f"{folder / CONFIG}: every text starts with the prompt {prompt!r}, which mmcl's towers do not add; set "
            f"default_prompt_name to null there and write the prompt into your texts"
        )
    first, *behind = _read_modules(folder)
    if first.kind == "Router":
        _only_norms(behind, folder)
        return _from_router(first.folder, folder, scale=_number(told, "logit_scale"), bias=_number(told, "logit_bias"))
    if first.kind not in ("Transformer", "CLIPModel"):
        raise ConfigError(
            f"{folder}: its first module is a {first.kind}, not a Transformer or Router; mmcl reads these"
        )
    if not is_dual(load_config(str(first.folder))):
        raise _texts_alone(folder)
    _only_norms(behind, folder)
    check_weights(first.folder)
    model, bias = dual_encoder_from_transformers(str(first.folder)), _number(told, "logit_bias")
    if model.logit_bias is None and bias is not None:  # not every class of transformers has one
        model.logit_bias = torch.nn.Parameter(torch.tensor([bias]))
    return model


def _number(told: Mapping[str, Any], key: str) -> float | None:
    """What mmcl wrote beside the library's own keys; None where the folder tells nothing of the kind."""
    own = told.get("mmcl")
    value = own.get(key) if isinstance(own, dict) else None
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _texts_alone(folder: Path) -> ConfigError:
    return ConfigError(
        f"{folder}: a sentence-transformers model of texts alone; as the text tower of a new model, name it in "
        f"model.text.name"
    )


def _find_folder(name: str) -> Path:
    path = Path(os.path.expanduser(resolve_path(name)))
    if not path.is_dir():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise ConfigError(f"there is no folder {name!r} with a sentence-transformers model")
        from mmcl.repos.downloading import fetch_snapshot

        path = Path(fetch_snapshot(name))
    if not is_sentence_transformers_folder(path):
        raise ConfigError(f"{path} holds no sentence-transformers model (no {MODULES})")
    return path


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"there is no {path}; the model is not complete")
    return parse_json(path)


def _read_modules(folder: Path) -> list[SentenceModule]:
    """The modules of ``modules.json`` in order; at least one."""
    path = folder / MODULES
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        entries = [(entry["type"], entry["path"]) for entry in described]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no list of modules, each with a type and a path ({error})") from error
    if not entries:
        raise ConfigError(f"{path} names no module; the model is not complete")
    return [_module(folder, kind, inside, path) for kind, inside in entries]


def _module(root: Path, kind: str, inside: str, source: Path) -> SentenceModule:
    """A module by its class and its folder below ``root``.

    Raises:
        ConfigError: the class is not the library's own, or the folder lies elsewhere.
    """
    if not kind.startswith(_NAMESPACE):
        raise ConfigError(
            f"{source} names the class {kind!r}, which is not part of sentence-transformers: opening it would run code "
            f"of the repository; read that code, and save the model with the library's own modules"
        )
    folder = (root / inside).resolve()
    if not folder.is_relative_to(root.resolve()):
        raise ConfigError(f"{source} names the folder {inside!r}, which lies outside the model; mmcl does not read it")
    return SentenceModule(kind.rpartition(".")[2], folder)


def check_weights(folder: Path) -> None:
    """Refuse weights that are a pickle.

    Raises:
        ConfigError: the folder has a pickle and nothing else.
    """
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickles:
        raise ConfigError(
            f"{folder / pickles[0]} is a pickle, which can run code when it is opened; where you trust it, open the "
            f"model with SentenceTransformer and write it anew with save_pretrained, which makes safetensors"
        )
    raise ConfigError(f"{folder} has no weights as *.safetensors (pickles are not fetched); the model is not complete")


def _only_norms(modules: list[SentenceModule], folder: Path) -> None:
    strange = [module.kind for module in modules if module.kind not in ("Normalize", "Dropout")]
    if strange:
        raise ConfigError(
            f"{folder / MODULES}: a {strange[0]} stands behind what embeds both images and texts; mmcl reads a "
            f"Normalize there alone, and heads within a Router"
        )


@dataclass(frozen=True)
class _Routes:
    """The modules of each route of a Router, and which route takes what."""

    modules: Mapping[str, list[SentenceModule]]
    mappings: Mapping[tuple[Any, Any], str]

    def route(self, modality: str) -> list[SentenceModule] | None:
        """The route of a modality where no task is named, as the library finds it."""
        for key in ((None, modality), (None, None)):
            if key in self.mappings:
                return self.modules.get(self.mappings[key])
        return self.modules.get(modality)


def _read_routes(folder: Path) -> _Routes:
    path = folder / "router_config.json"
    config = _read(path)
    try:
        modules = {
            name: [_module(folder, config["types"][module], module, path) for module in modules]
            for name, modules in config["structure"].items()
        }
        mappings = (config.get("parameters") or {}).get("route_mappings") or {}
        keys = {tuple(ast.literal_eval(key)): route for key, route in mappings.items()}
    except (KeyError, TypeError, AttributeError, ValueError, SyntaxError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} does not say the types and the structure of its routes ({error})") from error
    return _Routes(modules, keys)


def _from_router(router: Path, folder: Path, *, scale: float | None, bias: float | None) -> DualEncoder:
    routes = _read_routes(router)
    found = {modality: routes.route(modality) for modality in ("image", "text")}
    if found["image"] is None or found["image"] is found["text"]:
        raise _texts_alone(folder)
    if found["text"] is None:
        raise ConfigError(f"{router / 'router_config.json'} has no route for texts; mmcl reads models of both")
    for modules in found.values():
        for module in modules:
            if module.kind in ("Transformer", "Dense", "LayerNorm"):
                check_weights(module.folder)
    encoders = {modality: read_route(modules, modality) for modality, modules in found.items()}
    dims = {modality: dim for modality, (_, dim) in encoders.items()}
    if len(set(dims.values())) > 1:
        raise ConfigError(f"{folder}: image embeddings have {dims['image']} values and text embeddings {dims['text']}")
    scale = scale or LOGIT_SCALE
    return DualEncoder(
        encoders["image"][0],
        encoders["text"][0],
        embedding_dim=dims["image"],
        logit_scale=scale,
        logit_scale_max=max(100.0, scale),
        logit_bias=bias,
    ).eval()
