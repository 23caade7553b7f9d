"""The pairwise sigmoid loss of SigLIP, tile by tile, with every way of choosing and weighing negatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mmcl.batch import Embeddings
from mmcl.losses.arguments import check_range, check_rows
from mmcl.losses.candidates import Window
from mmcl.losses.hardest import hardest_windows
from mmcl.losses.pair_batch import Comparison, PairBatch, check_mining, matryoshka_sizes, relative_window
from mmcl.losses.row_statistics import Sweep, row_statistics
from mmcl.losses.sigmoid_sums import Terms, sigmoid_sums


def sigmoid(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None = None,
    *,
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
    r"""Every image with every text is one decision: do they belong together?

    With logits :math:`z_{ij} = s\,\langle x_i, y_j\rangle + b` and :math:`t_{ij} = 1` for positives, -1 for negatives,

    .. math:: L = -\frac{1}{b} \sum_i \sum_j \log \sigma(t_{ij} z_{ij})

    The logits are never held; value and gradient come from one sweep over the tiles. Memory is O(b d + tile).

    Args:
        image: (b, d) embeddings, unit rows, float32 / bf16 / fp16; all sums are float32. float64 stays float64.
        text: (b, d); row i belongs with image i.
        logit_scale: () or (1,), > 0.
        logit_bias: () or (1,); it must learn how rare positives are, or start there (SigLIP: scale 10, bias -10).
        group_ids, positives: further positives; see ``info_nce``.
        negative_text, negative_text_groups: (k, d), (k,); further negatives of every image.
        negative_image, negative_image_groups: (k, d), (k,); further negatives of every text.
        label_smoothing: in [0, 1): this share of each target is half yes, half no.
        false_negative_margin, exclude_ids, mining, mining_margin, mining_count: which negatives count; see
            ``info_nce``. A pair is judged once, from its image's side (an extra image, from its text's).
        hardness: beta >= 0: a pair's negatives weigh exp(beta z), normalised to mean 1, without gradient.
        tau_plus: in [0, 1): the share of false negatives; their cost is taken off, down to nothing.
        weights: (b,) >= 0 factors on the rows' losses, used as they are.
        matryoshka_dims: sizes of embeddings whose leading part is judged too; the losses of all sizes are averaged.
        gathered, offset: images of this process are judged against the texts of all processes; see ``info_nce``.
        tile_size: rows and columns of a tile; None: what is quick on the device.

    Returns:
        () float32: the sum over all pairs divided by b, as in SigLIP; it grows with the batch while the model is poor.
        A single row without extra negatives is one positive pair: the loss is softplus(-z).

    Raises:
        ShapeError: an argument's shape or value, by name; the batch is empty.

    Source: Zhai et al. 2023 (arXiv:2303.15343) eq. 1; hardness as in Robinson et al. 2021 (arXiv:2010.04592) eq. 4;
    tau_plus: the non-negative risk of Kiryo et al. 2017 (arXiv:1703.00593) eq. 6, a row at a time, without a gradient
    where it is clipped.

    ``info_nce`` asks of each row which candidate is right, and needs no bias; ``pairwise_logistic`` judges given pairs.

    Example:
        >>> import torch
        >>> x = torch.eye(4)
        >>> float(sigmoid(x, x, 20.0, -10.0)) < 1e-3 < float(sigmoid(x, x.roll(1, 0), 20.0, -10.0))
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
        losses = []
        for dim in matryoshka_sizes(matryoshka_dims, image.shape[1]):
            part = batch if dim == image.shape[1] else batch.truncated(dim)
            rules = {"false_negative_margin": false_negative_margin, "mining": mining, "mining_margin": mining_margin}
            window = relative_window(part.own_logits(), part.scale, **rules)
            sweep = Sweep(hardness=hardness, tile_size=tile_size)
            compared = _compared(part, sweep, window, mining_count if mining == "hardest" else None)
            factors = torch.ones(len(image), dtype=part.scale.dtype, device=image.device)
            factors = (factors if weights is None else weights.to(factors)) / len(image)
            terms = _terms(compared, part, sweep, factors, smoothing=label_smoothing, tau_plus=tau_plus)
            losses.append(sum(_costs(comparison, part, terms, tile_size)[0] for comparison in compared))
        return sum(losses) / len(losses)


def _compared(batch: PairBatch, sweep: Sweep, window: Window | None, hardest: int | None) -> list[Comparison]:
    """Images against texts, against extra texts, and texts against extra images, with their windows."""
    forward, extra_texts, extra_images = batch.image_to_text(), batch.extra("text"), batch.extra("image")
    windows = [window, window]
    if hardest is not None:
        windows = hardest_windows([[forward, extra_texts], [extra_images]], batch, sweep, count=hardest, within=window)
    return [
        dataclasses.replace(comparison, candidates=dataclasses.replace(comparison.candidates, row_window=its))
        for comparison, its in ((forward, windows[0]), (extra_texts, windows[0]), (extra_images, windows[1]))
        if comparison is not None
    ]


def _costs(comparison: Comparison, batch: PairBatch, terms: Terms, tile_size: int | None) -> tuple[Tensor, Tensor]:
    rows, columns, candidates = comparison.rows, comparison.columns, comparison.candidates
    return sigmoid_sums(rows, columns, batch.scale, batch.bias, candidates, terms, tile_size=tile_size)


@torch.no_grad()
def _terms(
    compared: list[Comparison], batch: PairBatch, sweep: Sweep, factors: Tensor, *, smoothing: float, tau_plus: float
) -> Terms:
    """What each row's pairs cost; weights and corrections need a sweep of their own."""
    plain = Terms(factors, factors, smoothing=smoothing)
    if not (sweep.hardness or tau_plus):
        return plain
    found = [row_statistics(c.rows, c.columns, batch.scale, batch.bias, c.candidates, sweep)[0] for c in compared]
    num_negatives = sum(statistics.num_negatives for statistics in found)
    if sweep.hardness:
        log_sums = torch.stack([statistics.weights for statistics in found]).logsumexp(0)
        log_weight = torch.where(num_negatives > 0, log_sums - num_negatives.log(), 0)
        plain = dataclasses.replace(plain, log_weight=log_weight, hardness=sweep.hardness)
    if not tau_plus:
        return plain
    share = tau_plus * num_negatives / found[0].num_positives
    ones, zeros = torch.ones_like(factors), torch.zeros_like(factors)
    of_negatives = dataclasses.replace(plain, of_positives=zeros, of_negatives=ones)
    of_false = dataclasses.replace(plain, of_positives=zeros, of_negatives=zeros, false_share=share)
    negatives = sum(_costs(comparison, batch, of_negatives, sweep.tile_size)[1] for comparison in compared)
    left = negatives > _costs(compared[0], batch, of_false, sweep.tile_size)[1]
    gate = factors * left / (1 - tau_plus)
    return dataclasses.replace(plain, of_negatives=gate, false_share=-share * gate)
