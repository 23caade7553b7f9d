"""Preprocessing read from configs against the libraries' own transforms, on images without codec artefacts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_folders
import torch
from PIL import Image
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.models.towers.transformers_inputs import image_preprocessing
from mmcl.models.towers.transformers_loading import quiet_transformers

# Differences are in pixel levels (of 255) before normalization. The same torchvision code runs: equal to rounding.
SAME_CODE = 0.01
# PIL (timm, open_clip) and torchvision resample with different fixed-point arithmetic, each to a whole level.
OTHER_CODE = 2.01


def _photos() -> list[Tensor]:
    """Like photographs: shapes several pixels wide, with fine noise over them."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for height, width in ((40, 59), (61, 43), (35, 35), (32, 32), (36, 47), (90, 33)):
        coarse = torch.rand(1, 3, height // 6, width // 6, generator=generator) * 235
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)[0]
        made.append((smooth + 20 * torch.rand(3, height, width, generator=generator)).to(torch.uint8))
    return made


def _levels(difference: Tensor, preprocessing: ImagePreprocessing) -> float:
    return float((difference.abs() * torch.tensor(preprocessing.std).view(3, 1, 1) * 255).max())


def _pil(image: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


HUGGING_FACE = {
    "ViT": ("ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
    "SigLIP": ("SiglipImageProcessor", {"size": {"height": 24, "width": 32}}),
    "CLIP": ("CLIPImageProcessor", {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}}),
    "CLIP, as old files write it": ("CLIPImageProcessor", {"size": 36, "crop_size": 32}),
    "DINOv2": ("BitImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": {"height": 31, "width": 31},
                                     "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}),
    "DeiT": ("DeiTImageProcessor", {"size": {"height": 37, "width": 37}, "crop_size": {"height": 32, "width": 32}}),
    "BEiT": ("BeitImageProcessor", {"size": {"height": 40, "width": 36}, "crop_size": {"height": 32, "width": 32},
                                    "do_center_crop": True}),
    "ConvNeXt": ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 0.8}),
    "ConvNeXt, default crop": ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}}),
    "ConvNeXt from 384": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "LeViT": ("LevitImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
    "EfficientNet": ("EfficientNetImageProcessor", {"size": {"height": 40, "width": 40}, "resample": 2}),
    "ALIGN": ("EfficientNetImageProcessor", {"size": {"height": 37, "width": 37}, "do_center_crop": True,
                                             "crop_size": {"height": 32, "width": 32}, "rescale_factor": 1 / 127.5,
                                             "rescale_offset": True, "do_normalize": False, "resample": 2}),
    "no normalization": ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "do_normalize": False}),
    "bilinear": ("CLIPImageProcessor", {"size": {"shortest_edge": 35}, "crop_size": {"height": 32, "width": 32},
                                        "resample": 2}),
}  # fmt: skip


@pytest.mark.parametrize("case", HUGGING_FACE)
def test_hugging_face_processors(case, tmp_path):
    import transformers

    name, values = HUGGING_FACE[case]
    with quiet_transformers():
        processor = getattr(transformers, name)(**values)
        processor.save_pretrained(str(tmp_path))
    found = image_preprocessing(str(tmp_path), None, pretrained=True, size=None)
    images = _photos()
    own = torch.stack([processor(_pil(image), return_tensors="pt")["pixel_values"][0] for image in images])
    pixels = found(images)["pixel_values"]
    assert pixels.shape == own.shape
    assert _levels(pixels - own, found) <= SAME_CODE
    other = "nearest-exact" if found.interpolation != "nearest-exact" else "bicubic"
    control = ImagePreprocessing(found.size, found.resize_to, other, found.mean, found.std, found.crop_rounding)
    assert _levels(control(images)["pixel_values"] - own, found) > 10


@pytest.mark.parametrize("case", ["ViT", "CLIP", "DINOv2", "DeiT", "ConvNeXt", "ConvNeXt from 384", "ALIGN"])
def test_what_is_written_is_read_alike_by_transformers(case, tmp_path):
    import transformers

    name, values = HUGGING_FACE[case]
    with quiet_transformers():
        getattr(transformers, name)(**values).save_pretrained(str(tmp_path))
        first = image_preprocessing(str(tmp_path), None, pretrained=True, size=None)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(first.image_processor_config()))
        processor = transformers.AutoImageProcessor.from_pretrained(str(tmp_path))
    second = image_preprocessing(str(tmp_path), None, pretrained=True, size=None)
    images = _photos()
    pixels = first(images)["pixel_values"]
    own = torch.stack([processor(_pil(image), return_tensors="pt")["pixel_values"][0] for image in images])
    assert _levels(pixels - own, first) <= SAME_CODE
    assert torch.equal(second(images)["pixel_values"], pixels)


def test_processor_config_of_a_dual_model_is_found(tmp_path):
    """transformers 5 writes one processor_config.json with the image processor inside."""
    import transformers

    with quiet_transformers():
        image = transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 24, "width": 24})
        transformers.CLIPProcessor(image, tiny_folders.word_tokenizer()).save_pretrained(str(tmp_path))
    (tmp_path / "preprocessor_config.json").unlink(missing_ok=True)
    found = image_preprocessing(str(tmp_path), None, pretrained=True, size=None)
    assert (found.size, found.resize_to) == ((24, 24), 40)


TIMM = {
    "test_vit.r160_in1k": {},
    "test_convnext.r160_in1k": {},
    "squash, cropped": {"crop_mode": "squash", "crop_pct": 0.8, "input_size": (3, 32, 32), "interpolation": "bilinear"},
    "odd crop": {"crop_mode": "center", "crop_pct": 0.83, "input_size": (3, 31, 31)},
}


@pytest.mark.parametrize("case", TIMM)
def test_timm_transforms(case):
    import timm

    from mmcl.models.towers.timm_tower import _preprocessing

    model = timm.create_model(case if case.startswith("test_") else "test_efficientnet", num_classes=0)
    model.pretrained_cfg.update(TIMM[case])
    found = _preprocessing(model, None, case)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    images = _photos()
    own = torch.stack([transform(_pil(image)) for image in images])
    assert _levels(found(images)["pixel_values"] - own, found) <= OTHER_CODE
    control = ImagePreprocessing(found.size, None, found.interpolation, found.mean, found.std, "even")
    assert _levels(control(images)["pixel_values"] - own, found) > 10
    floor = ImagePreprocessing(found.size, found.resize_to, found.interpolation, found.mean, found.std, "down")
    if case == "odd crop":
        assert _levels(floor(images)["pixel_values"] - own, found) > 10, "torchvision rounds the cut's start"


def test_timm_modes_that_mmcl_lacks_are_named():
    import timm

    from mmcl.models.towers.timm_tower import _preprocessing

    model = timm.create_model("test_efficientnet", num_classes=0)
    model.pretrained_cfg.update({"crop_mode": "border"})
    with pytest.raises(ConfigError, match="'border'"):
        _preprocessing(model, None, "test_efficientnet")


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_open_clip_transforms(mode, interpolation):
    import open_clip

    from mmcl.models.towers.open_clip_tower import _image_preprocessing

    config = {"size": 31, "resize_mode": mode, "interpolation": interpolation, "mean": (0.4,) * 3, "std": (0.3,) * 3}
    found = _image_preprocessing(config, "x")
    transform = open_clip.image_transform(
        31, is_train=False, mean=config["mean"], std=config["std"], resize_mode=mode, interpolation=interpolation
    )
    images = _photos()
    own = torch.stack([transform(_pil(image)) for image in images])
    assert _levels(found(images)["pixel_values"] - own, found) <= OTHER_CODE
    other = _image_preprocessing(config | {"resize_mode": "squash" if mode == "shortest" else "shortest"}, "x")
    assert _levels(other(images)["pixel_values"] - own, found) > 10


def test_open_clip_modes_that_mmcl_lacks_are_named():
    from mmcl.models.towers.open_clip_tower import _image_preprocessing

    config = {"size": 31, "resize_mode": "longest", "interpolation": "bicubic", "mean": (0.4,) * 3, "std": (0.3,) * 3}
    with pytest.raises(ConfigError, match="'longest'"):
        _image_preprocessing(config, "x")


def test_normalize_is_plain_arithmetic():
    preprocessing = ImagePreprocessing((2, 2), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    image = torch.tensor([0, 51, 255, 128], dtype=torch.uint8).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    found = preprocessing.normalize(image)
    for channel, (mean, std) in enumerate(zip(preprocessing.mean, preprocessing.std)):
        for got, value in zip(found[0, channel].flatten().tolist(), (0, 51, 255, 128)):
            assert got == pytest.approx((value / 255 - mean) / std, abs=1e-6)


def test_other_sizes_keep_the_proportions():
    crop = ImagePreprocessing((224, 224), 256).with_size(112)
    assert (crop.size, crop.resize_to) == ((112, 112), 128)
    squash = ImagePreprocessing((32, 32), (40, 48)).with_size(64)
    assert (squash.size, squash.resize_to) == ((64, 64), (80, 96))
    assert ImagePreprocessing((32, 32)).with_size(16).resize_to == (16, 16)


def test_squash_or_crop_instead_of_the_towers_own():
    own = ImagePreprocessing((32, 32), 40, mean=(0.1, 0.2, 0.3))
    image = torch.zeros(3, 32, 64, dtype=torch.uint8)
    image[..., 48:] = 255
    assert own.with_resize("squash").resize_to == (32, 32)
    assert own.with_resize("squash").mean == own.mean
    assert own.with_resize("squash").resize_pixels(image).max() == 255, "all is kept"
    assert own.with_resize("crop").resize_to == 32
    assert own.with_resize("crop").resize_pixels(image).max() == 0, "the edge is cut"


def test_round_trip_through_json():
    preprocessing = ImagePreprocessing((24, 32), (30, 40), "bilinear", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "even")
    assert ImagePreprocessing(**json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing
    assert ImagePreprocessing(**json.loads(json.dumps(ImagePreprocessing((8, 8), 9).to_dict()))).resize_to == 9


def test_images_smaller_than_the_cut_are_padded_as_transformers_pads():
    import transformers

    config = {"size": {"shortest_edge": 20}, "crop_size": {"height": 32, "width": 24}}
    processor = transformers.CLIPImageProcessor(**config)
    found = ImagePreprocessing.from_image_processor(processor.to_dict(), source="x")
    images = _photos()
    own = torch.stack([processor(_pil(image), return_tensors="pt")["pixel_values"][0] for image in images])
    assert _levels(found(images)["pixel_values"] - own, found) <= SAME_CODE


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"size": {"shortest_edge": 32}}, "no fixed size"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}, "do_center_crop": True, "crop_size": 32}, "no fixed size"),
        ({}, "no fixed size"),
        ({"size": 32, "do_resize": False}, "no fixed size"),
        ({"size": 32, "do_flip_channel_order": True}, "blue before red"),
    ],
)
def test_processors_that_mmcl_cannot_follow(config, says):
    with pytest.raises(ConfigError, match=says):
        ImagePreprocessing.from_image_processor(config, source="m")
