"""Checks of the pictures: their normalisation, and whether they differ at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmcl.doctor.examination.subject import Sample, Subject
from mmcl.doctor.finding import Finding

MEAN_OFF, STD_OFF = 0.15, 1.5  # of the library's own figures: a difference, a factor
# Of normalised pixels: no usual mean and std brings pixels of [0, 1] beyond the mean 2.7 or the spread 2.3.
LARGEST_MEAN, LARGEST_SPREAD, SMALLEST_SPREAD = 3.0, 2.6, 0.02
FEW_IMAGES = 0.5  # distinct images, as a share of distinct groups
ALIKE = 0.02  # distinct images, as a share of rows
BLANK, BLANK_SHARE = 2.0, 0.3  # levels of 255 that a picture's pixels vary by; share of rows


def normalization(subject: Subject) -> list[Finding]:
    """The mean and spread that pixels are normalised by, against what the tower was trained with and what comes out."""
    model = subject.trained or subject.start
    if model is None or subject.train is None or not subject.train.images:
        return []
    preprocessing = model.image.tower.preprocessing
    mean, std = tuple(preprocessing.mean), tuple(preprocessing.std)
    off = mean_and_spread(subject.train.images, mean, std)
    advice = _advice(subject)
    if abs(off[0]) > LARGEST_MEAN or not SMALLEST_SPREAD <= off[1] <= LARGEST_SPREAD:
        return [
            Finding(
                "wrong_normalization",
                "fault",
                f"Normalised pixels have the mean {off[0]:.3g} and the standard deviation {off[1]:.3g}, where a tower "
                f"wants about 0 and 1: mean {_shown(mean)} and std {_shown(std)} are not those of pixels in [0, 1].",
                max(abs(off[0]), off[1]),
                LARGEST_MEAN,
                advice,
            )
        ]
    found = _against(subject, mean, std, advice)
    return [] if found is None else [found]


def _against(subject: Subject, mean: Sequence[float], std: Sequence[float], advice: str) -> Finding | None:
    known = [("the library's own figures of that tower", subject.standard)]
    if subject.trained is not None and subject.start is not None:
        own = subject.start.image.tower.preprocessing
        known.append(("what the recipe's tower brings", (tuple(own.mean), tuple(own.std))))
    for source, figures in known:
        if figures is None:
            continue
        by_mean = max(abs(a - b) for a, b in zip(mean, figures[0]))
        by_std = max(max(a / b, b / a) for a, b in zip(std, figures[1]))
        if by_mean > MEAN_OFF or by_std > STD_OFF:
            return Finding(
                "wrong_normalization",
                "warning",
                f"Pixels are normalised by mean {_shown(mean)} and std {_shown(std)}; {source} are mean "
                f"{_shown(figures[0])} and std {_shown(figures[1])}.",
                max(by_mean, by_std - 1),
                MEAN_OFF,
                advice,
            )
    return None


def _advice(subject: Subject) -> str:
    name = subject.recipe.model.init_from or subject.recipe.model.image.name
    return (
        f"Mend image_mean and image_std in the preprocessor_config.json of {name} (or name the tower by its Hub id, "
        f"timm: or open_clip: name, which bring their own), and train anew."
    )


def _shown(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"


def mean_and_spread(images: Sequence[Tensor], mean: Sequence[float], std: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of all pixels after ``(pixel / 255 - mean) / std``; that of the worst channel.

    Args:
        images: uint8 (3, h, w) each, at least one.
        mean, std: three figures each.
    """
    totals = torch.zeros(3, 3, dtype=torch.float64)  # channel; pixels, sum, sum of squares
    for image in images:
        values = image.reshape(3, -1).double() / 255
        totals += torch.stack([torch.full((3,), float(values.shape[1])), values.sum(1), values.square().sum(1)], 1)
    means = totals[:, 1] / totals[:, 0]
    spreads = (totals[:, 2] / totals[:, 0] - means.square()).clamp(min=0).sqrt()
    shift, scale = torch.tensor(list(mean)).double(), torch.tensor(list(std)).double()
    normalised, spread = (means - shift) / scale, spreads / scale
    return float(normalised[normalised.abs().argmax()]), float(spread.max())


def variety(subject: Subject) -> list[Finding]:
    """Pictures that are all alike, repeated or blank."""
    sample = subject.train
    if sample is None or not sample.images or sample.pixels is None:
        return []
    distinct = len(np.unique(np.round(sample.pixels.astype(np.float64), 4), axis=0))
    groups = len(np.unique(sample.groups))
    share = distinct / len(sample)
    what = f"{distinct:,} of {len(sample):,} training images looked at are distinct"
    advice = "Look at them (mmcl data inspect DATA --report PAGE.html), and at data.columns.image and data.images."
    advice = advice.replace("DATA ", f"{subject.recipe.data.path} ").replace(" --report PAGE.html", "")
    if distinct <= max(1, ALIKE * len(sample)) and len(sample) >= 20:
        return [Finding("images_do_not_vary", "fault", f"Only {what}.", share, ALIKE, advice)]
    if distinct < FEW_IMAGES * groups and len(sample) >= 20:
        text = f"Only {what}, of {groups:,} groups."
        return [Finding("images_do_not_vary", "warning", text, distinct / groups, FEW_IMAGES, advice)]
    return _blank(sample, advice)


def _blank(sample: Sample, advice: str) -> list[Finding]:
    blank = float(np.mean([float(image.float().std()) < BLANK for image in sample.images]))
    if blank < BLANK_SHARE:
        return []
    text = f"{100 * blank:.0f} % of the training images looked at are of one colour."
    return [Finding("images_do_not_vary", "warning", text, blank, BLANK_SHARE, advice)]
