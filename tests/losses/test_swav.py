"""SwAV and its Sinkhorn against loops in float64, what balance does, extreme scores, and what they must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import ShapeError
from mmcl.losses.swav import sinkhorn, swav

ROWS, DIM, PROTOTYPES = 6, 5, 4


def unit(seed: int, count: int = ROWS) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, DIM, generator=draw, dtype=torch.float64), dim=1)


def naive_codes(scores: Tensor, epsilon: float, iterations: int) -> list[list[float]]:
    """Sinkhorn by loops over plain exponentials."""
    codes = [[math.exp(score / epsilon) for score in row] for row in scores.tolist()]
    for _ in range(iterations):
        sums = [sum(row[k] for row in codes) for k in range(len(codes[0]))]
        codes = [[value / total for value, total in zip(row, sums)] for row in codes]
        codes = [[value / sum(row) for value in row] for row in codes]
    return codes


def naive(
    views: list[Tensor], prototypes: Tensor, *, further: list[Tensor] | None = None, temperature: float = 0.1,
    epsilon: float = 0.05, iterations: int = 3,
) -> Tensor:  # fmt: skip
    centres = [c / c.norm() for c in prototypes]
    losses = []
    for made_by in (0, 1):
        rows = list(views[made_by].detach()) + ([] if further is None else list(further[made_by]))
        scores = torch.tensor([[float((row * c.detach()).sum()) for c in centres] for row in rows], dtype=torch.float64)
        codes = naive_codes(scores, epsilon, iterations)
        for number, view in enumerate(views):
            if number == made_by:
                continue
            loss = 0.0
            for row, code in zip(view, codes):
                logits = [(row * c).sum() / temperature for c in centres]
                log_sum = torch.log(sum(torch.exp(z) for z in logits))
                loss = loss - sum(q * (z - log_sum) for q, z in zip(code, logits))
            losses.append(loss / len(view))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("small", [0, 2])
@pytest.mark.parametrize("further", [None, (unit(5, 3), unit(6, 7))], ids=["batch", "further"])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "epsilon": 0.2, "iterations": 1}], ids=["paper", "other"])
def test_equals_loops(
    small: int, further: tuple[Tensor, Tensor] | None, options: dict, assert_equal_to_naive: Callable[..., None]
) -> None:
    def loss(x: Tensor, y: Tensor, prototypes: Tensor, *more: Tensor) -> Tensor:
        rows = None if further is None else tuple(each.to(torch.float64) for each in further)
        return swav(x, y, prototypes, further=rows, small_views=more, **options)

    def loops(x: Tensor, y: Tensor, prototypes: Tensor, *more: Tensor) -> Tensor:
        return naive([x, y, *more], prototypes, further=further, **options)

    prototypes = 2 * torch.randn(PROTOTYPES, DIM, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    assert_equal_to_naive(loss, loops, unit(0), unit(1), prototypes, *(unit(2 + number) for number in range(small)))


def test_options_change_the_value() -> None:
    x, y, prototypes = unit(0), unit(1), unit(2, PROTOTYPES)
    changes = [{}, {"temperature": 0.2}, {"epsilon": 0.1}, {"iterations": 1}, {"further": (unit(3), unit(4))}]
    values = [float(swav(x, y, prototypes, **change)) for change in [*changes, {"small_views": [unit(5)]}]]
    assert len({round(value, 6) for value in values}) == len(values)


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_equals_loops_on_plain_exponentials(iterations: int) -> None:
    scores = unit(0) @ unit(1, PROTOTYPES).T
    found = sinkhorn(scores, iterations=iterations)
    torch.testing.assert_close(found, torch.tensor(naive_codes(scores, 0.05, iterations), dtype=torch.float64))
    assert not torch.allclose(found, sinkhorn(scores, iterations=iterations + 1))
    assert not torch.allclose(found, (scores / 0.05).softmax(1), atol=1e-3)  # which is what balance is added to


def test_sinkhorn_uses_all_columns_alike() -> None:
    scores = torch.randn(64, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores[:, 0] += 1  # the favourite of most rows
    codes = sinkhorn(scores, epsilon=0.5, iterations=200)
    torch.testing.assert_close(codes.sum(1), torch.ones(64, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((8,), 8.0, dtype=torch.float64))
    unbalanced = (scores / 0.5).softmax(1).sum(0)
    assert float(unbalanced[0]) > 16
    assert not sinkhorn(scores.requires_grad_()).requires_grad


@pytest.mark.parametrize("epsilon", [0.05, 1e-2, 1e-4])
def test_extreme_scores_do_not_overflow(epsilon: float) -> None:
    scores = torch.tensor([[1.0, -1.0, 0.3], [1.0, 1.0, -1.0], [-1.0, 0.9, 1.0]])
    codes = sinkhorn(scores, epsilon=epsilon)
    assert torch.isfinite(codes).all()
    torch.testing.assert_close(codes.sum(1), torch.ones(3))
    wide = sinkhorn(scores.double(), epsilon=epsilon)
    torch.testing.assert_close(codes.double(), wide, atol=1e-4, rtol=0)
    x = torch.eye(3).requires_grad_()
    loss = swav(x, -torch.eye(3), torch.eye(3), temperature=epsilon, epsilon=epsilon)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    assert math.isinf(torch.exp(torch.tensor(1 / 1e-2)).item())


def test_codes_have_no_gradient_and_prototypes_learn_no_length() -> None:
    x, y, prototypes = (value.requires_grad_() for value in (unit(0), unit(1), unit(2, PROTOTYPES)))
    swav(x, y, prototypes).backward()
    codes_of_y = sinkhorn(y.detach() @ prototypes.detach().T)
    own = (x @ prototypes.detach().T / 0.1).log_softmax(1)
    of_x_alone = torch.autograd.grad(-(codes_of_y * own).sum(1).mean() / 2, x)[0]
    torch.testing.assert_close(x.grad, of_x_alone)
    torch.testing.assert_close(
        (prototypes.grad * prototypes).sum(1), torch.zeros(PROTOTYPES, dtype=torch.float64), atol=1e-12, rtol=0
    )
    assert float(prototypes.grad.abs().max()) > 1e-2
    torch.testing.assert_close(swav(x, y, 3 * prototypes), swav(x, y, prototypes))


def test_parts_of_a_batch_with_the_others_rows_are_the_whole() -> None:
    x, y, prototypes = unit(0), unit(1), unit(2, PROTOTYPES)
    whole = swav(x, y, prototypes)
    parts = [
        swav(x[mine], y[mine], prototypes, further=(x[theirs], y[theirs])) * len(x[mine]) / ROWS
        for mine, theirs in ((slice(0, 4), slice(4, 6)), (slice(4, 6), slice(0, 4)))
    ]
    torch.testing.assert_close(sum(parts), whole)
    alone = [swav(x[part], y[part], prototypes) * len(x[part]) / ROWS for part in (slice(0, 4), slice(4, 6))]
    assert not torch.isclose(sum(alone), whole)


def test_with_hard_codes_it_is_a_classification_by_cosine() -> None:
    # A row for every prototype; where two rows want one, balance keeps codes soft however small epsilon is.
    prototypes = unit(2, PROTOTYPES)
    x, y = (F.normalize(prototypes + 0.3 * unit(seed, PROTOTYPES), dim=1).flip(0) for seed in (0, 1))
    codes = [sinkhorn(view @ prototypes.T, epsilon=1e-4) for view in (x, y)]
    assert all(float(code.max(1).values.min()) > 1 - 1e-6 for code in codes)
    losses = [F.cross_entropy(v @ prototypes.T / 0.1, code.argmax(1)) for v, code in zip((y, x), codes)]
    torch.testing.assert_close(swav(x, y, prototypes, epsilon=1e-4), sum(losses) / 2)
    assert not torch.isclose(swav(x, y, prototypes), sum(losses) / 2)


def test_aligned_views_are_better_and_a_step_brings_them_together() -> None:
    x, y, prototypes = unit(0), unit(1), unit(2, PROTOTYPES)
    assert swav(x, x, prototypes) < swav(x, x.roll(1, 0), prototypes)
    raw = x.clone().requires_grad_()
    swav(raw, y, prototypes).backward()
    codes = sinkhorn(y @ prototypes.T)

    def agreement(rows: Tensor) -> float:
        return float((codes * (rows.detach() @ prototypes.T)).sum())

    assert agreement(raw - 0.1 * raw.grad) > agreement(raw) > agreement(raw + 0.1 * raw.grad)


def test_a_single_row_has_a_uniform_code() -> None:
    x, prototypes = unit(0, 1), unit(2, PROTOTYPES)
    assert sinkhorn(x @ prototypes.T)[0].tolist() == pytest.approx([1 / PROTOTYPES] * PROTOTYPES)
    uniform = -(x @ prototypes.T / 0.1).log_softmax(1).mean()
    torch.testing.assert_close(swav(x, x, prototypes), uniform)


def test_order_of_rows_and_prototypes_does_not_matter_and_pairing_does() -> None:
    x, y, prototypes, order = unit(0), unit(1), unit(2, PROTOTYPES), torch.tensor([4, 0, 2, 5, 1, 3])
    loss = swav(x, y, prototypes)
    torch.testing.assert_close(loss, swav(x[order], y[order], prototypes.flip(0)))
    torch.testing.assert_close(loss, swav(y, x, prototypes))
    assert not torch.isclose(loss, swav(x, y[order], prototypes))


def test_nan_stays_visible() -> None:
    for place in range(3):
        given = [unit(0), unit(1), unit(2, PROTOTYPES)]
        given[place][1, 1] = math.nan
        assert math.isnan(float(swav(*given)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": torch.ones(3, DIM)}, "x and y need equal shapes"),
        ({"x": torch.ones(0, DIM), "y": torch.ones(0, DIM)}, "no rows"),
        ({"prototypes": torch.ones(PROTOTYPES, DIM + 1)}, r"prototypes needs shape \(n, 5\), got \(4, 6\)"),
        ({"prototypes": torch.ones(0, DIM)}, "prototypes holds no rows"),
        ({"further": (unit(0), torch.ones(2))}, r"further\[1\] needs shape"),
        ({"small_views": [unit(0), unit(0, 3)]}, r"x and small_views\[1\] need equal shapes"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"epsilon": -1.0}, "epsilon is -1.0"),
        ({"iterations": 0}, "iterations is 0"),
    ],
)
def test_wrong_arguments_are_named(change: dict, named: str) -> None:
    given = {"x": unit(0), "y": unit(1), "prototypes": unit(2, PROTOTYPES)}
    assert torch.isfinite(swav(**given))
    with pytest.raises(ShapeError, match=named):
        swav(**{**given, **change})
