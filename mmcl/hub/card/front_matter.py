"""The front matter of a model card: what the Hub reads, sorts and filters by."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from mmcl.hub.card.facts import SIDES, ModelFacts
from mmcl.hub.card.model_index import eval_results, hub_metric
from mmcl.hub.card.public_names import is_hub_data, is_hub_id
from mmcl.hub.card.run_data import RunData
from mmcl.hub.card.source import CardSource
from mmcl.hub.card.words import ModelCardWords

PIPELINE = "zero-shot-image-classification"
HUB_METRICS = ("accuracy", "f1", "precision", "recall", "roc_auc")
_LOCAL_FOLDERS = ("runs", "models", "weights", "checkpoints", "data")


def card_front_matter(
    source: CardSource,
    facts: ModelFacts,
    data: RunData,
    words: ModelCardWords,
    *,
    name: str,
    formats: Sequence[str],
) -> dict[str, Any]:
    """The keys of the front matter, those without a value left out.

    Args:
        source, facts, data: what is known of the model, its run and its data.
        words: what a person said.
        name: of the model in ``model-index``.
        formats: that lie in the repository.
    """
    base_models = base_model_ids(source, words)
    values: dict[str, Any] = {
        "license": words.license or "unknown",
        "license_name": words.license_name,
        "license_link": words.license_link,
        "language": list(words.languages) or list(data.languages),
        "library_name": "mmcl",
        "pipeline_tag": PIPELINE,
        "tags": _tags(facts, words, formats),
        "base_model": base_models[0] if len(base_models) == 1 else base_models,
        "base_model_relation": "finetune" if base_models else None,
        "datasets": dataset_ids(source, words),
        "metrics": _metrics(source),
        "model-index": _model_index(source, data, words, name=name),
    }
    return {key: value for key, value in values.items() if value}


def dataset_ids(source: CardSource, words: ModelCardWords) -> list[str]:
    """Hub ids of the training data: those that a person named, and the recipe's where the Hub has it."""
    return list(dict.fromkeys([*_own_dataset(source), *words.datasets]))


def _own_dataset(source: CardSource) -> list[str]:
    """The Hub id of the recipe's data, in a list; none where they are no data set of the Hub."""
    path = str(source.value("data.path") or "")
    return [path.partition("?")[0].partition(":")[0].partition("@")[0]] if path and is_hub_data(path) else []


def base_model_ids(source: CardSource, words: ModelCardWords) -> list[str]:
    """Hub ids of what training started from: those that a person named, and the recipe's towers with their weights."""
    found = list(words.base_models)
    start = source.value("model.init_from")
    if isinstance(start, str):
        found += _hub_id(start)
    for side in SIDES:
        name = source.value(f"model.{side}.name")
        if isinstance(name, str) and source.value(f"model.{side}.pretrained") is not False:
            found += _hub_id(name)
    return list(dict.fromkeys(found))


def _hub_id(name: str) -> list[str]:
    """The Hub id of pretrained weights, in a list; none for folders, files, packages and what the Hub has no id for."""
    if name.startswith("timm:") and "?" not in name:
        from timm.models import get_pretrained_cfg

        known = getattr(get_pretrained_cfg(name.removeprefix("timm:")), "hf_hub_id", None)
        return [known] if known and is_hub_id(known) else []
    if name.startswith("open_clip:"):
        import open_clip

        architecture, _, weights = name.removeprefix("open_clip:").partition("/")
        known = (open_clip.get_pretrained_cfg(architecture, weights) or {}).get("hf_hub") if weights else None
        return [known.strip("/")] if known and is_hub_id(known.strip("/")) else []
    local = os.path.exists(name) or name.partition("/")[0] in _LOCAL_FOLDERS
    return [name] if is_hub_id(name) and not local else []


def _tags(facts: ModelFacts, words: ModelCardWords, formats: Sequence[str]) -> list[str]:
    tags = ["mmcl", "contrastive-learning", "image-text-retrieval", "zero-shot"]
    if any(side.architecture.startswith("clip") for side in facts.sides) or "open_clip" in facts.families:
        tags.append("clip")
    if facts.obstacle is None:
        tags.append("transformers")
    return list(dict.fromkeys([*tags, *formats, *words.tags]))


def _metrics(source: CardSource) -> list[str]:
    names = {hub_metric(name) for metrics in source.evaluation.values() for name in metrics}
    if any("recall@" in name for name in names):
        names.add("recall")
    return [name for name in HUB_METRICS if name in names]


def _model_index(source: CardSource, data: RunData, words: ModelCardWords, *, name: str) -> list[dict[str, Any]] | None:
    shown = data.name or "the data of the run"
    own = _own_dataset(source) or (list(words.datasets) if len(words.datasets) == 1 else [])
    results = eval_results(source.evaluation, dataset_type=own[0] if own else shown, dataset_name=shown)
    if not results:
        return None
    from huggingface_hub.repocard_data import eval_results_to_model_index

    return eval_results_to_model_index(name, results)
