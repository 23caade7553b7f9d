"""A small SigLIP of open_clip's: timm's vision transformer with attention pooling, text pooled at its last token."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "models"))

import tiny_folders

TIMM_NAME = "mmcl_tiny_siglip"
CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 32,
        "timm_model_name": TIMM_NAME,
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 64,
        "vocab_size": 40,
        "hf_tokenizer_name": "owner/name",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    },
}


def mmcl_tiny_siglip(pretrained: bool = False, **options: Any) -> Any:
    """What timm builds of the name."""
    from timm.models.vision_transformer import VisionTransformer

    known = {key: options[key] for key in ("num_classes", "global_pool") if key in options}
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, class_token=False, **known
    )  # fmt: skip
    model.default_cfg = model.pretrained_cfg = {
        "architecture": TIMM_NAME, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic",
    }  # fmt: skip
    return model


def save_folder(folder: Path, **text: Any) -> Path:
    """A folder as ``open_clip:FOLDER`` reads it, with a tokenizer."""
    import open_clip
    from safetensors.torch import save_file
    from timm.models import is_model, register_model

    if not is_model(TIMM_NAME):
        register_model(mmcl_tiny_siglip)
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG | {"text_cfg": CONFIG["text_cfg"] | text}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"resize_mode": "squash"}})
    )
    tiny_folders.word_tokenizer().save_pretrained(str(folder))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, force_custom_text=True)
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder
