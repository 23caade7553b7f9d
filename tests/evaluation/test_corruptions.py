"""`corrupt`: each corruption against its formula, and what holds for all of them."""

from __future__ import annotations

import colorsys
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.evaluation import CORRUPTIONS, change_texts, corrupt, corrupt_images
from mmcl.evaluation.robustness.corruptions import SEVERITIES
from mmcl.evaluation.robustness.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from mmcl.evaluation.robustness.corruptions.digital import elastic_transform
from mmcl.evaluation.robustness.corruptions.sampling import (
    fractal_noise,
    gaussian_blur,
    sample_at,
    side_scale,
    smear,
    weighted_mean,
)

PAPER = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)


def natural(seed: int, height: int = 64, width: int = 64) -> Tensor:
    """A picture whose neighbouring pixels are alike, coarse and fine, as in photographs."""
    rng = np.random.RandomState(seed)
    planes = [fractal_noise(height, width, decay=1.7, rng=rng) for _ in range(3)]
    return (torch.stack(planes) * 255).round().to(torch.uint8)


def flat(value: int, size: int = 64) -> Tensor:
    return torch.full((3, size, size), value, dtype=torch.uint8)


def test_they_are_the_fifteen_of_the_paper() -> None:
    assert tuple(CORRUPTIONS) == PAPER
    assert SEVERITIES == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("name", PAPER)
def test_a_higher_severity_is_farther_away(name: str) -> None:
    images = [natural(seed) for seed in range(6)]
    distances = []
    for severity in SEVERITIES:
        changed = [corrupt(image, name, severity, seed=seed) for seed, image in enumerate(images)]
        distances.append(
            np.mean([float((one.float() - image.float()).abs().mean()) for one, image in zip(changed, images)])
        )
    if name == "fog":  # 3 and 4 have one weight and differ in the cloud's grain
        assert distances[3] == pytest.approx(distances.pop(2), rel=0.02)
    assert distances == sorted(distances)
    assert 1 < distances[0] < distances[-1] < 128


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (9, 31), (40, 17)])
def test_shapes_of_any_size(name: str, shape: tuple[int, int]) -> None:
    for image in (
        natural(0, *shape),
        torch.zeros(3, *shape, dtype=torch.uint8),
        flat(255)[:, :1, :1].expand(3, *shape),
    ):
        before = image.clone()
        for severity in (1, 5):
            changed = corrupt(image, name, severity, seed=1)
            assert (changed.dtype, changed.shape) == (torch.uint8, image.shape)
        assert torch.equal(image, before)


@pytest.mark.parametrize("name", PAPER)
def test_the_seed_alone_decides(name: str) -> None:
    image = natural(0)
    first = corrupt(image, name, 3, seed=7)
    np.random.seed(0)
    torch.manual_seed(0)
    assert torch.equal(corrupt(image, name, 3, seed=7), first)
    without_chance = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert torch.equal(corrupt(image, name, 3, seed=8), first) == (name in without_chance)


def test_another_process_draws_the_same(run_python: Callable, tmp_path: Path) -> None:
    code = (
        "import torch, hashlib; from mmcl.evaluation import CORRUPTIONS, corrupt\n"
        "image = (torch.arange(3 * 24 * 24) * 7 % 256).to(torch.uint8).view(3, 24, 24)\n"
        "drawn = b''.join(corrupt(image, name, 4, seed=3).numpy().tobytes() for name in CORRUPTIONS)\n"
        "print(hashlib.sha256(drawn).hexdigest())"
    )
    done = run_python("-c", code, cwd=tmp_path)
    image = (torch.arange(3 * 24 * 24) * 7 % 256).to(torch.uint8).view(3, 24, 24)
    here = b"".join(corrupt(image, name, 4, seed=3).numpy().tobytes() for name in CORRUPTIONS)
    assert done.stdout.strip() == hashlib.sha256(here).hexdigest(), done.stderr
    other = b"".join(corrupt(image, name, 4, seed=4).numpy().tobytes() for name in CORRUPTIONS)
    assert done.stdout.strip() != hashlib.sha256(other).hexdigest()


# -- oracles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("severity", "std"), [(1, 0.08), (3, 0.18)])
def test_gaussian_noise_has_its_deviation(severity: int, std: float) -> None:
    # Grey at the middle: at these severities hardly a value is cut off.
    noise = (corrupt(flat(128, 128), "gaussian_noise", severity).double() - 128) / 255
    assert abs(float(noise.mean())) < 4 * std / noise.numel() ** 0.5 + 0.001
    assert float(noise.std()) == pytest.approx(std, rel=0.02)
    channels = torch.corrcoef(noise.flatten(1))
    assert float((channels - torch.eye(3)).abs().max()) < 0.05


@pytest.mark.parametrize(("severity", "photons"), [(1, 60), (3, 12)])
def test_shot_noise_is_poisson(severity: int, photons: int) -> None:
    pixels = corrupt(flat(64, 160), "shot_noise", severity).double() / 255
    level = 64 / 255
    assert float(pixels.mean()) == pytest.approx(level, rel=0.02)
    assert float(pixels.var()) == pytest.approx(level / photons, rel=0.05)  # a Poisson count's variance is its mean
    assert corrupt(flat(0), "shot_noise", severity).sum() == 0


@pytest.mark.parametrize(("severity", "share"), [(1, 0.03), (5, 0.27)])
def test_impulse_noise_hits_its_share(severity: int, share: float) -> None:
    changed = corrupt(flat(100, 160), "impulse_noise", severity)
    for value in (0, 255):
        assert float((changed == value).double().mean()) == pytest.approx(share / 2, rel=0.1)
    assert float((changed == 100).double().mean()) == pytest.approx(1 - share, abs=0.01)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_is_that_of_hsv(severity: int) -> None:
    image = natural(1, 9, 11)
    image[:, 0, 0] = 0
    expected = torch.empty_like(image)
    for y in range(9):
        for x in range(11):
            hue, saturation, value = colorsys.rgb_to_hsv(*(image[:, y, x].double() / 255).tolist())
            rgb = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + severity / 10))
            expected[:, y, x] = (torch.tensor(rgb) * 255).round().to(torch.uint8)
    changed = corrupt(image, "brightness", severity)
    assert int((changed.int() - expected.int()).abs().max()) <= 1
    assert int((image.int() - expected.int()).abs().max()) > 20


@pytest.mark.parametrize(("severity", "factor"), list(zip(SEVERITIES, (0.4, 0.3, 0.2, 0.1, 0.05))))
def test_contrast_is_its_formula(severity: int, factor: float) -> None:
    image = natural(2)
    pixels = image.double().numpy()
    mean = pixels.mean(axis=(1, 2), keepdims=True)
    expected = np.clip(factor * (pixels - mean) + mean, 0, 255).round()
    assert np.abs(corrupt(image, "contrast", severity).numpy() - expected).max() <= 1


def test_pixelate_and_jpeg_are_pillows() -> None:
    image = natural(3, 30, 50)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    small = picture.resize((15, 9), Image.Resampling.BOX)
    back = np.array(small.resize((50, 30), Image.Resampling.BOX)).transpose(2, 0, 1)
    assert np.array_equal(corrupt(image, "pixelate", 4).numpy(), back)
    assert len({tuple(value) for value in back.reshape(3, -1).T.tolist()}) < 50 * 30 / 4
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=7)
    expected = np.array(Image.open(buffer)).transpose(2, 0, 1)
    assert np.array_equal(corrupt(image, "jpeg_compression", 5).numpy(), expected)
    assert not np.array_equal(corrupt(image, "jpeg_compression", 4).numpy(), expected)


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform"])
def test_what_only_moves_pixels_leaves_a_flat_picture(name: str) -> None:
    for severity in SEVERITIES:
        assert torch.equal(corrupt(flat(77), name, severity, seed=severity), flat(77))


def point(size: int = 225) -> Tensor:
    """One bright pixel in the middle of a picture of (about) the paper's size."""
    pixels = torch.zeros(3, size, size)
    pixels[:, size // 2, size // 2] = 1
    return pixels


@pytest.mark.parametrize(("severity", "radius"), list(zip(SEVERITIES, (3, 4, 6, 8, 10))))
def test_defocus_makes_a_disk_of_its_radius(severity: int, radius: int) -> None:
    disk = defocus_blur(point(224), severity, np.random.RandomState(0))[0]
    assert float(disk.sum()) == pytest.approx(1, abs=1e-5)
    y, x = torch.meshgrid(torch.arange(224) - 112.0, torch.arange(224) - 112.0, indexing="ij")
    far = torch.hypot(y, x)
    assert float(disk[far > radius + 2].max()) < 1e-3 * float(disk.max())
    # Inside it is even, and its area is that of a circle.
    assert float(disk[far < radius - 2].min()) > 0.95 * float(disk.max())
    assert 1 / float(disk.max()) == pytest.approx(np.pi * radius**2, rel=0.12)


def test_motion_makes_a_line_and_zoom_leaves_the_middle() -> None:
    line = motion_blur(point(224), 5, np.random.RandomState(3))[0]
    y, x = (line > 1e-4).nonzero().double().unbind(1)
    # Points of a line have one large axis alone.
    small, large = torch.linalg.eigvalsh(torch.cov(torch.stack([y, x]))).tolist()
    assert large > 50 * small
    assert 20 < float(torch.hypot(y.max() - y.min(), x.max() - x.min())) < 45
    zoomed = zoom_blur(point(225), 5, np.random.RandomState(0))[0]
    assert int(zoomed.argmax()) == 112 * 225 + 112


def test_glass_and_elastic_move_pixels_by_the_papers_reach() -> None:
    columns = torch.arange(224.0).expand(1, 224, 224) / 224  # a ramp: values tell where they came from
    inner = (slice(None), slice(30, -30), slice(30, -30))
    moved = (glass_blur(columns, 4, np.random.RandomState(0)) - columns)[inner] * 224
    assert 0.5 < float(moved.std()) < 3 * 2**0.5
    assert float(moved.abs().max()) < 2 * 3 + 1
    moved = (elastic_transform(columns, 5, np.random.RandomState(0)) - columns)[inner] * 224
    # 0.163 of the strength is what Gaussian blur leaves of even noise in [-1, 1], and the slant moves by 0.02 at most.
    fine = moved - gaussian_blur(moved, 12)
    assert float(fine.std()) == pytest.approx(12 * 0.163, rel=0.15)


def test_small_pictures_are_blurred_as_much_as_large_ones() -> None:
    image = natural(5, 224, 224)
    small = torch.nn.functional.avg_pool2d(image.float()[None], 4)[0].round().to(torch.uint8)
    for name in ("defocus_blur", "motion_blur", "zoom_blur"):
        of_large = torch.nn.functional.avg_pool2d(corrupt(image, name, 5).float()[None], 4)[0]
        right = (corrupt(small, name, 5).float() - of_large).abs().mean()
        # A control: without any blur the small picture is farther away.
        assert float(right) < 0.25 * float((small.float() - of_large).abs().mean()), name


def test_weather_does_what_weather_does() -> None:
    image = natural(6)
    assert corrupt(image, "snow", 3).double().mean() > image.double().mean() + 20
    foggy = corrupt(image, "fog", 3).double()
    coloured = (foggy.amax(0) - foggy.amin(0)).mean()
    assert coloured < 0.5 * (image.amax(0).double() - image.amin(0).double()).mean()
    frozen = corrupt(flat(100), "frost", 5).double()
    assert frozen.amin() < 75 < 150 < frozen.amax()  # the picture is dimmed, the ice is bright
    assert torch.equal(corrupt(flat(0), "fog", 5), flat(0))  # said of black pictures


def test_sampling_tools() -> None:
    g = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 5, 7, generator=g)
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    torch.testing.assert_close(sample_at(pixels, y, x), pixels)
    between = sample_at(pixels, y[:4] + 0.25, x[:4])
    torch.testing.assert_close(between, 0.75 * pixels[:, :4] + 0.25 * pixels[:, 1:])
    assert side_scale(torch.zeros(3, 112, 500)) == 0.5
    # A smear to the right by whole pixels, by hand.
    row = torch.zeros(1, 1, 9)
    row[..., 8] = 1
    drawn = smear(row, radius=1, sigma=1e6, degrees=0)[0, 0]  # the mean at 0, 0.5, 1, 1.5 and 2 pixels to the right
    torch.testing.assert_close(drawn, torch.tensor([0, 0, 0, 0, 0, 0, 1.5 / 5, 3.5 / 5, 1]))
    assert float(smear(row, radius=1, sigma=1e6, degrees=180)[0, 0, 7]) == 0
    # Weights small and large enough for both ways, against a loop.
    for reach in (2, 7):
        weight = torch.rand(2 * reach + 1, 2 * reach + 1, generator=g)
        expected = torch.zeros(2, 5, 7)
        for i in range(-reach, reach + 1):
            for j in range(-reach, reach + 1):
                rows, columns = (torch.arange(5) + i).clamp(0, 4), (torch.arange(7) + j).clamp(0, 6)
                expected += weight[reach + i, reach + j] * pixels[:, rows][:, :, columns]
        torch.testing.assert_close(weighted_mean(pixels, weight), expected / weight.sum())
        assert not torch.allclose(weighted_mean(pixels, weight.flip(0)), expected / weight.sum(), atol=1e-4)
    noise = fractal_noise(33, 20, decay=2.0, rng=np.random.RandomState(0))
    assert (float(noise.min()), float(noise.max())) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("fogg", 1, "did you mean 'fog'"),
        ("fog", 0, "severity is 0"),
        ("fog", 6, "severity is 6"),
        ("x", 1, "there are"),
    ],
)
def test_wrong_names_and_severities(name: str, severity: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        corrupt(flat(1), name, severity)


@pytest.mark.parametrize("image", [torch.zeros(3, 8, 8), flat(0)[0], flat(0)[:, :0], flat(0)[:1]])
def test_wrong_images(image: Tensor) -> None:
    with pytest.raises(ShapeError, match="uint8 \\(3, h, w\\)"):
        corrupt(image, "fog", 1)


# -- data sets -------------------------------------------------------------------------------------------------------


def test_a_corrupted_data_set_is_read_lazily_and_keyed(make_dataset: Callable) -> None:
    plain = make_dataset([["a"], ["b"], ["c"]], id=["x", "y", "z"], unreadable=[1])
    noisy = corrupt_images(plain, "gaussian_noise", 2, seed=1)
    assert not torch.equal(noisy.images.read(0), plain.images.read(0))
    assert torch.equal(noisy.images.read(0), noisy.images.read(0))
    draws = [noisy.images.read(row).int() - plain.images.read(row).int() for row in (0, 2)]
    assert not torch.equal(draws[0][2], draws[1][2])  # the third channel is 0 in both pictures
    with pytest.raises(DataError, match="image 1"):
        noisy.images.read(1)
    assert "gaussian_noise, severity 2" in noisy.images.describe(1)
    assert noisy.column("texts") == plain.column("texts")
    # An image's draw goes with its id, not with its place.
    assert torch.equal(noisy.select([2, 0]).images.read(0), noisy.images.read(2))
    assert torch.equal(
        corrupt_images(plain.select([2]), "gaussian_noise", 2, seed=1).images.read(0), noisy.images.read(2)
    )
    others = [
        plain,
        noisy,
        corrupt_images(plain, "gaussian_noise", 3, seed=1),
        corrupt_images(plain, "gaussian_noise", 2, seed=2),
        corrupt_images(plain, "fog", 2, seed=1),
        noisy.select([0, 2]),
    ]
    assert len({one.images.fingerprint() for one in others}) == len(others)
    assert corrupt_images(plain, "gaussian_noise", 2, seed=1).fingerprint() == noisy.fingerprint()
    with pytest.raises(ConfigError, match="did you mean"):
        corrupt_images(plain, "fogs", 2)


def test_changed_captions_stay_in_their_groups(make_dataset: Callable) -> None:
    plain = make_dataset([["A dog"], ["a dog"], ["a cat", "Cat"], ["a cat", "Cat"]])
    lower = change_texts(plain, "lower_case")
    assert lower.column("texts") == [["a dog"], ["a dog"], ["a cat", "cat"], ["a cat", "cat"]]
    assert lower.group_ids().tolist() == plain.group_ids().tolist() == [0, 1, 2, 2]
    assert plain.column("texts")[0] == ["A dog"]
    with_groups = make_dataset([["A"], ["B"], ["C"]], group=["g", None, "g"])
    assert change_texts(with_groups, "typos").group_ids().tolist() == with_groups.group_ids().tolist()
    with pytest.raises(ConfigError, match="did you mean 'typos'"):
        change_texts(plain, "typo")
