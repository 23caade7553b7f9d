"""SwAV: each view predicts the cluster assignment of the other; assignments by Sinkhorn-Knopp in log space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.losses.arguments import check_matrix, check_pair, check_positive, check_range, widened
from mmcl.losses.distances import unit_rows


def swav(
    x: Tensor,
    y: Tensor,
    prototypes: Tensor,
    *,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    further: tuple[Tensor, Tensor] | None = None,
    small_views: Sequence[Tensor] = (),
) -> Tensor:
    r"""Swapped prediction: the code of one view is predicted from the other view of the same item.

    .. math:: L = \frac{1}{2} \big( \ell(x, q_y) + \ell(y, q_x) \big), \qquad
              \ell(x, q) = -\frac{1}{b} \sum_i \sum_k q_{ik} \log \frac{e^{\langle x_i, c_k \rangle / \tau}}
              {\sum_{k'} e^{\langle x_i, c_{k'} \rangle / \tau}}

    with codes q from ``sinkhorn`` on the scores of a view, without gradient. The views may be two augmentations of an
    image, or an image and its text.

    Args:
        x: (b, d) embeddings, unit rows, floating; half precision is widened to float32.
        y: (b, d); row i is another view of x's.
        prototypes: (k, d) learnable; normalised here, with gradient.
        temperature: > 0, of the predictions.
        epsilon: > 0, of the codes: the smaller, the harder.
        iterations: >= 1 rounds of Sinkhorn.
        further: (q, d) embeddings for either view that take part in making the codes and in nothing else: a queue of
            earlier batches where b is small against k, or the rows of other processes, with which the codes are those
            of the whole batch.
        small_views: more views (b, d) each, as from small crops; they predict both codes and make none.

    Returns:
        () float32 (float64 of float64 inputs), >= 0; at least the codes' mean entropy. Memory is O((b + q) k). A single
        row without ``further`` has a uniform code: balance over prototypes is all it knows.

    Raises:
        ShapeError: shapes differ or do not fit, the batch or the prototypes are empty, or temperature, epsilon or
            iterations are out of range.

    Source: Caron et al. 2020 (arXiv:2006.09882) eq. 1-4; small crops: eq. 6. There eq. 1 is the sum of two terms, here
    everything is averaged over the predictions of a code, then over codes, as in the authors' program. They normalise
    prototypes in place between steps; here their gradient has no part along themselves.

    Relations: with one-hot codes it is a classification by cosine, with labels that the batch gives itself. Comparing
    codes instead of rows it needs no negatives; the balance of ``sinkhorn`` is what forbids a collapse.

    Example:
        >>> import torch
        >>> x = torch.eye(4)
        >>> float(swav(x, x, torch.eye(4))) < 0.01 < float(swav(x, x.roll(1, 0), torch.eye(4)))
        True
    """
    check_positive("temperature", temperature)
    check_pair(x, y, names=("x", "y"))
    check_matrix("prototypes", prototypes, dim=x.shape[1])
    for number, view in enumerate(small_views):
        check_pair(x, view, names=("x", f"small_views[{number}]"))
    if further is not None:
        for number, rows in enumerate(further):
            check_matrix(f"further[{number}]", rows, dim=x.shape[1])
    with torch.autocast(x.device.type, enabled=False):
        prototypes, *views = widened(prototypes, x, y, *small_views)
        centres = unit_rows(prototypes)
        scores = [view @ centres.T for view in views]  # (b, k) each
        log_predictions = [F.log_softmax(each / temperature, dim=1) for each in scores]
        losses = []
        for made_by in (0, 1):
            more = None if further is None else further[made_by].to(centres.dtype) @ centres.detach().T
            codes = _codes(scores[made_by], more, epsilon, iterations)
            predicted_by = [p for view, p in enumerate(log_predictions) if view != made_by]
            losses += [-(codes * log_prediction).sum(1).mean() for log_prediction in predicted_by]
    return torch.stack(losses).mean()


def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    r"""Soft assignments of rows to columns that use all columns alike, by Sinkhorn-Knopp.

    The maximum of :math:`\mathrm{Tr}(Q^\top S) + \epsilon H(Q)` over matrices whose columns share the rows' mass
    evenly: :math:`\exp(S / \epsilon)` with columns and rows normalised in turn. All of it in log space, so that no
    score overflows, however small epsilon is.

    Args:
        scores: (n, k), floating: cosines of rows and prototypes.
        epsilon: > 0.
        iterations: >= 1; each makes columns even, then rows sum to one.

    Returns:
        (n, k) float32 (float64 of float64 inputs), rows sum to 1; without gradient. One row is uniform.

    Raises:
        ShapeError: scores are no matrix or have no rows, or epsilon or iterations are out of range.

    Source: Cuturi 2013 (arXiv:1306.0895) alg. 1; as codes: Caron et al. 2020 (arXiv:2006.09882) eq. 3-5.

    Relations: without the columns' step it is softmax(scores / epsilon).

    Example:
        >>> import torch
        >>> scores = torch.tensor([[1.0, 0.9], [1.0, 0.0]])  # both rows prefer the first column
        >>> sinkhorn(scores, iterations=50).argmax(1).tolist()
        [1, 0]
    """
    check_positive("epsilon", epsilon)
    check_range("iterations", iterations, 1)
    check_matrix("scores", scores)
    with torch.no_grad():
        (scores,) = widened(scores)
        logs = scores / epsilon
        for _ in range(iterations):
            logs = F.log_softmax(logs, dim=0)
            logs = F.log_softmax(logs, dim=1)
        return logs.exp()


def _codes(scores: Tensor, more: Tensor | None, epsilon: float, iterations: int) -> Tensor:
    """(b, k) codes of a view's own rows."""
    everyone = scores if more is None else torch.cat((scores, more))
    return sinkhorn(everyone, epsilon=epsilon, iterations=iterations)[: len(scores)]
