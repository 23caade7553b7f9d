"""Every option of the tiled pair losses, alone and together, against loops in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive_pairs import DIM, naive_info_nce, naive_sigmoid, unit_rows
from torch import Tensor

from mmcl.batch import Embeddings
from mmcl.errors import ShapeError
from mmcl.losses import info_nce, sigmoid

ROWS = 7
GROUPS = torch.tensor([3, 1, 3, 0, 1, 3, 9])
MASK = torch.rand(ROWS, ROWS, generator=torch.Generator().manual_seed(5)) < 0.2
LOSSES = {"info_nce": (info_nce, naive_info_nce), "sigmoid": (sigmoid, naive_sigmoid)}

# Name -> keyword arguments. Each must change the loss.
OPTIONS: dict[str, dict[str, Any]] = {
    "groups": {"group_ids": GROUPS},
    "mask": {"positives": MASK},
    "groups and mask": {"group_ids": GROUPS, "positives": MASK},
    "extra texts": {"negative_text": "extra"},
    "extra images": {"negative_image": "extra"},
    "extra both with groups": {
        "group_ids": GROUPS,
        "negative_text": "extra",
        "negative_text_groups": torch.tensor([3, -1, 0, 9]),
        "negative_image": "extra",
        "negative_image_groups": torch.tensor([1, 1, -1, 5]),
    },
    "label smoothing": {"label_smoothing": 0.2},
    "label smoothing, extra, ids": {
        "label_smoothing": 0.3,
        "negative_text": "extra",
        "exclude_ids": torch.tensor([1, 2, 3, 1, 2, -1, -1]),
    },
    "ids": {"exclude_ids": torch.tensor([[1, 8], [2, 9], [9, 3], [8, 4], [5, -1], [6, -1], [5, 7]])},
    "false negatives": {"false_negative_margin": 0.1},
    "semi-hard": {"mining": "semi_hard", "mining_margin": 0.6},
    "margin": {"mining": "margin", "mining_margin": 0.3},
    "margin and false negatives": {"mining": "margin", "mining_margin": 0.3, "false_negative_margin": 0.4},
    "hardest": {"mining": "hardest", "mining_count": 2},
    "hardest of few": {"mining": "hardest", "mining_count": 3, "group_ids": GROUPS, "negative_text": "extra"},
    "hardness": {"hardness": 0.7},
    "hardness with extra": {"hardness": 0.5, "negative_text": "extra", "negative_image": "extra"},
    "debiased": {"tau_plus": 0.02},
    "debiased, groups": {"tau_plus": 0.05, "group_ids": GROUPS},
    "weights": {"weights": torch.tensor([0.5, 2.0, 0.0, 1.0, 1.0, 0.3, 1.0])},
    "matryoshka": {"matryoshka_dims": (2, 3)},
    "everything": {
        "group_ids": GROUPS,
        "positives": MASK,
        "negative_text": "extra",
        "negative_text_groups": torch.tensor([3, -1, 0, 9]),
        "label_smoothing": 0.1,
        "false_negative_margin": 0.5,
        "exclude_ids": torch.tensor([1, 2, 3, 1, 2, -1, -1]),
        "mining": "margin",
        "mining_margin": 0.9,
        "hardness": 0.3,
        "tau_plus": 0.01,
        "weights": torch.tensor([0.5, 2.0, 0.0, 1.0, 1.0, 0.3, 1.0]),
        "matryoshka_dims": (4,),
    },
}


def leaves(dtype: torch.dtype, *, scale: float = 6.0, bias: float = -1.5) -> list[Tensor]:
    """Image, text, scale, bias and extra negatives, rounded to bf16 first, so that all dtypes hold the same."""
    values = [unit_rows(ROWS, 0), unit_rows(ROWS, 1), torch.tensor([scale]), torch.tensor([bias]), unit_rows(4, 7)]
    values[1] = torch.nn.functional.normalize(values[1] + 0.6 * values[0], dim=1)
    return [value.bfloat16().to(dtype).requires_grad_() for value in values]


def evaluate(loss: Any, values: list[Tensor], options: dict[str, Any]) -> tuple[Tensor, list[Tensor | None]]:
    image, text, scale, bias, extra = values
    given = {name: extra if isinstance(value, str) and value == "extra" else value for name, value in options.items()}
    if loss in (info_nce, sigmoid):
        result = loss(image, text, scale, logit_bias=bias, **given)
    else:
        given = {name: v.to(image.dtype) if name == "weights" else v for name, v in given.items()}
        result = loss(image, text, scale, bias, **given)
    result.sum().backward()
    return result.detach().reshape(()), [value.grad for value in values]


def compare(got: list[Tensor | None], want: list[Tensor | None], *, atol: float, rtol: float) -> None:
    for name, mine, expected in zip(("image", "text", "logit_scale", "logit_bias", "extra"), got, want):
        expected = torch.zeros(1) if expected is None else expected
        mine = torch.zeros_like(expected) if mine is None else mine
        torch.testing.assert_close(
            mine.double(), expected.double(), atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("tile_size", [None, 3], ids=["one tile", "tiles of 3"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_equal_loops(name: str, options: dict[str, Any], tile_size: int | None) -> None:
    loss, naive = LOSSES[name]
    value, gradients = evaluate(loss, leaves(torch.float64), {**options, "tile_size": tile_size})
    expected, wanted = evaluate(naive, leaves(torch.float64), options)
    assert float(value) == pytest.approx(float(expected), rel=1e-10)
    compare(gradients, wanted, atol=1e-10, rtol=1e-8)
    without, _ = evaluate(loss, leaves(torch.float64), {})
    assert abs(float(value - without)) > 1e-4  # the option does something


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, OPTIONS["groups"], OPTIONS["everything"]], ids=["none", "groups", "all"])
@pytest.mark.parametrize("name", LOSSES)
def test_narrower_inputs_are_as_good_as_their_rounding(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    loss, naive = LOSSES[name]
    value, gradients = evaluate(loss, leaves(dtype), {**options, "tile_size": 3})
    expected, wanted = evaluate(naive, leaves(torch.float64), options)
    assert value.dtype == torch.float32
    if "matryoshka_dims" in options and dtype == torch.bfloat16:
        return compare(gradients, wanted, atol=2e-2, rtol=2e-2)  # parts are normalised, and rounded, once more
    assert float(value) == pytest.approx(float(expected), rel=2e-6)
    tight = dtype == torch.float32
    compare(gradients, wanted, atol=2e-6 if tight else 1e-3, rtol=1e-4 if tight else 1e-2)
    return None


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("name", LOSSES)
def test_shares_of_a_gathered_batch_add_up_to_the_whole(name: str, options: dict[str, Any]) -> None:
    loss, _ = LOSSES[name]
    whole, wanted = evaluate(loss, leaves(torch.float64), options)
    values = leaves(torch.float64)
    image, text, scale, bias, extra = values
    given = {k: extra if isinstance(v, str) and v == "extra" else v for k, v in options.items()}
    groups = given.pop("group_ids", None)
    weights = given.pop("weights", None)
    everything = Embeddings(image, text, torch.arange(ROWS) if groups is None else groups, scale)
    shares = []
    for rows in (slice(0, 3), slice(3, 4), slice(4, ROWS)):
        part = loss(
            image[rows],
            text[rows],
            scale,
            logit_bias=bias,
            group_ids=None if groups is None else groups[rows],
            weights=None if weights is None else weights[rows],
            gathered=everything,
            offset=rows.start,
            tile_size=2,
            **given,
        )
        shares.append(part * (rows.stop - rows.start) / ROWS)
    total = sum(shares)
    total.backward()
    assert float(total) == pytest.approx(float(whole), rel=1e-10)
    compare([value.grad for value in values], wanted, atol=1e-10, rtol=1e-8)
    assert abs(float(shares[0] * ROWS / 3 - whole)) > 1e-4


@pytest.mark.parametrize("name", LOSSES)
def test_a_queue_needs_no_gradient_for_the_rows_to_have_theirs(name: str) -> None:
    loss, _ = LOSSES[name]
    results = []
    for learns in (True, False):
        values = leaves(torch.float64)
        values[4] = values[4].detach().requires_grad_(learns)
        evaluate(loss, values, {"negative_text": "extra", "negative_image": "extra", "tile_size": 3})
        results.append([value.grad for value in values])
    for with_gradient, without in zip(results[0][:4], results[1][:4]):
        torch.testing.assert_close(without, with_gradient, rtol=1e-12, atol=1e-14)
    assert results[0][4].abs().max() > 1e-3
    assert results[1][4] is None


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("rows", "tile_size"), [(1, 1), (2, 1), (13, 4), (13, 5), (13, 13), (13, 50)])
def test_any_tile_gives_the_same(name: str, rows: int, tile_size: int) -> None:
    loss, _ = LOSSES[name]
    results = []
    for size in (None, tile_size):
        image, text = (unit_rows(rows, seed, torch.float64).requires_grad_() for seed in (0, 1))
        value = loss(image, text, 9.0, logit_bias=-2.0, label_smoothing=0.1, tile_size=size)
        value.backward()
        results.append((value.detach(), image.grad, text.grad))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert tile_size == 50 or rows == 1 or float(results[0][0]) > 0.1


@pytest.mark.parametrize("tile_size", [None, 4, ROWS])
@pytest.mark.parametrize("name", LOSSES)
def test_logits_far_apart_in_one_tile_lose_nothing(name: str, tile_size: int | None) -> None:
    # At scale 100 a row's logits may all be e^-150 of another's: one exponential for all would give it a sum of 0.
    loss, naive = LOSSES[name]
    near = torch.nn.functional.normalize(torch.ones(ROWS, DIM) + 0.01 * unit_rows(ROWS, 3), dim=1)
    text = near.clone()
    text[4:] = -near[4:]
    results = []
    for function, dtype in ((loss, torch.float32), (naive, torch.float64)):
        values = [side.detach().to(dtype, copy=True).requires_grad_() for side in (near, text)]
        scale, bias = (torch.tensor([v], dtype=dtype, requires_grad=True) for v in (100.0, -10.0))
        arguments = {"logit_bias": bias, "tile_size": tile_size} if function is loss else {"bias": bias}
        value = function(*values, scale, **arguments)
        value.sum().backward()
        results.append((value.detach().double().reshape(()), [v.grad.double() for v in values]))
    assert float(results[0][0]) == pytest.approx(float(results[1][0]), rel=1e-5)
    for mine, wanted in zip(results[0][1], results[1][1]):
        assert wanted.abs().max() > 1e-2
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("rows", [6, 1500], ids=["small", "tiles"])
def test_nan_stays_nan(name: str, rows: int) -> None:
    loss, _ = LOSSES[name]
    image, text = unit_rows(rows, 0), unit_rows(rows, 1)
    assert torch.isfinite(loss(image, text, 10.0, logit_bias=0.0))
    image[rows // 2, 1] = torch.nan
    assert torch.isnan(loss(image, text, 10.0, logit_bias=0.0))


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_left_to_tell_apart_where_all_is_left_out(name: str) -> None:
    loss, _ = LOSSES[name]
    image, text = unit_rows(ROWS, 0).requires_grad_(), unit_rows(ROWS, 1)
    value = loss(image, text, 10.0, logit_bias=0.0, exclude_ids=torch.zeros(ROWS, dtype=torch.int64))
    value.backward()
    pairs = (image * text).detach().sum(1) * 10
    alone = 0.0 if name == "info_nce" else float(torch.nn.functional.softplus(-pairs).mean())
    assert float(value) == pytest.approx(alone, abs=1e-6)
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"positives": torch.ones(3, 3, dtype=torch.bool)}, "positives need shape"),
        ({"positives": torch.ones(ROWS, ROWS)}, "dtype bool"),
        ({"negative_text": torch.ones(3, DIM + 1)}, "negative_text needs shape"),
        ({"negative_image": torch.ones(3)}, "negative_image needs shape"),
        ({"negative_text": torch.ones(3, DIM), "negative_text_groups": torch.ones(2)}, "negative_text_groups need"),
        ({"exclude_ids": torch.ones(3, dtype=torch.int64)}, "exclude_ids need shape"),
        ({"mining": "semihard"}, "did you mean 'semi_hard'"),
        ({"mining": "margin", "mining_margin": -1.0}, "mining_margin is -1.0"),
        ({"mining": "hardest", "mining_count": 0}, "mining_count is 0"),
        ({"hardness": -0.1}, "hardness is -0.1"),
        ({"tau_plus": 1.0}, "tau_plus is 1.0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"weights": torch.ones(3)}, "weights need shape"),
        ({"matryoshka_dims": (DIM + 1,)}, "matryoshka_dims holds 6"),
        ({"tile_size": 0}, "tile_size is 0"),
        ({"logit_scale": -1.0}, "logit_scale is -1.0"),
        ({"logit_bias": torch.ones(2)}, "logit_bias is one number"),
        ({"image": torch.ones(0, DIM), "text": torch.ones(0, DIM)}, "no rows"),
    ],
)
def test_wrong_arguments_are_named(name: str, change: dict[str, Any], named: str) -> None:
    loss, _ = LOSSES[name]
    given = {"image": unit_rows(ROWS, 0), "text": unit_rows(ROWS, 1), "logit_scale": 1.0, "logit_bias": 0.0}
    assert torch.isfinite(loss(**given))
    with pytest.raises(ShapeError, match=named):
        loss(**{**given, **change})
