"""The dotted keys of a recipe: all of them, what each means, and the one that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from mmcl.config.recipe import Recipe
from mmcl.config.section import Section


def known_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a recipe, sections and leaves: ``data``, ``data.path``, ``data.split.train`` ..."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from known_keys(field.annotation, f"{prefix}{name}.")


def describe_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every leaf key with its default, as YAML, and its meaning; a key that every recipe needs has no default."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from describe_keys(field.annotation, f"{prefix}{name}.")
        else:
            default = "" if field.is_required() else _as_yaml(field.get_default(call_default_factory=True))
            yield prefix + name, default, field.description or ""


def _as_yaml(value: Any) -> str:
    """A default as a recipe would write it: null, true, [0.5, 0.75], 1e-3."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def nearest_key(key: str, model: type[BaseModel] = Recipe) -> str | None:
    """The known key most like an unknown one; None where nothing is near."""
    keys = list(known_keys(model))
    parent, _, leaf = key.rpartition(".")
    same_leaf = [k for k in keys if k.rpartition(".")[2] == leaf]
    if same_leaf and not parent:  # a key without its section
        return same_leaf[0]
    siblings = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == parent}
    if near := difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6):
        return siblings[near[0]]
    if near := difflib.get_close_matches(key, keys, n=1, cutoff=0.6):
        return near[0]
    return same_leaf[0] if same_leaf else None
