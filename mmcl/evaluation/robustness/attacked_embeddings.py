"""`attacked_embeddings`: an embedder's images after FGSM or PGD has moved them away from what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.evaluation.robustness.attacks import Loss, fgsm, pgd

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

ATTACKS = ("fgsm", "pgd")
PGD_STEPS = 10
PGD_STEP_SHARE = 2.5  # steps together are 2.5 times as long as epsilon, so that any point of the box can be reached


class GradientEmbedder(Protocol):
    """An embedder of images that gradients pass through."""

    logit_scale: float
    pixel_statistics: tuple[Tensor, Tensor]

    def image_inputs(self, images: Sequence[Tensor]) -> dict[str, Tensor]: ...

    def embed_inputs(self, inputs: dict[str, Tensor], modality: str) -> Tensor: ...


def find_gradient_embedder(embedder: Embedder) -> GradientEmbedder | None:
    """The embedder that gradients pass through: this one, one that it wraps (``inner``), or None."""
    found: object = embedder
    while found is not None:
        if all(hasattr(found, name) for name in ("image_inputs", "embed_inputs", "pixel_statistics")):
            return found  # type: ignore[return-value]
        found = getattr(found, "inner", None)
    return None


@dataclass(frozen=True)
class Targets:
    """What images are to be torn away from.

    Attributes:
        candidates: (m, d) float32 unit rows: class weights, or captions.
        candidate_ids: (m,) int64, the class or group of each.
        image_ids: (n,) int64, the class or group of each image; each has a candidate.
    """

    candidates: Tensor
    candidate_ids: Tensor
    image_ids: Tensor


def attacked_embeddings(
    embedder: GradientEmbedder,
    dataset: ImageTextDataset,
    targets: Targets,
    *,
    attack: str,
    epsilon: float,
    batch_size: int,
    seed: int = 0,
) -> Tensor:
    """Attack every image of a data set, and embed what it became.

    The loss that is driven up, for an image with embedding z and logit scale s, is minus the logarithm of the
    softmax's share of its right candidates: ``logsumexp(s * z . t) - logsumexp over the right ones (s * z . t)``. With
    class weights as candidates it is the cross-entropy of zero-shot classification, with captions that of retrieval.
    PGD takes `PGD_STEPS` steps of ``2.5 * epsilon / PGD_STEPS`` from a random start. The model is left as it was.

    Args:
        embedder: that gradients pass through.
        dataset: n readable images.
        targets: of these n images.
        attack: "fgsm" or "pgd".
        epsilon: the largest change of a pixel, in 1/255 of its range, after resizing to the model's input; 0 changes
            nothing: the images as they are, for comparison.
        batch_size: images a forward pass.
        seed: of PGD's starts.

    Returns:
        (n, d) float32 on the CPU, unit rows.

    Raises:
        ConfigError: an unknown attack, a negative epsilon, or a model whose inputs are no pixels (b, 3, h, w).
        DataError: an image cannot be read.
        ShapeError: a gradient is not finite.
    """
    check_attack(attack, epsilon)
    mean, std = (value.view(3, 1, 1) for value in embedder.pixel_statistics)
    box = {"epsilon": epsilon / 255 / std, "low": (0 - mean) / std, "high": (1 - mean) / std}
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for rows in torch.arange(len(dataset)).split(batch_size):
        inputs = embedder.image_inputs([dataset.images.read(row) for row in rows.tolist()])
        pixels = inputs.get("pixel_values")
        if pixels is None or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ConfigError("attacks move pixels (b, 3, h, w); this model's image inputs are none")
        loss = _loss(embedder, inputs, targets, rows)
        if attack == "fgsm":
            pixels = fgsm(loss, pixels, **box)
        elif epsilon:
            step = PGD_STEP_SHARE * box["epsilon"] / PGD_STEPS
            pixels = pgd(loss, pixels, step=step, steps=PGD_STEPS, generator=generator, **box)
        with torch.no_grad():
            parts.append(embedder.embed_inputs({**inputs, "pixel_values": pixels}, "image").float().cpu())
    return torch.cat(parts)


def check_attack(attack: str, epsilon: float) -> None:
    """Refuse an attack that there is not.

    Raises:
        ConfigError: an unknown name, or an epsilon that is no number of 1/255 from 0 to 255.
    """
    if attack not in ATTACKS:
        raise ConfigError(f"unknown attack {attack!r}; there are {', '.join(ATTACKS)}")
    if not 0 <= epsilon <= 255:
        raise ConfigError(f"epsilon is {epsilon}; want 1/255 of the pixel range from 0 to 255, such as 4")


def _loss(embedder: GradientEmbedder, inputs: dict[str, Tensor], targets: Targets, rows: Tensor) -> Loss:
    """Minus the log of the right candidates' share, summed over the images ``rows``."""
    scale = float(embedder.logit_scale)
    right = targets.image_ids[rows, None] == targets.candidate_ids  # (b, m)

    def loss(pixel_values: Tensor) -> Tensor:
        images = embedder.embed_inputs({**inputs, "pixel_values": pixel_values}, "image")
        logits = scale * images.float() @ targets.candidates.to(images.device).T  # (b, m)
        own = logits.masked_fill(~right.to(images.device), -torch.inf)
        return (logits.logsumexp(1) - own.logsumexp(1)).sum()

    return loss
