"""Distillation of relations against loops in float64, where it is zero, and what it must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import ConfigError, ShapeError
from mmcl.losses.distances import DISTANCES, row_distances
from mmcl.losses.distillation import distillation, relational_distillation, similarity_preserving
from mmcl.losses.info_nce import info_nce

ROWS, DIM, TEACHER_DIM = 7, 5, 9


def unit(seed: int, count: int = ROWS, dim: int = DIM) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=draw, dtype=torch.float64), dim=1)


TEACHER = (unit(2, dim=TEACHER_DIM), unit(3, dim=TEACHER_DIM))
SCALE = torch.tensor(8.0, dtype=torch.float64)


def naive(
    image: Tensor, text: Tensor, scale: Tensor, teacher_image: Tensor, teacher_text: Tensor, teacher_scale: float
) -> Tensor:
    def softmax(logits: list[Tensor]) -> list[Tensor]:
        exponentials = [torch.exp(z) for z in logits]
        return [e / sum(exponentials) for e in exponentials]

    loss = 0.0
    sides = (((image, text), (teacher_image, teacher_text)), ((text, image), (teacher_text, teacher_image)))
    for (x, y), (u, v) in sides:
        for i in range(len(x)):
            ours = softmax([scale * torch.dot(x[i], row) for row in y])
            theirs = softmax([teacher_scale * torch.dot(u[i], row) for row in v])
            loss = loss + sum(q * torch.log(q / p) for p, q in zip(ours, theirs))
    return loss / (2 * len(image))


def test_equals_loops(blocks: str, assert_equal_to_naive: Callable[..., None]) -> None:
    def loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return distillation(image, text, scale, *TEACHER, 6.0)

    def loops(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return naive(image, text, scale, *TEACHER, 6.0)

    assert_equal_to_naive(loss, loops, unit(0), unit(1), SCALE)


def test_the_teachers_place_and_scale_matter() -> None:
    image, text = unit(0), unit(1)
    given = float(distillation(image, text, 8.0, *TEACHER, 6.0))
    others = [
        distillation(image, text, 8.0, *TEACHER, 12.0),
        distillation(image, text, 8.0, *reversed(TEACHER), 6.0),
        distillation(image, text, 16.0, *TEACHER, 6.0),
        distillation(image, text, 8.0, TEACHER[0], TEACHER[1].roll(1, 0), 6.0),
    ]
    assert all(abs(float(other) - given) > 1e-3 for other in others)


def test_it_is_zero_for_the_teachers_own_softmaxes_and_positive_for_others() -> None:
    turned, _ = torch.linalg.qr(unit(4, TEACHER_DIM, TEACHER_DIM))
    image, text = (rows @ turned for rows in TEACHER)
    leaf = image.clone().requires_grad_()
    loss = distillation(leaf, text, 6.0, *TEACHER, 6.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-12)
    assert float(leaf.grad.abs().max()) < 1e-12
    assert float(distillation(image, text, 7.0, *TEACHER, 6.0)) > 1e-3
    assert float(distillation(unit(0), unit(1), 6.0, *TEACHER, 6.0)) > 0.1


def test_a_teacher_that_is_sure_of_the_pairs_makes_it_info_nce() -> None:
    sure = torch.eye(ROWS, dtype=torch.float64)
    found = distillation(unit(0), unit(1), 8.0, sure, sure, 1000.0)
    torch.testing.assert_close(found.float(), info_nce(unit(0).float(), unit(1).float(), 8.0))
    unsure = distillation(unit(0), unit(1), 8.0, sure, sure, 1.0)
    assert abs(float(unsure - found)) > 0.1


def test_the_teacher_has_no_gradient() -> None:
    teacher = [rows.clone().requires_grad_() for rows in TEACHER]
    teacher_scale = torch.tensor(6.0, requires_grad=True)
    image = unit(0).requires_grad_()
    distillation(image, unit(1), 8.0, *teacher, teacher_scale).backward()
    relational_distillation(image, teacher[0]).backward()
    assert teacher[0].grad is teacher[1].grad is teacher_scale.grad is None
    assert image.grad is not None


def test_a_step_brings_the_students_scores_to_the_teachers() -> None:
    image, text = unit(0).requires_grad_(), unit(1)
    loss = distillation(image, text, 8.0, *TEACHER, 6.0)
    loss.backward()
    better, worse = (distillation(image.detach() + step * image.grad, text, 8.0, *TEACHER, 6.0) for step in (-0.1, 0.1))
    assert better < loss < worse
    aligned = distillation(TEACHER[0], TEACHER[1], 6.0, *TEACHER, 6.0)
    assert aligned < distillation(TEACHER[0], TEACHER[1].roll(1, 0), 6.0, *TEACHER, 6.0)


@pytest.mark.parametrize("scales", [(100.0, 100.0), (1000.0, 1.0), (1.0, 1000.0)])
def test_large_scales_do_not_overflow(scales: tuple[float, float], blocks: str) -> None:
    image = torch.eye(ROWS).requires_grad_()
    loss = distillation(image, -torch.eye(ROWS), scales[0], torch.eye(ROWS), torch.eye(ROWS), scales[1])
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(image.grad).all()
    assert math.isinf(torch.exp(torch.tensor(100.0)).item())


def test_a_single_row_has_nothing_to_relate() -> None:
    image = unit(0, 1).requires_grad_()
    loss = distillation(image, unit(1, 1), 8.0, unit(2, 1), unit(3, 1), 6.0)
    loss.backward()
    assert float(loss.detach()) == float(image.grad.abs().max()) == 0.0


def test_order_of_rows_does_not_matter() -> None:
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    loss = distillation(unit(0), unit(1), 8.0, *TEACHER, 6.0)
    moved = [rows[order] for rows in (unit(0), unit(1), *TEACHER)]
    torch.testing.assert_close(loss, distillation(*moved[:2], 8.0, *moved[2:], 6.0))
    assert not torch.isclose(loss, distillation(*moved[:2], 8.0, *TEACHER, 6.0))


def test_autocast_around_it_changes_nothing(blocks: str) -> None:
    student = [unit(0).float().requires_grad_(), unit(1).float()]
    teacher = [rows.float() for rows in TEACHER]
    with torch.autocast("cpu", torch.bfloat16):
        inside = distillation(*student, 8.0, *teacher, 6.0)
    assert float(inside.detach()) == float(distillation(*student, 8.0, *teacher, 6.0).detach())


@pytest.mark.parametrize("distance", DISTANCES)
def test_relations_equal_loops(distance: str, blocks: str, assert_equal_to_naive: Callable[..., None]) -> None:
    def relations(x: Tensor) -> list[Tensor]:
        pairs = [(i, j) for i in range(ROWS) for j in range(ROWS) if i != j]
        apart = [row_distances(x[i : i + 1], x[j : j + 1], distance)[0] for i, j in pairs]
        mean = sum(apart) / len(apart)
        return [each / mean for each in apart]

    def loops(x: Tensor) -> Tensor:
        gaps = [a - b for a, b in zip(relations(x), relations(teacher))]
        return sum(gap**2 / 2 if gap.abs() <= 1 else gap.abs() - 0.5 for gap in gaps) / len(gaps)

    teacher = unit(2, dim=TEACHER_DIM)
    teacher[0] *= 8  # gaps above one too
    assert_equal_to_naive(lambda x: relational_distillation(x, teacher, distance=distance), loops, unit(0))


def test_relations_see_neither_place_nor_size_nor_turn() -> None:
    teacher = unit(2, dim=TEACHER_DIM)
    turned, _ = torch.linalg.qr(unit(4, TEACHER_DIM, TEACHER_DIM))
    assert float(relational_distillation(3 * teacher @ turned + 1, teacher)) == pytest.approx(0.0, abs=1e-12)
    assert float(relational_distillation(teacher.roll(1, 0), teacher)) > 1e-3
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    loss = relational_distillation(unit(0), teacher)
    torch.testing.assert_close(loss, relational_distillation(unit(0)[order], teacher[order]))
    x = unit(0).requires_grad_()
    relational_distillation(x, teacher).backward()
    assert relational_distillation(x.detach() - 0.1 * x.grad, teacher) < loss


def test_relations_of_equal_rows_are_finite() -> None:
    x = torch.ones(4, DIM, requires_grad=True)
    loss = relational_distillation(x, unit(2, 4))
    loss.backward()
    assert float(loss.detach()) > 0.1
    assert torch.isfinite(x.grad).all()


def test_cosines_equal_loops(blocks: str, assert_equal_to_naive: Callable[..., None]) -> None:
    def loops(x: Tensor, others: Tensor, teacher: Tensor, other_teachers: Tensor) -> Tensor:
        def cosine(a: Tensor, b: Tensor) -> Tensor:
            return torch.dot(a, b) / (a.norm() * b.norm())

        pairs = [(i, j) for i in range(len(x)) for j in range(len(others))]
        gaps = [cosine(x[i], others[j]) - cosine(teacher[i], other_teachers[j]) for i, j in pairs]
        return sum(gap**2 for gap in gaps) / len(gaps)

    teacher, other_teachers = 3 * unit(2, dim=TEACHER_DIM), unit(3, 4, TEACHER_DIM)
    student, others = 2 * unit(0), unit(1, 4)
    assert_equal_to_naive(lambda x: similarity_preserving(x, teacher), lambda x: loops(x, x, teacher, teacher), student)
    assert_equal_to_naive(
        lambda x, y: similarity_preserving(x, teacher, gathered=y, gathered_teacher=other_teachers),
        lambda x, y: loops(x, y, teacher, other_teachers),
        student,
        others,
    )


def test_cosines_see_neither_size_nor_turn() -> None:
    teacher = unit(2, dim=TEACHER_DIM)
    turned, _ = torch.linalg.qr(unit(4, TEACHER_DIM, TEACHER_DIM))
    sizes = torch.linspace(0.5, 3, ROWS).unsqueeze(1)
    assert float(similarity_preserving(sizes * teacher @ turned, teacher)) == pytest.approx(0.0, abs=1e-12)
    assert float(similarity_preserving(teacher + 1, teacher)) > 1e-2  # a shift turns them towards one another
    assert float(similarity_preserving(unit(0, 1), unit(1, 1))) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": torch.ones(0, DIM), "teacher": torch.ones(0, DIM)}, "x holds no rows"),
        ({"teacher": unit(0, 3)}, "teachers hold 3 and 3 rows, students 7 and 7"),
        ({"gathered": unit(0, 3)}, "given alone"),
        ({"gathered": unit(0, 3), "gathered_teacher": unit(0, 2)}, "teachers hold 7 and 2 rows, students 7 and 3"),
    ],
)
def test_wrong_arguments_of_cosines_are_named(change: dict, named: str) -> None:
    with pytest.raises(ShapeError, match=named):
        similarity_preserving(**{"x": unit(0), "teacher": unit(1), **change})


def test_nan_stays_visible(blocks: str) -> None:
    for place in range(4):
        rows = [unit(0), unit(1), *(each.clone() for each in TEACHER)]
        rows[place][2, 1] = math.nan
        assert math.isnan(float(distillation(*rows[:2], 8.0, *rows[2:], 6.0)))
        assert place % 2 or math.isnan(float(relational_distillation(rows[0], rows[2])))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image": torch.ones(3, DIM)}, "image and text"),
        ({"image": torch.ones(0, DIM), "text": torch.ones(0, DIM)}, "no rows"),
        ({"teacher_image": torch.ones(ROWS, 3)}, "teacher_image and teacher_text"),
        ({"teacher_image": unit(0, 3), "teacher_text": unit(1, 3)}, "the teacher has 3 rows, the student 7"),
        ({"logit_scale": 0.0}, "logit_scale is 0.0"),
        ({"logit_scale": torch.ones(2)}, "logit_scale is one number"),
        ({"teacher_logit_scale": -1.0}, "teacher_logit_scale is -1.0"),
    ],
)
def test_wrong_arguments_are_named(change: dict, named: str) -> None:
    given = {"image": unit(0), "text": unit(1), "logit_scale": 8.0, "teacher_logit_scale": 6.0}
    given |= {"teacher_image": TEACHER[0], "teacher_text": TEACHER[1]}
    assert torch.isfinite(distillation(**given))
    with pytest.raises(ShapeError, match=named):
        distillation(**{**given, **change})


def test_wrong_relations_are_named() -> None:
    with pytest.raises(ShapeError, match="x holds one row; .* needs 2 or more"):
        relational_distillation(unit(0, 1), unit(1, 1))
    with pytest.raises(ShapeError, match="teacher holds 3 rows, x 7"):
        relational_distillation(unit(0), unit(1, 3))
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        relational_distillation(unit(0), unit(1), distance="cosin")
