"""`ZeroShotEvaluator`: images classified by the nearest class name, without training on the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import DataError
from mmcl.evaluation.evaluator import Metrics, image_embeddings, need_both_modalities
from mmcl.evaluation.metrics import confusion_matrix, predict
from mmcl.evaluation.retrieval.ranking import score_all
from mmcl.evaluation.zero_shot.baselines import Baselines, answer_figures, fitted_figures, random_figures
from mmcl.evaluation.zero_shot.class_metrics import (
    ClassLine,
    class_table,
    classification_intervals,
    classification_metrics,
)
from mmcl.evaluation.zero_shot.prompt_sensitivity import TemplateAccuracy, template_spread
from mmcl.evaluation.zero_shot.text_classifier import check_covered, class_prompts, class_weights

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
        template_top1: {template: its accuracy alone}; empty for fewer than two templates, or whole prompts.
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
    template_top1: Mapping[str, float] = field(default_factory=dict)

    def confusion(self) -> Tensor:
        """(c, c) int64 counts: rows are true classes, columns predicted ones."""
        return confusion_matrix(self.predicted, self.labels, len(self.classes))

    def table(self) -> list[ClassLine]:
        """Precision, recall, F1, ROC area and support of every class."""
        return class_table(self.classes, self.scores, self.labels, logit_scale=self.logit_scale)


class ZeroShotEvaluator:
    """Zero-shot classification of a data set's ``label`` column.

    A class's weight is the mean embedding of its prompts, at unit length again; an image's score for it is the cosine.
    A class without an image in the data is a candidate for every prediction, has no recall or F1 of its own, and is
    counted in ``zeroshot/num_classes_without_images``.

    Args:
        dataset: with a column ``label``; rows without a label are left out and counted.
        classes: {label: readable name}, or names that are the labels. Default: the labels of ``prompts``, or else the
            distinct labels of the data, sorted, with underscores read as spaces.
        templates: prompts with ``{}`` in the place of the readable name. Default: ``DEFAULT_TEMPLATES``.
        prompts: {label: whole prompts}, in the place of templates.
        sensitivity: also judge every template alone, from the same embeddings, where there are at least two.
        baselines: also judge the same model with random weights and, where ``train`` is given, a linear model of raw
            pixels.
        train: with a column ``label``; what the linear model is fitted on. Not used without ``baselines``.
        batch_size: items a forward pass.

    Raises:
        ConfigError: both ``templates`` and ``prompts`` are given.
        DataError: no row has a label, the data has a label that ``classes`` lacks, there is no class, one stands twice
            or has no prompt, prompts are for no class, or a template lacks ``{}``.

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
        sensitivity: bool = True,
        baselines: bool = False,
        train: ImageTextDataset | None = None,
        batch_size: int = 64,
    ) -> None:
        labels = dataset.column("label")
        self._labelled = np.array([row for row, label in enumerate(labels) if label is not None], dtype=np.int64)
        present = sorted({label for label in labels if label is not None})
        if not present:
            raise DataError(f"{dataset.name}: no row has a label; zero-shot needs the column 'label' filled")
        self._classes = class_prompts(present, classes=classes, templates=templates, prompts=prompts)
        check_covered(present, self._classes.prompts, f"{dataset.name} holds labels that the classes lack")
        self.dataset = dataset
        self.classes = self._classes.classes
        self.prompts = self._classes.prompts
        self.sensitivity = sensitivity
        self.baselines = baselines
        self.train = train
        self.batch_size = batch_size

    def class_weights(self, embedder: Embedder) -> Tensor:
        """The classifier: (c, d) float32 unit rows, from one pass over the distinct prompts.

        Args:
            embedder: of texts.

        Raises:
            ShapeError: an embedding is not finite, or the prompts of a class cancel out.
        """
        return class_weights(embedder, self.prompts, batch_size=self.batch_size)

    def predict(self, embedder: Embedder) -> ZeroShotPrediction:
        """Score every labelled image against every class.

        Args:
            embedder: of images and texts.

        Raises:
            ConfigError: the embedder lacks images or texts.
            DataError: no labelled image is readable.
            ShapeError: an embedding is not finite.
        """
        return self._predict(embedder, self._labelled, sensitivity=self.sensitivity)

    def _predict(self, embedder: Embedder, chosen: np.ndarray, *, sensitivity: bool) -> ZeroShotPrediction:
        need_both_modalities(embedder, "zero-shot classification")
        labelled = self.dataset.select(chosen)
        images, rows, skipped = image_embeddings(embedder, labelled, batch_size=self.batch_size)
        number = {label: index for index, label in enumerate(self.classes)}
        column = labelled.column("label")
        labels = torch.tensor([number[column[row]] for row in rows.tolist()], dtype=torch.int64)
        templates = self._classes.templates
        each = TemplateAccuracy(images, labels, len(templates)) if sensitivity and len(templates) > 1 else None
        watch = None if each is None else each.add
        weights = class_weights(embedder, self.prompts, batch_size=self.batch_size, watch=watch)
        scores = score_all(images, weights)  # (n, c)
        rows_in_dataset = torch.from_numpy(chosen[rows])
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
            template_top1={} if each is None else dict(zip(templates, each.top1())),
        )

    def compare(self, embedder: Embedder, prediction: ZeroShotPrediction) -> Baselines:
        """What the same figures are without a trained model of images and texts.

        Args:
            embedder: that was judged; its architecture with random weights is one of the baselines.
            prediction: of it.

        Returns:
            ``chance`` and ``majority`` always; ``random_weights`` and ``raw_linear`` where they can be had, and a note
            for each that cannot.
        """
        baselines = answer_figures(prediction.labels, len(self.classes))
        rows = prediction.rows.numpy()

        def judge(other: Embedder, chosen: np.ndarray) -> dict[str, float]:
            result = self._predict(other, rows[chosen], sensitivity=False)
            return classification_metrics(result.scores, result.labels, logit_scale=result.logit_scale)

        baselines |= random_figures(embedder, judge, num_rows=len(rows))
        judged = self.dataset.select(rows)
        return baselines | fitted_figures(self.train, judged, prediction.labels, self.classes)

    def __call__(self, embedder: Embedder) -> Metrics:
        """Judge an embedder: see `judge_prediction` for the metrics and `predict` for the errors.

        With ``baselines`` also ``zeroshot/<baseline>_<figure>`` for the baselines of `compare`.
        """
        prediction = self.predict(embedder)
        metrics = judge_prediction(prediction)
        return metrics | self.compare(embedder, prediction).metrics("zeroshot") if self.baselines else metrics


def judge_prediction(prediction: ZeroShotPrediction) -> Metrics:
    """The metrics of a zero-shot prediction.

    Args:
        prediction: of at least one image.

    Returns:
        ``zeroshot/top1``, ``top5`` (top c where c < 5), ``mean_per_class``, ``precision_macro``, ``recall_macro``,
        ``f1_macro``, ``f1_weighted``, ``roc_auc_macro`` (left out where fewer than two classes occur) and ``ece``, each
        with its ``_ci95``; ``chance`` (1 / c), ``majority`` (the share of the largest class: what always answering it
        scores); ``template_top1_min``, ``_max``, ``_mean``, ``_std`` and ``num_templates``, where templates were judged
        one by one; ``num_images``, ``num_classes``, ``num_classes_without_images``, ``num_skipped``,
        ``num_unlabelled``.
    """
    scores, labels, scale = prediction.scores, prediction.labels, prediction.logit_scale
    support = torch.bincount(labels, minlength=len(prediction.classes))
    found: Metrics = {
        **classification_metrics(scores, labels, logit_scale=scale),
        **classification_intervals(scores, labels, prediction.groups, logit_scale=scale),
        **template_spread(prediction.template_top1),
        "chance": 1.0 / len(prediction.classes),
        "majority": float(support.max()) / len(labels),
        "num_images": float(len(labels)),
        "num_classes": float(len(prediction.classes)),
        "num_classes_without_images": float((support == 0).sum()),
        "num_skipped": float(prediction.num_skipped),
        "num_unlabelled": float(prediction.num_unlabelled),
    }
    return {f"zeroshot/{name}": value for name, value in found.items()}
