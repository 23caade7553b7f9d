"""WiSE-FT: between a model before and after fine-tuning, and which place between them serves best."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmcl.embedder import Embedder
from mmcl.errors import ConfigError
from mmcl.hub.merging.judging import Judge, ProgressCallback, check_metrics, metric_value
from mmcl.hub.merging.matching import check_mergeable
from mmcl.hub.merging.shared_parts import SharedParts
from mmcl.hub.merging.state_averages import StateAverage, average_models
from mmcl.logs import get_logger
from mmcl.models.dual_encoder import DualEncoder

log = get_logger(__name__)

ALPHAS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class SweepPoint:
    """One place between two models.

    Attributes:
        alpha: 0 is the model before, 1 the one after.
        metrics: data name -> all that was measured there.
    """

    alpha: float
    metrics: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Sweep:
    """What each alpha is worth, on the data trained for and on others.

    Attributes:
        points: by rising alpha; 0 and 1 are among them.
        metrics: data name -> the metric that counts there. The first name is the data trained for, the target.
    """

    points: list[SweepPoint]
    metrics: dict[str, str] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Name of the data trained for."""
        return next(iter(self.metrics))

    @property
    def others(self) -> list[str]:
        """Names of the data that it was not trained for."""
        return [*self.metrics][1:]

    @property
    def alphas(self) -> list[float]:
        """Those of the points."""
        return [point.alpha for point in self.points]

    def values(self, name: str) -> list[float]:
        """The metric that counts on some data, one an alpha."""
        return [metric_value(point.metrics[name], self.metrics[name], name) for point in self.points]

    def at(self, alpha: float) -> dict[str, dict[str, Any]]:
        """All that was measured at one of the alphas, by data name."""
        return self.points[self.alphas.index(alpha)].metrics

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        points = [{"alpha": point.alpha, "metrics": point.metrics} for point in self.points]
        return {"metric": dict(self.metrics), "points": points}


def interpolate(before: DualEncoder, after: DualEncoder, alpha: float) -> DualEncoder:
    """``weights = (1 - alpha) * before + alpha * after``.

    Source: Wortsman et al. 2021 (arXiv:2109.01903), eq. 1. Theirs has one encoder and a zero-shot classifier as its
    head; here both encoders, their heads and the scale (as its logarithm, as it is stored) are interpolated.

    Args:
        before: the model that fine-tuning started from.
        after: the fine-tuned one.
        alpha: 0 gives ``before``, 1 gives ``after``, bit for bit; outside [0, 1] it extrapolates, with a warning.

    Returns:
        A new model, in evaluation mode; the two stay as they are. Integer buffers are ``before``'s inside [0, 1).

    Raises:
        ConfigError: alpha is not finite, or the models differ in more than their weights.

    Example:
        >>> import torch
        >>> from mmcl.config import ModelSection
        >>> from mmcl.models.dual_encoder import build_dual_encoder
        >>> before, after = (build_dual_encoder(ModelSection(), captions=["a red circle"]) for _ in range(2))
        >>> middle = interpolate(before, after, 0.5)
        >>> both = (interpolate(before, after, 1.0), after)
        >>> torch.equal(*(model.image.head.projection.weight for model in both))
        True
    """
    check_alphas([alpha])
    return average_models([before, after], [1 - alpha, alpha], names=("before", "after"))


def check_alphas(alphas: Sequence[float]) -> list[float]:
    """Alphas sorted, each once; those outside [0, 1] are warned of.

    Raises:
        ConfigError: there is none, or one is not finite.
    """
    if not alphas:
        raise ConfigError("there is no alpha; give at least one, such as 0.5")
    for alpha in alphas:
        if not math.isfinite(alpha):
            raise ConfigError(f"alpha is {alpha}; want a number, from 0 (before) to 1 (after)")
    outside = [alpha for alpha in alphas if not 0 <= alpha <= 1]
    if outside:
        log.warning("alpha %s: outside [0, 1] weights are extrapolated", ", ".join(f"{one:g}" for one in outside))
    return sorted({float(alpha) for alpha in alphas})


def sweep(
    before: DualEncoder,
    after: DualEncoder,
    judges: Mapping[str, Judge],
    metrics: Mapping[str, str],
    *,
    alphas: Sequence[float] = ALPHAS,
    make_embedder: Callable[[DualEncoder], Embedder] | None = None,
    refresh: Callable[[DualEncoder], None] | None = None,
    progress: ProgressCallback | None = None,
) -> Sweep:
    """Judge the interpolation of two models at each alpha.

    Args:
        before, after: see `interpolate`; they stay as they are.
        judges: data name -> what measures an embedder there; the first is the data trained for.
        metrics: data name -> the metric of its judge that counts.
        alphas: where; 0 and 1 are judged besides, because what is kept is told against them.
        make_embedder: a model to the embedder that is judged; default one on the GPU where there is one that runs
            towers which are equal in both models once, see `SharedParts`.
        refresh: called with each model between the ends before it is judged, such as `reestimate_batch_norm`.
        progress: told (what, how far it is, of how much).

    Raises:
        ConfigError: the models differ in more than their weights; no judge; a judge does not give its metric.

    Example:
        >>> sweep(before, after, {"emoji": judge}, {"emoji": "retrieval/mean_recall@1"}, alphas=[0.5])  # doctest: +SKIP
    """
    check_metrics(judges, metrics)
    check_mergeable(before, after, names=("before", "after"))
    alphas = check_alphas([0.0, 1.0, *alphas])
    make_embedder = make_embedder or SharedParts.of([before, after], refreshed=refresh is not None)
    working = copy.deepcopy(before)
    working.logit_scale_max = max(before.logit_scale_max, after.logit_scale_max)
    points = []
    for number, alpha in enumerate(alphas):
        average = StateAverage()
        average.add(before.state_dict(), 1 - alpha)
        average.add(after.state_dict(), alpha)
        working.load_state_dict(average.state())
        if not 0 <= alpha <= 1:
            working.clamp_logit_scale()
        if refresh is not None and alpha not in (0, 1):
            refresh(working)
        embedder = make_embedder(working)
        found = {}
        for name, judge in judges.items():
            found[name] = judge(embedder)
            metric_value(found[name], metrics[name], name)  # a misspelt name is told now, not after the last alpha
        points.append(SweepPoint(alpha, found))
        if progress is not None:
            progress("alphas", number + 1, len(alphas))
    return Sweep(points, dict(metrics))
