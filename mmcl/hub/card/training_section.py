"""The training section of a card: the recipe's key settings, and the machine it ran on."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from mmcl.hub.card.markdown import duration, join, table
from mmcl.hub.card.public_names import public_text
from mmcl.hub.card.source import CardSource

NO_RUN = (
    "Nothing of the training lies beside this model: there is no recipe and there are no metrics, so neither data nor "
    "settings nor hardware are told here."
)


def training_section(source: CardSource, *, data_name: str, data_link: str, recipe_link: bool, curves: str) -> str:
    """Settings, hardware and curves; a sentence where there is no run.

    Args:
        source: the run.
        data_name: of the training data, as everybody may read it.
        data_link: Markdown that leads to their card; empty where there is none.
        recipe_link: whether ``recipe.yaml`` lies beside the card.
        curves: Markdown of the pictures.
    """
    if not source.recipe:
        return NO_RUN
    name = public_text(str(source.value("name") or "run"))
    started = f"Trained with mmcl, recipe `{name}`, on {data_name}{data_link}.{_ended(source)}"
    recipe = ""
    if recipe_link:
        again = "`mmcl train recipe.yaml data.path=path/to/data`"
        recipe = f"Every key is in [recipe.yaml](recipe.yaml); {again} runs it again."
    settings = table(["setting", "value"], [pair for pair in _settings(source) if pair[1]], numbers=False)
    hardware = table(["", "noted by the run"], [pair for pair in _hardware(source) if pair[1]], numbers=False)
    drawn = ["### Curves", curves] if curves else []
    return join([started, "### Recipe", settings, recipe, "### Hardware", hardware, *drawn])


def _settings(source: CardSource) -> list[tuple[str, str]]:
    get = source.value
    batch, micro = get("train.batch_size"), get("train.micro_batch_size")
    last = source.steps[-1] if source.steps else {}
    epochs, steps, seen = last.get("epoch"), last.get("step"), source.progress.get("rows_seen")
    length = f"{steps:,} steps, {epochs:g} epochs" if steps and epochs else ""
    scale = get("model.logit_scale")
    return [
        ("loss", _loss(source)),
        ("negatives", _negatives(source)),
        ("batch", f"{batch:,} pairs" + (f", in pieces of {micro}" if micro else "") if batch else ""),
        ("length", length + (f", {seen:,} pairs seen" if length and seen else "")),
        ("optimizer", _optimizer(source)),
        ("schedule", _schedule(source)),
        ("frozen towers", _features(source)),
        ("precision", str(get("train.precision") or "")),
        ("gradient norm", f"clipped at {get('train.max_grad_norm'):g}" if get("train.max_grad_norm") else ""),
        ("logit scale", f"starts at {scale:.4g}, at most {get('model.logit_scale_max'):g}" if scale else ""),
        ("image augmentation", _changed(get("data.augment")) or "none"),
        ("captions", _changed(get("data.captions"))),
        ("weight average", _average(source)),
        ("best by", f"`{get('evaluate.metric')}` on {get('data.split.validation')}" if get("evaluate.metric") else ""),
        ("seed", str(get("run.seed")) if get("run.seed") is not None else ""),
    ]


def _average(source: CardSource) -> str:
    get = source.value
    if get("train.ema.enabled"):
        return f"EMA of {get('train.ema.decay')}"
    if not get("train.weight_average.enabled"):
        return ""
    return f"mean of the steps after {get('train.weight_average.from_share'):.0%} of the run"


def _loss(source: CardSource) -> str:
    get = source.value
    name = get("loss.name")
    if not name:
        return ""
    parts = [str(name)]
    if get("loss.positives"):
        parts.append("positives: same group" if get("loss.positives") == "group" else "positives: pairs")
    if get("loss.label_smoothing"):
        parts.append(f"label smoothing {get('loss.label_smoothing'):g}")
    if get("loss.hardness"):
        parts.append(f"hardness {get('loss.hardness'):g}")
    if get("loss.matryoshka_dims"):
        parts.append(f"Matryoshka sizes {', '.join(map(str, get('loss.matryoshka_dims')))}")
    return ", ".join(parts)


def _negatives(source: CardSource) -> str:
    get = source.value
    parts = ["in the batch"]
    if get("negatives.queue_size"):
        parts.append(f"a queue of {get('negatives.queue_size'):,}")
    for key, words in (("captions_per_row", "mined captions a row"), ("images_per_row", "mined images a row")):
        if get(f"negatives.{key}"):
            parts.append(f"{get(f'negatives.{key}')} {words}")
    if get("loss.mining") not in (None, "none"):
        parts.append(f"mining {get('loss.mining')}")
    if get("batches.name") not in (None, "random"):
        parts.append(f"batches {get('batches.name')}")
    return ", ".join(parts)


def _optimizer(source: CardSource) -> str:
    get = source.value
    if not get("optimizer.name"):
        return ""
    parts = [f"{get('optimizer.name')}, learning rate {get('optimizer.learning_rate'):g}"]
    for side in ("image", "text"):
        if get(f"model.{side}.learning_rate"):
            parts.append(f"{side} tower {get(f'model.{side}.learning_rate'):g}")
    if get("optimizer.weight_decay") is not None:
        parts.append(f"weight decay {get('optimizer.weight_decay'):g}")
    return ", ".join(parts)


def _schedule(source: CardSource) -> str:
    get = source.value
    steps, share = get("schedule.warmup_steps"), get("schedule.warmup_share")
    warmup = f", {steps} steps of warm-up" if steps else f", warm-up over {share:.0%} of the steps" if share else ""
    return f"{get('schedule.name')}{warmup}" if get("schedule.name") else ""


def _features(source: CardSource) -> str:
    """Whether times and rates are of heads alone."""
    frozen = [
        side
        for side in ("image", "text")
        if source.value(f"model.{side}.freeze") is True and source.value(f"model.{side}.freeze_until_epoch") is None
    ]
    if not frozen or source.value("train.feature_cache.enabled") is not True:
        return ""
    return f"{' and '.join(frozen)}: features computed once, so that steps ran what is trained alone"


def _changed(section: Any) -> str:
    """What a section of augmentation does: its keys that are not zero, false or empty."""
    if not isinstance(section, Mapping):
        return ""
    quiet = {"crop_ratio", "color_jitter_probability"}  # say nothing where crops and jitter are off
    off = (None, 0, False, "", "none")
    on = {key: value for key, value in section.items() if value not in off and key not in quiet}
    return public_text(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in on.items()))


def _hardware(source: CardSource) -> list[tuple[str, str]]:
    environment, steps = source.environment, source.steps
    noted = environment.get("packages") if isinstance(environment.get("packages"), Mapping) else {}
    packages = {**noted, "mmcl": noted.get("mmcl") or source.mmcl_version}
    rates = [record["pairs_per_second"] for record in steps if record.get("pairs_per_second")]
    memory = [record["peak_memory_mb"] for record in steps if record.get("peak_memory_mb")]
    seconds = source.progress.get("train_seconds") or (steps[-1].get("seconds") if steps else None)
    processes = source.value("run.num_processes")
    commit = environment.get("git_commit")
    return [
        ("device", public_text(str(environment.get("device") or "not noted by this run"))),
        ("processes", str(processes or "")),
        ("platform", public_text(str(environment.get("platform") or ""))),
        ("processors", str(environment.get("processors") or "")),
        ("training time", duration(seconds) if seconds else ""),
        ("pairs a second, median", f"{statistics.median(rates):,.0f}" if rates else ""),
        ("peak memory", f"{max(memory):,.0f} MB" if memory else ""),
        ("packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)),
        ("git commit", f"`{commit[:12]}`" if isinstance(commit, str) else ""),
    ]


def _ended(source: CardSource) -> str:
    """What a reader must know of how it ended."""
    if source.progress and not source.progress.get("finished"):
        return " **The run is not finished**: it ended before its last step, and this is its best model so far."
    by = source.progress.get("stopped_by")
    return f" It ended early: {public_text(str(by))}." if by and by != "done" else ""
