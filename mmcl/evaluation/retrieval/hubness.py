"""Hubness correction: what hubs of a gallery lose, so that they stop being found by queries that are not theirs.

Every correction here takes something from each item of the gallery, whatever the query: its penalty. So ranking by
``score - penalty`` is ranking by a product of vectors that are one value longer (`penalised`), which `positive_ranks`
and every index of inner products can do. What a penalty looks at is never the item's own group; it is the other
queries, or a bank of them: figures made with it are told apart from those of the model alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.checks import check_finite_rows
from mmcl.evaluation.metrics.geometry import k_occurrence, skewness
from mmcl.evaluation.retrieval.ranking import TILE, pad_rows, score_all, score_buffer

CSLS_K = 10  # as in the paper, section 3.2 ("CSLS ... K = 10")
BETA = 20.0  # inverse temperature of an inverted softmax, as querybank normalisation has it


def csls_penalty(gallery: Tensor, queries: Tensor, *, k: int = CSLS_K) -> Tensor:
    """Half the mean score of each item with the ``k`` queries that are nearest to it.

    ``score(x, y) - csls_penalty(y)`` orders the gallery of a query x as ``CSLS(x, y) = 2 cos(x, y) - r(x) - r(y)``
    does: r(x), the mean score of x with the k items nearest to it, is the same for all of them.

    Args:
        gallery: (m, d) floating, unit rows.
        queries: (n, d) floating, n at least 1: all of those that are asked.
        k: neighbours; where there are fewer queries, all of them.

    Returns:
        (m,) float32; equal items have equal penalties, bit for bit. Memory is O(chunk * n).

    Raises:
        ShapeError: widths differ, there is no query, or a row is not finite.
        ConfigError: ``k`` is below 1.

    Source:
        Conneau et al. 2018, "Word Translation Without Parallel Data" (arXiv:1710.04087), section 2.3. Theirs has one
        vector a word on each side; a caption of several here is a neighbour of its own.

    Example:
        >>> csls_penalty(torch.eye(2), torch.eye(2), k=1)
        tensor([0.5000, 0.5000])
    """
    if k < 1:
        raise ConfigError(f"k needs to be at least 1, got {k}")
    parts = [
        scores.topk(min(k, scores.shape[1]), dim=1).values.double().mean(1) / 2
        for scores in _scores_of(gallery, queries, "queries")
    ]
    return torch.cat(parts).float() if parts else torch.empty(0)


def inverted_softmax_penalty(gallery: Tensor, bank: Tensor, *, beta: float = BETA) -> Tensor:
    """``log(sum over the bank of exp(beta * score)) / beta`` of each item.

    ``exp(beta * (score - penalty))`` is the inverted softmax: the softmax over the queries instead of the items.

    Args:
        gallery: (m, d) floating, unit rows.
        bank: (b, d) floating, b at least 1: queries, those that are asked or others.
        beta: inverse temperature, above 0; the higher, the more the nearest query alone counts.

    Returns:
        (m,) float32.

    Raises:
        ShapeError: widths differ, the bank is empty, or a row is not finite.
        ConfigError: ``beta`` is not above 0.

    Source:
        Smith et al. 2017, "Offline bilingual word vectors, orthogonal transformations and the inverted softmax"
        (arXiv:1702.03859), section 2.3. Theirs learns beta; here it is given.

    Example:
        >>> inverted_softmax_penalty(torch.eye(2), torch.eye(2)[:1])
        tensor([1., 0.])
    """
    if not (math.isfinite(beta) and beta > 0):
        raise ConfigError(f"beta needs to be above 0, got {beta}; {BETA:g} is usual for cosines")
    parts = [(beta * scores.double()).logsumexp(1) / beta for scores in _scores_of(gallery, bank, "bank")]
    return torch.cat(parts).float() if parts else torch.empty(0)


def near_a_hub(queries: Tensor, gallery: Tensor, bank: Tensor) -> Tensor:
    """Whether the item nearest to each query is also the nearest of some query of the bank.

    Querybank normalisation corrects such queries alone: the others did not find a hub.

    Args:
        queries: (n, d) floating.
        gallery: (m, d) floating, m at least 1.
        bank: (b, d) floating, b at least 1.

    Returns:
        (n,) bool. Of items that tie as the nearest, any one counts.

    Raises:
        ShapeError: widths differ, gallery or bank is empty, or a row is not finite.

    Source:
        Bogolin et al. 2022, "Cross Modal Retrieval with Querybank Normalisation" (arXiv:2112.12777), section 3.3
        (the dynamic inverted softmax, with a gallery activation set of k = 1).

    Example:
        >>> near_a_hub(torch.eye(3), torch.eye(3), torch.eye(3)[:1])
        tensor([ True, False, False])
    """
    if not len(bank):
        raise ShapeError("bank needs at least one query, got none")
    hubs = torch.zeros(len(gallery), dtype=torch.bool)
    for scores in _scores_of(bank, gallery, "gallery"):
        hubs |= (scores == scores.max(1, keepdim=True).values).any(0)
    parts = [
        scores.masked_fill(~hubs, -torch.inf).max(1).values == scores.max(1).values
        for scores in _scores_of(queries, gallery, "gallery")
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.bool)


def penalised(
    queries: Tensor, gallery: Tensor, penalty: Tensor, *, active: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Vectors whose products are ``score - penalty``, for everything that ranks or searches by inner products.

    Args:
        queries: (n, d) floating.
        gallery: (m, d) floating.
        penalty: (m,) floating, from `csls_penalty` or `inverted_softmax_penalty`.
        active: (n,) bool, the queries that it applies to; None: all.

    Returns:
        (n, d + 1) and (m, d + 1) float32; they are no unit rows.

    Raises:
        ShapeError: shapes do not fit, or a value is not finite.

    Example:
        >>> left, right = penalised(torch.eye(2), torch.eye(2), torch.tensor([0.25, 0.0]))
        >>> left @ right.T
        tensor([[ 0.7500,  0.0000],
                [-0.2500,  1.0000]])
    """
    queries, gallery = check_finite_rows("queries", queries), check_finite_rows("gallery", gallery)
    if penalty.shape != (len(gallery),):
        raise ShapeError(f"penalty needs shape ({len(gallery)},), one an item, got {tuple(penalty.shape)}")
    if active is not None and active.shape != (len(queries),):
        raise ShapeError(f"active needs shape ({len(queries)},), one a query, got {tuple(active.shape)}")
    weight = torch.ones(len(queries)) if active is None else active.float()
    penalty = check_finite_rows("penalty", penalty[:, None])
    return torch.cat([queries, weight[:, None]], dim=1), torch.cat([gallery, -penalty], dim=1)


def csls_scores(queries: Tensor, gallery: Tensor, *, k: int = CSLS_K) -> Tensor:
    """``CSLS(x, y) = 2 cos(x, y) - r(x) - r(y)`` of all pairs at once, for galleries that fit into memory.

    Args:
        queries: (n, d) floating, unit rows, n at least 1.
        gallery: (m, d) floating, unit rows, m at least 1.
        k: neighbours of both means.

    Returns:
        (n, m) float32.

    Raises:
        ShapeError, ConfigError: as `csls_penalty`.

    Source:
        Conneau et al. 2018 (arXiv:1710.04087), equation 3 of section 2.3.

    Example:
        >>> csls_scores(torch.eye(2), torch.eye(2), k=1)
        tensor([[ 0., -2.],
                [-2.,  0.]])
    """
    of_items, of_queries = csls_penalty(gallery, queries, k=k), csls_penalty(queries, gallery, k=k)
    return 2 * (score_all(queries, gallery) - of_queries[:, None] - of_items)


def hub_figures(queries: Tensor, gallery: Tensor, *, k: int = CSLS_K) -> dict[str, float]:
    """How unevenly a gallery is found: what says whether a correction of hubs can help.

    Args:
        queries: (n, d) floating, n at least 1.
        gallery: (m, d) floating, m at least 1; unit rows, or `penalised` ones.
        k: neighbours.

    Returns:
        ``hubness``, the skewness of ``N_k``, how many queries have an item among their k nearest (0: all items alike;
        above 1: few are found by many); ``never_found``, the share of items that no query has among them.

    Raises:
        ShapeError, ConfigError: as `k_occurrence`; there is no query.

    Source:
        Radovanović, Nanopoulos & Ivanović 2010, "Hubs in Space", equation 1 and section 3.1 (antihubs).

    Example:
        >>> hub_figures(torch.eye(2), torch.eye(2), k=1)
        {'hubness': 0.0, 'never_found': 0.0}
    """
    if not len(queries):
        raise ShapeError("queries needs at least one row, got none")
    found = k_occurrence(queries, gallery, k=k)
    return {"hubness": skewness(found), "never_found": float((found == 0).double().mean())}


def _scores_of(rows: Tensor, others: Tensor, what: str) -> Iterator[Tensor]:
    """Chunks (c, len(others)) of the scores of ``rows`` with all ``others``; each is overwritten by the next."""
    rows, others = check_finite_rows("vectors", rows), check_finite_rows(what, others)
    if rows.shape[1] != others.shape[1]:
        raise ShapeError(f"{what} needs as many columns as the rest, got {tuple(others.shape)} and {tuple(rows.shape)}")
    if not len(others):
        raise ShapeError(f"{what} needs at least one row, got none")
    padded = pad_rows(others, TILE)
    buffer = score_buffer(len(rows), len(padded), None)
    for start in range(0, len(rows), len(buffer)):
        part = rows[start : start + len(buffer)]
        torch.mm(pad_rows(part, len(buffer)), padded.T, out=buffer)
        yield buffer[: len(part), : len(others)]
