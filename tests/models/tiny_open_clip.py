"""Small open_clip architectures, registered under names of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip

CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny-clip": {},
    "tiny-resnet": {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}},
    "tiny-bidirectional": {"text_cfg": CONFIG["text_cfg"] | {"no_causal_mask": True}},
    "tiny-last": {"text_cfg": CONFIG["text_cfg"] | {"pool_type": "last"}},
    "tiny-coca": {
        "text_cfg": CONFIG["text_cfg"] | {"embed_cls": True, "output_tokens": True},
        "vision_cfg": CONFIG["vision_cfg"] | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "multimodal_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
                           "attn_pooler_heads": 2},
    },
}  # fmt: skip


def register(folder: Path) -> None:
    """Make the variants known to open_clip."""
    for name, changes in VARIANTS.items():
        (folder / f"{name}.json").write_text(json.dumps(CONFIG | changes))
    open_clip.add_model_config(folder)


def save_folder(folder: Path, arch: str) -> Any:
    """A folder as open_clip's ``local-dir:`` reads it; returns the model in it."""
    from safetensors.torch import save_file

    model = open_clip.create_model(arch, force_custom_text=True)
    config = {"model_cfg": open_clip.get_model_config(arch), "preprocess_cfg": {"mean": [0.2, 0.3, 0.4]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return model.eval()
