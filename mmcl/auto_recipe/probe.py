"""Whether pretrained features carry the data at all: retrieval by a closed-form fit on a few hundred of them, timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.auto_recipe.starting_points import StartingPoint
from mmcl.config import HeadSection, TowerSection
from mmcl.data.dataset import ImageTextDataset
from mmcl.errors import DataError
from mmcl.models.encoder import Encoder, build_encoder
from mmcl.models.opening.locating import locate
from mmcl.models.opening.opening import open_dual_encoder

ROWS = 480  # at most; a third of them judges
SECONDS = 20.0  # for the images of one starting point; what was embedded by then counts
PATIENCE = 3  # times as long by the wall clock, where other programs hold the processor
LEAST_ROWS = 24
BATCH = 32
RIDGE = 0.1  # of the mean squared singular value
DIMS = 128
RAW_SIZE = 12  # side of the pictures that features must beat


@dataclass(frozen=True)
class Probe:
    """What the frozen features of one starting point are worth on these data, and what they cost.

    Attributes:
        point: the starting point.
        rows: that were embedded; ``judged``: of them, those not fitted on.
        recall: mean of R@1 both ways among the judged rows, after a closed-form fit to the others.
        raw: the same of the pixels alone, 12 x 12 of them, in the place of image features.
        chance: R@1 of a guess.
        images_per_second, captions_per_second: of its towers here.
    """

    point: StartingPoint
    rows: int
    judged: int
    recall: float
    raw: float
    chance: float
    images_per_second: float
    captions_per_second: float

    @property
    def is_poor(self) -> bool:
        """Whether the features tell images apart no better than their pixels, or hardly better than chance."""
        return self.recall <= max(self.raw, 1.5 * self.chance)


def probe_rows(dataset: ImageTextDataset, *, most: int = ROWS, seed: int = 0) -> ImageTextDataset:
    """The rows that all starting points are measured on: drawn by lot, or the first of data read block by block."""
    if len(dataset) <= most:
        return dataset
    if getattr(dataset.images, "reads_whole_blocks", False):
        return dataset.select(np.arange(most))
    return dataset.select(np.sort(np.random.default_rng([seed, 3]).choice(len(dataset), size=most, replace=False)))


def probe(
    point: StartingPoint,
    dataset: ImageTextDataset,
    *,
    device: str,
    sections: tuple[TowerSection, TowerSection],
    seconds: float = SECONDS,
    progress: Callable[[str, int, int], None] | None = None,
) -> Probe | None:
    """Embed rows with frozen towers, fit image to text in closed form on two thirds, and rank the last third.

    Args:
        point: what to open.
        dataset: of ``probe_rows``.
        device: where the towers run.
        sections: what else the recipe says of the two towers (image size, resize, pooling).
        seconds: for the images.
        progress: told how many images are embedded.

    Returns:
        The measurement. Where fewer than 24 images can be read, or the last third is of one group, nothing is ranked:
        ``judged`` and the shares are 0, and only the speeds say something. None where no image can be read.

    Raises:
        ConfigError: the starting point cannot be opened.
    """
    image, text = open_encoders(point, sections)
    features, raw, rows, image_rate = _images(image.to(device), dataset, device, seconds, progress, point.title)
    if not rows:
        return None
    captions, caption_rate = _captions(text.to(device), [dataset.texts(row)[0] for row in rows], device)
    groups = dataset.group_ids().numpy()[rows]
    order = np.random.default_rng(len(rows)).permutation(len(rows))
    held, fit = order[: len(order) // 3], order[len(order) // 3 :]
    if len(rows) < LEAST_ROWS or len(np.unique(groups[held])) < 2:
        return Probe(point, len(rows), 0, 0.0, 0.0, 0.0, image_rate, caption_rate)
    return Probe(
        point=point,
        rows=len(rows),
        judged=len(held),
        recall=fitted_recall(features, captions, groups, fit=fit, held=held),
        raw=fitted_recall(raw, captions, groups, fit=fit, held=held),
        chance=float((groups[held][:, None] == groups[held][None]).mean()),
        images_per_second=image_rate,
        captions_per_second=caption_rate,
    )


def open_encoders(point: StartingPoint, sections: tuple[TowerSection, TowerSection]) -> tuple[Encoder, Encoder]:
    """Image and text encoder of a starting point, frozen, in evaluation mode; heads are not used.

    Raises:
        ConfigError: it cannot be opened.
    """
    with torch.random.fork_rng(devices=[]):  # a choice draws nothing from the training's generator
        if point.init_from is not None:
            model = open_dual_encoder(locate(point.init_from))
            sides = (model.image, model.text)
        else:
            names, head = (point.image, point.text), HeadSection()  # any head will do
            named = [one.model_copy(update={"name": name, "head": head}) for one, name in zip(sections, names)]
            sides = (build_encoder(named[0], "image", 8), build_encoder(named[1], "text", 8))
    for encoder in sides:
        encoder.requires_grad_(False).eval()
    return sides


@torch.inference_mode()
def _images(
    encoder: Encoder,
    dataset: ImageTextDataset,
    device: str,
    seconds: float,
    progress: Callable[[str, int, int], None] | None,
    title: str,
) -> tuple[np.ndarray, np.ndarray, list[int], float]:
    """Features and small pictures of the readable rows, their numbers, and images a second."""
    preprocessing, features, raw, kept = encoder.tower.preprocessing, [], [], []
    clock, spent = Clock(device), 0.0
    for start in range(0, len(dataset), BATCH):
        if clock.is_over(seconds) and len(kept) >= 4 * BATCH:
            break
        rows, pixels = [], []
        first = clock.seconds()
        for row in range(start, min(start + BATCH, len(dataset))):
            try:
                image = dataset.images.read(row)
            except DataError:
                continue  # the training lists it
            rows.append(row)
            pixels.append(preprocessing.resize_pixels(image))
            raw.append(F.interpolate(image[None].float(), (RAW_SIZE, RAW_SIZE), mode="area").flatten() / 255)
        if rows:
            batch = preprocessing.normalize(torch.stack(pixels)).to(device)
            features.append(encoder.features(pixel_values=batch).float().cpu())
            kept += rows
        if start:  # the first batch warms up
            spent += clock.seconds() - first
        if progress is not None:
            progress(f"probing {title}", min(start + BATCH, len(dataset)), len(dataset))
    rate = max(len(kept) - BATCH, 1) / max(spent, 1e-6) if spent else len(kept) / max(clock.seconds(), 1e-6)
    return _array(features), _array([torch.stack(raw)] if raw else []), kept, rate


@torch.inference_mode()
def _captions(encoder: Encoder, texts: list[str], device: str) -> tuple[np.ndarray, float]:
    clock, tokens, features = Clock(device), encoder.tower.preprocessing.tokens(texts), []
    for start in range(0, len(texts), BATCH):
        batch = tokens.batch(np.arange(start, min(start + BATCH, len(texts))))
        features.append(encoder.features(**{name: value.to(device) for name, value in batch.items()}).float().cpu())
    return _array(features), len(texts) / max(clock.seconds(), 1e-6)


class Clock:
    """Seconds that work takes here when nothing else runs, so that a busy machine does not change a choice.

    On a CPU: processor time over the threads; on a GPU, which is rarely shared: the wall clock.

    Args:
        device: where the work runs.
    """

    def __init__(self, device: str) -> None:
        self._threads = torch.get_num_threads() if device == "cpu" else 0
        self._began, self._wall = self._now(), time.perf_counter()

    def _now(self) -> float:
        return time.process_time() / self._threads if self._threads else time.perf_counter()

    def seconds(self) -> float:
        """Since it was made."""
        return self._now() - self._began

    def is_over(self, seconds: float) -> bool:
        """Whether so much has been used, or by the wall clock three times as much."""
        return self.seconds() > seconds or time.perf_counter() - self._wall > PATIENCE * seconds


def _array(parts: list[Tensor]) -> np.ndarray:
    return torch.cat(parts).double().numpy() if parts else np.zeros((0, 1))


def fitted_recall(
    images: np.ndarray, texts: np.ndarray, groups: np.ndarray, *, fit: np.ndarray, held: np.ndarray
) -> float:
    """R@1, the mean of both ways, of regularised canonical correlation fitted on some rows and ranked on others.

    Both sides are centred and whitened with a ridge; the singular vectors of their cross-correlation, weighted by the
    root of the singular values, are the common space. Ties count against it.

    Source: Hotelling 1936, "Relations between two sets of variates"; the ridge and the weights are additions.

    Args:
        images, texts: (n, f) and (n, g) features, float64.
        groups: (n,) int; equal: positives.
        fit, held: rows to fit on and to rank.

    Returns:
        A share in [0, 1].
    """
    left, right = _whitened(images, fit), _whitened(texts, fit)
    one, values, other = np.linalg.svd(left[fit].T @ right[fit], full_matrices=False)
    weights = np.sqrt(values[:DIMS])
    scores = _unit(left[held] @ (one[:, :DIMS] * weights)) @ _unit(right[held] @ (other[:DIMS].T * weights)).T
    same = groups[held][:, None] == groups[held][None]
    hits = []
    for ranked in (scores, scores.T):
        best = np.where(same, ranked, -np.inf).max(1, keepdims=True)
        hits.append(float((~((ranked >= best) & ~same).any(1)).mean()))
    return sum(hits) / 2


def _whitened(values: np.ndarray, fit: np.ndarray) -> np.ndarray:
    centred = values - values[fit].mean(0)
    _, singular, directions = np.linalg.svd(centred[fit], full_matrices=False)
    ridge = RIDGE * float((singular**2).mean()) + 1e-12
    return centred @ (directions.T / np.sqrt(singular**2 + ridge))


def _unit(values: np.ndarray) -> np.ndarray:
    return values / (np.linalg.norm(values, axis=1, keepdims=True) + 1e-12)
