"""Search among coded embeddings, and what the codes cost in recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmcl.data.embedding_codes import EmbeddingCodes, decode_rows, encode_rows, value_ranges
from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.retrieval.galleries import Galleries

QUERIES = 256  # scored at a time: memory is queries x gallery
RESCORE = 4  # candidates for each result wanted


@dataclass(frozen=True)
class CodedGallery:
    """What is kept of a gallery.

    Attributes:
        codes: what is searched.
        fine: what the best candidates are scored by again; None: by ``codes``, read as numbers.
    """

    codes: EmbeddingCodes
    fine: EmbeddingCodes | None = None

    @property
    def bytes_per_row(self) -> int:
        """Bytes that one embedding takes in memory, the fine ones included."""
        return self.codes.bytes_per_row + (0 if self.fine is None else self.fine.bytes_per_row)


# Name -> kind of what is searched, kind of what rescores (None: nothing; "same": the codes, read as numbers).
SCHEMES: dict[str, tuple[str, str | None]] = {
    "float32": ("float32", None),
    "float16": ("float16", None),
    "int8": ("int8", None),
    "binary": ("binary", None),
    "binary, rescored": ("binary", "same"),
    "binary, rescored by int8": ("binary", "int8"),
}


def code_gallery(
    embeddings: np.ndarray, scheme: str, *, ranges: tuple[np.ndarray, np.ndarray] | None = None
) -> CodedGallery:
    """A gallery as one of ``SCHEMES`` keeps it.

    Args:
        embeddings: (n, d) floating.
        scheme: its name.
        ranges: of int8; default those of the rows.

    Raises:
        ConfigError: an unknown scheme.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"scheme is {scheme!r}; want one of {', '.join(SCHEMES)}")
    kind, again = SCHEMES[scheme]
    fine = encode_rows(embeddings, again, ranges=ranges) if again not in (None, "same") else None
    return CodedGallery(encode_rows(embeddings, kind, ranges=ranges), fine)


def search_codes(
    queries: np.ndarray, gallery: CodedGallery, k: int, *, rescore: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of a coded gallery for each query.

    float32, float16 and int8 are scored by inner product with the query. binary is scored by the Hamming distance to
    the query's own bits; with ``rescore`` the ``k * rescore`` nearest are then scored by the query's numbers against
    the signs, or against ``gallery.fine``. Source: Yamada et al. 2021 (arXiv:2106.00882), section 3.2; int8 codes are
    an addition.

    Args:
        queries: (q, d) floating.
        gallery: n rows.
        k: results wanted; of fewer rows all are given.
        rescore: candidates for each result; None: none are scored again.

    Returns:
        (q, k) float32 scores, falling, and (q, k) int64 rows of the gallery.

    Raises:
        ShapeError: queries of another width than the gallery.
        ConfigError: k or rescore is below 1.
    """
    _check_search(queries, gallery, k, rescore)
    k = min(k, len(gallery.codes))
    scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    coarse, fine = decode_rows(gallery.codes), decode_rows(gallery.fine or gallery.codes)
    for start in range(0, len(queries), QUERIES):
        some = np.asarray(queries[start : start + QUERIES], dtype=np.float32)
        found = _coarse_scores(some, gallery.codes, coarse)
        candidates = _top(found, k if rescore is None else min(k * rescore, len(gallery.codes)))
        values = np.take_along_axis(found, candidates, axis=1)
        if rescore is not None:
            values = np.einsum("qd,qcd->qc", some, fine[candidates])
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        rows[start : start + len(some)] = np.take_along_axis(candidates, order, axis=1)
        scores[start : start + len(some)] = np.take_along_axis(values, order, axis=1)
    return scores, rows


def coded_recalls(
    galleries: Galleries, scheme: str, *, ks: Sequence[int] = (1, 5, 10), rescore: int = RESCORE
) -> dict[str, float]:
    """R@k both ways where the gallery is coded and the queries are not.

    Ties count against the model: a row of the query's group stands behind all others of its score, among the
    candidates too.

    Args:
        galleries: embedded images and captions.
        scheme: of ``SCHEMES``.
        ks: cut-offs, each at least 1.
        rescore: candidates for each of the largest cut-off, where the scheme scores again.

    Returns:
        ``retrieval/i2t_recall@k`` and ``t2i_recall@k``, means over the queries that have something to find, and
        ``bytes_per_embedding``.

    Raises:
        ConfigError: an unknown scheme, or a cut-off below 1.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks is {tuple(ks)}; want at least one cut-off, each at least 1")
    images, texts = galleries.images.numpy(), galleries.texts.numpy()
    image_groups, text_groups = galleries.image_groups.numpy(), galleries.text_groups.numpy()
    ranges = value_ranges(np.concatenate([images, texts]))
    metrics: dict[str, float] = {}
    for name, queries, groups, rows, of in (
        ("i2t", images, image_groups, texts, text_groups),
        ("t2i", texts, text_groups, images, image_groups),
    ):
        gallery = code_gallery(rows, scheme, ranges=ranges)
        again = rescore if SCHEMES[scheme][1] is not None else None
        ranks = _first_hits(queries, groups, gallery, of, depth=max(ks), rescore=again)
        for k in ks:
            metrics[f"retrieval/{name}_recall@{k}"] = float((ranks < k).mean()) if len(ranks) else float("nan")
        metrics["bytes_per_embedding"] = float(gallery.bytes_per_row)
    return metrics


def _first_hits(
    queries: np.ndarray, groups: np.ndarray, gallery: CodedGallery, of: np.ndarray, *, depth: int, rescore: int | None
) -> np.ndarray:
    """The rank of the first hit of each query that has one, from 0; the gallery's size where it is no candidate."""
    answerable = np.isin(groups, of)
    queries, groups = queries[answerable].astype(np.float32), groups[answerable]
    coarse, fine = decode_rows(gallery.codes), decode_rows(gallery.fine or gallery.codes)
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), QUERIES):
        some = queries[start : start + QUERIES]
        scores = _coarse_scores(some, gallery.codes, coarse)
        hits = groups[start : start + len(some), None] == of[None, :]
        if rescore is not None:
            count = min(depth * rescore, len(of))
            # Half a bit less than the others of its distance: a hit is no candidate where others could be.
            candidates = _top(scores - 0.5 * hits, count)
            scores = np.einsum("qd,qcd->qc", some, fine[candidates])
            hits = np.take_along_axis(hits, candidates, axis=1)
        best = np.where(hits, scores, -np.inf).max(axis=1, keepdims=True)
        found = ((scores >= best) & ~hits).sum(axis=1)
        ranks[start : start + len(some)] = np.where(np.isfinite(best[:, 0]), found, len(of))
    return ranks


def _coarse_scores(queries: np.ndarray, codes: EmbeddingCodes, numbers: np.ndarray) -> np.ndarray:
    """(q, n) float32: inner products; of binary codes the number of equal bits less that of the others, exactly."""
    if codes.kind == "binary":
        queries = np.where(queries > 0, 1, -1).astype(np.float32)
    return queries @ numbers.T


def _top(scores: np.ndarray, count: int) -> np.ndarray:
    """(q, count) columns of the greatest scores, in no order; of equal ones the first."""
    columns = np.arange(scores.shape[1])
    if count >= len(columns):
        return np.broadcast_to(columns, scores.shape).copy()
    order = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    # Distances of bits are often equal: which of those at the border are kept must not depend on the machine.
    border = np.take_along_axis(scores, order, axis=1).min(axis=1, keepdims=True)
    above, equal = scores > border, scores == border
    wanted = above | (equal & (np.cumsum(equal, axis=1) <= count - above.sum(axis=1, keepdims=True)))
    return np.nonzero(wanted)[1].reshape(len(scores), count)


def _check_search(queries: np.ndarray, gallery: CodedGallery, k: int, rescore: int | None) -> None:
    if k < 1 or (rescore is not None and rescore < 1):
        raise ConfigError(f"k is {k} and rescore {rescore}; want at least 1")
    if queries.ndim != 2 or queries.shape[1] != gallery.codes.dim:
        raise ShapeError(
            f"queries have shape {queries.shape}; the gallery's embeddings have {gallery.codes.dim} values"
        )
