"""Views of images: torchvision's own under the same seeds, drawn by the row's seed alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from mmcl.config import AugmentSection
from mmcl.data.augment.blur import SeparableBlur
from mmcl.data.augment.images import ImageAugmentation, LargestCrop
from mmcl.data.augment.seeds import PIXELS, row_seed, seeded, view_seed
from mmcl.errors import ConfigError, ShapeError
from mmcl.models.towers.preprocessing import ImagePreprocessing

PREPROCESSING = ImagePreprocessing((24, 24))
BICUBIC = v2.InterpolationMode.BICUBIC


def picture(height: int = 40, width: int = 30) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def with_global_seed(transform: torch.nn.Module, image: Tensor, seed: int) -> Tensor:
    """What plain torchvision makes after ``torch.manual_seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(image)


@pytest.mark.parametrize(("height", "width"), [(40, 30), (30, 200), (7, 5), (1, 1)])
def test_crops_are_torchvisions(height: int, width: int) -> None:
    augment = ImageAugmentation(AugmentSection(crop_scale=(0.1, 0.8), crop_ratio=(0.5, 1.5)), PREPROCESSING)
    plain = v2.RandomResizedCrop((24, 24), (0.1, 0.8), (0.5, 1.5), BICUBIC, antialias=True)
    image = picture(height, width)
    for seed in (0, 1, 2**40, 2**62):
        assert torch.equal(augment(image, seed=seed), with_global_seed(plain, image, seed))
    if (height, width) == (40, 30):  # the others have but one crop that is allowed
        assert not torch.equal(augment(image, seed=3), with_global_seed(plain, image, 4))


CHANGES = {
    "flip": (AugmentSection(flip=0.5), v2.RandomHorizontalFlip(0.5)),
    "vertical_flip": (AugmentSection(vertical_flip=0.5), v2.RandomVerticalFlip(0.5)),
    "rotation": (AugmentSection(rotation=30.0), v2.RandomRotation(30, v2.InterpolationMode.BILINEAR)),
    "jitter": (
        AugmentSection(color_jitter=0.5, color_jitter_probability=0.7),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.7),
    ),
    "jitter_parts": (
        AugmentSection(color_jitter=0.5, color_jitter_parts=(0.8, 0.8, 0.4, 0.2), color_jitter_probability=1.0),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 1.0),
    ),
    "grey": (AugmentSection(grayscale=0.5), v2.RandomGrayscale(0.5)),
    "solarize": (AugmentSection(solarize=0.5, solarize_threshold=90), v2.RandomSolarize(90, 0.5)),
    "equalize": (AugmentSection(equalize=0.5), v2.RandomEqualize(0.5)),
    "posterize": (AugmentSection(posterize=0.5, posterize_bits=3), v2.RandomPosterize(3, 0.5)),
    "erase": (
        AugmentSection(erase=0.5, erase_scale=(0.1, 0.2), erase_ratio=(0.5, 2.0)),
        v2.RandomErasing(0.5, (0.1, 0.2), (0.5, 2.0)),
    ),
    "randaugment": (
        AugmentSection(randaugment={"num_ops": 2, "magnitude": 11, "probability": 0.5}),
        v2.RandomApply([v2.RandAugment(2, 11)], 0.5),
    ),
    "trivial_augment": (AugmentSection(trivial_augment=0.5), v2.RandomApply([v2.TrivialAugmentWide()], 0.5)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_torchvisions(name: str) -> None:
    section, plain = CHANGES[name]
    augment = ImageAugmentation(section, PREPROCESSING)
    image = picture(24, 24)
    views = [augment(image, seed=seed) for seed in range(12)]
    for seed, view in enumerate(views):
        assert torch.equal(view, with_global_seed(plain, image, row_seed(0, PIXELS, seed)))
        assert (view.shape, view.dtype) == (image.shape, torch.uint8)
    # Some of twelve seeds change the image, and not all in the same way.
    assert any(not torch.equal(view, image) for view in views)
    assert any(not torch.equal(view, views[0]) for view in views)


@pytest.mark.parametrize(("kernel", "sigma"), [(3, 0.5), (9, 2.0), (23, 1.3)])
def test_blur_is_torchvisions_up_to_rounding(kernel: int, sigma: float) -> None:
    image = picture(48, 36)
    plain = functional.gaussian_blur(image, [kernel, kernel], [sigma, sigma]).int()
    blurred = SeparableBlur(kernel, (sigma, sigma))(image)
    assert blurred.dtype == torch.uint8
    assert (blurred.int() - plain).abs().max() <= 1  # a value at a half rounds either way
    assert (blurred.int() - plain).abs().float().mean() < 0.01
    weaker = functional.gaussian_blur(image, [kernel, kernel], [sigma / 2, sigma / 2]).int()
    assert (blurred.int() - weaker).abs().float().mean() > 1
    section = AugmentSection(blur=1.0, blur_sigma=(sigma, sigma), blur_kernel=kernel)
    assert torch.equal(ImageAugmentation(section, ImagePreprocessing((48, 36)))(image, seed=1), blurred)


def test_the_blurs_kernel_is_a_tenth_of_the_image() -> None:
    for size, kernel in ((224, 23), (96, 9), (24, 3)):
        augment = ImageAugmentation(AugmentSection(blur=1.0), ImagePreprocessing((size, size)))
        assert augment._steps.transforms[0].transforms[0].kernel_size == (kernel, kernel)
    with pytest.raises(
        ConfigError, match=r"blur_kernel is 49, too wide for views of 24 x 24 pixels; want less than 48"
    ):
        ImageAugmentation(AugmentSection(blur=1.0, blur_kernel=49), PREPROCESSING)


EVERYTHING = AugmentSection(
    crop_scale=(0.3, 0.9), flip=0.5, vertical_flip=0.5, rotation=20.0, randaugment={"num_ops": 1}, trivial_augment=0.5,
    color_jitter=0.5, grayscale=0.3, blur=0.5, solarize=0.3, equalize=0.3, posterize=0.3, erase=0.5,
)  # fmt: skip


@pytest.mark.parametrize("section", [EVERYTHING, AugmentSection(largest_crop=True, flip=0.5), AugmentSection(flip=0.5)])
def test_the_crop_may_be_drawn_before_the_image_is_there(section: AugmentSection) -> None:
    augment = ImageAugmentation(section, PREPROCESSING)
    image = picture()
    for seed in range(8):
        box = augment.draw_crop(40, 30, seed)
        if box is None:
            small = PREPROCESSING.resize_pixels(image)
        else:
            small = functional.resized_crop(image, *box, [24, 24], interpolation=BICUBIC, antialias=True)
            # Another crop than the seed's is taken where one is given.
            other = box._replace(height=max(1, box.height // 2))
            assert not torch.equal(augment(image, seed=seed, crop=other), augment(image, seed=seed))
        assert torch.equal(augment.after_crop(small, seed), augment(image, seed=seed))
        assert torch.equal(augment(image, seed=seed, crop=box), augment(image, seed=seed))


@pytest.mark.parametrize("size", [(24, 24), (12, 24)])
@pytest.mark.parametrize(("height", "width"), [(40, 30), (30, 31), (5, 300), (24, 24), (1, 7)])
def test_the_largest_crop_is_as_large_as_fits(height: int, width: int, size: tuple[int, int]) -> None:
    boxes = [LargestCrop(size).draw(height, width, seed=seed) for seed in range(200)]
    for box in boxes:
        assert box.height == height or box.width == width
        assert 0 <= box.top <= height - box.height
        assert 0 <= box.left <= width - box.width
        assert abs(box.height * size[1] - box.width * size[0]) <= max(size)  # half a pixel of the shorter side
    slack = height + width - boxes[0].height - boxes[0].width  # along the only side that has any
    assert len({(box.top, box.left) for box in boxes}) > min(slack, 5)


def test_largest_crops_begin_everywhere_alike() -> None:
    number, places = 4000, 5
    tops = [LargestCrop((24, 24)).draw(24 + places - 1, 24, seed=row_seed(0, 0, n)).top for n in range(number)]
    share = 1 / places
    for place in range(places):
        assert abs(tops.count(place) / number - share) < 5 * math.sqrt(share * (1 - share) / number)


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_probabilities_hold(chance: float) -> None:
    augment = ImageAugmentation(AugmentSection(flip=chance), PREPROCESSING)
    image = picture(24, 24)
    number = 2000
    share = sum(not torch.equal(augment(image, seed=row_seed(0, 0, n)), image) for n in range(number)) / number
    assert abs(share - chance) <= 5 * math.sqrt(chance * (1 - chance) / number)


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    ImageAugmentation(EVERYTHING, PREPROCESSING)(picture(), seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(5):
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
        assert not torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ShapeError), seeded(6):
        raise ShapeError("an image that a transform refuses")
    assert torch.equal(torch.get_rng_state(), state)


def test_views_have_seeds_of_their_own() -> None:
    seeds = {view_seed(seed, view) for seed in range(100) for view in range(10)}
    assert len(seeds) == 1000
    assert view_seed(77, 0) == 77
