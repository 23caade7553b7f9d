"""An adapter's folder as peft saves it, read and checked against the module that it is for."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmcl.errors import ConfigError
from mmcl.models.towers.transformers_loading import parse_json

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

_PREFIX = "base_model.model."  # peft's, before the names of the module that is adapted

# How the two factors started. With pissa and olora the base changes with the start, which peft repeats; with the others
# it does not, and what the factors started from is overwritten.
_STARTS = ("gaussian", "orthogonal", "olora", "eva")


def read_adapter_config(folder: str | Path) -> dict[str, Any]:
    """The ``adapter_config.json`` of a LoRA adapter.

    Raises:
        ConfigError: there is no such folder; it holds no adapter, a pickled one, or one that cannot be merged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder {folder}; an adapter of the Hub is fetched first: hf download owner/name"
        )
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} holds no adapter (no {CONFIG}); name a folder that peft's save_pretrained wrote")
    if not (folder / WEIGHTS).is_file():
        if (folder / PICKLE).is_file():
            raise ConfigError(
                f"{folder / PICKLE} is a pickle, which may run code when it is read and is refused; save the adapter "
                f"again where it was trained: save_pretrained(folder, safe_serialization=True)"
            )
        raise ConfigError(f"{folder} holds no {WEIGHTS}; name a folder that peft's save_pretrained wrote")
    config = parse_json(folder / CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ConfigError(f"{folder / CONFIG}: peft_type is {kind!r}; mmcl merges LORA")
    for key in ("megatron_config", "layer_replication", "alora_invocation_tokens", "arrow_config"):
        if config.get(key):
            raise ConfigError(f"{folder / CONFIG}: {key} is set, and an adapter with it cannot be merged into its base")
    start = config.get("init_lora_weights", True)
    if not isinstance(start, bool) and start not in _STARTS and not str(start).startswith("pissa"):
        raise ConfigError(
            f"{folder / CONFIG}: init_lora_weights is {start!r}, whose base weights cannot be made again; convert the "
            f"adapter to plain LoRA where it was trained (path_initial_model_for_weight_conversion of save_pretrained)"
        )
    return config


def read_adapter_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{folder / WEIGHTS} cannot be read ({error}); save or fetch the adapter again") from error
    if not weights:
        raise ConfigError(f"{folder / WEIGHTS} holds no weight; save the adapter again")
    return weights


def check_fit(folder: Path, weights: dict[str, Tensor], module: nn.Module, *, what: str) -> None:
    """Refuse an adapter for another module.

    Args:
        folder: of the adapter, for the message.
        weights: of `read_adapter_weights`.
        module: what it is to be merged into.
        what: the module in words.

    Raises:
        ConfigError: the first adapted module that ``module`` does not have; names the nearest that it has.
    """
    there = {name for name, _ in module.named_modules()} | {name for name, _ in module.named_parameters()}
    for name in weights:
        adapted = name.removeprefix(_PREFIX).partition(".lora_")[0].replace(".base_layer", "")
        if ".lora_" not in name or adapted in there:
            continue
        near = difflib.get_close_matches(adapted, there, n=1, cutoff=0.3)
        hint = f"; the nearest it has is {near[0]!r}" if near else ""
        raise ConfigError(
            f"{folder}: it adapts {adapted!r}, and {what} ({type(module).__name__}) has no such module{hint}; give the "
            f"adapter to the side it was trained on, and the model it was trained with"
        )
