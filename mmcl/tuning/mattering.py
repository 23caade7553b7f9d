"""What mattered: how much each setting explains of the trials' values, and what its best third is ahead of its worst.

Trials of a search are no designed experiment: settings move together, and good regions are visited more often. So these
figures say where to look, and the number of trials they stand on is told with them.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmcl.config import parse_yaml
from mmcl.errors import require
from mmcl.tuning.metric import Metric
from mmcl.tuning.settings import Setting
from mmcl.tuning.trial_book import TrialRecord

LEAST_TRIALS = 9  # of completed ones, for any figure: three in each third
TRIALS_A_SETTING = 5  # below this, importances are a guess


@dataclass(frozen=True)
class Part:
    """Some trials with like values of a setting.

    Attributes:
        name: the range of values, or the choice.
        middle: mean of the values, where they are numbers.
        mean, best, worst: of the metric.
        spread: standard deviation of the metric; NaN with less than two trials.
        trials: how many.
    """

    name: str
    middle: float
    mean: float
    best: float
    worst: float
    spread: float
    trials: int


@dataclass(frozen=True)
class Influence:
    """What a setting did.

    Attributes:
        setting: which.
        parts: thirds of the trials by its value, lowest first; or its choices.
        importance: share of the variance of the trials' values that it explains (fANOVA); None: not enough trials.
        difference: mean of the best part over that of the worst; 0 with less than two parts.
        error: standard error of that.
    """

    setting: Setting
    parts: tuple[Part, ...]
    importance: float | None
    difference: float
    error: float
    best: str

    def sentence(self, metric: Metric) -> str:
        """``loss.label_smoothing: +4.1 points between worst and best third (best: 0 to 0.05)``."""
        unit = "value" if self.setting.choices else "third"
        error = "" if math.isnan(self.error) else f", ± {metric.show_gain(self.error).lstrip('+')}"
        return (
            f"{self.setting.key}: {metric.show_gain(self.difference)} between worst and best {unit} "
            f"(best: {self.best}{error})"
        )


def influences(
    study: Any, space: Sequence[Setting], records: Sequence[TrialRecord], metric: Metric, *, seed: int = 0
) -> list[Influence]:
    """What each setting did, the most important one first.

    Args:
        study: Optuna's.
        space: what was searched.
        records: the trials; only those that completed count.
        metric: what counts.
        seed: of the trees.

    Returns:
        Empty with fewer than nine completed trials.
    """
    complete = [record for record in records if record.is_complete]
    if len(complete) < LEAST_TRIALS:
        return []
    shares = importances(study, seed=seed)
    found = [_influence(setting, complete, metric, shares.get(setting.key)) for setting in space]
    found = [one for one in found if len(one.parts) > 1]
    return sorted(found, key=lambda one: (-(one.importance or 0.0), -one.difference))


def importances(study: Any, *, seed: int = 0) -> dict[str, float]:
    """Setting -> share of the variance explained, by fANOVA (Hutter et al. 2014) as Optuna has it.

    Empty where completed trials are too few or all alike.
    """
    module = require("optuna.importance", extra="tune")
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.values and trial.params]
    if len(complete) < LEAST_TRIALS or len({trial.value for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = module.FanovaImportanceEvaluator(seed=seed)
        try:
            return dict(module.get_param_importances(study, evaluator=evaluator))
        except (ValueError, RuntimeError):  # trials whose values do not vary, in every tree
            return {}


def too_few(space: Sequence[Setting], complete: int) -> str | None:
    """A sentence where the trials are too few for what is told of them; None where they are enough."""
    wanted = TRIALS_A_SETTING * len(space)
    if complete >= wanted:
        return None
    trials = f"{complete} completed trial" + ("" if complete == 1 else "s")
    return (
        f"{trials}: few for {len(space)} settings, so take what mattered as a hint (want about {wanted}; give a longer "
        f"--budget, or fewer settings with --search)"
    )


def _influence(setting: Setting, complete: Sequence[TrialRecord], metric: Metric, share: float | None) -> Influence:
    pairs = [(record.settings[setting.key], record.value) for record in complete if setting.key in record.settings]
    groups = _by_choice(setting, pairs) if setting.choices else _thirds(pairs)
    parts = tuple(_part(name, middle, values, metric) for name, middle, values in groups if values)
    if len(parts) < 2:
        return Influence(setting, parts, share, 0.0, math.nan, "")
    ranked = sorted(parts, key=lambda part: metric.gain(part.mean, 0.0))
    worst, best = ranked[0], ranked[-1]
    error = math.sqrt(best.spread**2 / best.trials + worst.spread**2 / worst.trials)
    return Influence(setting, parts, share, metric.gain(best.mean, worst.mean), error, best.name)


def _by_choice(setting: Setting, pairs: Sequence[tuple[str, float]]) -> list[tuple[str, float, list[float]]]:
    groups: dict[str, list[float]] = {choice: [] for choice in setting.choices}
    for written, value in pairs:
        choice = setting.read(written)
        if choice is not None:
            groups[choice].append(value)
    return [(choice, math.nan, values) for choice, values in groups.items()]


def _thirds(pairs: Sequence[tuple[str, float]]) -> list[tuple[str, float, list[float]]]:
    """Equally many trials each, by the setting's value; trials of the same value stay together."""
    numbers = sorted((float(parse_yaml(written, source="a trial")), value) for written, value in pairs)
    values = sorted({number for number, _ in numbers})
    if len(values) < 3:
        groups = [[pair for pair in numbers if pair[0] == value] for value in values]
    else:
        groups, count = [[], [], []], len(numbers)
        for value in values:
            same = [pair for pair in numbers if pair[0] == value]
            before = sum(number < value for number, _ in numbers)
            groups[min(2, (before + len(same) // 2) * 3 // count)].extend(same)
    return [(_range(group), statistics.fmean(n for n, _ in group), [v for _, v in group]) for group in groups if group]


def _range(group: Sequence[tuple[float, float]]) -> str:
    low, high = group[0][0], group[-1][0]
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _part(name: str, middle: float, values: Sequence[float], metric: Metric) -> Part:
    ordered = sorted(values, key=lambda value: metric.gain(value, 0.0))
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return Part(name, middle, statistics.fmean(values), ordered[-1], ordered[0], spread, len(values))
