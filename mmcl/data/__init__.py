"""Data: sources of images with captions, how they are read, changed and batched.

``load(DATA)`` reads any of them. Names are imported when first used: importing this package loads no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "load": "mmcl.data.sources.loading",
    "load_all": "mmcl.data.sources.loading",
    "available_splits": "mmcl.data.sources.loading",
    "parse_reference": "mmcl.data.sources.loading",
    "BatchLoader": "mmcl.data.batches.loader",
    "BatchReader": "mmcl.data.batches.collate",
    "ImagePixels": "mmcl.data.batches.collate",
    "ImageTextDataset": "mmcl.data.dataset",
    "ImageStore": "mmcl.data.dataset",
    "decode_image": "mmcl.data.images.decoding",
    "to_image_tensor": "mmcl.data.images.decoding",
    "load_vectors": "mmcl.data.vectors",
}

__all__ = [
    "BatchLoader",
    "BatchReader",
    "ImagePixels",
    "ImageStore",
    "ImageTextDataset",
    "available_splits",
    "decode_image",
    "load",
    "load_all",
    "load_vectors",
    "parse_reference",
    "to_image_tensor",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
