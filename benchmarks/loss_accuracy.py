"""Rounding errors of the losses against float64, on fresh and on nearly converged pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from measuring import Row, Settings, compared, say, unmeasured
from peers import CLIP_LOSS, PairLoss, mmcl_info_nce, plain_info_nce_rows, step
from torch import Tensor
from torch.nn import functional as F

SCALES = (1 / 0.07, 100.0)
QUANTITIES = ("value", "gradient of images", "gradient of texts", "gradient of the scale")
SIZES = (1024, 2048)  # one matrix, and tiles
SEEDS = 2
MARGIN = 6.0  # of nearly converged pairs, in logits above all wrong ones together: a loss of about exp(-6)


def pairs(kind: str, *, size: int, dim: int, scale: float, seed: int) -> tuple[Tensor, Tensor]:
    """Unit rows (size, dim) in float64.

    Args:
        kind: "fresh": sides that know nothing of each other. "converged": every pair's logit is ``MARGIN`` above the
            log-sum-exp of wrong ones, as far as a cosine can be. "equal": texts are images.
        size: pairs.
        dim: of the rows.
        scale: of the logits.
        seed: of the draw.
    """
    draw = torch.Generator().manual_seed(seed)
    image, other = (F.normalize(torch.randn(size, dim, generator=draw, dtype=torch.float64), dim=1) for _ in range(2))
    if kind == "fresh":
        return image, other
    if kind == "equal":
        return image, image.clone()
    # Wrong pairs' cosines are nearly normal with variance 1 / dim: the mean of exp(scale * cosine) is known.
    wrong = math.log(size) + scale**2 / (2 * dim)
    cosine = min(0.99, (wrong + MARGIN) / scale)
    across = F.normalize(other - (other * image).sum(1, keepdim=True) * image, dim=1)
    return image, cosine * image + math.sqrt(1 - cosine**2) * across


def inputs_of(image: Tensor, text: Tensor, scale: float, dtype: torch.dtype) -> list[Tensor]:
    """Leaves in ``dtype``, with a scale and a bias in float32 or more."""
    wide = torch.promote_types(dtype, torch.float32)
    tensors = [image.to(dtype), text.to(dtype), torch.tensor(scale, dtype=wide), torch.tensor(0.0, dtype=wide)]
    return [tensor.clone().requires_grad_() for tensor in tensors]


def results(loss: PairLoss, inputs: list[Tensor], *, autocast: torch.dtype | None = None) -> list[Tensor]:
    """Value, and gradients of images, texts and scale, in float64."""
    value, gradients = step(loss, inputs, autocast=autocast)()
    return [value.double(), *(gradient.double() for gradient in gradients[:3])]


def relative_errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    """Norm of the difference over the norm of what is exact."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(found, exact)]


def _mean_square(errors: list[list[float]]) -> list[float]:
    return [math.sqrt(sum(error**2 for error in column) / len(column)) for column in zip(*errors)]


def accuracy(settings: Settings) -> Iterator[Row]:
    """Root mean square of relative errors over seeds and sizes; and whether a loss is ever negative."""
    mine, exact = mmcl_info_nce(), plain_info_nce_rows()
    theirs, why = CLIP_LOSS.load() if settings.wants(CLIP_LOSS.package) else (None, "not asked for")
    sizes = settings.sizes[:1] if settings.quick else SIZES
    negative, calls = [0, 0], 0
    for dtype, kinds in ((torch.bfloat16, ("fresh", "converged", "equal")), (torch.float32, ("converged",))):
        autocast = dtype if dtype == torch.bfloat16 else None
        how = "bf16 inputs (peer under autocast)" if autocast else "fp32"
        for kind, scale in ((kind, scale) for kind in kinds for scale in SCALES):
            what = f"info_nce, {how}, {kind} pairs, scale {scale:.3g}: error"
            say(f"{what} ...")
            errors: tuple[list[list[float]], list[list[float]]] = ([], [])
            for size, seed in ((size, seed) for size in sizes for seed in range(SEEDS)):
                image, text = pairs(kind, size=size, dim=settings.dim, scale=scale, seed=seed)
                inputs = inputs_of(image, text, scale, dtype)
                found = [
                    None if loss is None else results(loss, inputs, autocast=precision)
                    for loss, precision in ((mine, None), (theirs, autocast))
                ]
                calls += 1
                negative = [count + (each is not None and float(each[0]) < 0) for count, each in zip(negative, found)]
                if kind == "equal":  # the loss is so small that a relative error says nothing
                    continue
                # The truth is that of the rounded inputs: what the inputs lost is nobody's error.
                truth = results(exact, [tensor.detach().double().requires_grad_() for tensor in inputs])
                for column, each in zip(errors, found):
                    column += [] if each is None else [relative_errors(each, truth)]
            if kind != "equal":
                yield from _rows(what, errors, why)
    yield Row(
        "accuracy", f"info_nce: negative losses, of {calls}", "" if theirs is None else CLIP_LOSS.name,
        ours=negative[0], theirs=None if theirs is None else negative[1], unit="count",
        must_be="0", holds=negative[0] == 0,
    )  # fmt: skip


def _rows(what: str, errors: tuple[list[list[float]], ...], why: str) -> Iterator[Row]:
    mine = _mean_square(errors[0])
    if not errors[1]:
        yield from (
            unmeasured("accuracy", f"{what} of {name}", CLIP_LOSS.name, why, ours=error, unit="error")
            for name, error in zip(QUANTITIES, mine)
        )
        return
    for number, (name, a, b) in enumerate(zip(QUANTITIES, mine, _mean_square(errors[1]))):
        yield compared(
            "accuracy", f"{what} of {name}", a, CLIP_LOSS.name, b, unit="error", at_most=1.0,
            ours_all=[each[number] for each in errors[0]], theirs_all=[each[number] for each in errors[1]],
        )  # fmt: skip
