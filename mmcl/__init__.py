"""mmcl: train, judge and ship image-text embedding models. Importing it loads neither torch nor transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["DualEncoder", "__version__", "evaluate", "load", "train"]

if TYPE_CHECKING:
    from mmcl.build import evaluate, train
    from mmcl.embedder import load
    from mmcl.models.dual_encoder import DualEncoder

_HOMES = {
    "DualEncoder": "mmcl.models.dual_encoder",
    "evaluate": "mmcl.build",
    "load": "mmcl.embedder",
    "train": "mmcl.build",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mmcl' has no attribute {name!r}")
