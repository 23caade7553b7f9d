"""`examine_run`: open a run - recipe, records, data, model - and hand it to the doctor's checks."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from mmcl.builders.examining.attempts import attempt, quiet
from mmcl.builders.examining.data_facts import distinct_captions, text_columns
from mmcl.builders.examining.endings import read_ending
from mmcl.builders.examining.leaks import find_leaks
from mmcl.builders.examining.run_files import damaged_config, damaged_files
from mmcl.builders.examining.run_models import (
    checkpoint_model,
    kept_model,
    no_model,
    standard_normalization,
    starting_model,
)
from mmcl.builders.examining.run_records import damaged_records, read_findings, read_records
from mmcl.builders.examining.samples import FEWEST_ROWS, HELD_SHARE, SampleReader
from mmcl.builders.examining.timing import time_batches
from mmcl.config import Recipe, parse_yaml, recipe_from_tree
from mmcl.data.splits.training_splits import Splits, load_splits
from mmcl.doctor.examination.subject import Damage, Subject
from mmcl.doctor.examination.verdict import Examination, ProgressCallback, examine, examine_files
from mmcl.errors import ConfigError, DataError
from mmcl.training.runs import CHECKPOINTS, CONFIG, METRICS, MODEL

ROWS = 1000  # of the training split that are looked at
AGAIN_SECONDS = 1.0  # a run that writes just now may have a file half written: it is looked at twice

Missing = list[tuple[str, str]]


def examine_run(
    run: str | Path,
    *,
    data: str | None = None,
    rows: int = ROWS,
    progress: ProgressCallback | None = None,
) -> Examination:
    """Find out what is wrong with a run, or that nothing is: finished, stopped, interrupted or still running.

    Nothing is changed. What cannot be opened is left out, and said: a run without a model yet is judged by its records
    and data, one whose recipe cannot be read by its files.

    Args:
        run: the run folder.
        data: DATA where the data have moved; default the recipe's.
        rows: training rows that are looked at, at least 100.
        progress: told how far it is.

    Raises:
        ConfigError: the folder holds no run, or ``rows`` is too small.
        DataError: the data cannot be found or read.

    Example:
        >>> examine_run("runs/emoji").first                       # doctest: +SKIP
    """
    folder = Path(run)
    if rows < FEWEST_ROWS:
        raise ConfigError(f"rows is {rows}; want at least {FEWEST_ROWS}, or there is nothing to judge by")
    if not any((folder / name).exists() for name in (CONFIG, METRICS, MODEL, CHECKPOINTS)):
        raise ConfigError(f"{folder} holds no run (no {CONFIG}); name the folder that mmcl train wrote (run.dir)")
    records, (told, strange) = read_records(folder), read_findings(folder)
    ending = read_ending(folder, records, told)
    damages = [damage for damage in (damaged_config(folder), strange) if damage is not None]
    if any(damage.path == CONFIG for damage in damages):
        found = [*damages, *damaged_files(folder)]
        newest = max((record["step"] for record in records), default=0)
        return examine_files(found, run=str(run), state=ending.state, step=newest)
    subject = Subject(recipe=_read_recipe(folder, data), records=records, ending=ending, damages=damages)
    not_opened = open_run(subject, folder, rows=rows, progress=progress)
    found = examine(subject, run=str(run), told=told, progress=progress)
    return replace(found, not_made=[*not_opened, *found.not_made])


def _read_recipe(folder: Path, data: str | None) -> Recipe:
    path = folder / CONFIG
    tree = parse_yaml(path.read_text(encoding="utf-8"), source=str(path))
    tree.pop("environment", None)
    tree.setdefault("run", {})["dir"] = str(folder)
    if data is not None:
        tree.setdefault("data", {})["path"] = data
    return recipe_from_tree(tree, source=str(path))


def open_run(subject: Subject, folder: Path, *, rows: int = ROWS, progress: ProgressCallback | None = None) -> Missing:
    """Open what a run has, into ``subject``.

    Args:
        subject: with its recipe, records and ending.
        folder: the run's.
        rows: training rows that are looked at.
        progress: told how far it is.

    Returns:
        (what, why) of what could not be opened.

    Raises:
        DataError: the data cannot be found or read.
    """
    missing: Missing = []
    with quiet():
        splits = _open_data(subject, progress)
        _open_models(subject, splits, folder, missing)
    subject.damages += _damages(subject, folder)
    reader = SampleReader(subject, progress)
    subject.train = reader.read(splits.train, rows=rows, title="training")
    if splits.validation is not None:
        subject.validation = reader.read(splits.validation, rows=round(HELD_SHARE * rows), title="validation")
        subject.leaks = attempt(lambda: find_leaks(splits, progress), "validation images among training", missing) or []
    if subject.start is not None:
        with quiet():
            subject.timing = attempt(
                lambda: time_batches(subject.recipe, splits, subject.start, progress), "the reading", missing
            )
    return missing


def _open_data(subject: Subject, progress: ProgressCallback | None) -> Splits:
    try:
        splits = load_splits(subject.recipe, progress=progress)
    except DataError as error:
        raise DataError(f"{error}; name the run's data with --data DATA where they have moved") from error
    subject.rows = len(splits.train)
    subject.batches = -(-len(splits.train) // subject.recipe.train.batch_size)
    subject.validation_rows = 0 if splits.validation is None else len(splits.validation)
    subject.captions = distinct_captions(splits.train)
    subject.columns = text_columns(splits.train)
    return splits


def _open_models(subject: Subject, splits: Splits, folder: Path, missing: Missing) -> None:
    """The model before the first step, and as it stands: of the newest checkpoint where it fits, else the best one."""
    subject.start = attempt(lambda: starting_model(subject.recipe, splits.train), "the model at the start", missing)
    if subject.start is not None:
        subject.standard = attempt(lambda: standard_normalization(subject.start), "its own normalisation", [])
    unread: Missing = []
    subject.trained = attempt(lambda: checkpoint_model(folder, subject.start), "the checkpoint", unread)
    kept, damage = attempt(lambda: kept_model(folder), "the trained model", unread) or (None, None)
    if damage is not None and not _named(damage, folder):
        subject.damages.append(damage)
    if subject.trained is None:
        subject.trained = kept
    if subject.trained is None:
        missing += unread or [("the trained model", str(damage or no_model(folder)))]


def _named(damage: Damage, folder: Path) -> bool:
    """Whether single files say what is wrong with a folder that cannot be opened."""
    return any(one.path.startswith(f"{damage.path}/") for one in damaged_files(folder))


def _damages(subject: Subject, folder: Path) -> list[Damage]:
    def look() -> list[Damage]:
        records = damaged_records(folder, log_every=subject.recipe.train.log_every)
        return [*([] if records is None else [records]), *damaged_files(folder)]

    found = look()
    if found and subject.ending.state == "running":
        time.sleep(AGAIN_SECONDS)
        found = look()
    return found
