"""Ship a model: exports that are checked, model cards, pushes, merging and shrinking."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmcl.hub.exporting import ExportReport, export
    from mmcl.hub.pushing import push
    from mmcl.runtime.onnx_embedder import OnnxEmbedder

__all__ = ["ExportReport", "OnnxEmbedder", "export", "push"]

# Imported when asked for: OnnxEmbedder is for places without torch.
_HOMES = {
    "ExportReport": "mmcl.hub.exporting",
    "OnnxEmbedder": "mmcl.runtime.onnx_embedder",
    "export": "mmcl.hub.exporting",
    "push": "mmcl.hub.pushing",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mmcl.hub' has no attribute {name!r}")
