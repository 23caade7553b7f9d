"""`RobustnessEvaluator`: what a model still knows of corrupted images, rewritten captions and attacked pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.evaluation.bootstrap import bootstrap_means, ci95, mean_ci95
from mmcl.evaluation.evaluator import Metrics, image_embeddings, need_both_modalities, text_embeddings
from mmcl.evaluation.retrieval.evaluator import distinct_captions
from mmcl.evaluation.robustness.attacked_embeddings import (
    ATTACKS,
    Targets,
    attacked_embeddings,
    check_attack,
    find_gradient_embedder,
)
from mmcl.evaluation.robustness.corrupted_data import corrupt_images
from mmcl.evaluation.robustness.corruptions import CORRUPTIONS, SEVERITIES
from mmcl.evaluation.robustness.corruptions.apply import check_corruption
from mmcl.evaluation.robustness.text_perturbations import TEXT_CHANGES, change_text, check_text_change
from mmcl.evaluation.robustness.top_hits import IMAGE_TO_TEXT, ZERO_SHOT, TopHits
from mmcl.evaluation.zero_shot.evaluator import ZeroShotEvaluator
from mmcl.logs import get_logger

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

log = get_logger(__name__)


class RobustnessEvaluator:
    """The first answer's rightness, with images and captions as they are and changed in many ways.

    What is measured: zero-shot top-1 where the data have labels, and retrieval R@1 both ways where they have captions
    of more than one group. The gallery's captions are exact while images are corrupted, and its images while captions
    are rewritten. Each corruption at each severity is one pass over the images: all 75 cost 75 evaluations, so
    ``max_images`` and fewer severities are the way to an answer today.

    Args:
        dataset: what to judge on.
        batch_size: items a forward pass.
        corruptions: names of ``CORRUPTIONS``; none is allowed.
        severities: 1 to 5.
        texts: names of ``TEXT_CHANGES``.
        attacks: "fgsm" and "pgd". They need gradients: where the model gives none they are left out, with a warning.
        epsilons: of the attacks, in 1/255 of the pixel range.
        max_images: a random sample of so many rows is judged; None: all.
        seed: of the sample, the corruptions, the changes and PGD's starts.
        classes: as for `ZeroShotEvaluator`.
        templates: as for `ZeroShotEvaluator`.

    Attributes:
        progress: called with (conditions done, conditions in all); None until somebody sets it.

    Raises:
        ConfigError: an unknown corruption, change or attack, a severity or epsilon out of range, ``max_images`` below
            1, or data with neither labels nor captions that differ.
        DataError: classes and labels do not fit each other.

    Source:
        Hendrycks & Dietterich 2019 (corruptions; section 4.2's mean over severities and corruptions). Deviation: the
        loss is given as the relative drop from this model's own clean score, and not as mCE, which divides by the
        errors of AlexNet on ImageNet. Goodfellow et al. 2015; Madry et al. 2018 (attacks).

    Example:
        >>> RobustnessEvaluator(dataset, severities=[3], attacks=[])(embedder)  # doctest: +SKIP
        {"robustness/zeroshot_top1_clean": 0.71, "robustness/zeroshot_top1_gaussian_noise": 0.38, ...}
    """

    def __init__(
        self,
        dataset: ImageTextDataset,
        *,
        batch_size: int = 64,
        corruptions: Sequence[str] = tuple(CORRUPTIONS),
        severities: Sequence[int] = SEVERITIES,
        texts: Sequence[str] = tuple(TEXT_CHANGES),
        attacks: Sequence[str] = ATTACKS,
        epsilons: Sequence[float] = (1, 4),
        max_images: int | None = None,
        seed: int = 0,
        classes: Mapping[str, str] | Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
    ) -> None:
        if max_images is not None and max_images < 1:
            raise ConfigError(f"max_images is {max_images}; want at least 1, or None for all")
        self._images = [(name, severity) for name in dict.fromkeys(corruptions) for severity in sorted(set(severities))]
        for name, severity in self._images:
            check_corruption(name, severity)
        self._texts = list(dict.fromkeys(texts))
        for name in self._texts:
            check_text_change(name)
        self._attacks = [(attack, float(epsilon)) for attack in dict.fromkeys(attacks) for epsilon in epsilons]
        for attack, epsilon in self._attacks:
            check_attack(attack, epsilon)
        self._zero_shot = None
        if dataset.has("label"):  # of all rows: a sample may lack a class, which would make it easier
            self._zero_shot = ZeroShotEvaluator(dataset, classes=classes, templates=templates, batch_size=batch_size)
        self.dataset = _sample(dataset, max_images, seed)
        self._zero_shot = self._zero_shot if self.dataset.has("label") else None
        if self._zero_shot is None and len(self.dataset.group_ids().unique()) < 2:
            raise ConfigError(
                f"{dataset.name} has no labels, and captions of one group alone: there is nothing to tell apart"
            )
        self.batch_size, self.seed = batch_size, seed
        self.progress: Callable[[int, int], None] | None = None
        main = IMAGE_TO_TEXT if self._zero_shot is None else ZERO_SHOT
        self.primary_metric = f"robustness/{main}_{'corruption_mean' if self._images else 'clean'}"

    def __call__(self, embedder: Embedder) -> Metrics:
        """Embed and judge under every condition.

        Args:
            embedder: of images and texts, computed from pixels and words. Wrapped in a `CachedEmbedder`, a broken-off
                evaluation goes on where it was.

        Returns:
            For each measure X of ``zeroshot_top1``, ``i2t_recall@1``, ``t2i_recall@1``: ``robustness/X_clean``,
            ``X_chance``, ``X_<corruption>`` (mean over severities), ``X_severity_<s>`` (mean over corruptions),
            ``X_<corruption>_<s>`` (one condition), ``X_corruption_mean``, ``X_relative_drop`` = 1 - mean / clean (left
            out where clean is 0); for the two of retrieval ``X_text_<change>`` and ``X_text_mean``; for zero-shot, or
            else i2t, ``X_fgsm_eps<e>`` and ``X_pgd_eps<e>``. Intervals ``*_ci95`` by a bootstrap over groups, the same
            draws for clean and changed. ``robustness/text_<change>_unchanged``, the share of captions that offered
            nothing to change; ``num_images``, ``num_texts``, ``num_skipped``, ``num_attacked``.

        Raises:
            ConfigError: the embedder lacks images or texts, or looks embeddings up, so that no change can reach it.
            DataError: no image is readable.
            ShapeError: an embedding or gradient is not finite.
        """
        need_both_modalities(embedder, "robustness")
        _refuse_lookups(embedder)
        images, rows, skipped = image_embeddings(embedder, self.dataset, batch_size=self.batch_size)
        readable = self.dataset.select(rows)
        groups = readable.group_ids()
        captions, caption_rows = distinct_captions(readable, np.arange(len(readable)), groups)
        top = self._questions(embedder, readable, groups, groups[caption_rows])
        texts = self._embed_texts(embedder, captions)
        clean = top.hits(images, texts)
        self._done(1)

        metrics: Metrics = {f"robustness/{name}_chance": value for name, value in top.chance().items()}
        for name, values in clean.items():
            metrics |= _with_interval(f"robustness/{name}_clean", values, top.groups(name))
        if self._images:
            metrics |= self._corrupted(embedder, readable, top, texts, clean)
        if self._texts and top.has_retrieval:
            metrics |= self._rewritten(embedder, top, images, captions)
        attacked = self._attacked(embedder, readable, top, texts)
        return {
            **metrics,
            **attacked,
            "robustness/num_images": float(len(readable)),
            "robustness/num_texts": float(len(captions)),
            "robustness/num_skipped": float(len(skipped)),
        }

    def _questions(
        self, embedder: Embedder, readable: ImageTextDataset, image_groups: Tensor, text_groups: Tensor
    ) -> TopHits:
        cells = readable.column("label") if self._zero_shot is not None else [None] * len(readable)
        labelled = [row for row, label in enumerate(cells) if label is not None]
        if self._zero_shot is None or not labelled:  # a small sample may hold none
            none = torch.empty(0, dtype=torch.int64)
            return TopHits(image_groups, text_groups, None, none, none)
        number = {label: index for index, label in enumerate(self._zero_shot.classes)}
        labels = torch.tensor([number[cells[row]] for row in labelled], dtype=torch.int64)
        weights = self._zero_shot.class_weights(embedder)
        return TopHits(image_groups, text_groups, weights, torch.tensor(labelled), labels)

    def _corrupted(
        self,
        embedder: Embedder,
        readable: ImageTextDataset,
        top: TopHits,
        texts: Tensor,
        clean: dict[str, Tensor],
    ) -> Metrics:
        """All corruptions at all severities."""
        metrics: Metrics = {}
        by_corruption: dict[str, dict[str, Tensor]] = defaultdict(dict)  # measure -> corruption -> sum over severities
        by_severity: dict[tuple[str, int], list[float]] = defaultdict(list)
        for number, (name, severity) in enumerate(self._images):
            log.info("corruption %d of %d: %s, severity %d", number + 1, len(self._images), name, severity)
            changed = corrupt_images(readable, name, severity, seed=self.seed)
            images, _, _ = image_embeddings(embedder, changed, batch_size=self.batch_size)
            for measure, values in top.hits(images, texts).items():
                metrics[f"robustness/{measure}_{name}_{severity}"] = float(values.mean())
                by_severity[measure, severity].append(float(values.mean()))
                by_corruption[measure][name] = by_corruption[measure].get(name, 0.0) + values
            self._done(2 + number)
        for (measure, severity), shares in by_severity.items():
            metrics[f"robustness/{measure}_severity_{severity}"] = sum(shares) / len(shares)
        severities = len(self._images) / len({name for name, _ in self._images})
        for measure, sums in by_corruption.items():
            means = {name: total / severities for name, total in sums.items()}
            metrics |= _summary(measure, clean[measure], means, top.groups(measure))
        return metrics

    def _rewritten(self, embedder: Embedder, top: TopHits, images: Tensor, captions: list[str]) -> Metrics:
        """All changes of captions; images as they are."""
        metrics: Metrics = {}
        sums: dict[str, Tensor] = {}
        for number, name in enumerate(self._texts):
            changed = [change_text(caption, name, seed=self.seed) for caption in captions]
            same = sum(old == new for old, new in zip(captions, changed))
            metrics[f"robustness/text_{name}_unchanged"] = same / len(captions)
            for measure, values in top.retrieved(images, self._embed_texts(embedder, changed)).items():
                metrics |= _with_interval(f"robustness/{measure}_text_{name}", values, top.groups(measure))
                sums[measure] = sums.get(measure, 0.0) + values
            self._done(2 + len(self._images) + number)
        for measure, total in sums.items():
            values = total / len(self._texts)
            metrics |= _with_interval(f"robustness/{measure}_text_mean", values, top.groups(measure))
        return metrics

    def _attacked(self, embedder: Embedder, readable: ImageTextDataset, top: TopHits, texts: Tensor) -> Metrics:
        """All attacks: on zero-shot classification where there are labels, on retrieval by images otherwise."""
        if not self._attacks:
            return {}
        model = find_gradient_embedder(embedder)
        if model is None:
            log.warning("attacks are left out: they need gradients, and %s gives none", type(embedder).__name__)
            return {"robustness/num_attacked": 0.0}
        zero_shot = top.weights is not None
        if zero_shot:
            readable = readable.select(top.labelled.numpy())
            targets = Targets(top.weights, torch.arange(len(top.weights)), top.labels)
        else:
            targets = Targets(texts, top.text_groups, top.image_groups)
        measure = ZERO_SHOT if zero_shot else IMAGE_TO_TEXT
        metrics: Metrics = {"robustness/num_attacked": float(len(readable))}
        for number, (attack, epsilon) in enumerate(self._attacks):
            log.info("attack %d of %d: %s, epsilon %g/255", number + 1, len(self._attacks), attack, epsilon)
            options = {"attack": attack, "epsilon": epsilon, "batch_size": self.batch_size, "seed": self.seed}
            images = attacked_embeddings(model, readable, targets, **options)
            values = top.classified(images) if zero_shot else top.retrieved(images, texts)[measure]
            metrics |= _with_interval(f"robustness/{measure}_{attack}_eps{epsilon:g}", values, top.groups(measure))
            self._done(2 + len(self._images) + len(self._texts) + number)
        return metrics

    def _embed_texts(self, embedder: Embedder, texts: list[str]) -> Tensor:
        distinct, index = text_embeddings(embedder, texts, batch_size=self.batch_size)
        return distinct[torch.tensor(index, dtype=torch.int64)]

    def _done(self, number: int) -> None:
        if self.progress is not None:
            self.progress(number, 1 + len(self._images) + len(self._texts) + len(self._attacks))


def _sample(dataset: ImageTextDataset, size: int | None, seed: int) -> ImageTextDataset:
    if size is None or size >= len(dataset):
        return dataset
    return dataset.select(np.sort(np.random.RandomState(seed % 2**32).permutation(len(dataset))[:size]))


def _refuse_lookups(embedder: Embedder) -> None:
    from mmcl.embedder import VectorsEmbedder

    if isinstance(getattr(embedder, "inner", embedder), VectorsEmbedder):
        raise ConfigError(
            "robustness needs a model that reads pixels and words; embeddings from a file are looked up by id and "
            "would stay as they are: name the model that made them"
        )


def _with_interval(name: str, values: Tensor, groups: Tensor) -> Metrics:
    """A mean over queries (q,) and its interval."""
    return {name: float(values.mean()), f"{name}_ci95": mean_ci95(values, groups)}


def _summary(measure: str, clean: Tensor, corrupted: dict[str, Tensor], groups: Tensor) -> Metrics:
    """Each corruption's mean, the mean over them and the relative drop, from one draw of groups."""
    total = torch.stack(list(corrupted.values())).mean(0)
    columns = {**corrupted, "corruption_mean": total}
    replicates = bootstrap_means(torch.stack([*columns.values(), clean], dim=1), groups)
    num_groups = len(groups.unique())
    metrics: Metrics = {}
    for column, (name, values) in enumerate(columns.items()):
        metrics[f"robustness/{measure}_{name}"] = float(values.mean())
        metrics[f"robustness/{measure}_{name}_ci95"] = ci95(replicates[:, column], num_groups=num_groups)
    if clean.any():
        drawn = replicates[replicates[:, -1] > 0]  # a draw without any right answer has nothing to lose
        metrics[f"robustness/{measure}_relative_drop"] = 1 - float(total.mean() / clean.mean())
        metrics[f"robustness/{measure}_relative_drop_ci95"] = ci95(
            1 - drawn[:, -2] / drawn[:, -1], num_groups=num_groups
        )
    return metrics
