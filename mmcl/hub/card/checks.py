"""What a model card must have: front matter that the Hub reads, every section, and nothing of this machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmcl.data.cards.checks import QUESTION, check_card
from mmcl.data.cards.front_matter import DATA_CHECKS, Check, Fault, FrontMatter, check_front_matter
from mmcl.data.cards.vocabulary import TASKS
from mmcl.errors import ConfigError
from mmcl.hub.card.model_index import CI95
from mmcl.hub.card.public_names import find_private, is_hub_id
from mmcl.hub.card.words import ModelCardWords

REQUIRED_KEYS = ("license", "language", "library_name", "pipeline_tag", "tags")

# Sections that every model card has, and what each is for.
REQUIRED_SECTIONS = {
    "How to use it": "code that runs",
    "Results": "what was measured, with its uncertainty, and beside what",
    "Training": "recipe, data and hardware",
    "Limits and biases": "what was measured of them, and what the model should not be used for",
    "How it was judged": "the commands that measure the same again",
    "Licence and citation": "under which terms, and how to name it",
}
_RELATIONS = ("finetune", "adapter", "merge", "quantized")

__all__ = ["QUESTION", "REQUIRED_SECTIONS", "Fault", "check_model_card", "check_words", "open_questions"]


def check_model_card(text: str, *, folder: Path | None = None) -> list[Fault]:
    """Everything that a model card lacks or has wrong, by line; questions that are open are among it.

    Args:
        text: the card.
        folder: where it lies: relative links must lead to files there. None: links are not followed.

    Example:
        >>> [str(fault) for fault in check_model_card("# Apples")][:1]
        ['line 1: front matter: there is none; the card begins with a line ---, YAML, and a line ---']
    """
    faults = check_card(text, folder=folder, sections=REQUIRED_SECTIONS, front_matter=_check_front_matter)
    for line, what in find_private(text):
        faults.append(Fault(line, "text", f"holds {what}, which is not for others to read"))
    return sorted(faults, key=lambda fault: fault.line)


def open_questions(faults: Iterable[Fault]) -> list[Fault]:
    """Those of a card's faults that are questions which only a person can answer."""
    return [fault for fault in faults if fault.problem == "a question is not answered yet"]


def check_words(words: ModelCardWords) -> None:
    """Refuse what the Hub would not understand, before anything is measured.

    Raises:
        ConfigError: names the option, and the nearest value that the Hub knows.
    """
    values = {
        "license": words.license,
        "license_name": words.license_name,
        "license_link": words.license_link,
        "language": list(words.languages),
        "datasets": list(words.datasets),
        "base_model": list(words.base_models),
        "tags": list(words.tags),
    }
    options = {"datasets": "dataset", "base_model": "base-model", "tags": "tag"}
    for key, check in _CHECKS.items():
        for problem in check(values[key], values) if values.get(key) else ():
            raise ConfigError(f"--{options.get(key, key)}: {problem}")
    if words.license != "other" and (words.license_name or words.license_link):
        raise ConfigError("--license-name and --license-link go with --license other; leave them out, or say other")


def _check_front_matter(front: FrontMatter) -> list[Fault]:
    return check_front_matter(front, required=REQUIRED_KEYS, checks=_CHECKS, card_data="ModelCardData")


def _check_task(value: Any, values: Mapping[str, Any]) -> Iterable[str]:
    if value not in TASKS:
        yield f"{value!r} is no task of the Hub; want zero-shot-image-classification"


def _check_text(value: Any, values: Mapping[str, Any]) -> Iterable[str]:
    if not isinstance(value, str):
        yield f"want text, got {value!r}"


def _check_ids(value: Any, values: Mapping[str, Any]) -> Iterable[str]:
    for item in value if isinstance(value, list) else [value]:
        # The oldest models and data sets of the Hub have no owner.
        if not isinstance(item, str) or not (is_hub_id(item) or is_hub_id(f"owner/{item}")):
            yield f"{item!r} is no id of the Hub; want owner/name"


def _check_relation(value: Any, values: Mapping[str, Any]) -> Iterable[str]:
    if value not in _RELATIONS:
        yield f"{value!r} is none of {', '.join(_RELATIONS)}"


def _check_metrics(value: Any, values: Mapping[str, Any]) -> Iterable[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        yield f"want a list of names, got {value!r}"


def _check_index(value: Any, values: Mapping[str, Any]) -> Iterable[str]:
    try:
        metrics = [metric for model in value for result in model["results"] for metric in result["metrics"]]
        for model in value:
            for result in model["results"]:
                _ = model["name"], result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]
    except (TypeError, KeyError) as error:
        yield f"want a list of name and results, each with task, dataset and metrics ({type(error).__name__}: {error})"
        return
    for metric in metrics:
        name = metric.get("name") or metric.get("type") if isinstance(metric, dict) else None
        if name is None or "type" not in metric:
            yield f"want type and value of every metric, got {metric!r}"
            continue
        number = metric.get("value")
        if not isinstance(number, (int, float)) or isinstance(number, bool) or not math.isfinite(number):
            yield f"{name} is {number!r}; want a finite number"
        interval = (metric.get("args") or {}).get(CI95)
        if interval is not None and not (
            isinstance(interval, list) and len(interval) == 2 and all(map(math.isfinite, interval))
            and interval[0] <= interval[1]
        ):  # fmt: skip
            yield f"{name}: the interval {interval!r} is no [low, high]"


_CHECKS: dict[str, Check] = {
    **{key: DATA_CHECKS[key] for key in ("license", "language", "tags")},
    "library_name": _check_text,
    "pipeline_tag": _check_task,
    "base_model": _check_ids,
    "base_model_relation": _check_relation,
    "datasets": _check_ids,
    "metrics": _check_metrics,
    "model-index": _check_index,
}
