"""Several views of an image: which differ in what, and that one does not disturb another."""

from __future__ import annotations

import pytest
import torch

from mmcl.config import AugmentSection
from mmcl.data.augment.images import ImageAugmentation
from mmcl.data.augment.multi_crop import ImageViews, local_size
from mmcl.data.augment.seeds import view_seed
from mmcl.models.towers.preprocessing import ImagePreprocessing

PREPROCESSING = ImagePreprocessing((48, 48))


def picture() -> torch.Tensor:
    return torch.randint(0, 256, (3, 60, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("preset", "count"), [("simclr", 2), ("moco_v2", 2), ("byol", 2), ("swav", 8), ("dino", 10)])
def test_presets_give_their_papers_views(preset: str, count: int) -> None:
    views = ImageViews(AugmentSection(preset=preset), ImagePreprocessing((224, 224)))
    assert views.sizes == [(224, 224)] * 2 + [(96, 96)] * (count - 2)
    assert len(views) == count


def test_the_first_view_is_the_only_one_of_ordinary_training() -> None:
    section = AugmentSection(preset="dino")
    made = ImageViews(section, PREPROCESSING)(picture(), seed=9)
    assert torch.equal(made[0], ImageAugmentation(section, PREPROCESSING)(picture(), seed=9))
    assert [tuple(view.shape) for view in made] == [(3, 48, 48)] * 2 + [(3, 16, 16)] * 8
    assert {view.dtype for view in made} == {torch.uint8}


def test_each_view_draws_from_its_own_seed() -> None:
    image, seed = picture(), 11
    few = ImageViews(AugmentSection(preset="dino", local_crops={"count": 2, "size": 24}), PREPROCESSING)
    many = ImageViews(AugmentSection(preset="dino", local_crops={"count": 5, "size": 24}), PREPROCESSING)
    state = torch.get_rng_state()
    views = many(image, seed)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, other) for one, other in zip(few(image, seed), views))
    assert all(torch.equal(one, other) for one, other in zip(many(image, seed), views))
    assert all(not torch.equal(one, other) for one, other in zip(many(image, seed + 1), views))
    assert all(not torch.equal(views[a], views[b]) for a in range(2, 7) for b in range(2, a))


def test_views_differ_in_what_the_section_says() -> None:
    section = AugmentSection(
        crop_scale=(0.5, 0.9), flip=1.0, blur=1.0, blur_sigma=(2.0, 2.0), second_view={"blur": 0.0, "solarize": 1.0},
        local_crops={"count": 1, "size": 20, "scale": (0.1, 0.2), "solarize": 0.0},
    )  # fmt: skip
    first, second, local = ImageViews(section, PREPROCESSING)(picture(), seed=3)
    plain = AugmentSection(crop_scale=(0.5, 0.9), flip=1.0)
    solarized = ImageAugmentation(plain.model_copy(update={"solarize": 1.0}), PREPROCESSING)
    assert torch.equal(second, solarized(picture(), seed=view_seed(3, 1)))
    blurred = plain.model_copy(update={"blur": 1.0, "blur_sigma": (2.0, 2.0)})
    assert torch.equal(first, ImageAugmentation(blurred, PREPROCESSING)(picture(), seed=3))
    small = blurred.model_copy(update={"crop_scale": (0.1, 0.2)})
    expected = ImageAugmentation(small, PREPROCESSING, size=(20, 20))(picture(), seed=view_seed(3, 2))
    assert torch.equal(local, expected)


def test_local_crops_are_small_parts() -> None:
    section = AugmentSection(preset="dino")
    local = ImageAugmentation(section.of_view(2), PREPROCESSING, size=(16, 16))
    whole = ImageAugmentation(section.of_view(1), PREPROCESSING)
    shares = [[m.draw_crop(600, 500, seed) for seed in range(200)] for m in (local, whole)]
    for boxes, (low, high) in zip(shares, ((0.05, 0.4), (0.4, 1.0))):
        areas = [box.height * box.width / (600 * 500) for box in boxes]
        assert low - 0.005 <= min(areas) < low + 0.1
        assert high - 0.1 < max(areas) <= high + 0.005


@pytest.mark.parametrize(("size", "local"), [(224, 96), (336, 144), (112, 48), (32, 16), (8, 16)])
def test_local_sizes(size: int, local: int) -> None:
    assert local_size((size, size)) == (local, local)
