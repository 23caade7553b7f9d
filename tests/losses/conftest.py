"""What tests of losses share: the comparison with a naive loss in float64, and small blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmcl.losses import row_blocks

Loss = Callable[..., Tensor]


@pytest.fixture
def assert_equal_to_naive() -> Callable[..., None]:
    """check(loss, naive, *values): same value and gradients, from float64, float32 and bf16 inputs."""

    def check(loss: Loss, naive: Loss, *values: Tensor) -> None:
        for dtype, value_error, gradient_error in (
            (torch.float64, 1e-10, 1e-8),
            (torch.float32, 2e-6, 2e-5),
            (torch.bfloat16, 2e-6, 2.0**-8),  # of gradients, that of rounding them to bf16 once
        ):
            leaves = [value.detach().clone().to(dtype).requires_grad_() for value in values]
            exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
            found, expected = loss(*leaves), naive(*exact)
            found.backward()
            expected.backward()
            assert found.shape == ()
            assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            torch.testing.assert_close(found.double(), expected, atol=value_error, rtol=value_error)
            for number, (leaf, want) in enumerate(zip(leaves, exact)):
                assert leaf.grad.dtype == dtype
                scale = want.grad.abs().max()
                assert scale > 1e-4, f"input {number} has no gradient to compare"
                error = (leaf.grad.double() - want.grad).abs().max() / scale
                assert error < gradient_error, f"{dtype}: gradient {number} is off by {error:.1e} of its largest entry"

    return check


@pytest.fixture(params=["one block", "blocks of rows"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test twice: as it is, and with blocks so small that seven rows need several, which do not divide them."""
    if request.param != "one block":
        monkeypatch.setitem(row_blocks.BLOCK_PAIRS, "cpu", 15)
    return request.param
