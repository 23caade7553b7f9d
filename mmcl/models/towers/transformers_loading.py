"""Reading models of Hugging Face transformers: ids and folders to configs and modules, errors to one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.towers.convolutional_stem import OPTION, build_with_stem

log = get_logger(__name__)

# Parts that checkpoints may lack: most were trained without a pooler, and nothing reads a mask token.
_OPTIONAL_WEIGHTS = ("pooler", "mask_token")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within it, transformers draws no progress bars and logs errors alone; afterwards as before."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _one_sentence(what: str, name: str) -> Iterator[None]:
    """The many errors of transformers' loaders become one ConfigError; a local folder is read without progress bars."""
    try:
        if os.path.isdir(name):
            with quiet_transformers():
                yield
        else:
            yield
    except ConfigError:
        raise
    except Exception as error:  # the Hub, torch, safetensors and transformers raise almost any type
        from mmcl.models.opening.security import code_refused, wants_code

        if wants_code(error):
            raise code_refused(name, "auto_map of its config") from None
        if os.path.isdir(name):
            where, fix = "not a usable folder", "Check that it is complete"
        else:
            where = "there is no such folder, and no model of that id could be fetched"
            fix = f"Check the name and the network, or download it first (hf download {name}) and give its folder"
        raise ConfigError(f"{what} {name!r}: {where} ({first_line(error)}). {fix}") from error


def first_line(error: Exception) -> str:
    """An error's first line, shortened: transformers lists every model it knows."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line if len(line) <= 300 else line[:297] + "..."


def check_reachable(name: str) -> None:
    """Ask the Hub once, with a time limit, for a model that is neither a folder nor fetched before.

    Without a connection the Hub's client would retry for half a minute, for every file that is looked for.

    Raises:
        ConfigError: there is no such model, or the Hub cannot be reached.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from mmcl.repos.listing import ask_once

    if os.path.isdir(name) or constants.HF_HUB_OFFLINE:
        return
    try:
        before = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        before = None  # no id: said when it is asked for
    if not isinstance(before, str):
        ask_once(name)


def check_weights(name: str) -> None:
    """Refuse a model whose weights are a pickle, or that transformers would take for another one's adapter.

    Raises:
        ConfigError: what of it is refused, and what to do.
    """
    from huggingface_hub import constants

    from mmcl.models.opening.kinds import FolderFiles
    from mmcl.models.opening.security import adapter_refused, only_pickles, pickle_refused
    from mmcl.repos.listing import ask_once

    if os.path.isdir(name):
        names: Any = FolderFiles(Path(name)).names()
    else:
        names = [] if constants.HF_HUB_OFFLINE else ask_once(name)
    if isinstance(names, Path):  # fetched before, safetensors or it could not have been opened
        return
    pickle = only_pickles(names, "transformers")
    if pickle is not None:
        raise pickle_refused(name, pickle, kind="transformers")
    if "adapter_config.json" in names:
        raise adapter_refused(name)


def load_config(name: str) -> Any:
    """The transformers config of an id or folder; runs no remote code.

    Raises:
        ConfigError: no such model, or it cannot be reached.
    """
    from transformers import AutoConfig

    check_reachable(name)
    with _one_sentence("model", name):
        return AutoConfig.from_pretrained(name, trust_remote_code=False)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of an id or folder; runs no remote code.

    Raises:
        ConfigError: it has none, or it cannot be reached.
    """
    from transformers import AutoTokenizer

    with _one_sentence("tokenizer", name):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        # transformers makes an empty tokenizer of a config alone, to which every word is unknown.
        raise ConfigError(f"tokenizer {name!r}: there is no vocabulary; add the tokenizer's files (tokenizer.json)")
    return tokenizer


def load_pretrained(name: str, *, config: Any = None) -> tuple[Any, frozenset[str]]:
    """The whole transformers model of an id or folder, in float32; runs no remote code.

    Args:
        name: id or folder.
        config: instead of the config that lies beside the weights.

    Returns:
        The model, and the names of weights that the checkpoint lacks and that are random therefore.

    Raises:
        ConfigError: no such model; it cannot be reached; its weights are a pickle; or the checkpoint lacks more than a
            pooler.
    """
    import torch
    from transformers import AutoModel

    check_weights(name)
    with _one_sentence("model", name):
        model, info = AutoModel.from_pretrained(
            name,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    missing = frozenset(info["missing_keys"])
    lacking = sorted(key for key in missing if not any(part in key for part in _OPTIONAL_WEIGHTS))
    if lacking:
        raise ConfigError(
            f"model {name!r}: its checkpoint lacks {len(lacking)} weights of a {type(model).__name__} (first: "
            f"{', '.join(lacking[:3])}), which would be random; use another, or pretrained: false"
        )
    return model, missing


def build_module(config: Any) -> Any:
    """A transformers module with random weights.

    Raises:
        ConfigError: transformers has no such model, or its values do not agree.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    with _one_sentence("model config", config.model_type), quiet_transformers():
        if getattr(config, OPTION, False):
            return build_with_stem(config)
        if type(config) in MODEL_MAPPING:
            return encoder_half(transformers.AutoModel.from_config(config, trust_remote_code=False))
        # Halves that AutoModel does not know: SiglipTextConfig -> SiglipTextModel.
        name = type(config).__name__.removesuffix("Config") + "Model"
        return getattr(transformers, name)._from_config(config)


def encoder_half(model: Any) -> Any:
    """The encoder of an encoder-decoder; any other model as it is."""
    return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model


def is_dual(config: Any) -> bool:
    """Whether a config describes an image and a text tower together (CLIP, SigLIP, VisionTextDualEncoder ...)."""
    return getattr(config, "vision_config", None) is not None and getattr(config, "text_config", None) is not None


def dual_half(model: Any, modality: str, *, name: str) -> Any:
    """The image or text tower of a dual model.

    Raises:
        ConfigError: it has no such tower.
    """
    half = getattr(model, "vision_model" if modality == "image" else "text_model", None)
    if half is None:
        raise ConfigError(
            f"{name!r}: mmcl finds no {modality} tower in a {model.config.model_type} model; it reads models with a "
            f"vision_model and a text_model, as CLIP and SigLIP have"
        )
    return half


def read_json(name: str, file: str) -> dict[str, Any] | None:
    """A JSON file of a local folder or a Hub model; None where it has none.

    Raises:
        ConfigError: the file is no JSON.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    path = Path(name) / file
    if not os.path.isdir(name):
        try:
            path = Path(hf_hub_download(name, file))
        except (HfHubHTTPError, HFValidationError, OSError):
            return None
    return parse_json(path) if path.is_file() else None


def parse_json(path: Path, *, kinds: tuple[type, ...] = (dict,)) -> Any:
    """A JSON file that holds a mapping, or another of ``kinds``.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is not valid JSON ({first_line(error)})") from error
    if not isinstance(value, kinds):
        wanted = " or a ".join({dict: "mapping", list: "list"}.get(kind, kind.__name__) for kind in kinds)
        raise ConfigError(f"{path} holds a {type(value).__name__}; want a {wanted}")
    return value
