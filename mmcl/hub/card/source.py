"""`CardSource`: what a run folder or a model folder says of a model, read and put in one form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmcl.config import Recipe, parse_yaml, recipe_from_tree
from mmcl.errors import ConfigError, MmclError
from mmcl.training.runs import CHECKPOINTS, CONFIG, LAST, METRICS, MODEL, SKIPPED

DESCRIPTION = "mmcl.json"
EVALUATION = "evaluation.json"
RECIPE = "recipe.yaml"  # what a run's config is called in a repository


@dataclass(frozen=True)
class CardSource:
    """What is known of a model before anything is opened.

    Attributes:
        folder: the run or model folder that was named.
        model: the folder of the model.
        recipe: the recipe's keys as they were written, without the environment; empty where there is no run.
        environment: what the run noted of its machine and packages; empty where it noted nothing.
        records: the lines of metrics.jsonl.
        evaluation: split -> metrics; empty where nothing was judged at the end.
        progress: where training ended; empty where there is no checkpoint.
        mmcl_version: that wrote the model; empty where it does not say.
        num_skipped: rows that training left out; None where it is not known.
    """

    folder: Path
    model: Path
    recipe: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    records: tuple[Mapping[str, Any], ...] = ()
    evaluation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    mmcl_version: str = ""
    num_skipped: int | None = None

    @property
    def steps(self) -> list[Mapping[str, Any]]:
        """The records of training steps."""
        return [record for record in self.records if "loss" in record]

    @property
    def judgements(self) -> list[Mapping[str, Any]]:
        """The records of evaluations during training."""
        return [record for record in self.records if "loss" not in record and "step" in record]

    def checked_recipe(self) -> Recipe | None:
        """The recipe as mmcl's own; None where there is none, or where this mmcl does not know all of its keys."""
        if not self.recipe:
            return None
        try:
            return recipe_from_tree(dict(self.recipe), source=CONFIG)
        except MmclError:
            return None

    def value(self, key: str) -> Any:
        """A key of the recipe such as ``train.batch_size``; None where it is not there."""
        found: Any = self.recipe
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found


def read_source(folder: str | Path) -> CardSource:
    """Read what a run folder, a model folder or a folder as it was pushed says.

    Raises:
        ConfigError: there is no such folder, it holds no model (yet), or a file in it is damaged.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; a card is written from a run or a model folder")
    config = next((folder / name for name in (CONFIG, RECIPE) if (folder / name).is_file()), None)
    model = folder / MODEL if (folder / MODEL / DESCRIPTION).is_file() else folder
    if not any((model / name).is_file() for name in (DESCRIPTION, "config.json")):
        hint = "; its run has not saved a model yet" if config is not None else ""
        raise ConfigError(f"{folder}: neither a run nor a model ({DESCRIPTION}, config.json){hint}")
    version = str(_read_object(model / DESCRIPTION).get("mmcl_version") or "")
    if config is None:
        return CardSource(folder, model, evaluation=_read_evaluation(folder), mmcl_version=version)
    try:
        recipe = parse_yaml(config.read_text(encoding="utf-8"), source=str(config))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config} cannot be read ({error})") from error
    if not isinstance(recipe, dict):
        raise ConfigError(f"{config}: want a recipe's keys, found {type(recipe).__name__}")
    environment = recipe.pop("environment", None) or {}
    skipped = folder / SKIPPED
    return CardSource(
        folder,
        model,
        recipe=recipe,
        environment=environment if isinstance(environment, dict) else {},
        records=tuple(_read_lines(folder / METRICS)),
        evaluation=_read_evaluation(folder),
        progress=_read_object(folder / CHECKPOINTS / LAST / "progress.json"),
        mmcl_version=version,
        num_skipped=len(_read_lines(skipped)) if skipped.is_file() else 0 if (folder / METRICS).is_file() else None,
    )


def _read_evaluation(folder: Path) -> dict[str, dict[str, Any]]:
    found = _read_object(folder / EVALUATION)
    wrong = [name for name, metrics in found.items() if not isinstance(metrics, dict)]
    if wrong:
        raise ConfigError(f"{folder / EVALUATION}: {wrong[0]!r} holds no metrics; want {{split: {{metric: value}}}}")
    return found


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no JSON ({error}); write it again or remove it") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: want an object, found {type(value).__name__}")
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; a half-written line is left out, as the trainer leaves it out."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
