"""Which alpha of a sweep: by a rule that is said."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from mmcl.errors import ConfigError
from mmcl.hub.merging.wise_ft import Sweep

KEEP = 0.98
RULES = ("keep", "mean", "target")


@dataclass(frozen=True)
class Choice:
    """An alpha and why it was taken.

    Attributes:
        alpha: of the sweep.
        rule: of ``RULES``.
        reason: one sentence without a full stop.
    """

    alpha: float
    rule: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return vars(self).copy()


def choose(sweep: Sweep, *, rule: str | None = None, keep: float = KEEP) -> Choice:
    """Choose an alpha.

    - ``keep``: the best on the target among those that keep, on each of the other data, ``keep`` times what the model
      before had there. Alpha 0 always does, so there is always one.
    - ``mean``: the best mean of the target and the mean of the others.
    - ``target``: the best on the target, whatever the others lose.

    Of equal ones the smallest alpha is taken, which changes the least of the model before.

    Args:
        sweep: what each alpha is worth.
        rule: of ``RULES``; None: ``keep`` where there are other data, else ``target``.
        keep: a share in [0, 1].

    Raises:
        ConfigError: no such rule or share; a rule that needs other data where there are none.
    """
    rule = check_rule(rule, keep, has_others=bool(sweep.others))
    target = dict(zip(sweep.alphas, sweep.values(sweep.target)))
    others = {name: dict(zip(sweep.alphas, sweep.values(name))) for name in sweep.others}
    metric = sweep.metrics[sweep.target]
    if rule == "target":
        best = _first_best(target)
        return Choice(best, rule, f"the best {metric} on {sweep.target} of {len(target)} alphas")
    if rule == "mean":
        means = {
            alpha: (target[alpha] + statistics.fmean(one[alpha] for one in others.values())) / 2 for alpha in target
        }
        return Choice(_first_best(means), rule, f"the best mean of {sweep.target} and {', '.join(others)}")
    kept = [alpha for alpha in target if all(one[alpha] >= keep * one[0.0] for one in others.values())]
    best = _first_best({alpha: target[alpha] for alpha in kept})
    return Choice(
        best,
        rule,
        f"the best {metric} on {sweep.target} of the {len(kept)} alphas (of {len(target)}) that keep at least "
        f"{100 * keep:g} % of what the model before had on {', '.join(others)}",
    )


def check_rule(rule: str | None, keep: float, *, has_others: bool) -> str:
    """The rule, or the default one for None.

    Args:
        rule, keep: see `choose`.
        has_others: whether there are data besides the target.

    Raises:
        ConfigError: no such rule or share; a rule that needs other data where there are none.
    """
    rule = rule or ("keep" if has_others else "target")
    if rule not in RULES:
        raise ConfigError(f"rule is {rule!r}; want one of {', '.join(RULES)}")
    if not 0 <= keep <= 1:
        raise ConfigError(f"keep is {keep}; want a share from 0 to 1, such as {KEEP}")
    if rule != "target" and not has_others:
        raise ConfigError(f"rule {rule!r} weighs the target against other data, and none are judged; name some")
    return rule


def _first_best(values: dict[float, float]) -> float:
    return max(sorted(values), key=lambda alpha: values[alpha])  # max takes the first of equal ones
