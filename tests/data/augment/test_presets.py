"""``data.augment`` and ``data.captions``: presets fill in what is not given, and what cannot be is told."""

from __future__ import annotations

import pytest
import yaml

from mmcl.config import AUGMENT_PRESETS, AugmentSection, CaptionsSection, load_recipe, recipe_from_tree
from mmcl.errors import ConfigError


def loaded(*overrides: str) -> AugmentSection:
    return load_recipe("quickstart", overrides).data.augment


# The papers' numbers once more: crop, flip, jitter (brightness, contrast, saturation, hue), its probability, grey,
# blur and solarising of the first and the second view, local crops and their scale.
PAPERS = {
    "simclr": ((0.08, 1.0), 0.5, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, (0.5, 0.5), (0.0, 0.0), None),
    "moco_v2": ((0.2, 1.0), 0.5, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, (0.5, 0.5), (0.0, 0.0), None),
    "byol": ((0.08, 1.0), 0.5, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, (1.0, 0.1), (0.0, 0.2), None),
    "swav": ((0.14, 1.0), 0.5, (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, (0.5, 0.5), (0.0, 0.0), (6, (0.05, 0.14), 0.5)),
    "dino": ((0.4, 1.0), 0.5, (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, (1.0, 0.1), (0.0, 0.2), (8, (0.05, 0.4), 0.5)),
}


@pytest.mark.parametrize("preset", PAPERS)
def test_presets_have_their_papers_numbers(preset: str) -> None:
    section = loaded(f"data.augment.preset={preset}")
    crop, flip, jitter, often, grey, blur, solarize, local = PAPERS[preset]
    assert (section.crop_scale, section.flip, section.grayscale) == (crop, flip, grey)
    assert tuple(section.color_jitter * part for part in section.color_jitter_parts) == pytest.approx(jitter)
    assert (section.color_jitter_probability, section.blur_sigma, section.solarize_threshold) == (often, (0.1, 2), 128)
    views = [section.of_view(view) for view in (0, 1)]
    assert tuple(view.blur for view in views) == blur
    assert tuple(view.solarize for view in views) == solarize
    if local is None:
        assert section.local_crops.count == 0
    else:
        small = section.of_view(2)
        assert (section.local_crops.count, small.crop_scale, small.blur) == local
        assert section.of_view(5) == small


def test_other_presets() -> None:
    assert loaded("data.augment.preset=clip").largest_crop
    assert loaded("data.augment.preset=open_clip").crop_scale == (0.9, 1.0)
    policy = loaded("data.augment.preset=randaugment").randaugment
    assert (policy.num_ops, policy.magnitude, policy.probability) == (2, 9, 1.0)
    assert loaded("data.augment.preset=trivial_augment").trivial_augment == 1
    erasing = loaded("data.augment.preset=random_erasing")
    assert (erasing.erase, erasing.erase_scale) == (0.5, (0.02, 0.4))
    assert all(loaded(f"data.augment.preset={preset}").active for preset in AUGMENT_PRESETS)


def test_what_is_given_comes_before_the_preset() -> None:
    section = loaded("data.augment.preset=simclr", "data.augment.blur=0", "data.augment.crop_scale=[0.5, 0.6]")
    assert (section.blur, section.crop_scale, section.grayscale) == (0, (0.5, 0.6), 0.2)
    # In any order, inside sections too, and where null means none.
    section = loaded("data.augment.local_crops.count=3", "data.augment.crop_scale=null", "data.augment.preset=dino")
    assert (section.local_crops.count, section.local_crops.scale, section.crop_scale) == (3, (0.05, 0.4), None)
    assert section.second_view.solarize == 0.2
    # One crop takes the place of the preset's other one.
    section = loaded("data.augment.preset=clip", "data.augment.crop_scale=[0.5, 1]")
    assert (section.crop_scale, section.largest_crop) == ((0.5, 1), False)
    section = loaded("data.augment.preset=simclr", "data.augment.largest_crop=true")
    assert (section.crop_scale, section.largest_crop) == (None, True)


@pytest.mark.parametrize("preset", AUGMENT_PRESETS)
def test_a_written_recipe_reads_as_the_same(preset: str) -> None:
    recipe = load_recipe("quickstart", [f"data.augment.preset={preset}", "data.augment.flip=0.25"])
    tree = yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert tree["data"]["augment"]["flip"] == 0.25
    for key, value in AUGMENT_PRESETS[preset].items():
        assert key == "flip" or tree["data"]["augment"][key] == value or isinstance(value, dict)
    again = recipe_from_tree(tree, source="config.yaml")
    assert again == recipe
    assert again != load_recipe("quickstart", [f"data.augment.preset={preset}", "data.augment.flip=0.3"])


@pytest.mark.parametrize("key", ["flip", "rotation", "trivial_augment", "solarize", "equalize", "posterize", "erase"])
def test_active_says_whether_anything_is_on(key: str) -> None:
    assert AugmentSection(**{key: 0.1}).active
    assert not AugmentSection().active
    assert not AugmentSection(local_crops={"count": 3}).active  # nothing that a single view would show
    assert AugmentSection(largest_crop=True).active
    assert AugmentSection(randaugment={"num_ops": 1}).active


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.augment.preset=simclrr", r"preset is 'simclrr'; known are clip, .*; did you mean 'simclr'\?"),
        ("data.augment.preset=zzz", r"preset is 'zzz'; known are clip, [^;]*$"),
        ("data.augment.preset=3", r"data.augment.preset is 3 \(int\)"),
        ("data.augment.crop_scale=[0.9, 0.5]", r"crop_scale is \[0.9, 0.5\]; want two numbers above 0, at most 1, the"),
        ("data.augment.crop_scale=[0, 0.5]", r"crop_scale is \[0.0, 0.5\]; want two numbers above 0"),
        ("data.augment.crop_ratio=[2, 1]", r"crop_ratio is \[2.0, 1.0\]; want two numbers above 0, the smaller"),
        ("data.augment.erase_scale=[0.1, 1.5]", "erase_scale is"),
        ("data.augment.blur_sigma=[2, 1]", "blur_sigma is"),
        ("data.augment.blur_kernel=8", "blur_kernel is 8; want an odd number of pixels"),
        ("data.augment.color_jitter_parts=[1, 1, 1, 0.8]", r"color_jitter_parts is .*the last \(hue\) at most 0.5"),
        ("data.augment.local_crops.scale=[0.5, 0.1]", r"data.augment.local_crops.scale is \[0.5, 0.1\]"),
        ("data.augment={crop_scale: [0.5, 1], largest_crop: true}", "exclude each other; give one"),
        ("data.augment.randaugment.magnitud=3", r"did you mean 'data.augment.randaugment.magnitude'\?"),
        ("data.captions.templates=[a photo]", r"'a photo' has no \{text\}, where the caption goes"),
        ("data.captions.translations={de: 1.5}", "translations: de is 1.5; want a chance from 0 to 1"),
        ("data.captions.translations={de: 0.6, fr: 0.6}", "the chances add up to 1.2; want at most 1"),
        ("data.captions.word_drop=0.1", r"did you mean 'data.captions.word_dropout'\?"),
    ],
)
def test_what_cannot_be_is_told(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_recipe("quickstart", [override])


def test_captions_are_plain_by_default() -> None:
    assert CaptionsSection() == load_recipe("quickstart").data.captions
