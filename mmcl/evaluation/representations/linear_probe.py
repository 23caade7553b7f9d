"""`LinearProbeEvaluator`: a linear classifier on frozen image embeddings, with all training images and with few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.evaluator import Metrics
from mmcl.evaluation.metrics import confusion_matrix, f1_macro, predict, roc_auc_macro
from mmcl.evaluation.representations.few_shot import few_shot_metrics
from mmcl.evaluation.representations.labelled import (
    judge_labels,
    labelled_images,
    need_images,
    need_labels,
    need_two_classes,
    number_labels,
    same_data,
)
from mmcl.evaluation.representations.linear_fit import DEFAULT_CS, LinearClassifier, fit_linear, sweep_linear
from mmcl.logs import get_logger

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

log = get_logger(__name__)

HELD_OUT_SHARE = 0.2


class LinearProbeEvaluator:
    """Logistic regression on frozen image embeddings, fitted on ``train`` and judged on ``dataset``.

    The regularisation is chosen on ``validation``; where none is given, on a fifth of the groups of ``train``, after
    which the probe is fitted once more on all of it. The judged data take no part in that choice.

    Rows without a label are left out and counted. A judged label that ``train`` lacks is a wrong answer, and counted.

    Args:
        dataset: to judge on, with a column ``label``.
        train: to fit on, with a column ``label``.
        validation: to choose the regularisation by, with a column ``label``.
        batch_size: images a forward pass.
        shots: images a class of the few-shot probes; empty: none.
        seeds: draws of each of those.
        cs: values of the regularisation, as scikit-learn's C.

    Raises:
        DataError: a data set has no label.
        ConfigError: ``shots`` or ``seeds`` holds a number below 1, ``cs`` is empty, or ``dataset`` is ``train`` or
            ``validation`` again.

    Source:
        Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", appendix A.3.
        They take the features before the projection and fit on train and validation together in the end; this probe
        takes the embeddings, which every model gives, and leaves validation data out of the fit.
    """

    primary_metric = "probe/top1"

    def __init__(
        self,
        dataset: ImageTextDataset,
        *,
        train: ImageTextDataset,
        validation: ImageTextDataset | None = None,
        batch_size: int = 64,
        shots: Sequence[int] = (1, 2, 4, 8, 16),
        seeds: int = 5,
        cs: Sequence[float] = DEFAULT_CS,
    ) -> None:
        if (shots and min(shots) < 1) or seeds < 1:
            raise ConfigError(f"shots and seeds need to be at least 1, got {tuple(shots)} and {seeds}")
        if not cs or min(cs) <= 0:
            raise ConfigError(f"cs needs at least one value, each above 0, got {tuple(cs)}")
        for name, other in (("train", train), ("validation", validation)):
            if other is not None:
                need_labels(other, "a linear probe")
                if same_data(dataset, other):
                    raise ConfigError(
                        f"{name} is {other.name}, which is judged on too; name other data for one of them"
                    )
        need_labels(dataset, "a linear probe")
        self.dataset, self.train, self.validation = dataset, train, validation
        self.batch_size = batch_size
        self.shots, self.seeds, self.cs = tuple(sorted(set(shots))), seeds, tuple(cs)

    def __call__(self, embedder: Embedder) -> Metrics:
        """Embed, choose, fit and judge.

        Args:
            embedder: of images.

        Returns:
            ``probe/top1`` with ``top1_ci95``, ``top5``, ``mean_per_class``, ``f1_macro``, ``roc_auc_macro`` (over the
            images whose class was fitted on; left out where those are of one class); ``c``, the chosen
            regularisation, with its ``validation_top1``; ``chance``, ``majority``; ``num_images``, ``num_classes``,
            ``num_train``, ``num_validation``, ``num_unseen_classes``, ``num_unseen_images``, ``num_skipped`` (judged
            images that could not be read), ``num_train_skipped``, ``num_unlabelled``; and what `few_shot_metrics` says.

        Raises:
            ConfigError: the embedder lacks images.
            DataError: no labelled image is readable, ``train`` holds one class alone, or none that is judged.
            ShapeError: an embedding is not finite.
        """
        need_images(embedder, "a linear probe")
        judged = labelled_images(embedder, self.dataset, batch_size=self.batch_size)
        train = labelled_images(embedder, self.train, batch_size=self.batch_size)
        need_two_classes(train.labels, name=self.train.name, task="a linear probe")
        classes, train_labels, labels = number_labels(train.labels, judged.labels)
        num_known = 1 + int(train_labels.max())
        fit = (train.embeddings, train_labels)
        if self.validation is None:
            fit, validation = split_held_out(*fit, train.groups, name=self.train.name)
        else:
            other = labelled_images(embedder, self.validation, batch_size=self.batch_size)
            validation = (other.embeddings, _numbers(classes, other.labels))

        sweep = sweep_linear(*fit, *validation, cs=self.cs)
        classifier = sweep.classifier
        if self.validation is None:
            classifier = fit_linear(train.embeddings, train_labels, c=classifier.c)
        _warn_unconverged(classifier)
        scores = classifier.scores(judged.embeddings, num_classes=len(classes))
        metrics = judge_labels("probe", scores, labels, judged.groups, num_known=num_known)
        metrics |= _further(scores, labels, num_known)
        metrics |= {
            "probe/c": classifier.c,
            "probe/validation_top1": sweep.accuracy,
            "probe/num_train": float(len(train)),
            "probe/num_validation": float(len(validation[1])),
            "probe/num_skipped": float(judged.num_skipped),
            "probe/num_train_skipped": float(train.num_skipped),
            "probe/num_unlabelled": float(judged.num_unlabelled),
        }
        return metrics | few_shot_metrics(
            fit, validation, (judged.embeddings, labels), judged.groups, shots=self.shots, seeds=self.seeds, cs=self.cs
        )


def split_held_out(
    features: Tensor, labels: Tensor, groups: Tensor, *, name: str, share: float = HELD_OUT_SHARE, seed: int = 0
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Whole groups of the rows set aside to choose a regularisation by.

    Args:
        features: (n, d).
        labels: (n,) integer.
        groups: (n,) integer; rows of one group stay together.
        name: of the data, for the message.
        share: of the groups, rounded up, that is set aside.
        seed: of the draw.

    Returns:
        Features and labels of the rows to fit on, and of those set aside.

    Raises:
        DataError: what is left to fit on holds fewer than two classes.
    """
    ids, group = groups.unique(return_inverse=True)
    number = min(len(ids) - 1, -int(-len(ids) * share // 1))
    aside = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))[:number]
    held = torch.isin(group, aside)
    if not held.any() or len(labels[~held].unique()) < 2:
        raise DataError(
            f"{name}: {len(ids)} groups of {len(labels.unique())} classes are too few to set a part aside to choose "
            f"the regularisation by; fit on more groups, or name validation data where the task takes them"
        )
    return (features[~held], labels[~held]), (features[held], labels[held])


def _numbers(classes: Sequence[str], labels: Sequence[str]) -> Tensor:
    """(n,) int64; all labels that are no class share the next number, at which nothing is ever right."""
    number = {label: index for index, label in enumerate(classes)}
    return torch.tensor([number.get(label, len(classes)) for label in labels], dtype=torch.int64)


def _further(scores: Tensor, labels: Tensor, num_known: int) -> Metrics:
    confusion = confusion_matrix(predict(scores, labels), labels, scores.shape[1])
    metrics: Metrics = {"probe/f1_macro": f1_macro(confusion)}
    known = labels < num_known
    if len(labels[known].unique()) > 1:
        metrics["probe/roc_auc_macro"] = roc_auc_macro(scores[known, :num_known], labels[known], logit_scale=1.0)
    return metrics


def _warn_unconverged(classifier: LinearClassifier) -> None:
    if not classifier.converged:
        log.warning("the linear probe with c=%g had not come to rest at its last iteration", classifier.c)
