"""Image augmentations of the literature by name."""

from __future__ import annotations

from typing import Any

# data.augment.preset -> what it sets; every key that a recipe gives itself comes before it.
AUGMENT_PRESETS: dict[str, dict[str, Any]] = {
    # Radford et al., arXiv:2103.00020, section 2.4: a random square crop from resized images, and nothing else.
    "clip": {"largest_crop": True},
    # open_clip's training transform.
    "open_clip": {"crop_scale": [0.9, 1.0]},
    # Mild enough for captions that name colours.
    "light": {"crop_scale": [0.6, 1.0], "flip": 0.5, "color_jitter": 0.3},
    # Chen et al., arXiv:2002.05709, appendix A, at its strength s = 1.
    "simclr": {"crop_scale": [0.08, 1.0], "flip": 0.5, "color_jitter": 1.0, "grayscale": 0.2, "blur": 0.5},
    # Chen et al., arXiv:2003.04297, section 3; its code's jitter (0.4, 0.4, 0.4, 0.1) is s = 0.5.
    "moco_v2": {"crop_scale": [0.2, 1.0], "flip": 0.5, "color_jitter": 0.5, "grayscale": 0.2, "blur": 0.5},
    # Grill et al., arXiv:2006.07733, appendix B: blur and solarisation differ between the two views.
    "byol": {
        "crop_scale": [0.08, 1.0],
        "flip": 0.5,
        "color_jitter": 0.5,
        "color_jitter_parts": [0.8, 0.8, 0.4, 0.2],
        "grayscale": 0.2,
        "blur": 1.0,
        "second_view": {"blur": 0.1, "solarize": 0.2},
    },
    # Caron et al., arXiv:2006.09882, section 3.2 and appendix A: two crops of 224 pixels and six of 96.
    "swav": {
        "crop_scale": [0.14, 1.0],
        "flip": 0.5,
        "color_jitter": 1.0,
        "grayscale": 0.2,
        "blur": 0.5,
        "local_crops": {"count": 6, "scale": [0.05, 0.14]},
    },
    # Caron et al., arXiv:2104.14294, section 3.1, with its code's probabilities: two crops of 224 pixels, eight of 96.
    "dino": {
        "crop_scale": [0.4, 1.0],
        "flip": 0.5,
        "color_jitter": 0.5,
        "color_jitter_parts": [0.8, 0.8, 0.4, 0.2],
        "grayscale": 0.2,
        "blur": 1.0,
        "second_view": {"blur": 0.1, "solarize": 0.2},
        "local_crops": {"count": 8, "scale": [0.05, 0.4], "blur": 0.5},
    },
    # Cubuk et al., arXiv:1909.13719, section 4.3: N = 2, M = 9.
    "randaugment": {"crop_scale": [0.08, 1.0], "flip": 0.5, "randaugment": {"num_ops": 2, "magnitude": 9}},
    # Mueller and Hutter, arXiv:2103.10158: one operation an image, of any strength.
    "trivial_augment": {"crop_scale": [0.08, 1.0], "flip": 0.5, "trivial_augment": 1.0},
    # Zhong et al., arXiv:1708.04896, section 4.1: p = 0.5, 2 to 40 % of the area; erased with black.
    "random_erasing": {
        "crop_scale": [0.08, 1.0],
        "flip": 0.5,
        "erase": 0.5,
        "erase_scale": [0.02, 0.4],
        "erase_ratio": [0.3, 3.3333333],
    },
    # SimCLR's blur alone.
    "blur": {"blur": 0.5},
}
