"""The built-in data set `shapes`: scenes drawn by code, with captions, foils and unseen combinations."""

from mmcl.data.shapes.dataset import load_shapes
from mmcl.data.shapes.images import ArrayImages

__all__ = ["ArrayImages", "load_shapes"]
