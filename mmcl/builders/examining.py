"""`examine_run`: open a run - recipe, records, data, model - and hand it to the doctor's checks."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from mmcl.builders.starting_models import build_starting_model
from mmcl.builders.training import VOCABULARY_ROWS
from mmcl.config import Recipe, parse_yaml, recipe_from_tree
from mmcl.data.batches.reader_processes import ReaderProcesses
from mmcl.data.dataset import SCHEMA, ImageTextDataset
from mmcl.data.splits.leaks import count_leaks
from mmcl.data.splits.training_splits import Splits, load_splits
from mmcl.doctor.examination.agreement import pixel_features
from mmcl.doctor.examination.subject import Ending, Sample, Subject, Timing
from mmcl.doctor.examination.verdict import Examination, ProgressCallback, examine
from mmcl.doctor.finding import Finding
from mmcl.errors import ConfigError, DataError, MmclError
from mmcl.models.adapters.lora import attach_lora
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder
from mmcl.models.freezing import apply_freezing
from mmcl.models.saving import from_pretrained
from mmcl.training.checkpoint import has_checkpoint, read_checkpoint
from mmcl.training.inputs import TrainingInputs
from mmcl.training.runs import CONFIG, METRICS, RunFolder

ROWS = 1000  # of the training split that are looked at
FEWEST_ROWS = 100
HELD_ROWS = 0.5  # of the validation split, as a share of those
IMAGE_SECONDS = 20.0  # that image towers may take of the training rows, and half of that of the validation rows
TIMED_BATCHES, TIMED_ROWS, TIMED_SECONDS = 4, 32, 5.0
STILL_SECONDS, STILL_INTERVALS = 10.0, 20.0  # without a line of metrics.jsonl, a run has broken off
RARE = 3  # training rows that may have a caption which still gives a validation row away
NAMES_SHARE = 0.5  # distinct captions, as a share of all: below, they are names of kinds
COLUMN_ROWS = 5000


def examine_run(
    run: str | Path,
    *,
    data: str | None = None,
    rows: int = ROWS,
    progress: ProgressCallback | None = None,
) -> Examination:
    """Find out what is wrong with a run, or that nothing is: finished, stopped, interrupted or still running.

    Nothing is changed. What cannot be opened is left out, and said: a run without a model yet is judged by its records
    and data.

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
    recipe = _read_recipe(folder, data)
    files = RunFolder(folder, writes=False)
    subject, not_opened = open_run(recipe, files, rows=rows, progress=progress)
    told = [Finding.from_dict(record) for record in files.read_findings()]
    found = examine(subject, run=str(run), told=told, progress=progress)
    return replace(found, not_made=[*not_opened, *found.not_made])


def _read_recipe(folder: Path, data: str | None) -> Recipe:
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(f"{folder} holds no run (no {CONFIG}); name the folder that mmcl train wrote (run.dir)")
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error})") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections, found {type(tree).__name__}")
    tree.pop("environment", None)
    tree.setdefault("run", {})["dir"] = str(folder)
    if data is not None:
        tree.setdefault("data", {})["path"] = data
    return recipe_from_tree(tree, source=str(path))


def open_run(
    recipe: Recipe, files: RunFolder, *, rows: int = ROWS, progress: ProgressCallback | None = None
) -> tuple[Subject, list[tuple[str, str]]]:
    """Open what a run has.

    Args:
        recipe: what was run.
        files: its folder.
        rows: training rows that are looked at.
        progress: told how far it is.

    Returns:
        The run, and (what, why) of what could not be opened.

    Raises:
        DataError: the data cannot be found or read.
    """
    records = files.read_metrics()
    with _quiet():
        try:
            splits = load_splits(recipe, progress=progress)
        except DataError as error:
            raise DataError(f"{error}; name the run's data with --data DATA where they have moved") from error
    subject = Subject(
        recipe=recipe,
        records=records,
        rows=len(splits.train),
        batches=-(-len(splits.train) // recipe.train.batch_size),
        validation_rows=0 if splits.validation is None else len(splits.validation),
        captions=_distinct_captions(splits.train),
        columns=_text_columns(splits.train),
        ending=_ending(recipe, files, records),
    )
    missing: list[tuple[str, str]] = []
    with _quiet():
        subject.start = _attempt(lambda: _starting_model(recipe, splits.train), "the model at the start", missing)
        subject.trained = _attempt(lambda: _trained_model(files, subject.start), "the trained model", missing)
    if subject.start is not None:
        subject.standard = _attempt(lambda: _standard(subject.start), "the tower's own normalisation", [])
    subject.train = _sample(subject, splits.train, rows, progress, "training")
    if splits.validation is not None:
        subject.validation = _sample(subject, splits.validation, round(HELD_ROWS * rows), progress, "validation")
        subject.leaks = _leaks(splits, subject)
    if subject.start is not None:
        with _quiet():
            subject.timing = _attempt(lambda: _time(recipe, splits, subject, progress), "the reading", missing)
    return subject, missing


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, mmcl does not warn of what it warned of when the run began."""
    logger = logging.getLogger("mmcl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _attempt(call: Callable[[], Any], what: str, missing: list[tuple[str, str]]) -> Any:
    """The call's result; None where it fails, with the reason noted: a broken run is what this is for."""
    try:
        return call()
    except (MmclError, RuntimeError, ValueError, IndexError, OSError) as error:
        missing.append((what, " ".join(str(error).split())[:300] or type(error).__name__))
        return None


# -- the model ---------------------------------------------------------------------------------------------------


def _starting_model(recipe: Recipe, train: ImageTextDataset) -> DualEncoder:
    """The model as ``train`` builds it, with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        model = build_starting_model(recipe, captions=_captions(train))
        attach_lora(model, recipe.model)
    apply_freezing(model, recipe.model)
    return model


def _captions(train: ImageTextDataset) -> Iterator[str]:
    for texts in train.table["texts"].slice(0, VOCABULARY_ROWS).to_pylist():
        yield from texts


def _trained_model(files: RunFolder, start: DualEncoder | None) -> DualEncoder:
    """The model as it stands: of the newest checkpoint where it fits the recipe's model, else the best model."""
    if start is not None and has_checkpoint(files.checkpoints):
        state = read_checkpoint(files.checkpoints).weights
        weights = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
        own = start.state_dict()
        if own.keys() == weights.keys() and all(own[name].shape == value.shape for name, value in weights.items()):
            return _copy_with(start, weights)
    if not files.model.is_dir():
        raise ConfigError(f"{files.path} holds neither a checkpoint nor a model yet")
    return from_pretrained(files.model)


def _copy_with(start: DualEncoder, weights: dict[str, Tensor]) -> DualEncoder:
    import copy

    model = copy.deepcopy(start)
    model.load_state_dict(weights)
    return model.eval()


def _standard(model: DualEncoder) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation that timm gives for an image tower; None: its library gives none beside its files.

    Transformers' own figures are those of a kind of model and not of its weights: DINO's differ from other ViTs'.
    """
    config = getattr(model.image.tower.model, "pretrained_cfg", None) or {}
    return (tuple(config["mean"]), tuple(config["std"])) if "mean" in config and "std" in config else None


# -- the data ----------------------------------------------------------------------------------------------------


def _distinct_captions(train: ImageTextDataset) -> int:
    return len(pc.unique(train.table["texts"].combine_chunks().flatten()))


def _text_columns(train: ImageTextDataset) -> dict[str, int]:
    """Columns of text that mmcl gives no meaning to, whose values hold blanks: name -> distinct values."""
    part = train.table.slice(0, COLUMN_ROWS)
    found = {}
    for name in part.column_names:
        if name in SCHEMA or not (pa.types.is_string(part[name].type) or pa.types.is_large_string(part[name].type)):
            continue
        values = pc.drop_null(pc.unique(part[name]))
        if len(values) and pc.mean(pc.count_substring(values, " ")).as_py() >= 1:
            found[name] = len(values)
    return found


def _sample(
    subject: Subject, dataset: ImageTextDataset, most: int, progress: ProgressCallback | None, title: str
) -> Sample:
    """Rows by lot, with their images, plain figures, features and embeddings."""
    order = np.random.default_rng(0).permutation(len(dataset))[:most]
    images, kept = [], []
    for number, row in enumerate(order.tolist()):
        try:
            images.append(dataset.images.read(row))
            kept.append(row)
        except DataError:
            continue  # a row that cannot be read is the business of mmcl data audit
        if progress is not None and (number % 50 == 0 or number + 1 == len(order)):
            progress(f"{title} images", number + 1, len(order))
    if not kept:
        kept = order.tolist()
    texts = [dataset.texts(row)[0] for row in kept]
    groups = dataset.group_ids().numpy()[kept]
    sample = Sample(texts, groups, images, pixel_features(images))
    return _embedded(subject, sample, progress, title)


def _embedded(subject: Subject, sample: Sample, progress: ProgressCallback | None, title: str) -> Sample:
    """The sample with features of towers that know something, and the trained model's embeddings.

    Where an image tower is slow, fewer rows than there are get through in the time there is; the others are left out
    of the whole sample.
    """
    start, trained = subject.start, subject.trained
    if not sample.images or (start is None and trained is None):
        return sample
    seconds = IMAGE_SECONDS * (1.0 if title == "training" else HELD_ROWS)
    section = subject.recipe.model
    values: dict[str, np.ndarray] = {}
    is_frozen = start is not None and start.image.has_fixed_features and trained is not None
    knows = start is not None and (section.init_from or (section.image.pretrained and section.image.name != "tiny"))
    if knows or is_frozen:
        found = _attempt(lambda: _image_features(start.image, sample.images, seconds, progress, title), "", [])
        if found is not None:
            sample = _first_rows(sample, len(found))
            values["image_features"] = found
    reads = start is not None and (section.init_from or (section.text.pretrained and section.text.name != "tiny"))
    if reads or (start is not None and start.text.has_fixed_features and trained is not None):
        found = _attempt(lambda: _text_features(start.text, sample.texts, seconds, progress, title), "", [])
        if found is not None:
            sample = _first_rows(sample, len(found))
            values["text_features"] = found
    if trained is not None:
        embedded = _attempt(lambda: _embeddings(subject, sample, values, seconds, progress, title), "", [])
        if embedded is not None:
            sample = _first_rows(sample, len(embedded[0]))
            values["image"], values["text"] = embedded
    if not (knows and reads):
        values.pop("image_features", None)
        values.pop("text_features", None)
    return replace(sample, **{name: value[: len(sample)] for name, value in values.items()})


def _first_rows(sample: Sample, number: int) -> Sample:
    if number >= len(sample):
        return sample
    images, pixels = sample.images[:number], sample.pixels[:number]
    return replace(sample, texts=sample.texts[:number], groups=sample.groups[:number], images=images, pixels=pixels)


@torch.inference_mode()
def _image_features(
    encoder: Encoder, images: list[Tensor], seconds: float, progress: ProgressCallback | None, title: str
) -> np.ndarray:
    encoder.eval()
    began, parts = time.perf_counter(), []
    for first in range(0, len(images), 32):
        parts.append(encoder.features(**encoder.tower.preprocessing(images[first : first + 32])).float())
        if progress is not None:
            progress(f"{title} image features", min(len(images), first + 32), len(images))
        if time.perf_counter() - began > seconds and first + 32 >= FEWEST_ROWS:
            break
    if progress is not None:
        progress(f"{title} image features", len(images), len(images))
    return torch.cat(parts).numpy()


@torch.inference_mode()
def _text_features(
    encoder: Encoder, texts: list[str], seconds: float, progress: ProgressCallback | None, title: str
) -> np.ndarray:
    """(k, f) of the first k captions, as many as there is time for; repeated ones are computed once."""
    encoder.eval()
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    distinct, began, parts = list(places), time.perf_counter(), []
    for first in range(0, len(distinct), 64):
        parts.append(encoder.features(**encoder.tower.preprocessing(distinct[first : first + 64])).float())
        if progress is not None:
            progress(f"{title} caption features", min(len(distinct), first + 64), len(distinct))
        if time.perf_counter() - began > seconds and first + 64 >= FEWEST_ROWS:
            break
    if progress is not None:
        progress(f"{title} caption features", len(distinct), len(distinct))
    features = torch.cat(parts).numpy()
    rows = [places[text] for text in texts]
    known = next((number for number, place in enumerate(rows) if place >= len(features)), len(rows))
    return features[rows[:known]]


def _embeddings(
    subject: Subject,
    sample: Sample,
    values: dict[str, np.ndarray],
    seconds: float,
    progress: ProgressCallback | None,
    title: str,
) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) of images and of texts; features of towers that never changed are not computed again."""
    model, start = subject.trained, subject.start
    image = values.get("image_features") if start is not None and start.image.has_fixed_features else None
    text = values.get("text_features") if start is not None and start.text.has_fixed_features else None
    if image is None:
        image = _image_features(model.image, sample.images, seconds, progress, title)
    if text is None:
        text = _text_features(model.text, sample.texts, seconds, progress, title)
    model.eval()
    rows = min(len(image), len(text))
    with torch.inference_mode():
        sides = ((model.image, image[:rows]), (model.text, text[:rows]))
        embedded = [encoder(features=torch.from_numpy(part)).numpy() for encoder, part in sides]
    return embedded[0], embedded[1]


def _leaks(splits: Splits, subject: Subject) -> dict[str, int]:
    """Validation rows with a group, a rare caption or an image of the training split; images estimated by samples."""
    train, held = splits.train, splits.validation
    leaks = {"caption": _rare_captions(train, held), "group": count_leaks(train, held)["groups"], "image": 0}
    if subject.validation is not None and len(subject.train.images) and len(subject.validation.images):
        seen = {image.numpy().tobytes() for image in subject.train.images}
        hits = sum(image.numpy().tobytes() in seen for image in subject.validation.images)
        coverage = len(subject.train) / len(train)
        estimate = hits / len(subject.validation) / max(coverage, 1e-9)
        leaks["image"] = min(len(held), round(estimate * len(held)))
    return leaks


def _rare_captions(train: ImageTextDataset, held: ImageTextDataset) -> int:
    """Rows with a caption that few training rows have; names that come again and again give nothing away."""
    captions = train.table["texts"].combine_chunks().flatten()
    counted = pc.value_counts(captions)
    if len(counted) < NAMES_SHARE * len(captions):
        return 0
    rare = counted.field("values").filter(pc.less_equal(counted.field("counts"), RARE))
    own = held.table["texts"].combine_chunks()
    known = pc.is_in(own.flatten(), value_set=rare).to_numpy(zero_copy_only=False)
    owners = np.repeat(np.arange(len(held)), own.value_lengths().to_numpy(zero_copy_only=False))
    return len(np.unique(owners[known]))


# -- how it ran --------------------------------------------------------------------------------------------------


def _ending(recipe: Recipe, files: RunFolder, records: list[dict[str, Any]]) -> Ending:
    """How a run stands, from what it left."""
    path = files.path / "stopped_batch.json"
    if path.is_file():
        try:
            stopped = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            stopped = {}
        newest = max((record.get("step", 0) for record in records), default=0)
        if stopped.get("step", 0) >= newest:  # not of a start that was resumed since
            reason = f"the loss was {stopped.get('loss', 'not finite')}"
            return Ending("stopped", reason, tuple(stopped.get("rows", ())))
    progress = _progress(files)
    if progress.get("finished"):
        return Ending("finished", str(progress.get("stopped_by", "")))
    if progress.get("stopped_by"):
        return Ending("interrupted", str(progress["stopped_by"]))
    if any(record.get("cause") == "dead_workers" for record in files.read_findings()):
        return Ending("stopped", "a reader process died")
    steps = [record for record in records if "seconds" in record]
    interval = steps[-1]["seconds"] / len(steps) if steps else STILL_SECONDS
    written = [path.stat().st_mtime for name in (METRICS, CONFIG) if (path := files.path / name).exists()]
    newest = max(written, default=0.0)
    still = time.time() - newest > max(STILL_SECONDS, STILL_INTERVALS * interval)
    return Ending("broken off" if still else "running")


def _progress(files: RunFolder) -> dict[str, Any]:
    """Where the newest complete checkpoint stands; empty where there is none."""
    found = sorted(path for path in files.checkpoints.glob("step_*") if (path / "progress.json").is_file())
    try:
        return json.loads((found[-1] / "progress.json").read_text(encoding="utf-8")) if found else {}
    except (OSError, json.JSONDecodeError):
        return {}


def _time(recipe: Recipe, splits: Splits, subject: Subject, progress: ProgressCallback | None) -> Timing | None:
    """Read some rows as the run does, and learn from them; None where features are looked up.

    Seconds are of a batch, in proportion to those of at most 32 rows.
    """
    model, asked = subject.start, recipe.data.workers
    if recipe.train.feature_cache.enabled and model.image.has_fixed_features:
        return None
    inputs = TrainingInputs(recipe, model, splits.train, None)
    workers = asked if isinstance(asked, int) else 0
    size = min(recipe.train.batch_size, TIMED_ROWS, len(splits.train))
    order = np.random.default_rng(1).permutation(len(splits.train)).tolist()
    rows = [order[first : first + size] for first in range(0, len(order), size)][:TIMED_BATCHES]
    try:
        batch, seconds = _read_all(inputs.reader, rows, progress)
        if workers:
            _try_workers(inputs.reader, rows, workers)
    except DataError as error:
        return Timing(0.0, 0.0, workers, died=str(error)) if "reader process" in str(error) else None
    model.train()
    began = time.perf_counter()
    image, text = model.encode_image(**batch.image), model.encode_text(**batch.text)
    loss = (image @ text.T).logsumexp(1).sum()
    if loss.requires_grad:
        loss.backward()
    took = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    factor = recipe.train.batch_size / size
    return Timing(factor * seconds, factor * took, workers)


def _read_all(reader: Any, rows: list[list[int]], progress: ProgressCallback | None) -> tuple[Any, float]:
    """The last batch, and the mean seconds of one; the first, which pays for all that begins, counts alone if alone."""
    seconds, batch, began = [], None, time.perf_counter()
    for number, part in enumerate(rows):
        mark = time.perf_counter()
        batch = reader.__getitems__(part)
        seconds.append(time.perf_counter() - mark)
        if progress is not None:
            progress("batches read", number + 1, len(rows))
        if time.perf_counter() - began > TIMED_SECONDS:
            break
    if progress is not None:
        progress("batches read", len(rows), len(rows))
    return batch, float(np.mean(seconds[1:] or seconds))


def _try_workers(reader: Any, rows: list[list[int]], workers: int) -> None:
    """Read through the run's reader processes too.

    Raises:
        DataError: one died.
    """
    processes = ReaderProcesses(reader, workers=workers)
    try:
        for _ in processes.read(0, rows):
            pass
    finally:
        processes.close()
