"""Few-shot linear probes: fitted on k images a class, drawn several times."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmcl.evaluation.bootstrap import mean_ci95
from mmcl.evaluation.evaluator import Metrics
from mmcl.evaluation.metrics import top_k_hits
from mmcl.evaluation.representations.linear_fit import DEFAULT_CS, fit_linear, sweep_linear
from mmcl.logs import get_logger

log = get_logger(__name__)

# Features (n, d) and labels (n,) of one part of the data.
Part = tuple[Tensor, Tensor]


def draw_shots(labels: Tensor, k: int, *, seed: int) -> Tensor:
    """Rows of k images a class; a class with fewer gives all it has.

    Args:
        labels: (n,) integer.
        k: at least 1.
        seed: of the draw. Of one seed, the rows of a smaller k are among those of a larger one.

    Returns:
        (m,) int64 row numbers, ascending.

    Example:
        >>> draw_shots(torch.tensor([0, 1, 1, 1]), 3, seed=0)
        tensor([0, 1, 2, 3])
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = shuffled[torch.argsort(labels[shuffled], stable=True)]  # a class's rows together, in random order
    ordered = labels[order]
    place = torch.arange(len(labels)) - torch.searchsorted(ordered, ordered)
    return order[place < k].sort().values


def few_shot_metrics(
    train: Part,
    validation: Part,
    judged: Part,
    groups: Tensor,
    *,
    shots: Sequence[int],
    seeds: int,
    cs: Sequence[float] = DEFAULT_CS,
) -> Metrics:
    """Linear probes of k images a class, for each k and seed.

    For each k the regularisation is swept with the first seed's images and kept for the others'. A class with fewer
    than k images gives what it has and is counted; a k that no class reaches is left out.

    Args:
        train: what the images are drawn from.
        validation: what the regularisation is chosen by.
        judged: what the probes are judged on; a class that ``train`` lacks is a wrong answer.
        groups: (n,) integer, of the judged rows.
        shots: the numbers k.
        seeds: draws for each k.
        cs: values of the regularisation.

    Returns:
        ``probe/top1_{k}shot``, the mean over seeds, with ``_std`` (over seeds, n - 1 in the divisor; left out for one
        seed) and ``_ci95`` (over groups of the judged data, the draws held fixed); ``probe/c_{k}shot`` and
        ``probe/num_short_{k}shot``, the classes with fewer than k images.

    Source:
        Radford et al. 2021, section 3.1.5 and figure 6, with 1, 2, 4, 8 and 16 images a class. They draw three times
        and search the regularisation each time.
    """
    features, labels = train
    sizes = torch.bincount(labels)
    sizes = sizes[sizes > 0]
    num_classes = 1 + int(max(labels.max(), judged[1].max()))
    metrics: Metrics = {}
    for k in shots:
        if sizes.max() < k:
            log.warning("no class has %d images to fit on (the largest has %d): left out", k, int(sizes.max()))
            continue
        hits, c = [], 0.0
        for seed in range(seeds):
            rows = draw_shots(labels, k, seed=seed)
            if seed == 0:
                classifier = sweep_linear(features[rows], labels[rows], *validation, cs=cs).classifier
                c = classifier.c
            else:
                classifier = fit_linear(features[rows], labels[rows], c=c)
            scores = classifier.scores(judged[0], num_classes=num_classes)
            hits.append(top_k_hits(scores, judged[1], 1).double())
        shares = torch.stack(hits).mean(1)  # (seeds,)
        name = f"probe/top1_{k}shot"
        metrics[name] = float(shares.mean())
        metrics[f"{name}_ci95"] = mean_ci95(torch.stack(hits).mean(0), groups)
        if seeds > 1:
            metrics[f"{name}_std"] = float(shares.std())
        metrics[f"probe/c_{k}shot"] = c
        metrics[f"probe/num_short_{k}shot"] = float((sizes < k).sum())
    return metrics
