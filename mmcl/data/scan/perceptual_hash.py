"""pHash: 64 bits that change little when a picture is scaled, compressed again or made brighter."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE = 32  # pixels of the small grey picture
KEPT = 8  # lowest frequencies each way


def small_grey(image: Image.Image) -> np.ndarray:
    """The (32, 32) uint8 grey picture that the hash is computed from, whatever the image's shape.

    Args:
        image: any mode; grey is Pillow's ``L`` (ITU-R 601 luma).
    """
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def perceptual_hash(grey: np.ndarray) -> np.uint64:
    """Which of the 8 x 8 lowest DCT frequencies are above their median; row by row, the first the highest bit.

    Args:
        grey: (32, 32), as ``small_grey`` makes it. A picture of one colour has the first bit alone or none.

    Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), section 3.2, in the
    form that the package ImageHash made usual: the same resize, the frequency 0 included, the median instead of the
    mean. The bits are those of ``imagehash.phash``.
    """
    from scipy.fft import dct

    frequencies = dct(dct(grey.astype(np.float64), axis=0), axis=1)[:KEPT, :KEPT]
    bits = frequencies > np.median(frequencies)
    return np.packbits(bits.reshape(-1)).view(">u8")[0].astype(np.uint64)


def hamming(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """In how many bits hashes differ.

    Args:
        first, second: uint64, of shapes that broadcast.

    Returns:
        uint8, 0 to 64.
    """
    return np.bitwise_count(np.bitwise_xor(first, second))
