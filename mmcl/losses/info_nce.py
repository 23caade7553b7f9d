"""Symmetric InfoNCE over image-text pairs, tile by tile, with every way of choosing and weighing negatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.batch import Embeddings
from mmcl.losses.arguments import check_range, check_rows
from mmcl.losses.candidates import Window
from mmcl.losses.hardest import hardest_windows
from mmcl.losses.pair_batch import Comparison, PairBatch, check_mining, matryoshka_sizes, relative_window
from mmcl.losses.row_statistics import LOWEST, SMALLEST_SUM, RowStatistics, Sweep, row_statistics

SMALL_BATCH = 1024  # pairs up to which the whole matrix is as quick as its tiles


def info_nce(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    *,
    logit_bias: Tensor | float | None = None,
    group_ids: Tensor | None = None,
    positives: Tensor | None = None,
    negative_text: Tensor | None = None,
    negative_text_groups: Tensor | None = None,
    negative_image: Tensor | None = None,
    negative_image_groups: Tensor | None = None,
    label_smoothing: float = 0.0,
    false_negative_margin: float | None = None,
    exclude_ids: Tensor | None = None,
    mining: Literal["hardest", "semi_hard", "margin"] | None = None,
    mining_margin: float = 0.2,
    mining_count: int = 1,
    hardness: float = 0.0,
    tau_plus: float = 0.0,
    weights: Tensor | None = None,
    matryoshka_dims: Sequence[int] = (),
    gathered: Embeddings | None = None,
    offset: int = 0,
    tile_size: int | None = None,
) -> Tensor:
    r"""Mean of the image-to-text and text-to-image cross-entropies of a batch of pairs.

    With logits :math:`z_{ij} = s\,\langle x_i, y_j\rangle + b`, positives :math:`P(i)` (row i's own pair and all of its
    group) and negatives :math:`N(i)` (the rest, less what is left out, and the extra ones),

    .. math:: L = \frac{1}{2b} \sum_i \Big( -\frac{1}{|P(i)|} \sum_{p \in P(i)}
              \log \frac{e^{z_{ip}}}{\sum_{P(i) \cup N(i)} e^{z_{ij}}} \;+\; \text{the same on } z^\top \Big)

    The logits are never held: memory is O(b d + tile) beside at most 128 MiB of them (1 GiB on a GPU) that are kept to
    save computing them twice. Gradients are exact.

    Args:
        image: (b, d) embeddings, unit rows, float32 / bf16 / fp16; all sums are float32. float64 stays float64.
        text: (b, d); row i belongs with image i.
        logit_scale: () or (1,), > 0: one over the temperature.
        logit_bias: () or (1,); softmax cancels it. Taken so that a model with a bias fits.
        group_ids: (b,) int64; equal ids are positives of one another. None: the own pair alone.
        positives: (b, b) bool, of all rows gathered: image i and text j are positives. Added to those of ``group_ids``.
        negative_text: (k, d) further texts that are wrong for every image: hard captions, a queue.
        negative_text_groups: (k,) int64; a text of a row's own group is left out for it. None: none is.
        negative_image, negative_image_groups: the same for texts.
        label_smoothing: in [0, 1): this share of each target is spread evenly over a row's candidates.
        false_negative_margin: negatives that score above the own pair by more are left out; None: none is.
        exclude_ids: (b,) or (b, m) int64 of all rows gathered, such as hashes of caption and image: candidates that
            share one with the row are left out. Negative ids match nothing.
        mining: which negatives count: "hardest" (``mining_count`` of each row), "semi_hard" (scores from positive -
            ``mining_margin`` to positive), "margin" (scores from positive - ``mining_margin``); None: all.
        hardness: beta >= 0: negatives weigh exp(beta z), normalised to mean 1 in each row, without gradient.
        tau_plus: in [0, 1): the chance that a negative is a false one, debiased.
        weights: (b,) >= 0 factors on the rows' losses, used as they are.
        matryoshka_dims: sizes of embeddings whose leading part is judged too; the losses of all sizes are averaged.
        gathered: the embeddings of all processes, this one's among them; rows of this process are then judged against
            all of them. None: against themselves. Its extra negatives are not looked at.
        offset: where this process's rows start in ``gathered``.
        tile_size: rows and columns of a tile; None: what is quick on the device.

    Returns:
        () float32, never negative (label smoothing apart): the mean over the rows given. A row without negatives has
        nothing to tell apart: 0. With bf16 inputs scores are rounded to bf16 first where the device has bf16 products.

    Raises:
        ShapeError: an argument's shape or value, by name; the batch is empty.

    Source: van den Oord et al. 2018 (arXiv:1807.03748) eq. 4; symmetric form: Radford et al. 2021 (arXiv:2103.00020)
    fig. 3; several positives averaged outside the logarithm: Khosla et al. 2020 (arXiv:2004.11362) eq. 2; hardness:
    Robinson et al. 2021 (arXiv:2010.04592) eq. 4, here without a gradient through the weights; tau_plus: Chuang et al.
    2020 (arXiv:2007.00224) eq. 8, with the floor at the smallest logit there can be; extra captions: Yuksekgonul et al.
    2023 (arXiv:2210.01936) section 4; matryoshka_dims: Kusupati et al. 2022 (arXiv:2205.13147) eq. 1, equal weights.

    ``nt_xent`` is the same within one set of views, ``sup_con`` with labels, ``dcl`` without positives in the
    denominator, ``sigmoid`` with one decision a pair in place of one a row.

    Example:
        >>> import torch
        >>> x = torch.eye(4)
        >>> float(info_nce(x, x, 100.0)) < 1e-6 < float(info_nce(x, x.roll(1, 0), 100.0))
        True
    """
    batch = PairBatch.of(
        image, text, logit_scale, logit_bias,
        group_ids=group_ids, positives=positives, exclude_ids=exclude_ids, gathered=gathered, offset=offset,
        negative_text=negative_text, negative_text_groups=negative_text_groups,
        negative_image=negative_image, negative_image_groups=negative_image_groups,
    )  # fmt: skip
    check_mining(mining, mining_margin, mining_count)
    check_range("label_smoothing", label_smoothing, 0, 1)
    check_range("tau_plus", tau_plus, 0, 1)
    check_range("hardness", hardness, 0)
    check_rows("weights", weights, len(image))
    with torch.autocast(image.device.type, enabled=False):  # float32, wherever this is called
        if (
            tile_size is None
            and _is_small_and_plain(batch)
            and not (
                label_smoothing
                or mining
                or hardness
                or tau_plus
                or matryoshka_dims
                or false_negative_margin is not None
            )
        ):
            rows = _whole(batch)
            return (rows if weights is None else rows * weights).mean()
        losses = []
        for dim in matryoshka_sizes(matryoshka_dims, image.shape[1]):
            part = batch if dim == image.shape[1] else batch.truncated(dim)
            sweep = Sweep(gathered is None, hardness=hardness, with_total=label_smoothing > 0, tile_size=tile_size)
            rules = {"false_negative_margin": false_negative_margin, "mining": mining, "mining_margin": mining_margin}
            window = relative_window(part.own_logits(), part.scale, **rules)
            count = mining_count if mining == "hardest" else None
            for statistics in _both_directions(part, sweep, window, count):
                rows = _cross_entropies(statistics, part, label_smoothing=label_smoothing, tau_plus=tau_plus)
                losses.append((rows if weights is None else weights * rows).mean())
        return sum(losses) / len(losses)


def _is_small_and_plain(batch: PairBatch) -> bool:
    """Whether all that is to be done is one small matrix, where a pass over tiles would cost more than it saves."""
    plain = batch.image_to_text().candidates.is_own_alone and batch.extra("text") is batch.extra("image") is None
    return plain and batch.gathered is None and len(batch.image) <= SMALL_BATCH and batch.image.device.type == "cpu"


def _whole(batch: PairBatch) -> Tensor:
    """(b,) losses of rows, the mean of both directions, from the whole matrix of logits."""
    image, text = batch.image.to(batch.scale.dtype), batch.text.to(batch.scale.dtype)
    logits = batch.scale * (image @ text.T)
    if batch.bias is not None:
        logits = logits + batch.bias
    own = logits.diagonal()
    logits = logits.masked_fill(torch.eye(len(image), dtype=torch.bool), -torch.inf)
    top = logits.detach().max().clamp(min=LOWEST)
    terms = torch.exp(logits - top)
    negatives = [terms.sum(1), terms.sum(0)]
    if min(float(sums.detach().min()) for sums in negatives) > SMALLEST_SUM:
        negatives = [sums.log() + top for sums in negatives]
    else:
        negatives = [logits.logsumexp(1), logits.logsumexp(0)]
    return -sum(F.logsigmoid(own - sums) for sums in negatives) / 2


def _both_directions(
    batch: PairBatch, sweep: Sweep, window: Window | None, hardest: int | None
) -> tuple[RowStatistics, RowStatistics]:
    """Statistics of the images, and of the texts, against all that they are compared with."""
    forward, extra_texts, extra_images = batch.image_to_text(), batch.extra("text"), batch.extra("image")
    compared = [[forward, extra_texts], [None if sweep.both else batch.text_to_image(), extra_images]]
    windows = [window, window]
    if hardest is not None:
        windows = hardest_windows(compared, batch, sweep, count=hardest, within=window)

    def statistics(comparison: Comparison, of_rows: Window | None, **changes: bool) -> tuple[RowStatistics, ...]:
        candidates = dataclasses.replace(
            comparison.candidates,
            row_window=of_rows,
            column_window=windows[1] if changes.get("both", sweep.both) else None,
        )
        how = dataclasses.replace(sweep, **changes)
        return row_statistics(comparison.rows, comparison.columns, batch.scale, batch.bias, candidates, how)

    found, other = statistics(forward, windows[0])
    if other is None:
        other, _ = statistics(compared[1][0], windows[1])
    results = []
    for main, extra, its_window in zip((found, other), (extra_texts, extra_images), windows):
        results.append(main if extra is None else merged(main, statistics(extra, its_window, both=False)[0]))
    return results[0], results[1]


def merged(main: RowStatistics, extra: RowStatistics) -> RowStatistics:
    """Statistics against two sets of columns together; the second holds no positives."""
    return main._replace(
        negatives=torch.logaddexp(main.negatives, extra.negatives),
        weights=torch.logaddexp(main.weights, extra.weights),
        total=main.total + extra.total,
        num_negatives=main.num_negatives + extra.num_negatives,
        num_all=main.num_all + extra.num_all,
    )


def weighed_negatives(found: RowStatistics) -> Tensor:
    """(b,) log-sum-exp over negatives with their weights of mean 1; -inf where there are none."""
    return found.negatives - torch.where(found.num_negatives > 0, found.weights - found.num_negatives.log(), 0)


def _cross_entropies(found: RowStatistics, batch: PairBatch, *, label_smoothing: float, tau_plus: float) -> Tensor:
    """(b,) losses of rows."""
    negatives = weighed_negatives(found)
    if tau_plus:
        bias = 0 if batch.bias is None else batch.bias
        negatives = _debiased(negatives, found, tau_plus, floor=bias - batch.scale)
    # The same as log(sum of all) - positives, but what is told apart well keeps its digits and never falls below 0.
    losses = found.spread - F.logsigmoid(found.positives - negatives)
    if not label_smoothing:
        return losses
    mean_positive = found.positives - found.spread
    return losses + label_smoothing * (mean_positive - found.total / found.num_all)


def _debiased(negatives: Tensor, found: RowStatistics, tau_plus: float, *, floor: Tensor) -> Tensor:
    """(b,) log of N / (1 - tau) * (mean over negatives - tau * mean over positives), at least N e^floor."""
    count = found.num_negatives.log()
    mean = negatives - count
    false = found.positives - found.num_positives.log() + torch.log(torch.as_tensor(tau_plus, dtype=mean.dtype))
    some = found.num_negatives > 0
    # Where the difference is not positive the floor holds; the logarithm must not see it, not even for its gradient.
    share = torch.where(some & (false < mean), false - mean, -1.0)
    corrected = mean + torch.log1p(-share.exp()) - torch.log1p(torch.as_tensor(-tau_plus, dtype=mean.dtype))
    corrected = torch.where(false < mean, torch.maximum(corrected, floor), floor)
    return torch.where(some, count + corrected, negatives)
