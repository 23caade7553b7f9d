"""What the stores of encoded images share: one way from bytes to pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from mmcl.data.dataset import ImageStore
from mmcl.data.images.decoding import decode_image, decode_reduced


class EncodedImages(ABC):
    """Images kept as files are: JPEG, PNG, WebP ...; decoded one by one when they are read.

    Stores hold their paths and offsets as arrow or NumPy arrays, so that millions of rows cost no Python objects, and
    can be pickled or inherited through fork by loader workers.
    """

    @abstractmethod
    def encoded(self, row: int) -> bytes:
        """The encoded image, as it is kept. Raises DataError when it is missing."""

    @abstractmethod
    def describe(self, row: int) -> str:
        """The file (and member or row) that image ``row`` comes from, for messages."""

    def read(self, row: int) -> Tensor:
        """Image ``row``, upright RGB, uint8 (3, h, w). Raises DataError when it is missing or no image."""
        return decode_image(self.encoded(row), source=self.describe(row))

    def read_reduced(self, row: int, reduction: Callable[[int, int], int]) -> tuple[Tensor, tuple[int, int]]:
        """Image ``row``, a JPEG perhaps at a part of its size, and the height and width of the whole.

        Args:
            row: its number.
            reduction: see ``mmcl.data.images.decoding.decode_reduced``.
        """
        return decode_reduced(self.encoded(row), source=self.describe(row), reduction=reduction)


def encoded_image(images: ImageStore, row: int) -> bytes:
    """Image ``row`` as the store keeps it; as PNG, which loses nothing, where it keeps pixels.

    Raises:
        DataError: the image is missing, or is no image.
    """
    if isinstance(images, EncodedImages):
        return images.encoded(row)
    from torchvision.io import encode_png

    return encode_png(images.read(row)).numpy().tobytes()
