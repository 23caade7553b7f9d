"""What large batches are for: no matrix of logits, bf16 products that lose nothing that matters, converged pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from naive_pairs import unit_rows
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmcl.losses import info_nce, nt_xent, sigmoid, tiles

ROWS, DIM = 1100, 48  # more logits than tiles.SMALL: bf16 products are used where there are any
HAS_BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()


class LargestTensor(TorchDispatchMode):
    """Remembers how many values the largest tensor had that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, Tensor):
                self.values = max(self.values, value.untyped_storage().nbytes() // value.element_size())
        return result


def plain(image: Tensor, text: Tensor) -> Tensor:
    logits, labels = 10 * (image @ text.T), torch.arange(len(image))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@pytest.mark.parametrize(
    ("loss", "largest"),
    [
        (lambda x, y: info_nce(x, y, 10.0, tile_size=64), 600 * 64),
        (
            lambda x, y: info_nce(x, y, 10.0, mining="hardest", hardness=0.5, label_smoothing=0.1, tile_size=64),
            600 * 64,
        ),
        (lambda x, y: sigmoid(x, y, 10.0, -10.0, tile_size=64), 600 * 64),
        (lambda x, y: nt_xent(x, y, tile_size=64), 2 * 600 * 64),
        (plain, None),
    ],
    ids=["info_nce", "info_nce with options", "sigmoid", "nt_xent", "plain"],
)
def test_no_tensor_is_as_large_as_the_logits(
    loss: Callable[..., Tensor], largest: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmcl.losses.row_statistics.KEPT_BYTES", {})
    image, text = (unit_rows(600, seed, dim=16).requires_grad_() for seed in (0, 1))
    with LargestTensor() as seen:
        loss(image, text).backward()
    if largest is None:
        assert seen.values >= 600 * 600  # the control: this is what is to be avoided
    else:
        assert seen.values <= largest


def test_kept_tiles_change_nothing_but_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for kept in (64 * 2**20, 40_000, 0):
        monkeypatch.setattr("mmcl.losses.row_statistics.KEPT_BYTES", {"cpu": kept})
        image, text = (unit_rows(300, seed, torch.float64, dim=16).requires_grad_() for seed in (0, 1))
        value = info_nce(image, text, 20.0, tile_size=50, label_smoothing=0.1, group_ids=torch.arange(300) // 2)
        value.backward()
        results.append((value.detach(), image.grad, text.grad))
    for other in results[1:]:
        for one, its in zip(results[0], other):
            torch.testing.assert_close(one, its, rtol=1e-12, atol=1e-15)


def pairs(noise: float | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Fresh pairs (no noise given), or pairs that have nearly converged."""
    image, other = unit_rows(ROWS, 0, torch.float64, dim=DIM), unit_rows(ROWS, 1, torch.float64, dim=DIM)
    text = other if noise is None else F.normalize(image + noise * other, dim=1)
    return image.to(dtype), text.to(dtype)


def exact(image: Tensor, text: Tensor, scale: float) -> list[Tensor]:
    """InfoNCE in float64, positives and negatives apart, so that it does not cancel."""
    image, text, factor = (v.double().requires_grad_() for v in (image, text, torch.tensor(scale)))
    logits = factor * (image @ text.T)
    own, others = logits.diagonal(), logits.masked_fill(torch.eye(len(image), dtype=torch.bool), -torch.inf)
    loss = -(F.logsigmoid(own - others.logsumexp(1)) + F.logsigmoid(own - others.logsumexp(0))).mean() / 2
    loss.backward()
    return [loss.detach(), image.grad, text.grad, factor.grad]


def autocast_plain(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The plain loss as people run it: products in bf16, cross-entropies in float32."""
    labels = torch.arange(len(image))
    with torch.autocast("cpu", torch.bfloat16):
        image_to_text, text_to_image = scale * image @ text.T, scale * text @ image.T
        return (F.cross_entropy(image_to_text, labels) + F.cross_entropy(text_to_image, labels)) / 2


def errors(loss: Callable[..., Tensor], image: Tensor, text: Tensor, scale: float) -> list[float]:
    """Relative errors of value and gradients against float64."""
    values = [v.clone().requires_grad_() for v in (image, text, torch.tensor([scale]))]
    result = loss(*values)
    result.backward()
    assert float(result) >= 0
    got = [result.detach(), *[value.grad for value in values]]
    return [
        float((mine.double().reshape(want.shape) - want).norm() / want.norm())
        for mine, want in zip(got, exact(image, text, scale))
    ]


@pytest.mark.parametrize("scale", [1 / 0.07, 100.0])
def test_float32_keeps_its_digits_on_converged_pairs(scale: float) -> None:
    image, text = pairs(0.9, torch.float32)
    assert max(errors(info_nce, image, text, scale)) < 1e-4
    if scale == 100.0:  # the plain loss has lost them all
        assert max(errors(lambda x, y, s: plain(x * s / 10, y), image, text, scale)) > 1e-3


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16 products")
@pytest.mark.parametrize("scale", [1 / 0.07, 100.0])
@pytest.mark.parametrize("noise", [None, 0.9], ids=["fresh", "converged"])
def test_bf16_products_are_no_worse_than_the_plain_loss_under_autocast(noise: float | None, scale: float) -> None:
    image, text = pairs(noise, torch.bfloat16)
    assert tiles._half_products(image, text)
    ours, theirs = errors(info_nce, image, text, scale), errors(autocast_plain, image, text, scale)
    for mine, other in zip(ours[1:3], theirs[1:3]):
        assert mine < other
    # Single numbers may be right by chance; ours must be right to bf16's digits.
    assert ours[0] < max(theirs[0], 1e-3)
    assert ours[3] < max(theirs[3], 1e-2)
