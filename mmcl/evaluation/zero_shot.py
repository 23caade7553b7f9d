"""`ZeroShotEvaluator`: images classified by the nearest class name, without training on the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.evaluation.bootstrap import bootstrap_means, ci95
from mmcl.evaluation.evaluator import Metrics, image_embeddings, need_both_modalities, text_embeddings
from mmcl.evaluation.metrics.classification import (
    confusion_matrix,
    expected_calibration_error,
    f1_macro,
    mean_per_class,
    predict,
    roc_auc_macro,
    top_k_hits,
)
from mmcl.evaluation.prompts import DEFAULT_TEMPLATES, check_templates, fill_templates
from mmcl.evaluation.ranking import score_all

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder


@dataclass(frozen=True)
class ZeroShotPrediction:
    """What a zero-shot classifier said of every labelled, readable image.

    Attributes:
        classes: the c labels, in the order of the columns below.
        scores: (n, c) float32 cosines.
        labels: (n,) int64 in [0, c), the true class.
        predicted: (n,) int64 in [0, c); on a tie for the highest score, not the true class.
        rows: (n,) int64 row numbers in the data set.
        groups: (n,) int64 group ids.
        logit_scale: the model's factor from scores to logits.
        num_skipped: labelled images that could not be read.
        num_unlabelled: rows without a label, which were left out.
    """

    classes: tuple[str, ...]
    scores: Tensor
    labels: Tensor
    predicted: Tensor
    rows: Tensor
    groups: Tensor
    logit_scale: float
    num_skipped: int
    num_unlabelled: int

    def confusion(self) -> Tensor:
        """(c, c) int64 counts: rows are true classes, columns predicted ones."""
        return confusion_matrix(self.predicted, self.labels, len(self.classes))


class ZeroShotEvaluator:
    """Zero-shot classification of a data set's ``label`` column.

    A class's weight is the mean embedding of its prompts, at unit length again; an image's score for it is the cosine.

    Args:
        dataset: with a column ``label``; rows without a label are left out and counted.
        classes: {label: readable name}, or names that are the labels. Default: the labels of ``prompts``, or else the
            distinct labels of the data, sorted, with underscores read as spaces.
        templates: prompts with ``{}`` in the place of the readable name. Default: `DEFAULT_TEMPLATES`.
        prompts: {label: whole prompts}, in the place of templates.
        batch_size: items a forward pass.

    Raises:
        ConfigError: both ``templates`` and ``prompts`` are given.
        DataError: no row has a label, the data has a label that ``classes`` lacks, a class has no prompt, or a
            template lacks ``{}``.

    Source:
        Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 3.1.4
        (prompt ensembling in embedding space: a mean of unit embeddings, normalised).
    """

    primary_metric = "zeroshot/top1"

    def __init__(
        self,
        dataset: ImageTextDataset,
        *,
        classes: Mapping[str, str] | Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        prompts: Mapping[str, Sequence[str]] | None = None,
        batch_size: int = 64,
    ) -> None:
        if templates is not None and prompts is not None:
            raise ConfigError("templates and prompts were both given; prompts are whole already: give one of the two")
        labels = dataset.column("label")
        self._labelled = np.array([row for row, label in enumerate(labels) if label is not None], dtype=np.int64)
        present = sorted({label for label in labels if label is not None})
        if not present:
            raise DataError(f"{dataset.name}: no row has a label; zero-shot needs the column 'label' filled")
        if classes is None and prompts is not None:
            classes = list(prompts)
        names = _names(classes) if classes is not None else {label: label.replace("_", " ") for label in present}
        _check_covered(present, names, f"{dataset.name} holds labels that the classes lack")
        if prompts is not None:
            _check_covered(names, prompts, "prompts lack classes")
            self.prompts = {label: list(prompts[label]) for label in names}
        else:
            self.prompts = fill_templates(names, check_templates(DEFAULT_TEMPLATES if templates is None else templates))
        empty = [label for label, some in self.prompts.items() if not some]
        if empty:
            raise DataError(f"prompts need at least one prompt a class; {empty[0]!r} has none")
        self.dataset = dataset
        self.classes = tuple(names)
        self.batch_size = batch_size

    def class_weights(self, embedder: Embedder) -> Tensor:
        """The classifier: (c, d) float32 unit rows, from one pass over the distinct prompts.

        Args:
            embedder: of texts.

        Raises:
            ShapeError: an embedding is not finite, or the prompts of a class cancel out.
        """
        prompts = [prompt for label in self.classes for prompt in self.prompts[label]]
        owner = torch.repeat_interleave(torch.tensor([len(self.prompts[label]) for label in self.classes]))
        distinct, index = text_embeddings(embedder, prompts, batch_size=self.batch_size)
        sums = torch.zeros(len(self.classes), distinct.shape[1]).index_add_(0, owner, distinct[torch.tensor(index)])
        length = sums.norm(dim=1)
        if (length == 0).any():
            label = self.classes[int((length == 0).nonzero()[0, 0])]
            raise ShapeError(f"the prompt embeddings of class {label!r} add up to zero; no direction is left to score")
        return F.normalize(sums, dim=1)

    def predict(self, embedder: Embedder) -> ZeroShotPrediction:
        """Score every labelled image against every class.

        Args:
            embedder: of images and texts.

        Raises:
            ConfigError: the embedder lacks images or texts.
            DataError: no labelled image is readable.
            ShapeError: an embedding is not finite.
        """
        need_both_modalities(embedder, "zero-shot classification")
        weights = self.class_weights(embedder)
        labelled = self.dataset.select(self._labelled)
        images, rows, skipped = image_embeddings(embedder, labelled, batch_size=self.batch_size)
        number = {label: index for index, label in enumerate(self.classes)}
        column = labelled.column("label")
        labels = torch.tensor([number[column[row]] for row in rows.tolist()], dtype=torch.int64)
        scores = score_all(images, weights)  # (n, c)
        rows_in_dataset = torch.from_numpy(self._labelled[rows])
        return ZeroShotPrediction(
            classes=self.classes,
            scores=scores,
            labels=labels,
            predicted=predict(scores, labels),
            rows=rows_in_dataset,
            groups=self.dataset.group_ids()[rows_in_dataset],
            logit_scale=float(embedder.logit_scale),
            num_skipped=len(skipped),
            num_unlabelled=len(self.dataset) - len(self._labelled),
        )

    def __call__(self, embedder: Embedder) -> Metrics:
        """Judge an embedder: see `judge_prediction` for the metrics and `predict` for the errors."""
        return judge_prediction(self.predict(embedder))


def judge_prediction(prediction: ZeroShotPrediction) -> Metrics:
    """The metrics of a zero-shot prediction.

    Args:
        prediction: of at least one image.

    Returns:
        ``zeroshot/top1`` with ``top1_ci95``, ``top5`` (top c where c < 5), ``mean_per_class``, ``f1_macro``,
        ``roc_auc_macro`` (left out where fewer than two classes occur), ``ece``; ``chance`` (1 / c), ``majority``
        (the share of the largest class: what always answering it scores); ``num_images``, ``num_classes``,
        ``num_skipped``, ``num_unlabelled``.
    """
    scores, labels, scale = prediction.scores, prediction.labels, prediction.logit_scale
    num_classes = len(prediction.classes)
    top1 = top_k_hits(scores, labels, 1).double()
    confusion = prediction.confusion()
    metrics: Metrics = {
        "zeroshot/top1": float(top1.mean()),
        "zeroshot/top1_ci95": ci95(bootstrap_means(top1[:, None], prediction.groups)[:, 0]),
        "zeroshot/top5": float(top_k_hits(scores, labels, min(5, num_classes)).double().mean()),
        "zeroshot/mean_per_class": mean_per_class(confusion),
        "zeroshot/f1_macro": f1_macro(confusion),
        "zeroshot/ece": expected_calibration_error(scores, labels, logit_scale=scale),
        "zeroshot/chance": 1.0 / num_classes,
        "zeroshot/majority": float(confusion.sum(1).max() / len(labels)),
        "zeroshot/num_images": float(len(labels)),
        "zeroshot/num_classes": float(num_classes),
        "zeroshot/num_skipped": float(prediction.num_skipped),
        "zeroshot/num_unlabelled": float(prediction.num_unlabelled),
    }
    if len(labels.unique()) > 1:
        metrics["zeroshot/roc_auc_macro"] = roc_auc_macro(scores, labels, logit_scale=scale)
    return metrics


def _names(classes: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    names = dict(classes) if isinstance(classes, Mapping) else {name: name for name in classes}
    if not names or len(names) != len(classes):
        raise DataError(f"classes needs at least one class and each once, got {len(classes)}, {len(names)} distinct")
    return names


def _check_covered(wanted: Sequence[str] | Mapping[str, str], given: Mapping[str, object], what: str) -> None:
    missing = [label for label in wanted if label not in given]
    if missing:
        shown = ", ".join(repr(label) for label in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(f"{what}: {shown} ({len(missing)} in all); the classes start with {list(given)[:5]}")
