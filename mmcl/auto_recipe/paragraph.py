"""What was chosen and why, in one paragraph of plain English with the numbers that were seen."""

from __future__ import annotations

from collections.abc import Sequence

from mmcl.auto_recipe.data_facts import DataFacts
from mmcl.auto_recipe.machine_facts import MachineFacts
from mmcl.auto_recipe.probe import Probe
from mmcl.auto_recipe.rules import Route
from mmcl.auto_recipe.settings import Setting

_ROUTES = {
    "frozen": "small heads are trained on features of {title}, which stay frozen and are computed once",
    "lora": "low-rank adapters are trained in both towers of {title}",
    "unfreeze": "{title} is trained as a whole, lower layers slower",
    "scratch": "two tiny towers are trained from random weights",
}


def write_paragraph(
    facts: DataFacts,
    machine: MachineFacts,
    probes: Sequence[Probe],
    route: Route,
    chosen: Sequence[Setting],
    *,
    said: Sequence[str],
    minutes: float,
) -> str:
    """The paragraph.

    Args:
        facts, machine, probes, route: what was seen and decided.
        chosen: the keys that are set, without those the user gave.
        said: keys that the user gave and that were left as they are.
        minutes: the time there is.
    """
    sentences = [
        _data(facts),
        *([words] if (words := _captions(facts)) else []),
        _machine(machine, minutes),
        *([words] if (words := _probes(probes)) else []),
        f"So {_ROUTES[route.name].format(title=route.point.title if route.point else '')}: {route.why}",
        _numbers(chosen),
        *([_splits(facts)] if not facts.validation else []),
        *([f"What you set stays as it is: {', '.join(said)}"] if said else []),
    ]
    return ". ".join(sentences) + "."


def _data(facts: DataFacts) -> str:
    words = f"{facts.name} has {facts.rows:,} training images"
    if facts.looked_at < facts.rows:
        words += f" (figures from {facts.looked_at:,} of them)"
    words += f" in {facts.groups:,} groups, {facts.images_per_group:.1f} images each"
    if facts.classes > 1:
        words += f", {facts.classes:,} classes (the largest {facts.largest_class:.0%})"
    if facts.domains > 1:
        words += f", {facts.domains:,} domains"
    if facts.shorter_side:
        shape = "not far from square" if facts.square else "not all near square"
        words += f", the shorter side {facts.shorter_side:,.0f} pixels, {shape}"
    return words


def _captions(facts: DataFacts) -> str:
    number = f"{facts.words:,.0f} word" + ("s" if facts.words != 1 else "")
    words = f"A caption has {number} (95 % at most {facts.words_p95:,.0f})"
    if facts.languages:
        words += f", probably in {' and '.join(facts.languages[:3])}"
    if facts.repeated >= 0.005:
        words += f"; {facts.repeated:.1%} of the rows share one with another group"
    if facts.copies >= 0.005:
        words += f"; {facts.copies:.1%} of the images are copies"
    if facts.tags:
        words += f"; {facts.new_tags:.0%} of the tags say something the caption does not"
    return words


def _machine(machine: MachineFacts, minutes: float) -> str:
    what = f"{machine.cores} cores and {machine.memory_gib:.0f} GiB of free memory"
    if machine.gpu is not None:
        what = f"a {machine.gpu} with {machine.gpu_memory_gib:.0f} GiB, {what}"
    return f"This machine has {what}; the training is planned for {minutes:g} minutes"


def _probes(probes: Sequence[Probe]) -> str:
    parts = [
        f"features of {one.point.title} put the right one of {one.judged} first in {one.recall:.0%} of the cases "
        f"after a fit to {one.rows - one.judged} rows (their pixels alone {one.raw:.0%}, chance {one.chance:.1%}), at "
        f"{one.images_per_second:,.0f} images a second"
        for one in probes
        if one.judged
    ]
    return "In a quick test " + "; ".join(parts) if parts else ""


def _numbers(chosen: Sequence[Setting]) -> str:
    values = {setting.key: setting.value for setting in chosen}
    named = (
        ("train.epochs", "{:g} epochs"), ("train.batch_size", "batches of {}"),
        ("optimizer.learning_rate", "a learning rate of {:g}"), ("model.image.head.input_dropout", "dropout {}"),
        ("loss.label_smoothing", "label smoothing {}"),
        ("data.captions.tags_probability", "tags in {:.0%} of captions"),
        ("evaluate.metric", "the best checkpoint by {}"),
    )  # fmt: skip
    parts = [text.format(values[key]) for key, text in named if key in values]
    return f"It gets {', '.join(parts)}" if parts else "Everything else is as you set it"


def _splits(facts: DataFacts) -> str:
    if not facts.can_hold_out:
        return (
            f"There is no validation split, and {facts.groups} groups are too few to hold some out: nothing is judged, "
            f"and the last model is kept"
        )
    if facts.class_names:
        return "There is no validation split: some images of each class are held out for it"
    return "There is no validation split: some groups are held out for it"
