"""`merge_lora`: LoRA adapters that peft saved, added into the weights of the model they were trained on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmcl.errors import ConfigError, require
from mmcl.hub.merging.adapter_folder import check_fit, read_adapter_config, read_adapter_weights
from mmcl.hub.merging.state_averages import StateAverage, with_state
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.towers.transformers_loading import first_line


def merge_lora(
    model: DualEncoder,
    *,
    image: str | Path | None = None,
    text: str | Path | None = None,
    whole: str | Path | None = None,
    scale: float = 1.0,
) -> DualEncoder:
    """Add LoRA adapters into the weights: ``W + scale * (alpha / r) * B A`` in place of ``W``.

    The result needs no peft and costs what the model alone costs. Source: Hu et al. 2021 (arXiv:2106.09685), section
    4.1. Whatever else an adapter changes (biases, ``modules_to_save``, DoRA's magnitudes) goes the same share of the
    way: ``(1 - scale) * base + scale * merged``, in float64.

    An adapter is trained in a loop of one's own on a tower's module, and saved where its side can be told::

        from peft import LoraConfig, get_peft_model
        config = LoraConfig(r=8, target_modules=["query", "value"])
        adapted = get_peft_model(model.image.tower.model, config)      # changes the module in place
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        ...                                                            # model.encode_image(...), loss, step, as ever
        adapted.save_pretrained("adapters/image")
        merged = merge_lora(fresh_copy_of_the_model, image="adapters/image")

    Heads and the scale are no part of it: what is trained of them is in the model, or in ``whole`` with
    ``modules_to_save``.

    Args:
        model: the base that the adapters were trained on; it stays as it is, and must not be wrapped by peft.
        image, text: folders of adapters of ``model.image.tower.model`` and ``model.text.tower.model``.
        whole: folder of one adapter of the whole ``DualEncoder``.
        scale: share of the adapters: 0 gives the base bit for bit, 0.5 half of them, 1 all.

    Returns:
        A new model, in evaluation mode.

    Raises:
        ConfigError: no adapter; no such folder; a pickled adapter; one that is none of LoRA's, does not fit the tower
            by name or shape, or cannot be merged; scale is not finite.
        MissingDependencyError: peft is not installed.

    Example:
        >>> import peft, tempfile
        >>> from mmcl.config import ModelSection
        >>> from mmcl.models.dual_encoder import build_dual_encoder
        >>> model = build_dual_encoder(ModelSection(), captions=["a red circle"]).eval()
        >>> config = peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
        >>> adapted = peft.get_peft_model(copy.deepcopy(model.text.tower.model), config)
        >>> folder = tempfile.mkdtemp()
        >>> adapted.save_pretrained(folder)
        >>> merged = merge_lora(model, text=folder)
        >>> inputs = model.text.tower.preprocessing(["a red circle"])
        >>> torch.equal(merged.encode_text(**inputs), model.encode_text(**inputs))
        False
    """
    folders = {"image": image, "text": text, "whole": whole}
    given = {side: Path(folder) for side, folder in folders.items() if folder is not None}
    if not given:
        raise ConfigError("no adapter is given; name the folder of at least one, of the image or the text tower")
    if whole is not None and len(given) > 1:
        raise ConfigError("an adapter of the whole model is given beside one of a tower; merge one, then the other")
    if not -float("inf") < scale < float("inf"):
        raise ConfigError(f"scale is {scale}; want a number, such as 1 for the whole adapter")
    state = dict(model.state_dict())
    for side, folder in given.items():
        module = model if side == "whole" else model.encoder(side).tower.model
        prefix = "" if side == "whole" else f"{side}.tower.model."
        what = "the model" if side == "whole" else f"the {side} tower"
        merged = _merged_state(module, folder, what=what)
        average = StateAverage()
        average.add(module.state_dict(), 1 - scale)
        average.add(merged, scale)
        state |= {f"{prefix}{name}": value for name, value in average.state().items()}
    return with_state(model, state)


def changed_weights(base: DualEncoder, merged: DualEncoder) -> list[str]:
    """Names of the weights that differ between a model and what was merged from it."""
    own = base.state_dict()
    return [name for name, value in merged.state_dict().items() if not torch.equal(value, own[name])]


def _merged_state(module: nn.Module, folder: Path, *, what: str) -> Mapping[str, Tensor]:
    """The weights of a module with an adapter in them, under the module's own names."""
    peft = require("peft", extra="lora")
    read_adapter_config(folder)
    weights = read_adapter_weights(folder)
    check_fit(folder, weights, module, what=what)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # factors are drawn, then overwritten
            warnings.simplefilter("ignore")  # what they would tell is checked below
            adapted, loaded = _adapted(peft, copy.deepcopy(module), folder)
            _check_loaded(folder, loaded, what)
            merged = adapted.merge_and_unload(safe_merge=True).state_dict()
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{folder} cannot be merged into {what} ({first_line(ValueError(reason))}); give the adapter to the side "
            f"and the model it was trained on"
        ) from error
    base = module.state_dict()
    for name in [*base, *merged]:
        shapes = [tuple(held[name].shape) if name in held else "missing" for held in (base, merged)]
        if shapes[0] != shapes[1]:
            raise ConfigError(f"{folder}: with it {name} of {what} is {shapes[1]} and not {shapes[0]}; it is no LoRA")
    return merged


def _adapted(peft: Any, module: nn.Module, folder: Path) -> tuple[Any, Any]:
    """``PeftModel.from_pretrained`` taken apart, as that keeps to itself which weights found no place."""
    config = peft.LoraConfig.from_pretrained(str(folder))
    config.inference_mode, config.task_type = True, None  # a task would wrap the module for a head that it has not
    if config.init_lora_weights == "eva":
        config.init_lora_weights = True
    adapted = peft.PeftModel(module, config)
    device = next(module.parameters()).device
    return adapted.eval(), adapted.load_adapter(str(folder), "default", torch_device=str(device))


def _check_loaded(folder: Path, loaded: Any, what: str) -> None:
    for names, said in ((loaded.unexpected_keys, "has no place for"), (loaded.missing_keys, "misses")):
        if names:
            raise ConfigError(
                f"{folder} does not fit {what}: it {said} {len(names)} of the adapter's weights, the first "
                f"{names[0]}; its {'target_modules' if names is loaded.unexpected_keys else 'weights'} may have changed"
            )
