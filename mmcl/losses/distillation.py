"""A student learns how its teacher relates the rows of a batch: affinity mimicking, and relations of one modality."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import ShapeError
from mmcl.losses.arguments import check_choice, check_matrix, check_pair, positive_number, widened
from mmcl.losses.distances import DISTANCES, pairwise_distances
from mmcl.losses.row_blocks import row_blocks, sum_over_blocks


def distillation(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    teacher_image: Tensor,
    teacher_text: Tensor,
    teacher_logit_scale: Tensor | float,
) -> Tensor:
    r"""Affinity mimicking: KL divergence of the student's softmax over a batch from the teacher's, in both directions.

    With :math:`p_i = \mathrm{softmax}_j(s \langle x_i, y_j \rangle)` and the teacher's :math:`q_i` likewise,

    .. math:: L = \frac{1}{2b} \sum_i \Big( \mathrm{KL}(q_i \,\Vert\, p_i)
              + \text{the same with image and text exchanged} \Big)

    Args:
        image: (b, d) embeddings of the student, unit rows, floating; half precision is widened to float32.
        text: (b, d); row i belongs with image i.
        logit_scale: () or (1,), > 0.
        teacher_image: (b, d') embeddings of the teacher for the same rows; d' may differ from d. Without gradient.
        teacher_text: (b, d').
        teacher_logit_scale: () or (1,), > 0; without gradient.

    Returns:
        () float32 (float64 of float64 inputs), >= 0 up to rounding, and 0 where the student's softmaxes are the
        teacher's; one row has nothing to relate: 0. Memory is O(b (d + d' + block)).

    Raises:
        ShapeError: shapes differ or do not fit, the batch is empty, or a scale is not one positive number.

    Source: Wu et al. 2023, TinyCLIP (arXiv:2309.12314) sec. 3.1, the sum of two cross-entropies; here their mean, less
    the teacher's entropy, which has no gradient, so that the minimum is 0.

    Relations: with a teacher that is sure of every row's own pair it is ``info_nce``. ``relational_distillation``
    compares distances within one modality.

    Example:
        >>> import torch
        >>> x = torch.eye(4)
        >>> teacher = torch.eye(6)[:4]
        >>> right, wrong = (distillation(x, y, 5.0, teacher, teacher, 5.0) for y in (x, x.roll(1, 0)))
        >>> float(right) < 1e-6 < float(wrong)
        True
    """
    check_pair(image, text, names=("image", "text"))
    check_pair(teacher_image, teacher_text, names=("teacher_image", "teacher_text"))
    if len(teacher_image) != len(image):
        raise ShapeError(f"the teacher has {len(teacher_image)} rows, the student {len(image)}; embed the same batch")
    with torch.autocast(image.device.type, enabled=False):
        image, text, *teacher = widened(image, text, teacher_image.detach(), teacher_text.detach())
        meaning = "it is 1 / temperature"
        scale = positive_number("logit_scale", logit_scale, image, meaning=meaning)
        teacher_scale = positive_number("teacher_logit_scale", teacher_logit_scale, image, meaning=meaning).detach()
        total = _divergence(image, text, scale, *teacher, teacher_scale)
        total = total + _divergence(text, image, scale, *reversed(teacher), teacher_scale)
    return total / (2 * len(image))


def _divergence(
    queries: Tensor, candidates: Tensor, scale: Tensor, teacher_queries: Tensor, teacher_candidates: Tensor,
    teacher_scale: Tensor,
) -> Tensor:  # fmt: skip
    """() sum over queries of the divergence of the student's softmax over candidates from the teacher's."""

    def block_sum(block: slice, queries: Tensor, candidates: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        ours = F.log_softmax(scale * (queries[block] @ candidates.T), dim=1)  # (r, b)
        theirs = F.log_softmax(teacher_scale * (teacher_queries[block] @ teacher_candidates.T), dim=1)
        return F.kl_div(ours, theirs, reduction="sum", log_target=True), ours.new_zeros(())

    blocks = row_blocks(len(queries), len(candidates), queries.device)
    return sum_over_blocks(block_sum, blocks, queries, candidates, scale)[0]


def relational_distillation(x: Tensor, teacher: Tensor, *, distance: str = "euclidean") -> Tensor:
    r"""Distances between the rows of a batch, each in units of their mean, are to be the teacher's.

    .. math:: L = \frac{1}{b (b - 1)} \sum_{i \ne j} h\Big( \frac{D(x_i, x_j)}{\mu_x} - \frac{D(t_i, t_j)}{\mu_t} \Big),
              \qquad h(u) = \begin{cases} u^2 / 2 & |u| \le 1 \\ |u| - 1/2 & \text{otherwise} \end{cases}

    with :math:`\mu` the mean distance over i != j; where all rows are equal it is taken for 1.

    Args:
        x: (b, d) embeddings of the student, b >= 2, floating; half precision is widened to float32.
        teacher: (b, d') embeddings of the teacher for the same rows; d' may differ from d. Without gradient.
        distance: a name from ``mmcl.losses.distances``, for both.

    Returns:
        () float32 (float64 of float64 inputs), >= 0; 0 where the student's rows are the teacher's turned, shifted or
        scaled (with Euclidean distances). Memory is O(b (d + d' + block)).

    Raises:
        ShapeError: shapes do not fit, or there are fewer than two rows.
        ConfigError: an unknown distance.

    Source: Park et al. 2019 (arXiv:1904.05068) eq. 5-8, RKD-D; there pairs are summed.

    Relations: for one modality, and free of any logit scale; ``distillation`` compares softmaxes across two.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
        >>> float(relational_distillation(5 * teacher + 1, teacher)) < 1e-6
        True
        >>> round(float(relational_distillation(teacher[[1, 0, 2]], teacher)), 3)
        0.006
    """
    check_choice("distance", distance, DISTANCES)
    check_matrix("x", x, least=2)
    check_matrix("teacher", teacher, least=2)
    if len(teacher) != len(x):
        raise ShapeError(f"teacher holds {len(teacher)} rows, x {len(x)}; embed the same batch")
    with torch.autocast(x.device.type, enabled=False):
        x, teacher = widened(x, teacher.detach())
        mean, teacher_mean = _mean_distance(x, distance), _mean_distance(teacher, distance)

        def block_sum(block: slice, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
            ours = pairwise_distances(x[block], x, distance) / mean  # (r, b); the diagonal adds zero
            theirs = pairwise_distances(teacher[block], teacher, distance) / teacher_mean
            return F.smooth_l1_loss(ours, theirs, reduction="sum"), ours.new_zeros(())

        blocks = row_blocks(len(x), len(x), x.device)
        return sum_over_blocks(block_sum, blocks, x, mean)[0] / (len(x) * (len(x) - 1))


def similarity_preserving(
    x: Tensor, teacher: Tensor, *, gathered: Tensor | None = None, gathered_teacher: Tensor | None = None
) -> Tensor:
    r"""The cosines between the rows of a batch are to be the teacher's.

    .. math:: L = \frac{1}{b\,n} \sum_{i=1}^{b} \sum_{j=1}^{n} \big( \cos(x_i, x_j) - \cos(t_i, t_j) \big)^2

    Args:
        x: (b, d) embeddings of the student, floating; half precision is widened to float32. A zero row has cosine 0
            with all.
        teacher: (b, d') embeddings of the teacher for the same rows; d' may differ from d. Without gradient.
        gathered: (n, d) the rows j, such as those of all processes; None: x.
        gathered_teacher: (n, d') goes with it.

    Returns:
        () float32 (float64 of float64 inputs), in [0, 4]; 0 where the student's rows are the teacher's, turned or each
        scaled, and for one row. Memory is O((b + n) (d + d') + block).

    Raises:
        ShapeError: shapes do not fit, the batch is empty, or one of the gathered arguments is given alone.

    Source: Tung & Mori 2019 (arXiv:1907.09682) eq. 4, with cosines in place of products that are normalised row by row.

    Relations: keeps angles where ``relational_distillation`` keeps distances, in units that do not depend on the batch.
    To keep what a pretrained tower knows of one modality while two are aligned: Gröger et al. 2025 (arXiv:2506.16895).

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> float(similarity_preserving(3 * teacher.flip(1), teacher)) < 1e-6
        True
        >>> round(float(similarity_preserving(teacher[[2, 1, 0]], teacher)), 3)
        0.222
    """
    check_matrix("x", x)
    check_matrix("teacher", teacher)
    if (gathered is None) != (gathered_teacher is None):
        raise ShapeError("one of gathered and gathered_teacher is given alone; give both or neither")
    others, other_teachers = (x, teacher) if gathered is None else (gathered, gathered_teacher)
    if len(teacher) != len(x) or len(other_teachers) != len(others):
        raise ShapeError(
            f"teachers hold {len(teacher)} and {len(other_teachers)} rows, students {len(x)} and {len(others)}; embed "
            f"the same batch"
        )
    with torch.autocast(x.device.type, enabled=False):
        x, others, *teachers = widened(x, others, teacher.detach(), other_teachers.detach())
        ours, our_others, theirs, their_others = (F.normalize(rows, dim=1) for rows in (x, others, *teachers))

        def block_sum(block: slice, ours: Tensor, our_others: Tensor) -> tuple[Tensor, Tensor]:
            wanted = theirs[block] @ their_others.T  # (r, n)
            return F.mse_loss(ours[block] @ our_others.T, wanted, reduction="sum"), ours.new_zeros(())

        blocks = row_blocks(len(ours), len(our_others), ours.device)
        return sum_over_blocks(block_sum, blocks, ours, our_others)[0] / (len(ours) * len(our_others))


def _mean_distance(x: Tensor, distance: str) -> Tensor:
    """() mean over pairs of different rows, 1 where that is 0."""

    def block_sum(block: slice, x: Tensor) -> tuple[Tensor, Tensor]:
        return pairwise_distances(x[block], x, distance).sum(), x.new_zeros(())

    total, _ = sum_over_blocks(block_sum, row_blocks(len(x), len(x), x.device), x)
    mean = total / (len(x) * (len(x) - 1))
    return mean.masked_fill(mean == 0, 1.0)
