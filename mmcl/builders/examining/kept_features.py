"""Image features that the run has kept of a frozen tower: looked up, never computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch

from mmcl.builders.examining.attempts import attempt
from mmcl.builders.training import build_cache
from mmcl.config import Recipe
from mmcl.data.dataset import ImageTextDataset
from mmcl.errors import DataError
from mmcl.models.encoder import Encoder
from mmcl.training.cached_features import FeatureCache


class KeptFeatures(FeatureCache):
    """A feature cache that finds what is there, and refuses to compute what is not.

    Raises:
        DataError: some of the features asked for are not there.
    """

    def _image_chunk(self, *given: Any) -> NoReturn:
        raise DataError(f"{self.folder} does not hold these features")

    _text_chunk = _image_chunk


def kept_image_features(
    recipe: Recipe, encoder: Encoder, dataset: ImageTextDataset, rows: Sequence[int]
) -> np.ndarray | None:
    """Features of some rows' images, as the run computed them.

    Args:
        recipe: what was run.
        encoder: of images, as the run began.
        dataset: the split.
        rows: of it.

    Returns:
        (n, f) float32; None where the run kept none of plain images, or not of all rows.
    """
    cache = build_cache(recipe, torch.device("cpu"), None)
    if cache is None or not encoder.has_fixed_features or not cache.folder.is_dir():
        return None
    kept = KeptFeatures(cache.folder, batch_size=cache.batch_size, bf16=cache.bf16)
    found = attempt(lambda: kept.images(encoder, dataset), "", [])
    if found is None or any(row in found.skipped for row in rows):
        return None
    return found(rows, [0] * len(rows)).numpy()
