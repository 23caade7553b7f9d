"""What a step's embeddings say: how many dimensions they use, how alike they are, how far apart the two sides lie."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

MOST_ROWS = 128  # of a step, for what compares all pairs
RANK_ROWS = 64  # for the effective rank: a decomposition of more rows would be felt
_KEYED = 1024  # values of an input by which it is told from another


def effective_rank(embeddings: Tensor) -> float:
    """``exp(-sum of p_k log p_k)``, ``p_k`` the k-th singular value's share, of the first ``RANK_ROWS`` rows.

    From the eigenvalues of the smaller Gram matrix, which costs a tenth of the decomposition that
    ``mmcl.evaluation.metrics.effective_rank`` makes; up to ``RANK_ROWS`` rows the two agree.

    Args:
        embeddings: (b, d) floating, finite, b at least 1.

    Returns:
        From 1 to min(b, d, RANK_ROWS); 0 where every row is zero.

    Source:
        Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality".

    Example:
        >>> round(effective_rank(torch.eye(4)), 6)
        4.0
    """
    rows = embeddings[:RANK_ROWS].double()
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if not values.sum():
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def mean_cosine(embeddings: Tensor) -> float:
    """Mean cosine of two different rows: 1 where all are alike; 0 for a single row.

    Args:
        embeddings: (b, d) floating, unit rows.
    """
    count = len(embeddings)
    if count < 2:
        return 0.0
    return float((embeddings.double().sum(0).square().sum() - count) / (count * (count - 1)))


def batch_recall(image: Tensor, text: Tensor, group_ids: Tensor) -> float | None:
    """Share of rows whose best positive of the batch scores above every negative, the mean of both directions.

    Ties count against the model; a row without negatives does not count.

    Args:
        image, text: (b, d) floating, unit rows.
        group_ids: (b,) int64; equal ids are positives.

    Returns:
        In [0, 1]; None where no row has a negative.
    """
    scores = image.float() @ text.float().T  # (b, b)
    positive = group_ids[:, None] == group_ids[None, :]
    counted = ~positive.all(1)
    if not counted.any():
        return None
    wanted, others = scores.masked_fill(~positive, -torch.inf), scores.masked_fill(positive, -torch.inf)
    hits = [(wanted.amax(side) > others.amax(side))[counted].float().mean() for side in (0, 1)]
    return float(sum(hits) / 2)


def input_keys(inputs: Mapping[str, Tensor]) -> Tensor | None:
    """A number of each row's inputs: equal rows have equal ones, different rows nearly always different ones.

    Args:
        inputs: an encoder's keyword inputs, tensors with a row for each item.

    Returns:
        (b,) float64, on the inputs' device; None without inputs.
    """
    keys = None
    for value in inputs.values():
        rows = value.detach().reshape(len(value), -1)
        part = rows[:, :: max(1, rows.shape[1] // _KEYED)].double()
        # Fixed weights that are no multiples of one another.
        weights = torch.arange(1, part.shape[1] + 1, device=part.device, dtype=torch.float64).sqrt()
        own = (part * weights).sum(1)
        if rows.is_floating_point() and rows.shape[1] > _KEYED:
            own = own + rows.float().sum(1).double()  # what lies between the values taken
        keys = own if keys is None else keys + own
    return keys


def _counts(keys: Tensor) -> Tensor:
    """How often each row's key occurs."""
    _, index, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    return counts[index]


def repetition_signs(
    image: Mapping[str, Tensor], text: Mapping[str, Tensor], group_ids: Tensor, *, groups_count: bool
) -> dict[str, float]:
    """How much of a batch comes again in it.

    Args:
        image, text: the encoders' inputs.
        group_ids: (b,) int64, b at least 1.
        groups_count: whether the loss takes rows of one group for positives of one another.

    Returns:
        ``batch_rows``, how many there are; ``repeated_share``: rows of which another has the group or the caption;
        ``false_negative_share``: those that the loss takes for negatives of such a row; ``distinct_images`` and
        ``distinct_captions``: distinct inputs as a share of the rows.
    """
    rows = len(group_ids)
    captions, images = input_keys(text), input_keys(image)
    same_group = _counts(group_ids)
    same_caption = same_both = torch.ones_like(same_group)
    if captions is not None:
        _, numbers = torch.unique(captions, return_inverse=True)
        same_caption = _counts(numbers)
        _, groups = torch.unique(group_ids, return_inverse=True)
        same_both = _counts(groups.to(numbers.device) * rows + numbers)
    repeated = (same_group > 1) | (same_caption > 1)
    missed = same_caption > same_both if groups_count else repeated
    signs = {
        "batch_rows": rows,
        "repeated_share": float(repeated.double().mean()),
        "false_negative_share": float(missed.double().mean()),
    }
    for name, keys in (("distinct_images", images), ("distinct_captions", captions)):
        if keys is not None:
            signs[name] = len(torch.unique(keys)) / rows
    return signs


@torch.no_grad()
def embedding_signs(image: Tensor, text: Tensor, group_ids: Tensor) -> dict[str, float]:
    """The signs of one step's embeddings, of its first ``MOST_ROWS`` rows.

    Args:
        image, text: (b, d) floating, unit rows, b at least 1.
        group_ids: (b,) int64.

    Returns:
        ``sign_rows``, how many were looked at; ``effective_rank_image``, ``effective_rank_text``, of embeddings without
        their mean, which says where they lie and not how many dimensions they use;
        ``mean_cosine_image``, ``mean_cosine_text``; ``modality_gap``, the distance of the means; ``batch_recall@1``,
        where there are negatives. Empty where an embedding is not finite.
    """
    image, text, group_ids = (rows[:MOST_ROWS].detach() for rows in (image, text, group_ids))
    if not len(image) or not (image.isfinite().all() and text.isfinite().all()):
        return {}
    signs = {
        "sign_rows": len(image),
        "effective_rank_image": effective_rank(image - image.mean(0)),
        "effective_rank_text": effective_rank(text - text.mean(0)),
        "mean_cosine_image": mean_cosine(image),
        "mean_cosine_text": mean_cosine(text),
        "modality_gap": float((image.double().mean(0) - text.double().mean(0)).norm()),
    }
    recall = batch_recall(image, text, group_ids)
    return signs if recall is None else {**signs, "batch_recall@1": recall}
