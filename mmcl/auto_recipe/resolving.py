"""`resolve_recipe`: `recipe: auto` and the keys a user gave, to an ordinary recipe."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from mmcl.auto_recipe.choice import Choice
from mmcl.auto_recipe.data_facts import DataFacts, Progress, open_training_rows, read_data_facts
from mmcl.auto_recipe.machine_facts import MachineFacts, look_at_machine
from mmcl.auto_recipe.paragraph import write_paragraph
from mmcl.auto_recipe.probe import Probe, probe, probe_rows
from mmcl.auto_recipe.rules import choose_route, choose_settings, precision_of
from mmcl.auto_recipe.settings import Setting
from mmcl.auto_recipe.starting_points import StartingPoint, at_hand, named_by_recipe
from mmcl.auto_recipe.tiny_speed import tiny_pairs_per_second
from mmcl.config import LOSS_OPTIONS, STRUCTURE, Recipe, recipe_from_tree
from mmcl.config.model_sections import DECIDED_OF_MODEL, DECIDED_OF_TOWERS
from mmcl.data.dataset import ImageTextDataset
from mmcl.errors import ConfigError, DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

_OF_MEMBERS = ("model.embedding_dim", "model.image.head.members", "model.text.head.members", "loss.members")
MINUTES = 10.0  # where train.max_minutes is not given


def resolve_recipe(recipe: Recipe, *, progress: Progress | None = None) -> tuple[Recipe, Choice | None]:
    """Read the data and the machine, and choose what the recipe does not say.

    What the user said is never changed. Takes half a minute or so: of large data a sample is read, pretrained towers
    are tried on a few hundred rows. Without a network, what lies on this machine is chosen from.

    Args:
        recipe: with ``recipe: auto``; any other is returned as it is.
        progress: told what is drawn or embedded, how much is done, and of how much.

    Returns:
        An ordinary recipe without ``recipe: auto``, and what was chosen; None with a recipe that asks for no choice.

    Raises:
        DataError: the data cannot be read.
        ConfigError: a tower that the recipe names cannot be opened, or its keys contradict one another.
    """
    if recipe.recipe is None:
        return recipe, None
    began = time.perf_counter()
    said = dict(said_keys(recipe))
    dataset, rows, splits = open_training_rows(recipe, progress=progress)
    facts = read_data_facts(dataset, rows=rows, splits=splits, recipe=recipe, seed=recipe.run.seed)
    if facts.groups < 2:
        raise DataError(
            f"{facts.name}: all {facts.rows:,} training image(s) are of one group (one class, one caption or one "
            f"group column's value), so that there is nothing to tell apart; give captions that differ, or more classes"
        )
    machine = look_at_machine()
    named = named_by_recipe(recipe)
    points = at_hand(facts.languages) if named is None else [named]
    probes = _probe_all(recipe, points, dataset, facts, machine, progress)
    speed = None
    if named is None or not probes:  # random weights may be chosen
        speed = tiny_pairs_per_second(probe_rows(dataset), device=machine.device)
    minutes = recipe.train.max_minutes or MINUTES
    route = choose_route(facts, machine, probes, minutes=minutes, tiny_pairs_per_second=speed, named=named)
    settings = [one for one in choose_settings(facts, machine, route, minutes=minutes) if _is_free(one, said)]
    tree = _tree({**said, **{one.key: one.value for one in settings}})
    resolved = recipe_from_tree(tree, source="recipe: auto")
    paragraph = write_paragraph(
        facts, machine, probes, route, settings, said=_told(said), minutes=minutes,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    return resolved, Choice(
        paragraph, route, tuple(settings), tuple(said), tree, facts, machine, tuple(probes), seconds
    )


def early_precision(recipe: Recipe) -> str:
    """The arithmetic that the choice will name: needed before processes can share one."""
    if recipe.recipe is None or "precision" in recipe.train.model_fields_set:
        return recipe.train.precision
    return precision_of(look_at_machine())


def resumed_recipe(recipe: Recipe, chosen: dict[str, Any], *, source: str) -> Recipe:
    """The recipe of a run that goes on: what was chosen when it began, with the keys that the user gives now.

    Args:
        recipe: with ``recipe: auto``.
        chosen: the run's recipe, as its config.yaml holds it.
        source: that file, for messages.

    Raises:
        ConfigError: the file holds no recipe.
    """
    before = dict(said_keys(recipe_from_tree(chosen, source=source)))
    return recipe_from_tree(_tree({**before, **dict(said_keys(recipe))}), source=source)


def said_keys(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values that a recipe gave itself, the default or another; ``recipe`` is none of them."""
    for name in type(section).model_fields:
        if name not in section.model_fields_set or (not prefix and name == "recipe"):
            continue
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from said_keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name, _jsonable(value)


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):  # within a list, such as one of loss.members: what was said of it
        return value.model_dump(mode="json", exclude_unset=True)
    return [_jsonable(one) for one in value] if isinstance(value, (tuple, list)) else value


def _tree(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = value
    return tree


def _told(said: dict[str, Any]) -> list[str]:
    """What the user set that could have been chosen; not where data lie or what the run is called."""
    silent = (
        "name",
        "data.path",
        "data.images",
        "data.columns",
        "data.split",
        "run.",
        "smoke",
        "checkpoint.",
        "train.max_minutes",
    )
    return [key for key in said if not key.startswith(silent)]


def _probe_all(
    recipe: Recipe,
    points: Sequence[StartingPoint],
    dataset: ImageTextDataset,
    facts: DataFacts,
    machine: MachineFacts,
    progress: Progress | None,
) -> list[Probe]:
    named = named_by_recipe(recipe)
    rows, probes = probe_rows(dataset), []
    for point in points:
        if "tiny" in (point.image, point.text) or not (recipe.model.image.pretrained and recipe.model.text.pretrained):
            continue  # random weights: there is nothing to measure
        try:
            measured = probe(point, rows, device=machine.device, sections=_sections(recipe, facts), progress=progress)
        except (ConfigError, DataError) as error:
            if named is not None:
                raise
            log.warning("%s cannot be opened and is left out: %s", point.title, error)
            continue
        if measured is not None:
            probes.append(measured)
    return probes


def _sections(recipe: Recipe, facts: DataFacts) -> tuple[Any, Any]:
    """The towers' sections as the recipe says them, with the resizing that would be chosen."""
    image = recipe.model.image
    if image.resize is None and facts.square:
        image = image.model_copy(update={"resize": "squash"})
    return image, recipe.model.text


def _is_free(setting: Setting, said: dict[str, Any]) -> bool:
    """Whether the user left a key to be chosen: neither said, nor decided or made senseless by what was said."""
    key = setting.key
    if key in said or (key == "evaluate.every_epochs" and "evaluate.every_steps" in said):
        return False
    if key == "train.batch_size" and said.get("batches.name") == "balanced":
        return False
    if key == "data.bucket_by_length" and said.get("batches.name", "random") != "random":
        return False
    if key in _OF_MEMBERS and not _members_fit(key, said):
        return False
    section, _, leaf = key.rpartition(".")
    if section == "loss" and leaf != "members":
        return leaf in LOSS_OPTIONS.get(said.get("loss.name", "info_nce"), ()) or leaf in ("name", *STRUCTURE)
    if said.get("model.init_from") is not None and key.startswith("model."):
        decided = {"init_from", *DECIDED_OF_MODEL, *DECIDED_OF_TOWERS}
        return leaf not in decided and ".head." not in key
    return _fits_tower(key, said)


def _members_fit(key: str, said: dict[str, Any]) -> bool:
    """Whether several heads go with what was said: their sizes and losses are chosen together or not at all."""
    heads = [f"model.{side}.head.{leaf}" for side in ("image", "text") for leaf in ("name", "members")]
    if any(other in said for other in ("model.embedding_dim", "loss.members", *heads)):
        return False
    own = any(other.startswith(("loss.", "negatives.")) and other != "loss.positives" for other in said)
    return not (own and key == "loss.members")


def _fits_tower(key: str, said: dict[str, Any]) -> bool:
    """Options of tiny towers go with tiny towers alone; adapters and freezing are settled together by who said one."""
    for side in ("image", "text"):
        own = f"model.{side}."
        if not key.startswith(own):
            continue
        named = said.get(own + "name")
        if key.removeprefix(own) in ("options", "pooling") and named not in (None, "tiny"):
            return False
        training = ("freeze", "freeze_until_epoch", "lora.rank")
        if key.removeprefix(own) in training and any(own + other in said for other in training):
            return False
    return True
