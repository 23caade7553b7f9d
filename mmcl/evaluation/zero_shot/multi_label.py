"""`MultiLabelEvaluator`: images with several labels each, found by the class names alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.bootstrap import bootstrap_means, ci95, mean_ci95
from mmcl.evaluation.evaluator import Metrics, image_embeddings, need_both_modalities
from mmcl.evaluation.metrics import chance_overlap_at_k, class_average_precision, overlap_at_k
from mmcl.evaluation.retrieval.ranking import score_all
from mmcl.evaluation.zero_shot.baselines import RAW, Baselines, random_figures, why_not_fitted
from mmcl.evaluation.zero_shot.raw_pixels import MAX_FIT_ROWS, fit_ridge, raw_pixels, sample_rows
from mmcl.evaluation.zero_shot.text_classifier import class_prompts, class_weights

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

KS = (1, 5)


@dataclass(frozen=True)
class MultiLabelPrediction:
    """The scores of every labelled, readable image for every class.

    Attributes:
        classes: the c labels, in the order of the columns below.
        scores: (n, c) float32 cosines.
        relevant: (n, c) bool, which labels an image has.
        rows: (n,) int64 row numbers in the data set.
        groups: (n,) int64 group ids.
        num_skipped: labelled images that could not be read.
        num_unlabelled: rows without any label, which were left out.
        num_labels_left_out: distinct labels of the data that are no class: too rare, or not asked for.
    """

    classes: tuple[str, ...]
    scores: Tensor
    relevant: Tensor
    rows: Tensor
    groups: Tensor
    num_skipped: int
    num_unlabelled: int
    num_labels_left_out: int


class MultiLabelEvaluator:
    """Zero-shot multi-label classification: each class ranks the images by their cosine to its prompts.

    Rows whose list of labels is missing or empty are left out and counted. An image whose labels are all left out
    stays: it is a wrong answer for every class, and has no overlap of its own.

    Args:
        dataset: with a column of lists of labels.
        labels_column: its name.
        min_count: labels of fewer images are left out and counted; not where ``classes`` or ``prompts`` name them.
        classes: {label: readable name}, or names that are the labels; other labels of the data are left out. Default:
            the labels of ``prompts``, or else those of the data, sorted, with underscores read as spaces.
        templates: prompts with ``{}`` in the place of the readable name. Default: ``DEFAULT_TEMPLATES``.
        prompts: {label: whole prompts}, in the place of templates.
        baselines: also judge the same model with random weights and, where ``train`` is given, a linear model of raw
            pixels.
        train: with the same column of labels; what the linear model is fitted on. Not used without ``baselines``.
        batch_size: items a forward pass.

    Raises:
        ConfigError: both ``templates`` and ``prompts`` are given, or ``min_count`` is below 1.
        DataError: the column is missing or does not hold lists, no label is frequent enough, or as `ZeroShotEvaluator`.

    Source:
        The mAP over classes of Everingham et al. 2010 (PASCAL VOC) in the convention of `class_average_precision`.
    """

    primary_metric = "multilabel/map"

    def __init__(
        self,
        dataset: ImageTextDataset,
        *,
        labels_column: str = "tags",
        min_count: int = 5,
        classes: Mapping[str, str] | Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        prompts: Mapping[str, Sequence[str]] | None = None,
        baselines: bool = False,
        train: ImageTextDataset | None = None,
        batch_size: int = 64,
    ) -> None:
        if min_count < 1:
            raise ConfigError(f"min_count needs to be at least 1, got {min_count}")
        self.dataset, self.labels_column, self.batch_size = dataset, labels_column, batch_size
        self.baselines, self.train = baselines, train
        self._labels = label_lists(dataset, labels_column)
        self._labelled = np.array([row for row, labels in enumerate(self._labels) if labels], dtype=np.int64)
        counts = Counter(label for labels in self._labels for label in labels)
        present = sorted(label for label, count in counts.items() if count >= min_count)
        if not present and classes is None and prompts is None:
            most = counts.most_common(1)
            found = f"the most frequent, {most[0][0]!r}, has {most[0][1]}" if most else "the column is empty"
            raise DataError(
                f"{dataset.name}: no label of column {labels_column!r} has min_count={min_count} images ({found}); "
                "lower min_count"
            )
        chosen = class_prompts(present, classes=classes, templates=templates, prompts=prompts)
        self.classes, self.prompts = chosen.classes, chosen.prompts
        self._left_out = len(counts.keys() - set(self.classes))
        if len(counts) == self._left_out:
            raise DataError(
                f"{dataset.name}: none of the classes, which start with {list(self.classes)[:5]}, is a label of column "
                f"{labels_column!r}; the most frequent is {counts.most_common(1)[0][0] if counts else None!r}"
            )

    def predict(self, embedder: Embedder) -> MultiLabelPrediction:
        """Score every labelled image against every class.

        Args:
            embedder: of images and texts.

        Raises:
            ConfigError: the embedder lacks images or texts.
            DataError: no labelled image is readable.
            ShapeError: an embedding is not finite.
        """
        return self._predict(embedder, self._labelled)

    def _predict(self, embedder: Embedder, chosen: np.ndarray) -> MultiLabelPrediction:
        need_both_modalities(embedder, "zero-shot classification")
        labelled = self.dataset.select(chosen)
        images, kept, skipped = image_embeddings(embedder, labelled, batch_size=self.batch_size)
        weights = class_weights(embedder, self.prompts, batch_size=self.batch_size)
        rows = torch.from_numpy(chosen[kept])
        return MultiLabelPrediction(
            classes=self.classes,
            scores=score_all(images, weights),
            relevant=relevant_matrix([self._labels[row] for row in rows.tolist()], self.classes),
            rows=rows,
            groups=self.dataset.group_ids()[rows],
            num_skipped=len(skipped),
            num_unlabelled=len(self.dataset) - len(self._labelled),
            num_labels_left_out=self._left_out,
        )

    def compare(self, embedder: Embedder, prediction: MultiLabelPrediction) -> Baselines:
        """What the same figures are without a trained model of images and texts: see `ZeroShotEvaluator.compare`.

        ``majority`` ranks the classes of every image by how many images they have.
        """
        rows, relevant = prediction.rows.numpy(), prediction.relevant
        constant = relevant.float().mean(0).expand(relevant.shape)
        chance = {"map": _chance_map(relevant), **{f"overlap@{k}": chance_overlap_at_k(relevant, k) for k in KS}}
        figures = Baselines({"chance": chance, "majority": multi_label_figures(constant, relevant)})

        def judge(other: Embedder, chosen: np.ndarray) -> dict[str, float]:
            result = self._predict(other, rows[chosen])
            return multi_label_figures(result.scores, result.relevant)

        figures |= random_figures(embedder, judge, num_rows=len(rows))
        return figures | self._fitted(self.dataset.select(rows), relevant)

    def _fitted(self, judged: ImageTextDataset, relevant: Tensor) -> Baselines:
        reason = why_not_fitted(self.train, judged)
        if self.train is None or reason:
            return Baselines(notes=(reason,))
        labels = label_lists(self.train, self.labels_column)
        rows = np.array([row for row, some in enumerate(labels) if some], dtype=np.int64)
        rows = rows[sample_rows(len(rows), MAX_FIT_ROWS)]
        try:
            features, kept = raw_pixels(self.train.select(rows))
            judged_features, judged_kept = raw_pixels(judged)
        except DataError as error:
            return Baselines(notes=(f"{RAW}: {error}",))
        rows = rows[kept]
        targets = relevant_matrix([labels[row] for row in rows.tolist()], self.classes).numpy()
        model = fit_ridge(features, targets.astype(np.float32), self.train.group_ids().numpy()[rows])
        scores = torch.from_numpy(model.predict(judged_features).reshape(-1, len(self.classes))).float()
        found = multi_label_figures(scores, relevant[torch.from_numpy(judged_kept)])
        return Baselines({"raw_linear": {**found, "num_train": float(len(rows))}})

    def __call__(self, embedder: Embedder) -> Metrics:
        """Judge an embedder: see `judge_multi_label` for the metrics and `predict` for the errors.

        With ``baselines`` also ``multilabel/<baseline>_<figure>`` for the baselines of `compare`.
        """
        prediction = self.predict(embedder)
        metrics = judge_multi_label(prediction)
        return metrics | self.compare(embedder, prediction).metrics("multilabel") if self.baselines else metrics


def label_lists(dataset: ImageTextDataset, column: str) -> list[list[str]]:
    """Each row's labels, every one once; empty where the cell is missing or empty.

    Raises:
        DataError: there is no such column, or it does not hold lists of texts.
    """
    lists = []
    for row, cell in enumerate(dataset.column(column)):
        if cell is not None and not (isinstance(cell, list) and all(isinstance(label, str) for label in cell)):
            raise DataError(
                f"{dataset.name} row {row}: column {column!r} holds {cell!r}, wanted a list of labels; one label an "
                f"image is read by --column label={column}"
            )
        lists.append(list(dict.fromkeys(cell or [])))
    return lists


def relevant_matrix(labels: Sequence[Sequence[str]], classes: Sequence[str]) -> Tensor:
    """(n, c) bool: which of c classes each row's labels name; other labels are left out.

    Example:
        >>> relevant_matrix([["b", "x"]], ["a", "b"])
        tensor([[False,  True]])
    """
    number = {label: index for index, label in enumerate(classes)}
    relevant = torch.zeros(len(labels), len(classes), dtype=torch.bool)
    for row, some in enumerate(labels):
        relevant[row, [number[label] for label in some if label in number]] = True
    return relevant


def multi_label_figures(scores: Tensor, relevant: Tensor) -> dict[str, float]:
    """``map``, ``overlap@1`` and ``overlap@5`` of scores (n, c) against relevant (n, c) bool with a True."""
    precision = class_average_precision(scores, relevant)
    figures = {"map": float(precision.values.nanmean())}
    return figures | {f"overlap@{k}": float(overlap_at_k(scores, relevant, k).mean()) for k in KS}


def judge_multi_label(prediction: MultiLabelPrediction) -> Metrics:
    """The metrics of a multi-label prediction.

    Args:
        prediction: of at least one image that has a label among the classes.

    Returns:
        ``multilabel/map`` (over the classes that occur), ``overlap@1`` and ``overlap@5`` (over the images that have a
        label among the classes), each with its ``_ci95``; ``chance_map``, the mean share of images that have a label,
        ``chance_overlap@k``; ``labels_per_image``, ``num_images``, ``num_classes``, ``num_classes_without_images``,
        ``num_labels_left_out``, ``num_skipped``, ``num_unlabelled``. The interval of the mAP is to first order, through
        what each image contributes to it.

    Raises:
        ShapeError: no image has a label among the classes.
    """
    scores, relevant, groups = prediction.scores, prediction.relevant, prediction.groups
    figures = multi_label_figures(scores, relevant)
    influence = class_average_precision(scores, relevant).influence
    replicates = figures["map"] + bootstrap_means(influence[:, None], groups)[:, 0]
    found: Metrics = {**figures, "map_ci95": ci95(replicates.clamp(0.0, 1.0), num_groups=len(groups.unique()))}
    labelled = relevant.any(1)
    for k in KS:
        overlap = overlap_at_k(scores, relevant, k)
        found[f"overlap@{k}_ci95"] = mean_ci95(overlap, groups[labelled])
        found[f"chance_overlap@{k}"] = chance_overlap_at_k(relevant, k)
    found |= {
        "chance_map": _chance_map(relevant),
        "labels_per_image": float(relevant.sum(1).double().mean()),
        "num_images": float(len(scores)),
        "num_classes": float(len(prediction.classes)),
        "num_classes_without_images": float((~relevant.any(0)).sum()),
        "num_labels_left_out": float(prediction.num_labels_left_out),
        "num_skipped": float(prediction.num_skipped),
        "num_unlabelled": float(prediction.num_unlabelled),
    }
    return {f"multilabel/{name}": value for name, value in found.items()}


def _chance_map(relevant: Tensor) -> float:
    """The mAP of constant scores: each class's share of images, over the classes that occur."""
    share = relevant.double().mean(0)
    return float(share[share > 0].mean())
