"""A model's adapters as folders in peft's own format."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

from torch import Tensor, nn

from mmcl.errors import require
from mmcl.models.adapters.lora import NAME, has_adapters
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder
from mmcl.models.freezing import is_norm

_PREFIX = "base_model.model."  # peft's, before the names of the module that is adapted


def save_adapters(model: DualEncoder, folder: str | Path) -> list[Path]:
    """Write the adapters that ``attach_lora`` put into a model, each side's into a folder of its name.

    ``peft.PeftModel.from_pretrained(tower.model, folder)`` reads one, as ``mmcl merge lora`` does; both want the base
    that was trained on. Norms that trained beside the adapters are in the folder too, as ``modules_to_save``.

    Args:
        model: as it trains, its adapters not merged.
        folder: made when missing; what it holds of a side is replaced.

    Returns:
        The folders written; none where nothing is adapted.

    Raises:
        MissingDependencyError: peft is not installed.
    """
    written = []
    for encoder in (model.image, model.text):
        if encoder.lora_config is not None and has_adapters(encoder):
            written.append(_save(encoder, Path(folder) / encoder.modality))
    return written


def _save(encoder: Encoder, folder: Path) -> Path:
    from safetensors.torch import save_file

    peft, module = require("peft", extra="lora"), encoder.tower.model
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = copy.copy(encoder.lora_config)
    weights = peft.get_peft_model_state_dict(module, adapter_name=NAME, save_embedding_layers=False)
    if norms := _trained_norms(module):
        config.modules_to_save = list(norms)
        weights |= {f"{name}.{key}": value for name, norm in norms.items() for key, value in norm.state_dict().items()}
    config.inference_mode = True
    config.base_model_name_or_path = None  # where the base was read from is a path of this machine
    config.save_pretrained(str(folder))
    held: dict[str, Tensor] = {_PREFIX + name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_file(held, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copymode(folder / "adapter_config.json", folder / "adapter_model.safetensors")
    return folder


def _trained_norms(module: nn.Module) -> dict[str, nn.Module]:
    norms = {name: part for name, part in module.named_modules() if is_norm(part)}
    return {name: norm for name, norm in norms.items() if any(p.requires_grad for p in norm.parameters(recurse=False))}
