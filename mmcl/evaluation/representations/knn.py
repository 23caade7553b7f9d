"""`KNNEvaluator`: images classified by the vote of their nearest training images, without fitting anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.checks import check_finite_rows, check_ids
from mmcl.evaluation.evaluator import Metrics
from mmcl.evaluation.metrics import top_k_hits
from mmcl.evaluation.representations.labelled import (
    judge_labels,
    labelled_images,
    need_images,
    need_labels,
    need_two_classes,
    number_labels,
    same_data,
)
from mmcl.evaluation.retrieval.ranking import TILE, pad_rows, score_buffer

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder


class KNNEvaluator:
    """Weighted vote of the k training images of highest cosine: each counts ``exp(cosine / temperature)``.

    Where ``train`` is the judged data again, no image is its own neighbour. Ties count against the model: of equally
    near images those of other classes vote first, and a true class that only ties for the most votes is not predicted.

    Rows without a label are left out and counted. A judged label that ``train`` lacks is a wrong answer, and counted.

    Args:
        dataset: to judge on, with a column ``label``.
        train: the neighbours, with a column ``label``.
        batch_size: images a forward pass.
        k: neighbours of ``knn/top1`` and what goes with it. Where there are fewer, all of them vote.
        further_k: other numbers of neighbours whose top-1 is given.
        temperature: above 0; the smaller, the more the nearest ones decide.

    Raises:
        DataError: a data set has no label.
        ConfigError: a number of neighbours is below 1, or ``temperature`` is not above 0.

    Source:
        Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4, with
        their temperature of 0.07 (and 200 neighbours on ImageNet); 20 neighbours as Caron et al. 2021, "Emerging
        Properties in Self-Supervised Vision Transformers" (DINO), section 4.1.
    """

    primary_metric = "knn/top1"

    def __init__(
        self,
        dataset: ImageTextDataset,
        *,
        train: ImageTextDataset,
        batch_size: int = 64,
        k: int = 20,
        further_k: Sequence[int] = (1, 5),
        temperature: float = 0.07,
    ) -> None:
        if min(k, *further_k) < 1:
            raise ConfigError(f"k and further_k need to be at least 1, got {k} and {tuple(further_k)}")
        _check_temperature(temperature)
        for data in (dataset, train):
            need_labels(data, "kNN")
        self.dataset, self.train, self.batch_size = dataset, train, batch_size
        self.k, self.ks, self.temperature = k, tuple(sorted({k, *further_k})), temperature
        self._same = same_data(dataset, train)

    def __call__(self, embedder: Embedder) -> Metrics:
        """Embed both and let them vote.

        Args:
            embedder: of images.

        Returns:
            ``knn/top1`` (of ``k``) with ``top1_ci95``, ``top5``, ``mean_per_class``; ``top1_k<n>`` for every number of
            neighbours; ``chance``, ``majority``; ``num_images``, ``num_classes``, ``num_train``,
            ``num_unseen_classes``, ``num_unseen_images``, ``num_skipped`` (judged images that could not be read),
            ``num_train_skipped``, ``num_unlabelled``.

        Raises:
            ConfigError: the embedder lacks images.
            DataError: no labelled image is readable, ``train`` holds one class alone, or none that is judged.
            ShapeError: an embedding is not finite.
        """
        need_images(embedder, "kNN")
        judged = labelled_images(embedder, self.dataset, batch_size=self.batch_size)
        train = judged if self._same else labelled_images(embedder, self.train, batch_size=self.batch_size)
        need_two_classes(train.labels, name=self.train.name, task="kNN")
        classes, train_labels, labels = number_labels(train.labels, judged.labels)
        votes = knn_votes(
            judged.embeddings,
            train.embeddings,
            train_labels,
            labels,
            ks=self.ks,
            temperature=self.temperature,
            exclude_self=self._same,
        )
        num_known = 1 + int(train_labels.max())
        scores = {k: _with_unseen(votes[k], len(classes)) for k in self.ks}
        metrics = judge_labels("knn", scores[self.k], labels, judged.groups, num_known=num_known)
        metrics |= {f"knn/top1_k{k}": float(top_k_hits(scores[k], labels, 1).double().mean()) for k in self.ks}
        return metrics | {
            "knn/num_train": float(len(train)),
            "knn/num_skipped": float(judged.num_skipped),
            "knn/num_train_skipped": float(train.num_skipped),
            "knn/num_unlabelled": float(judged.num_unlabelled),
        }


def knn_votes(
    queries: Tensor,
    train: Tensor,
    train_labels: Tensor,
    labels: Tensor,
    *,
    ks: Sequence[int],
    temperature: float,
    exclude_self: bool = False,
) -> dict[int, Tensor]:
    """The votes of each query's k nearest rows: ``sum over them, class by class, of exp(score / temperature)``.

    Each row of votes is divided by the vote of the query's nearest row, so that a small temperature does not overflow.
    Among rows that tie for the last of the k places, those of other classes than the query's come first, in the order
    of their numbers; the result does not depend on the order of ``train``. Memory is O(chunk * n), a chunk being as
    many queries as make 16 MiB of scores.

    Args:
        queries: (m, d) floating. Unit rows make the scores cosines.
        train: (n, d) floating, n at least 1.
        train_labels: (n,) integer in [0, c).
        labels: (m,) integer, the true class of each query, needed for ties alone; one that ``train_labels`` lacks is
            of no class.
        ks: numbers of neighbours, each at least 1; above n: all n.
        temperature: above 0.
        exclude_self: query i is row i of ``train``, and none of its own neighbours; n is at least 2 then.

    Returns:
        For each k, (m, c) float64.

    Raises:
        ShapeError: shapes or dtypes do not fit, an embedding is not finite, or there are too few rows.
        ConfigError: a k is below 1, or ``temperature`` is not above 0.

    Example:
        >>> axes = torch.eye(2)
        >>> knn_votes(axes[:1], axes, torch.tensor([0, 1]), torch.tensor([0]), ks=[1], temperature=1.0)[1]
        tensor([[1., 0.]], dtype=torch.float64)
    """
    queries, train = check_finite_rows("queries", queries), check_finite_rows("train", train)
    train_labels = check_ids("train_labels", train_labels, length=len(train), of="train")
    labels = check_ids("labels", labels, length=len(queries), of="queries")
    if queries.shape[1] != train.shape[1]:
        raise ShapeError(f"queries and train need one width, got {tuple(queries.shape)} and {tuple(train.shape)}")
    if len(train) < 1 + exclude_self or (exclude_self and len(train) != len(queries)):
        raise ShapeError(f"train needs at least one neighbour for each query, got {len(train)} rows")
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks needs at least one number, each at least 1, got {tuple(ks)}")
    _check_temperature(temperature)
    reachable = len(train) - exclude_self
    num_classes = 1 + int(train_labels.max())
    votes = {k: torch.empty(len(queries), num_classes, dtype=torch.float64) for k in ks}
    padded = pad_rows(train, TILE)
    buffer = score_buffer(len(queries), len(padded), None)
    for rows in torch.arange(len(queries)).split(len(buffer)):
        torch.mm(pad_rows(queries[rows], len(buffer)), padded.T, out=buffer)
        scores = buffer[: len(rows), : len(train)]
        if exclude_self:
            scores[torch.arange(len(rows)), rows] = -torch.inf
        nearest, index = scores.topk(min(reachable, max(ks)), dim=1)  # (b, k), best first
        for k in ks:
            place = min(k, reachable)
            classes = train_labels[index[:, :place]]
            votes[k][rows] = _vote(
                scores, nearest[:, :place], classes, train_labels, labels[rows], temperature=temperature
            )
    return votes


def _vote(
    scores: Tensor, nearest: Tensor, classes: Tensor, train_labels: Tensor, labels: Tensor, *, temperature: float
) -> Tensor:
    """The votes (b, c) of the ``nearest`` (b, k) of ``scores`` (b, n), which are of ``classes`` (b, k)."""
    num_classes = 1 + int(train_labels.max())
    highest, last = nearest[:, :1], nearest[:, -1:]
    weights = ((nearest - highest).double() / temperature).exp()
    certain = nearest > last
    votes = torch.zeros(len(scores), num_classes, dtype=torch.float64).scatter_add_(1, classes, weights * certain)
    # The rows that tie for the last place, class by class: those found, or all there are where there are more.
    tied = torch.zeros_like(votes).scatter_add_(1, classes, (~certain).double())
    more = (scores >= last).sum(1) > nearest.shape[1]
    if more.any():
        ties = (scores[more] == last[more]).float()
        tied[more] = torch.zeros(len(ties), num_classes).index_add_(1, train_labels, ties).double()
    places = (~certain).sum(1, keepdim=True)
    return votes + weights[:, -1:] * _share(tied, places, labels)


def _share(tied: Tensor, places: Tensor, labels: Tensor) -> Tensor:
    """How many of the ``places`` (b, 1) each class gets with its ``tied`` (b, c) rows: the true class comes last."""
    true = F.one_hot(labels.clamp(max=tied.shape[1]), tied.shape[1] + 1)[:, :-1].bool()
    others = tied.masked_fill(true, 0.0)
    before = others.cumsum(1) - others
    taken = torch.minimum((places - before).clamp(min=0.0), others)
    rest = places - taken.sum(1, keepdim=True)
    return torch.where(true, rest, taken)


def _with_unseen(votes: Tensor, num_classes: int) -> Tensor:
    """(m, num_classes): a column below all others for each class that has no neighbour to vote for it."""
    return F.pad(votes, (0, num_classes - votes.shape[1]), value=-1.0)


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"temperature needs to be a finite number above 0, got {temperature}")
