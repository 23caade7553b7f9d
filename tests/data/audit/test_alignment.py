"""Altered copies lie close after alignment, other pictures do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from planting import ALTERED, cropped
from torch import Tensor

from mmcl.data.audit.alignment import SIDE, aligned_difference


def picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(60, 200, (6, 6, 3), dtype=np.uint8)).resize(
        (160, 150), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y, size = (int(value) for value in rng.integers(10, 110, 3))
        draw.ellipse((x, y, x + size // 3 + 8, y + size // 3 + 8), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    return image


def small(*images: Image.Image) -> Tensor:
    made = [np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for image in images]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("name", ALTERED)
def test_altered_copies_are_close(name: str, tmp_path) -> None:
    alter, suffix = ALTERED[name]
    copies = []
    for seed in range(4):
        (tmp_path / f"{seed}{suffix}").write_bytes(alter(picture(seed)))
        copies.append(Image.open(tmp_path / f"{seed}{suffix}"))
    originals = small(*(picture(seed) for seed in range(4)))
    assert aligned_difference(originals, small(*copies)).max() < 0.04
    # A control: the copy of another picture.
    assert aligned_difference(originals, small(*copies[1:], copies[0])).min() > 0.1


def test_one_small_change_counts() -> None:
    changed = picture(0)
    ImageDraw.Draw(changed).line((80, 75, 110, 40), fill="white", width=9)
    assert aligned_difference(small(picture(0)), small(changed)).item() > 0.1


def test_another_colour_counts() -> None:
    plain, other = (Image.new("RGB", (64, 64), "white") for _ in range(2))
    ImageDraw.Draw(plain).ellipse((8, 8, 56, 56), fill=(240, 140, 40))
    ImageDraw.Draw(other).ellipse((8, 8, 56, 56), fill=(240, 200, 60))
    assert aligned_difference(small(plain), small(other)).item() > 0.06
    assert aligned_difference(small(plain), small(plain)).item() < 1e-4


def test_the_order_of_the_two_does_not_count() -> None:
    one, other = small(picture(0)), small(cropped(picture(0), 0.04))
    assert aligned_difference(one, other).item() == pytest.approx(aligned_difference(other, one).item(), abs=1e-6)


def test_no_pairs() -> None:
    empty = torch.zeros(0, 3, SIDE, SIDE)
    assert aligned_difference(empty, empty).shape == (0,)
