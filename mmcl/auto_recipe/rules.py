"""From what was seen to a way of training, and the settings that do not depend on the way."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmcl.auto_recipe.data_facts import DataFacts
from mmcl.auto_recipe.machine_facts import MachineFacts
from mmcl.auto_recipe.probe import Probe
from mmcl.auto_recipe.settings import EVALUATIONS, Setting, frozen, lora, scratch, unfreeze
from mmcl.auto_recipe.starting_points import StartingPoint

RouteName = Literal["frozen", "lora", "unfreeze", "scratch"]

ROWS_FROM_SCRATCH = 10_000  # that small towers can learn a closed vocabulary from
ROWS_OF_SIMPLE_IMAGES = 1_000  # of classes whose pixels tell nearly as much as features do
SIMPLE = 0.9  # the share of the features' score that pixels reach there
SOLVED = 0.95  # R@1 of the probe that leaves nothing to learn from scratch
ROWS_FOR_TOWERS = 3_000  # below, trained towers learn the images by heart
ROWS_FOR_ALL_WEIGHTS = 20_000
LEAST_EPOCHS_OF_TOWERS = 3.0
SHARE_OF_TIME = 0.6  # of the budget that is planned for; the rest is for evaluation and for what was guessed wrong
SHARE_FOR_FEATURES = 0.5
BACKWARD = 3.0  # a training step costs about three forward passes
SMALLER_IMAGES = 128


@dataclass(frozen=True)
class Route:
    """How it is trained.

    Attributes:
        name: frozen, lora, unfreeze or scratch.
        point: what it starts from; None: from random weights.
        epochs: that the time allows; of frozen features unused.
        image_size: pixels of the features; None: the tower's own.
        rows: at most so many; None: all.
        why: one clause.
    """

    name: RouteName
    point: StartingPoint | None
    epochs: float
    image_size: int | None
    rows: int | None
    why: str


def choose_route(
    facts: DataFacts,
    machine: MachineFacts,
    probes: Sequence[Probe],
    *,
    minutes: float,
    tiny_pairs_per_second: float | None,
    named: StartingPoint | None = None,
) -> Route:
    """The way to train.

    From scratch where nothing pretrained is at hand, where pretrained features tell images apart no better than their
    pixels do (of classes: hardly better), or where many rows use few words; else trained towers where rows and time
    suffice; else frozen ones.

    Args:
        facts, machine: what was seen.
        probes: of the starting points at hand; the best one is taken, the first among equals.
        minutes: the time there is.
        tiny_pairs_per_second: what two tiny towers train; None: not measured.
        named: what the user names to start from, which is not left for random weights.
    """
    seconds = 60 * minutes * SHARE_OF_TIME
    affordable = seconds * (tiny_pairs_per_second or 0.0) / max(1, facts.rows)
    best = max(probes, key=lambda one: one.recall, default=None)
    if best is None and named is not None:
        return _from_scratch("that is what the recipe names", affordable)
    if best is None:
        return _from_scratch("no pretrained weights are at hand (pip install 'mmcl[weights]' brings some)", affordable)
    if named is None and facts.rows >= ROWS_FROM_SCRATCH and facts.closed_vocabulary and best.recall < SOLVED:
        why = (
            f"{facts.rows:,} images whose captions use {facts.distinct_words:,} words again and again are enough to "
            f"learn both towers from nothing, while features of all of them would take "
            f"{_feature_seconds(facts, best) / 60:.0f} minutes"
        )
        return _from_scratch(why, affordable)
    simple = facts.by_class and best.judged > 0 and best.raw >= SIMPLE * best.recall
    if named is None and simple and facts.rows >= ROWS_OF_SIMPLE_IMAGES:
        why = (
            f"the classes are told by pixels nearly as well ({best.raw:.0%}) as by pretrained features "
            f"({best.recall:.0%}), so images so simple are learnt from nothing"
        )
        return _from_scratch(why, affordable)
    if named is None and best.is_poor and facts.rows >= ROWS_FOR_TOWERS:
        why = f"pretrained features tell these images apart no better than their pixels do ({best.raw:.0%})"
        return _from_scratch(why, affordable)
    step_seconds = BACKWARD * (1 / best.images_per_second + 1 / best.captions_per_second)
    epochs = float(np.clip(round(seconds / (step_seconds * facts.rows), 1), 0.1, 10.0))
    if facts.rows >= ROWS_FOR_TOWERS and epochs >= LEAST_EPOCHS_OF_TOWERS and not facts.by_class:
        if facts.rows < ROWS_FOR_ALL_WEIGHTS and importlib.util.find_spec("peft") is not None:
            why = f"the time allows {epochs:g} epochs, and {facts.rows:,} rows are few for all weights"
            return Route("lora", best.point, epochs, None, None, why)
        why = f"{facts.rows:,} rows and {epochs:g} epochs in the time are enough to train the towers themselves"
        return Route("unfreeze", best.point, epochs, None, None, why)
    return _frozen(facts, best, machine, minutes=minutes, epochs=epochs)


def _from_scratch(why: str, affordable: float) -> Route:
    return Route("scratch", None, affordable, None, None, why)


def _feature_seconds(facts: DataFacts, best: Probe) -> float:
    captions = facts.rows * facts.captions_per_row
    return facts.rows / best.images_per_second + captions / best.captions_per_second


def _frozen(facts: DataFacts, best: Probe, machine: MachineFacts, *, minutes: float, epochs: float) -> Route:
    """Frozen features at the largest size that the time allows; of too large data a part."""
    seconds, size, rows = 60 * minutes * SHARE_FOR_FEATURES, None, None
    cost = _feature_seconds(facts, best)
    if facts.rows < ROWS_FOR_TOWERS:
        why = f"{facts.rows:,} rows are too few to train the towers themselves"
    elif facts.by_class:
        why = "captions that name classes teach a text tower nothing new"
    else:
        where = f"this {machine.gpu or 'CPU'} in {minutes:g} minutes"
        why = f"training the towers themselves would take {where} to {epochs:g} epochs alone"
    if cost > seconds and best.point.scalable and (best.point.image_size or 0) > SMALLER_IMAGES:
        size = SMALLER_IMAGES
        cost *= (SMALLER_IMAGES / best.point.image_size) ** 2
        why += f"; images of {size} pixels, because larger ones would take too long"
    if cost > 1.5 * seconds:  # a little over is better than a little less data
        rows = max(1_000, int(facts.rows * seconds / cost))
        why += f"; features of {rows:,} rows are what the time allows"
    return Route("frozen", best.point, epochs, size, rows if rows and rows < facts.rows else None, why)


def choose_settings(facts: DataFacts, machine: MachineFacts, route: Route, *, minutes: float) -> list[Setting]:
    """Every key of the chosen recipe, in the order in which they are told.

    Args:
        facts, machine, route: what was seen and decided.
        minutes: the time there is.
    """
    if route.name == "scratch" or route.point is None:
        chosen = scratch(facts, affordable=route.epochs)
    elif route.name == "frozen":
        chosen = frozen(facts, route.point, image_size=route.image_size)
    elif route.name == "lora":
        chosen = lora(facts, route.point, epochs=route.epochs)
    else:
        chosen = unfreeze(facts, route.point, epochs=route.epochs)
    epochs = next(float(one.value) for one in chosen if one.key == "train.epochs")
    return [*_of_data(facts, route), *chosen, *_of_machine(machine, minutes), *_of_judging(facts, epochs)]


def _of_data(facts: DataFacts, route: Route) -> list[Setting]:
    chosen = []
    if route.rows is not None:
        chosen.append(Setting("data.max_rows", route.rows, "features of more would take too long"))
    if not facts.validation:
        if not facts.can_hold_out:
            why = f"{facts.groups} groups: too few to hold some out"
            chosen.append(Setting("data.split.validation", None, why))
        else:
            share = float(round(np.clip(300 / max(1, facts.rows), 0.05, 0.2), 2))
            chosen.append(Setting("data.holdout_share", share, "there is no validation split"))
    if facts.tags >= 0.5 and facts.new_tags >= 0.3:
        chosen.append(Setting("data.captions.tags_probability", 0.5, "tags say what captions do not"))
    if route.name != "scratch" and facts.square and (route.point is None or route.point.init_from is None):
        chosen.append(Setting("model.image.resize", "squash", "images are not far from square: nothing is cut off"))
    return chosen


def _of_machine(machine: MachineFacts, minutes: float) -> list[Setting]:
    chosen = [
        Setting("train.precision", precision_of(machine), machine.gpu or "a CPU"),
        Setting("train.max_minutes", minutes, "the time there is"),
    ]
    if machine.gpu is not None:
        workers = max(1, min(8, machine.cores - 1))
        chosen.append(Setting("data.workers", workers, f"{machine.cores} cores beside the GPU"))
    return chosen


def precision_of(machine: MachineFacts) -> str:
    """bf16 where a GPU computes in it, else fp32."""
    return "bf16" if machine.bf16 else "fp32"


def _of_judging(facts: DataFacts, epochs: float) -> list[Setting]:
    tasks = ["retrieval", *(["zeroshot"] if facts.classes > 1 else []), *(["foils"] if facts.foils else [])]
    chosen = [
        Setting("evaluate.tasks", tasks, "what the data allow"),
        Setting("evaluate.every_epochs", round(epochs / EVALUATIONS, 2), f"{EVALUATIONS} times in all"),
    ]
    if facts.classes > 1 and facts.words <= 2:
        chosen.append(Setting("evaluate.templates", ["{}"], "captions are bare names, and so are prompts"))
    if facts.by_class:
        metric = "zeroshot/top1" if facts.classes > 1 else "retrieval/i2t_recall@1"
        chosen.append(Setting("evaluate.metric", metric, "captions name classes"))
    else:
        chosen.append(Setting("evaluate.metric", "retrieval/mean_recall@1", "captions tell images apart"))
    return chosen
