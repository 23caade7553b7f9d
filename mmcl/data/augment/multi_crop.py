"""Several views of one image: two of the whole, and small local crops (SimCLR, MoCo, SwAV, DINO)."""

from __future__ import annotations

from torch import Tensor

from mmcl.config import AugmentSection
from mmcl.data.augment.images import ImageAugmentation, Resizer
from mmcl.data.augment.seeds import view_seed

_STEP = 16  # local crops come in steps of the usual patch


class ImageViews:
    """An image's views: two at the tower's size, and ``local_crops.count`` smaller ones behind them.

    The first is the view that ``ImageAugmentation`` makes under the same seed; each of the others draws from a seed of
    its own, so that one more view changes none of the rest.

    Args:
        section: ``data.augment``; ``second_view`` and ``local_crops`` say what differs between views.
        resizer: the tower's image preprocessing.

    Source: two views: Chen et al., arXiv:2002.05709; unequal ones: Grill et al., arXiv:2006.07733; local crops: Caron
        et al., arXiv:2006.09882, section 3.2, and arXiv:2104.14294.

    Example:
        >>> import torch
        >>> from mmcl.models.towers.preprocessing import ImagePreprocessing
        >>> views = ImageViews(AugmentSection(preset="dino"), ImagePreprocessing((64, 64)))
        >>> [view.shape[-1] for view in views(torch.zeros(3, 80, 90, dtype=torch.uint8), seed=7)]
        [64, 64, 32, 32, 32, 32, 32, 32, 32, 32]
    """

    def __init__(self, section: AugmentSection, resizer: Resizer) -> None:
        crops = section.local_crops
        self._makers = [ImageAugmentation(section.of_view(view), resizer) for view in (0, 1)]
        if crops.count:
            size = (crops.size, crops.size) if crops.size else local_size(resizer.size)
            self._makers += [ImageAugmentation(section.of_view(2), resizer, size=size)] * crops.count

    def __len__(self) -> int:
        return len(self._makers)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each view."""
        return [maker.size for maker in self._makers]

    def __call__(self, image: Tensor, seed: int) -> list[Tensor]:
        """The views of an image.

        Args:
            image: uint8 (3, h, w).
            seed: of the row and epoch.

        Returns:
            uint8 (3, H, W) each: the whole image's two first, then the local crops.
        """
        return [maker(image, seed=view_seed(seed, view)) for view, maker in enumerate(self._makers)]


def local_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size of local crops beside views of ``size``: 3/7 of it, 96 of 224, to the nearest multiple of 16."""
    high, wide = (max(_STEP, round(pixels * 3 / 7 / _STEP) * _STEP) for pixels in size)
    return high, wide
