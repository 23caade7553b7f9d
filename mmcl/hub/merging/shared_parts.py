"""What several models have in common is run once: equal sides give their embeddings, equal towers their features."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmcl.batch import SkippedRow
from mmcl.data.dataset import ImageTextDataset
from mmcl.embedder import CachedEmbedder, DualEncoderEmbedder
from mmcl.embedder.precision import find_device
from mmcl.models.dual_encoder import DualEncoder
from mmcl.training.cached_features import FeatureCache

_SIDES = ("image", "text")


class SharedParts:
    """Makes embedders of models that share towers or whole sides; what is shared runs once.

    A side that is equal in all models is embedded once. A tower alone that is equal gives features once, on which each
    model's head runs. Everything else runs for each model.

    Args:
        example: any of the models, whose equal parts are kept.
        sides: sides that are equal with pooling and head.
        towers: sides whose towers are equal, and whose pooling has no weights.
        device: where models run; default the GPU where there is one.
        precision: see ``DualEncoderEmbedder``.
        folder: where features are kept between calls; None: in a folder that goes with this object.
        batch_size: items a forward pass, of features.

    Raises:
        ConfigError: no such device.
    """

    def __init__(
        self,
        example: DualEncoder,
        *,
        sides: frozenset[str] = frozenset(),
        towers: frozenset[str] = frozenset(),
        device: str | torch.device | None = None,
        precision: str = "fp32",
        folder: Path | None = None,
        batch_size: int = 64,
    ) -> None:
        self.device, self.precision = find_device(device), precision
        # Features are stored as fp32 and bf16 towers make them; fp16 towers run each time.
        self.sides, self.towers = sides, frozenset() if precision == "fp16" else towers - sides
        self._features: FeatureCache | None = None
        self._embedded: CachedEmbedder | None = None
        if self.towers:
            self._own = None if folder else tempfile.TemporaryDirectory(prefix="mmcl-features-")
            self._features = FeatureCache(
                folder or Path(self._own.name), device=self.device, batch_size=batch_size, bf16=precision == "bf16"
            )
        if sides:
            kept = DualEncoderEmbedder(copy.deepcopy(example), device=self.device, precision=precision)
            self._embedded = CachedEmbedder(kept)

    @classmethod
    def of(cls, models: Sequence[DualEncoder], *, refreshed: bool = False, **options: Any) -> SharedParts:
        """What models of one architecture share.

        Args:
            models: at least one; a sequence may open them one by one.
            refreshed: whether batch statistics are estimated anew for each model: then sides with batch norm are not
                shared, whatever their weights.
            options: of ``SharedParts``.
        """
        first: DualEncoder | None = None
        equal: set[str] = set()
        for model in models:
            state = model.state_dict()
            if first is None:
                first, own = model, state
                equal = set(state)
            equal &= {name for name in equal if torch.equal(state[name].cpu(), own[name].cpu())}
        return cls.from_equal(first, equal, refreshed=refreshed, **options)

    @classmethod
    def from_equal(
        cls, example: DualEncoder, equal: set[str], *, refreshed: bool = False, **options: Any
    ) -> SharedParts:
        """The same from the names of the weights that are equal in all models, such as ``StateAverage.equal``."""
        apart = {
            name for name in example.state_dict() if name not in equal and not name.endswith("num_batches_tracked")
        }
        free = {
            side
            for side in _SIDES
            if not (
                refreshed
                and any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in example.encoder(side).modules())
            )
        }
        sides = {side for side in free if not any(name.startswith(f"{side}.") for name in apart)}
        towers = {
            side
            for side in free
            if example.encoder(side).learned_pooling is None
            and not any(name.startswith(f"{side}.tower.") for name in apart)
        }
        return cls(example, sides=frozenset(sides), towers=frozenset(towers), **options)

    def describe(self) -> str:
        """One clause about what is run once; empty where nothing is."""
        parts = [f"the {side} {'side' if side in self.sides else 'tower'}" for side in _SIDES if side in self._shared()]
        verbs = ("are", "run") if len(parts) > 1 else ("is", "runs")
        return f"{' and '.join(parts)} {verbs[0]} the same in all models, and {verbs[1]} once" if parts else ""

    def _shared(self) -> frozenset[str]:
        return self.sides | self.towers

    def __call__(self, model: DualEncoder) -> DualEncoderEmbedder:
        """The embedder of one of the models; its equal towers are marked as frozen."""
        for side in self.towers:
            model.encoder(side).tower.requires_grad_(False)
        return _SharingEmbedder(
            model,
            dict.fromkeys(self.sides, self._embedded),
            device=self.device,
            precision=self.precision,
            features=self._features,
        )


class _SharingEmbedder(DualEncoderEmbedder):
    """Embeds some modalities by another embedder, and the others itself."""

    def __init__(self, model: DualEncoder, by_others: Mapping[str, CachedEmbedder], **options: Any) -> None:
        super().__init__(model, **options)
        self._by_others = by_others

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        """See ``DualEncoderEmbedder.embed``."""
        if modality in self._by_others:
            self.model.eval()
            return self._by_others[modality].embed(items, modality, batch_size=batch_size)
        return super().embed(items, modality, batch_size=batch_size)

    def embed_dataset_images(
        self, dataset: ImageTextDataset, *, batch_size: int = 64
    ) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
        """See ``embed_images``."""
        if "image" in self._by_others:
            self.model.eval()
            return self._by_others["image"].embed_dataset_images(dataset, batch_size=batch_size)
        return super().embed_dataset_images(dataset, batch_size=batch_size)
