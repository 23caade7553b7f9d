"""Labelled images and how a classifier fitted on some of them is judged on others: what probes and kNN share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.bootstrap import mean_ci95
from mmcl.evaluation.evaluator import Metrics, image_embeddings
from mmcl.evaluation.metrics import confusion_matrix, mean_per_class, predict, top_k_hits

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder


@dataclass(frozen=True)
class LabelledImages:
    """The embeddings of the images that have a label and could be read.

    Attributes:
        embeddings: (n, d) float32.
        labels: n labels.
        groups: (n,) int64 group ids.
        rows: (n,) int64 row numbers in the data set.
        num_skipped: labelled images that could not be read.
        num_unlabelled: rows without a label, which were left out.
    """

    embeddings: Tensor
    labels: list[str]
    groups: Tensor
    rows: Tensor
    num_skipped: int
    num_unlabelled: int

    def __len__(self) -> int:
        return len(self.labels)


def labelled_images(embedder: Embedder, dataset: ImageTextDataset, *, batch_size: int) -> LabelledImages:
    """Embed every readable image that has a label.

    Args:
        embedder: of images.
        dataset: with a column ``label`` that holds at least one value: see `need_labels`.
        batch_size: images a forward pass.

    Raises:
        DataError: no labelled image could be read.
        ShapeError: an embedding is not finite.
    """
    cells = dataset.column("label")
    labelled = np.array([row for row, label in enumerate(cells) if label is not None], dtype=np.int64)
    embeddings, positions, skipped = image_embeddings(embedder, dataset.select(labelled), batch_size=batch_size)
    rows = labelled[positions]
    return LabelledImages(
        embeddings=embeddings,
        labels=[cells[row] for row in rows.tolist()],
        groups=dataset.group_ids()[torch.from_numpy(rows)],
        rows=torch.from_numpy(rows),
        num_skipped=len(skipped),
        num_unlabelled=len(cells) - len(labelled),
    )


def need_images(embedder: Embedder, task: str) -> None:
    """Refuse an embedder without images.

    Raises:
        ConfigError: names what it embeds.
    """
    if "image" not in embedder.modalities:
        raise ConfigError(f"{task} needs image embeddings; this model embeds {sorted(embedder.modalities)}")


def need_labels(dataset: ImageTextDataset, task: str) -> None:
    """Refuse a data set without labels.

    Raises:
        DataError: it has no column ``label``, or no row of it has a value.
    """
    if not any(label is not None for label in dataset.column("label")):
        raise DataError(f"{dataset.name}: no row has a label; {task} needs the column 'label' filled")


def need_two_classes(labels: Sequence[str], *, name: str, task: str) -> None:
    """Refuse data to fit on that holds one class alone.

    Raises:
        DataError: names the class.
    """
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise DataError(f"{name} holds one class alone, {classes[0]!r}; {task} needs at least two to tell apart")


def same_data(one: ImageTextDataset, other: ImageTextDataset) -> bool:
    """Whether two data sets hold the same rows: the same images with the same captions, in the same order."""
    return one is other or (len(one) == len(other) and one.fingerprint() == other.fingerprint())


def number_labels(fitted: Sequence[str], judged: Sequence[str]) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Labels as numbers: the classes to fit on first, sorted, then those that only the judged data hold.

    Args:
        fitted: labels of the data to fit on.
        judged: labels of the data to judge on.

    Returns:
        The c classes, and the (n,) and (m,) int64 numbers of both lists.

    Raises:
        DataError: they have no label in common.

    Example:
        >>> number_labels(["b", "a"], ["a", "z"])
        (('a', 'b', 'z'), tensor([1, 0]), tensor([0, 2]))
    """
    known, seen = set(fitted), set(judged)
    if not known & seen:
        raise DataError(
            f"the data to fit on and the data to judge on share no label: {sorted(known)[:5]} against "
            f"{sorted(seen)[:5]}; every answer would be wrong"
        )
    classes = (*sorted(known), *sorted(seen - known))
    number = {label: index for index, label in enumerate(classes)}
    first, second = ([number[label] for label in labels] for labels in (fitted, judged))
    return classes, torch.tensor(first, dtype=torch.int64), torch.tensor(second, dtype=torch.int64)


def judge_labels(task: str, scores: Tensor, labels: Tensor, groups: Tensor, *, num_known: int) -> Metrics:
    """The metrics every fitted classifier has.

    Args:
        task: prefix of the names.
        scores: (n, c) floating, the columns of classes that were not fitted on below all others.
        labels: (n,) integer in [0, c).
        groups: (n,) integer, drawn as wholes by the bootstrap.
        num_known: classes that were fitted on, the first columns.

    Returns:
        ``<task>/top1`` with ``top1_ci95``, ``top5`` (top of as many as were fitted on, where those are fewer),
        ``mean_per_class``; ``chance`` (1 / c), ``majority`` (the share of the largest class judged: what always
        answering it scores); ``num_images``, ``num_classes``, ``num_unseen_classes`` (of the judged data, not fitted
        on) and ``num_unseen_images``, which are wrong answers.
    """
    top1 = top_k_hits(scores, labels, 1).double()
    confusion = confusion_matrix(predict(scores, labels), labels, scores.shape[1])
    unseen = labels >= num_known
    return {
        f"{task}/top1": float(top1.mean()),
        f"{task}/top1_ci95": mean_ci95(top1, groups),
        f"{task}/top5": float(top_k_hits(scores, labels, min(5, num_known)).double().mean()),
        f"{task}/mean_per_class": mean_per_class(confusion),
        f"{task}/chance": 1.0 / scores.shape[1],
        f"{task}/majority": int(confusion.sum(1).max()) / len(labels),
        f"{task}/num_images": float(len(labels)),
        f"{task}/num_classes": float(scores.shape[1]),
        f"{task}/num_unseen_classes": float(scores.shape[1] - num_known),
        f"{task}/num_unseen_images": float(unseen.sum()),
    }
