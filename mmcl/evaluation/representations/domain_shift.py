"""`DomainShiftEvaluator`: fitted on one domain and judged on the others; found again in another domain's pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import permutations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.bootstrap import bootstrap_means, ci95
from mmcl.evaluation.evaluator import Metrics, text_embeddings
from mmcl.evaluation.metrics import chance_hit_rate, hit_rate, top_k_hits
from mmcl.evaluation.representations.domain_images import DomainImages, domain_images
from mmcl.evaluation.representations.labelled import need_images, number_labels, same_data
from mmcl.evaluation.representations.linear_fit import DEFAULT_CS, fit_linear, sweep_linear
from mmcl.evaluation.representations.linear_probe import split_held_out
from mmcl.evaluation.retrieval.evaluator import distinct_captions
from mmcl.evaluation.retrieval.ranking import positive_ranks
from mmcl.logs import get_logger

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

log = get_logger(__name__)

# Of more domains the figures of each pair are left out, and their means remain.
LISTED_DOMAINS = 6


class DomainShiftEvaluator:
    """A linear probe fitted on the ``train`` rows of one domain and judged on the rows of every domain.

    The regularisation is chosen on a fifth of the domain's own training groups, after which the probe is fitted once
    more on all of the domain: nothing of another domain is seen. A label that ``train`` lacks is a wrong answer.

    Beside it, retrieval within each domain (images find their captions) and from one domain to another (an image finds
    the one of its group there). Rows without a domain are left out and counted; data without labels give the retrieval
    alone.

    Args:
        dataset: to judge on, with a column ``domain`` of at least two domains.
        train: to fit on, with columns ``domain`` and ``label``.
        batch_size: items a forward pass.
        source: the one domain to fit on; None: each of them in turn.
        cs: values of the regularisation, as scikit-learn's C.

    Raises:
        DataError: fewer than two domains, or ``train`` has no label or domain where the judged data have labels.
        ConfigError: ``train`` has no domain ``source``, or is the judged data again; or ``cs`` is empty.

    Source:
        the training-domain validation of Gulrajani & Lopez-Paz 2021, "In Search of Lost Domain Generalization",
        section 3.
    """

    def __init__(
        self,
        dataset: ImageTextDataset,
        *,
        train: ImageTextDataset,
        batch_size: int = 64,
        source: str | None = None,
        cs: Sequence[float] = DEFAULT_CS,
    ) -> None:
        if not cs or min(cs) <= 0:
            raise ConfigError(f"cs needs at least one value, each above 0, got {tuple(cs)}")
        domains = {domain for domain in dataset.column("domain") if domain is not None}
        self._labelled = dataset.has("label")
        self._sources: list[str] = []
        if self._labelled:
            if same_data(dataset, train):
                raise ConfigError(f"train is {train.name}, which is judged on too; name other data for it")
            self._sources = sorted(_labelled_domains(train))
            if not self._sources:
                raise DataError(f"{train.name}: no row has both a label and a domain; there is nothing to fit on")
            if source is not None and source not in self._sources:
                raise ConfigError(f"source is {source!r}; {train.name} has the domains {', '.join(self._sources)}")
            self._sources = self._sources if source is None else [source]
        if len(domains | set(self._sources)) < 2:
            raise DataError(f"{dataset.name}: domain shift needs at least two domains, got {sorted(domains) or 'none'}")
        self.dataset, self.train, self.batch_size, self.cs = dataset, train, batch_size, tuple(cs)
        self.primary_metric = "domains/out_of_domain_top1" if self._labelled else "domains/mean_i2i_recall@1"
        self._names = _plain_names(domains | set(self._sources))

    def __call__(self, embedder: Embedder) -> Metrics:
        """Embed, fit on each domain, and judge.

        Args:
            embedder: of images; of texts too for what takes captions.

        Returns:
            ``domains/probe_<source>_to_<target>``, the top-1; ``domains/in_domain_top1`` (every image by the probe of
            its own domain), ``out_of_domain_top1`` (every image by those of the others, their mean) and ``gap``, the
            first less the second, each with ``_ci95`` by a bootstrap over groups; ``majority``.
            ``i2t_<domain>_recall@1`` among the domain's own captions, with ``mean_i2t_recall@1`` and
            ``min_i2t_recall@1``; ``i2i_<a>_to_<b>_recall@1`` with ``mean_i2i_recall@1`` and
            ``chance_i2i_recall@1``, over the images whose group the other domain holds. ``num_domains``,
            ``num_images``, ``num_skipped``, ``num_without_domain``. The figures by domain are left out for more than
            six domains, those that nothing can be said of always.

        Raises:
            ConfigError: the embedder lacks images.
            DataError: no image is readable; a domain's training rows are of one class, or too few to set some aside;
                or the two data sets share no label.
            ShapeError: an embedding is not finite.
        """
        need_images(embedder, "domain shift")
        judged = domain_images(embedder, self.dataset, batch_size=self.batch_size)
        metrics: Metrics = {
            "domains/num_domains": float(len(judged.names)),
            "domains/num_images": float(len(judged)),
            "domains/num_skipped": float(judged.num_skipped),
            "domains/num_without_domain": float(judged.num_without_domain),
        }
        if self._labelled:
            metrics |= self._probes(judged, domain_images(embedder, self.train, batch_size=self.batch_size))
        metrics |= self._across(judged)
        if "text" in embedder.modalities:
            metrics |= self._within(embedder, judged)
        return metrics

    def _probes(self, judged: DomainImages, train: DomainImages) -> Metrics:
        """Linear probes from each source to every domain."""
        judged, train = judged.labelled(), train.labelled()
        _, train_labels, labels = number_labels(train.labels, judged.labels)
        num_classes = 1 + int(max(train_labels.max(), labels.max()))
        hits = {}
        for source in self._sources:
            mine = train.of(source)
            name = f"{self.train.name}, domain {source!r}"
            if len(train_labels[mine].unique()) < 2:
                raise DataError(f"{name}: a probe needs two classes to tell apart; it has fewer. Name another source")
            rows = (train.embeddings[mine], train_labels[mine])
            fit, aside = split_held_out(*rows, train.groups[mine], name=name)
            classifier = fit_linear(*rows, c=sweep_linear(*fit, *aside, cs=self.cs).classifier.c)
            scores = classifier.scores(judged.embeddings, num_classes=num_classes)
            hits[source] = top_k_hits(scores, labels, 1).double()
        metrics = self._listed({
            f"domains/probe_{self._names[source]}_to_{self._names[target]}": float(hit[judged.of(target)].mean())
            for source, hit in hits.items()
            for target in judged.names
        })  # fmt: skip
        metrics["domains/majority"] = int(torch.bincount(labels).max()) / len(labels)
        return metrics | _in_and_out(hits, judged)

    def _across(self, judged: DomainImages) -> Metrics:
        """Images of one domain find those of their group in another."""
        recalls, chances = {}, []
        for here, there in permutations(judged.names, 2):
            a, b = judged.of(here), judged.of(there)
            ranks = positive_ranks(
                judged.embeddings[a], judged.embeddings[b], judged.groups[a], judged.groups[b], depth=1
            )
            if len(ranks):
                name = f"domains/i2i_{self._names[here]}_to_{self._names[there]}_recall@1"
                recalls[name] = float(hit_rate(ranks, 1).mean())
                chances.append(float(chance_hit_rate(ranks.num_positives, ranks.gallery_size, 1).mean()))
        if not recalls:
            return {}
        return self._listed(recalls) | {
            "domains/mean_i2i_recall@1": sum(recalls.values()) / len(recalls),
            "domains/chance_i2i_recall@1": sum(chances) / len(chances),
        }

    def _within(self, embedder: Embedder, judged: DomainImages) -> Metrics:
        """Images of each domain find their captions among those of the domain."""
        mine = {domain: judged.of(domain) for domain in judged.names}
        captions = {
            domain: distinct_captions(self.dataset, judged.rows[rows.numpy()], judged.groups[rows])
            for domain, rows in mine.items()
        }
        distinct, index = text_embeddings(
            embedder, [text for texts, _ in captions.values() for text in texts], batch_size=self.batch_size
        )
        recalls, start = {}, 0
        for domain, (texts, position) in captions.items():
            groups = judged.groups[mine[domain]]
            gallery = distinct[torch.tensor(index[start : start + len(texts)])]
            start += len(texts)
            ranks = positive_ranks(judged.embeddings[mine[domain]], gallery, groups, groups[position], depth=1)
            recalls[f"domains/i2t_{self._names[domain]}_recall@1"] = float(hit_rate(ranks, 1).mean())
        return self._listed(recalls) | {
            "domains/mean_i2t_recall@1": sum(recalls.values()) / len(recalls),
            "domains/min_i2t_recall@1": min(recalls.values()),
        }

    def _listed(self, by_domain: dict[str, float]) -> Metrics:
        """The figures of single domains, where there are few."""
        return dict(by_domain) if len(self._names) <= LISTED_DOMAINS else {}


def _labelled_domains(dataset: ImageTextDataset) -> set[str]:
    pairs = zip(dataset.column("domain"), dataset.column("label"))
    return {domain for domain, label in pairs if domain is not None and label is not None}


def _in_and_out(hits: dict[str, Tensor], judged: DomainImages) -> Metrics:
    """Top-1 of every image by its own domain's probe and by the others', and their difference."""
    own = torch.zeros(len(judged.domains), 2, dtype=torch.float64)  # hits, probes
    other = torch.zeros_like(own)
    for source, hit in hits.items():
        counted = torch.stack([hit, torch.ones_like(hit)], dim=1)
        mine = torch.tensor([domain == source for domain in judged.domains])
        own[mine] += counted[mine]
        other[~mine] += counted[~mine]
    other /= other[:, 1:].clamp(min=1)  # the mean over the probes, so that each image weighs the same
    names, parts = ("in_domain_top1", "out_of_domain_top1"), torch.cat([own, other], dim=1)
    replicates, num_groups = bootstrap_means(parts, judged.groups), len(judged.groups.unique())
    metrics: Metrics = {}
    shares, resampled = {}, {}
    for column, name in enumerate(names):
        total = parts[:, 2 * column + 1].sum()
        if total:
            shares[name] = float(parts[:, 2 * column].sum() / total)
            resampled[name] = replicates[:, 2 * column] / replicates[:, 2 * column + 1]
            metrics[f"domains/{name}"] = shares[name]
            metrics[f"domains/{name}_ci95"] = _ci95(resampled[name], num_groups)
    if len(shares) == 2:
        metrics["domains/gap"] = shares[names[0]] - shares[names[1]]
        metrics["domains/gap_ci95"] = _ci95(resampled[names[0]] - resampled[names[1]], num_groups)
    return metrics


def _ci95(replicates: Tensor, num_groups: int) -> list[float]:
    """The interval; a resample that happened to draw no image of one kind says nothing."""
    return ci95(replicates[replicates.isfinite()], num_groups=num_groups)


def _plain_names(domains: set[str]) -> dict[str, str]:
    """Domains as they stand in names of metrics: letters, digits, dots and dashes."""
    names = {domain: re.sub(r"[^\w.-]+", "_", domain) for domain in sorted(domains)}
    if len(set(names.values())) < len(names):
        raise DataError(f"domains differ in punctuation alone: {', '.join(names)}; rename one of them")
    return names
