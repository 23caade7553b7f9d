"""In what steps a recipe is searched: heads on kept features first, towers with the best few settings then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmcl.config import Recipe, TowerSection
from mmcl.tuning.settings import Setting, as_yaml, value_at, write_number

SHARE_OF_HEADS = 0.4  # of the time to search, where towers train in a second stage
STARTS = 3  # settings of the first stage that the second one takes up
START = "start"  # the setting of the second stage that says which


@dataclass(frozen=True)
class Stage:
    """One search.

    Attributes:
        name: ``heads``: on features of frozen towers; ``towers``: the best few settings, with towers that train;
            ``whole``: everything trains in every trial.
        space: what is searched.
        fixed: recipe key -> YAML in every trial of it.
        share: of the time to search that is spent when it ends.
        starts: label -> settings that ``START`` stands for.
        tries: points to try first, after the recipe as it was asked.
    """

    name: str
    space: tuple[Setting, ...]
    fixed: dict[str, str] = field(default_factory=dict)
    share: float = 1.0
    starts: dict[str, dict[str, str]] = field(default_factory=dict)
    tries: tuple[dict[str, str], ...] = ()

    def settings(self, point: Mapping[str, str]) -> dict[str, str]:
        """Recipe keys to YAML of a point of the space: what it starts from, what is fixed, and its own values."""
        start = {**self.starts.get(point.get(START, ""), {}), **self.fixed}
        # A start that sets a whole section, such as no adapters, leaves no part of it to others.
        own = {key: value for key, value in point.items() if key != START and not _within(key, start)}
        return {**start, **own}


def _within(key: str, sections: Mapping[str, str]) -> bool:
    return any(key.startswith(f"{section}.") for section in sections)


def first_stage(recipe: Recipe, space: tuple[Setting, ...], trained: Mapping[str, bool]) -> Stage:
    """What is searched first.

    Args:
        recipe: as it was asked.
        space: of the settings beside the towers'.
        trained: side -> whether its tower starts from random weights, for towers that train.

    Returns:
        ``heads`` on kept features. A tower that starts from random weights has no features worth keeping: ``whole``.
    """
    if not trained:
        return Stage("heads", space)
    if any(trained.values()):
        return Stage("whole", space)
    fixed = {}
    for side in trained:
        fixed |= _frozen(side, getattr(recipe.model, side))
    return Stage("heads", space, fixed, share=SHARE_OF_HEADS)


def _frozen(side: str, tower: TowerSection) -> dict[str, str]:
    """The keys that keep a tower as it is, whatever else the recipe does with it."""
    fixed = {f"model.{side}.freeze": "true"}
    if tower.freeze_until_epoch is not None:
        fixed[f"model.{side}.freeze_until_epoch"] = "null"
    if tower.lora.rank:
        fixed[f"model.{side}.lora"] = "{}"
    return fixed


def tower_stage(
    recipe: Recipe, trained: Sequence[str], best: Sequence[tuple[str, dict[str, str]]], heads: Stage
) -> Stage:
    """What is searched with towers that train.

    Args:
        recipe: as it was asked.
        trained: the sides whose tower trains.
        best: (label, settings) of the first stage that are better than what was asked, best first.
        heads: the first stage.

    Returns:
        Each of the best settings with the recipe's towers, and the very best, or what was asked, with frozen towers;
        then other rates of the towers and ranks of their adapters.
    """
    own = {setting.key: as_yaml(value_at(recipe, setting.key)) for setting in heads.space}
    starts = {"as asked": own}
    for label, settings in best[:STARTS]:
        starts[label] = {**own, **{key: value for key, value in settings.items() if key in own}}
    label = best[0][0] if best else "as asked"
    starts[f"{label}, towers frozen"] = {**starts[label], **heads.fixed}
    space = [Setting(START, choices=tuple(starts))]
    for side in trained:
        space += [setting for setting in _tower_settings(side, recipe) if setting.key not in own]
    asked = {setting.key: as_yaml(value_at(recipe, setting.key)) for setting in space if setting.key != START}
    for key, value in asked.items():
        if value == "null" and key.endswith(".learning_rate"):  # what a tower without a rate of its own has
            asked[key] = as_yaml(recipe.optimizer.learning_rate)
    tries = [{START: label, **asked} for label in starts if label != "as asked"]
    return Stage("towers", tuple(space), starts=starts, tries=tuple(tries))


def _tower_settings(side: str, recipe: Recipe) -> list[Setting]:
    tower: TowerSection = getattr(recipe.model, side)
    rate = tower.learning_rate or recipe.optimizer.learning_rate
    low, high = float(write_number(rate / 20)), float(write_number(rate * 5))
    found = [Setting(f"model.{side}.learning_rate", low, high, log=True)]
    if (rank := tower.lora.rank) > 0:
        ranks = dict.fromkeys((max(1, rank // 2), rank, 2 * rank))
        found.append(Setting(f"model.{side}.lora.rank", choices=tuple(map(str, ranks))))
    return found
