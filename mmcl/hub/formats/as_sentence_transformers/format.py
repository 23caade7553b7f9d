"""The `sentence-transformers` format: a folder that plain `SentenceTransformer(FOLDER)` opens, texts and images both.

A model that transformers holds as one (CLIP, SigLIP, VisionTextDualEncoder) is that folder with a `Transformer` module
for both modalities. Any other is a `Router` with a route for each: tower, pooling, head, norm. No pickle is written,
and no class but the library's own is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import require
from mmcl.hub.formats.as_sentence_transformers.modules import (
    MODULES,
    TRANSFORMER_CONFIG,
    SentenceModule,
    head_modules,
    normalize_module,
    pooling_module,
    with_mean_of_places,
    write_json,
    write_model_config,
    write_modules,
)
from mmcl.hub.formats.as_sentence_transformers.towers import (
    cuts_as_timm,
    mean_of_places_tokens,
    pools_flat,
    text_settings,
    tower_obstacle,
    write_tower,
)
from mmcl.hub.formats.format import ExportOptions, Format, Opened
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder
from mmcl.models.heads import IdentityHead, LinearHead, MlpHead
from mmcl.models.towers.transformers_loading import is_dual, load_config, quiet_transformers

EXTRA = "sentence-transformers"
BATCH = 32


def _whole() -> Format:
    """transformers' format, which writes models that are one module."""
    from mmcl.hub.formats.as_transformers import format as transformers_format

    return transformers_format.FORMAT


def _obstacle(model: DualEncoder) -> str | None:
    if _whole().obstacle(model) is None:
        return None
    for encoder in (model.image, model.text):
        if not isinstance(encoder.head, (IdentityHead, LinearHead, MlpHead)):
            return f"the {encoder.modality} head is a {type(encoder.head).__name__}; onnx takes it"
        found = tower_obstacle(encoder)
        if found is not None:
            return found
    return None


def _write(model: DualEncoder, folder: Path, options: ExportOptions) -> Sequence[str]:
    folder.mkdir(parents=True, exist_ok=True)
    is_one = _whole().obstacle(model) is None
    notes = _write_one(model, folder, options) if is_one else _write_router(model, folder)
    write_model_config(folder, model)
    return notes


def _write_one(model: DualEncoder, folder: Path, options: ExportOptions) -> list[str]:
    """One module for both modalities, in the folder itself unless it holds weights under other names already."""
    path = ""
    if not options.combined:
        notes = list(_whole().write(model, folder, options))
    elif _is_dual_folder(folder):
        notes = ["The weights are those of the model itself, which stand in the folder once."]
    else:
        path = "0_Transformer"
        (folder / path).mkdir(exist_ok=True)
        notes = list(_whole().write(model, folder / path, replace(options, combined=False)))
    methods = {
        modality: {"method": f"get_{modality}_features", "method_output_name": "pooler_output"}
        for modality in ("text", "image")
    }
    config = {
        "transformer_task": "feature-extraction",
        "modality_config": methods,
        "module_output_name": "sentence_embedding",
        **text_settings(model.text.tower.preprocessing),
    }
    write_json(folder / path / TRANSFORMER_CONFIG, config)
    normalize_module().write(folder / "1_Normalize")
    write_modules(folder, [("Transformer", path), ("Normalize", "1_Normalize")])
    return notes


def _is_dual_folder(folder: Path) -> bool:
    weights = (folder / "model.safetensors").is_file() or (folder / "model.safetensors.index.json").is_file()
    return weights and (folder / "config.json").is_file() and is_dual(load_config(str(folder)))


def _write_router(model: DualEncoder, folder: Path) -> list[str]:
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for encoder in (model.text, model.image):
        side, names = encoder.modality, []
        for number, module in enumerate([None, *_modules_behind(encoder)]):
            kind = "Transformer" if module is None else module.kind
            names.append(f"{side}_{number}_{kind}")
            types[names[-1]] = MODULES[kind]
            if module is None:
                write_tower(encoder, folder / names[-1])
            else:
                module.write(folder / names[-1])
        structure[side] = names
    mappings = {str((None, side)): side for side in structure}
    parameters = {"default_route": "text", "allow_empty_key": True, "route_mappings": mappings}
    write_json(folder / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    write_modules(folder, [("Router", "")])
    return _router_notes(model)


def _modules_behind(encoder: Encoder) -> list[SentenceModule]:
    """Pooling, head and norm of one route."""
    head, dim = head_modules(encoder.head), encoder.tower.feature_dim
    tokens = mean_of_places_tokens(encoder)
    if tokens is not None:
        first = with_mean_of_places(head[0] if head else None, dim, tokens)
        return [pooling_module(dim, ["cls", "mean"]), first, *head[1:], normalize_module()]
    if encoder.pooling == "pooler":
        pooling = [] if pools_flat(encoder.tower) else [pooling_module(dim, "mean")]
    else:
        pooling = [pooling_module(dim, encoder.pooling)]
    return [*pooling, *head, normalize_module()]


def _router_notes(model: DualEncoder) -> list[str]:
    notes = []
    tower = model.image.tower
    if cuts_as_timm(tower):
        notes.append(
            'Pictures must be RGB, as timm takes no others: image.convert("RGB"). They are resized by Pillow, whose '
            "values are up to 1 of 255 apart from those the model was trained with."
        )
    if any(isinstance(e.head, MlpHead) and e.head.settings["norm"] == "batch" for e in (model.image, model.text)):
        notes.append("The head's batch norm is folded into the layer before it, and cannot be trained on by itself.")
    return notes


class OpenedSentenceTransformer:
    """A folder as the library itself opens it.

    Args:
        folder: an exported model.
    """

    def __init__(self, folder: Path) -> None:
        library = require("sentence_transformers", extra=EXTRA)
        with quiet_transformers():
            self.model: Any = library.SentenceTransformer(str(folder), device="cpu").eval()

    def _unit(self, found: Tensor) -> Tensor:
        return F.normalize(found.detach().cpu().float(), dim=-1)

    def _encode(self, items: Sequence[Any]) -> Tensor:
        if not len(items):
            return torch.empty(0, self.model.get_embedding_dimension())
        found = self.model.encode(list(items), batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False)
        return self._unit(found)

    @torch.no_grad()
    def embed_pixels(self, pixel_values: Tensor) -> Tensor:
        """See ``Opened``."""
        if not len(pixel_values):
            return self._encode([])
        parts = [
            self.model.forward({"pixel_values": pixels, "modality": "image"})["sentence_embedding"]
            for pixels in pixel_values.split(BATCH)
        ]
        return self._unit(torch.cat(parts))

    def embed_images(self, images: Sequence[Any]) -> Tensor:
        """See ``Opened``."""
        return self._encode(images)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """See ``Opened``."""
        return self._encode(texts)


def _open(folder: Path, options: ExportOptions) -> Mapping[str, Opened]:
    return {"": OpenedSentenceTransformer(folder)}


FORMAT = Format(
    name="sentence-transformers",
    obstacle=_obstacle,
    write=_write,
    open=_open,
    tolerances={"": 1e-5},
    reference=lambda folder: f"sentence-transformers:{folder}",
    extra=EXTRA,
    needs=("modules.json", "config_sentence_transformers.json"),
)
