"""Model soups: the mean of several fine-tuned models' weights, all of them or those that help."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmcl.embedder import Embedder
from mmcl.errors import ConfigError
from mmcl.hub.merging.judging import Judge, ProgressCallback, metric_value
from mmcl.hub.merging.matching import check_mergeable
from mmcl.hub.merging.shared_parts import SharedParts
from mmcl.hub.merging.state_averages import StateAverage, average_models, check_weights, with_state
from mmcl.models.dual_encoder import DualEncoder


@dataclass(frozen=True)
class SoupStep:
    """One model that the greedy soup tried.

    Attributes:
        name: of the model.
        value: the metric of the soup with it.
        kept: whether it stayed in.
    """

    name: str
    value: float
    kept: bool


@dataclass(frozen=True)
class Soup:
    """A soup and what was measured on the way to it.

    Attributes:
        model: the soup, in evaluation mode.
        weights: name -> its share; 0 for models that were left out.
        metric: the metric that counts.
        singles: name -> metrics of each model alone.
        mixed: metrics of the soup of all models, uniform or by the weights that were given.
        greedy: metrics of the greedy soup; None where none was made.
        steps: what the greedy soup tried, in order; the first is the best single model.
    """

    model: DualEncoder
    weights: dict[str, float]
    metric: str
    singles: dict[str, dict[str, Any]]
    mixed: dict[str, Any]
    greedy: dict[str, Any] | None = None
    steps: list[SoupStep] = field(default_factory=list)

    def value(self, metrics: dict[str, Any]) -> float:
        """The metric that counts among some metrics."""
        return metric_value(metrics, self.metric, "the soup")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "metric": self.metric,
            "weights": self.weights,
            "singles": self.singles,
            "mixed": self.mixed,
            "greedy": self.greedy,
            "steps": [vars(step) for step in self.steps],
        }


def mix(
    models: Sequence[DualEncoder], weights: Sequence[float] | None = None, *, names: Sequence[str] | None = None
) -> DualEncoder:
    """The uniform soup: the mean of all models' weights; or a mean with weights of your own.

    Source: Wortsman et al. 2022 (arXiv:2203.05482), section 2, "uniform soup". The models should have been fine-tuned
    from one start: the mean of models that were not is seldom of use.

    Args:
        models: of one architecture, at least one; a sequence may open them one by one.
        weights: one a model, summing to 1; None: all alike.
        names: what messages call the models.

    Returns:
        A new model, in evaluation mode.

    Raises:
        ConfigError: see `average_models`.
    """
    return average_models(models, weights, names=names)


def judged_soup(
    models: Sequence[DualEncoder],
    judge: Judge,
    metric: str,
    *,
    greedy: bool = True,
    weights: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    make_embedder: Callable[[DualEncoder, set[str]], Callable[[DualEncoder], Embedder]] | None = None,
    progress: ProgressCallback | None = None,
) -> Soup:
    """Judge each model, the soup of all, and the greedy soup.

    The greedy soup takes the models by falling metric, the best first, and keeps each with which the mean of those kept
    is no worse than without. Source: Wortsman et al. 2022 (arXiv:2203.05482), recipe 1. It is never worse than the best
    model on the data that it is made by; judge it on others.

    Args:
        models: see `mix`; each is asked for two or three times.
        judge: measures an embedder, on held-out data.
        metric: what counts among its metrics; the higher, the better.
        greedy: false leaves the greedy soup out: the soup of all is the result.
        weights: of the soup of all; not with ``greedy``.
        names: of the models, all different.
        make_embedder: (a model, the names of the weights that are equal in all) -> what makes an embedder of each;
            default ``SharedParts.from_equal``.
        progress: told (what, how far it is, of how much).

    Raises:
        ConfigError: see `average_models`; weights for a greedy soup; two models of one name; the judge does not give
            the metric.
    """
    if greedy and weights is not None:
        raise ConfigError("a greedy soup finds its members itself and takes no weights; leave weights or greedy out")
    shares = check_weights(weights, len(models))
    names = list(names or (f"model {number}" for number in range(len(models))))
    if len(set(names)) < len(names):
        raise ConfigError(f"models of a soup need different names, got {', '.join(names)}")
    kitchen = _Kitchen(models, names, shares, judge, metric, make_embedder, progress, trials=greedy)
    singles, mixed = kitchen.singles(), kitchen.judge(kitchen.average.state())
    if not greedy:
        whole = with_state(kitchen.first, kitchen.average.state())
        return Soup(whole, dict(zip(names, shares)), metric, singles, mixed)
    average, found, steps = kitchen.greedy(singles)
    members = [step.name for step in steps if step.kept]
    parts = {name: 1 / len(members) if name in members else 0.0 for name in names}
    return Soup(with_state(kitchen.first, average.state()), parts, metric, singles, mixed, found, steps)


class _Kitchen:
    """Judges states of one architecture, on one model that they are loaded into in turn."""

    def __init__(
        self,
        models: Sequence[DualEncoder],
        names: list[str],
        shares: list[float],
        judge: Judge,
        metric: str,
        make_embedder: Callable[[DualEncoder, set[str]], Callable[[DualEncoder], Embedder]] | None,
        progress: ProgressCallback | None,
        *,
        trials: bool,
    ) -> None:
        self._models, self._names, self._judge, self._metric, self._progress = models, names, judge, metric, progress
        self._done, self._total = 0, len(models) + 1 + (len(models) - 1 if trials else 0)
        self.average, self.first = StateAverage(), None
        ceiling = 0.0
        for name, model, share in zip(names, models, shares):
            if self.first is None:
                self.first = copy.deepcopy(model)
            check_mergeable(self.first, model, names=(names[0], name))
            ceiling = max(ceiling, model.logit_scale_max)
            self.average.add(model.state_dict(), share)
        self.first.logit_scale_max = ceiling
        self._working = copy.deepcopy(self.first)
        self._make_embedder = (make_embedder or SharedParts.from_equal)(self.first, self.average.equal)

    def judge(self, state: dict[str, Any]) -> dict[str, Any]:
        """The metrics of a model with these weights."""
        self._working.load_state_dict(state)
        found = dict(self._judge(self._make_embedder(self._working)))
        metric_value(found, self._metric, "the judge")
        self._done += 1
        if self._progress is not None:
            self._progress("models and soups", self._done, self._total)
        return found

    def singles(self) -> dict[str, dict[str, Any]]:
        """The metrics of each model."""
        return {name: self.judge(model.state_dict()) for name, model in zip(self._names, self._models)}

    def greedy(self, singles: dict[str, dict[str, Any]]) -> tuple[StateAverage, dict[str, Any], list[SoupStep]]:
        """The mean of the members, its metrics, and what was tried."""
        values = [singles[name][self._metric] for name in self._names]
        order = sorted(range(len(values)), key=lambda row: -values[row])  # of equal ones, the first named first
        average, found = StateAverage(), singles[self._names[order[0]]]
        average.add(self._models[order[0]].state_dict())
        steps = [SoupStep(self._names[order[0]], values[order[0]], True)]
        for row in order[1:]:
            trial = average.copy()
            trial.add(self._models[row].state_dict())
            metrics = self.judge(trial.state())
            kept = metrics[self._metric] >= found[self._metric]
            steps.append(SoupStep(self._names[row], metrics[self._metric], kept))
            if kept:
                average, found = trial, metrics
        return average, found, steps
