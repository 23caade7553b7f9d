"""`Setting`: one recipe key and the values it may take in a search, and how people write that."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmcl.config import Recipe, parse_yaml
from mmcl.errors import ConfigError, require

# What says where, on what and by what is judged is no setting of a training.
FIXED_KEYS = (
    *("name", "smoke", "run", "evaluate", "checkpoint", "train.max_minutes", "train.log_every", "train.doctor"),
    *("data.path", "data.images", "data.split", "data.columns", "data.holdout_share", "data.max_rows"),
)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")
_BETWEEN_CHOICES = re.compile(r",(?![^\[{]*[\]}])")  # a comma within brackets belongs to a value
SIGNIFICANT = 3  # digits of a number that a search draws, so that recipes stay readable


@dataclass(frozen=True)
class Setting:
    """A recipe key, with a range of numbers or a list of choices.

    Attributes:
        key: dotted, such as ``optimizer.learning_rate``.
        low, high: ends of the range, both within it; not used by choices.
        log: whether numbers are drawn evenly on a logarithmic scale.
        whole: whether numbers are whole.
        choices: values as YAML; empty: a range.

    Example:
        >>> Setting("optimizer.learning_rate", 1e-4, 1e-2, log=True).describe()
        '0.0001 to 0.01 (log)'
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.choices:
            if len(set(self.choices)) != len(self.choices) or len(self.choices) < 2:
                raise ConfigError(f"--search {self.key}: {','.join(self.choices)}; want two different choices or more")
        elif not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"--search {self.key}: {self.low:g}..{self.high:g}; want the smaller number first")
        elif self.log and self.low <= 0:
            raise ConfigError(f"--search {self.key}: {self.low:g}..{self.high:g}:log; want numbers above 0, or no :log")

    def distribution(self) -> Any:
        """The same for Optuna.

        Raises:
            MissingDependencyError: Optuna is not installed.
        """
        kinds = require("optuna.distributions", extra="tune")
        if self.choices:
            return kinds.CategoricalDistribution(self.choices)
        if self.whole:
            return kinds.IntDistribution(int(self.low), int(self.high), log=self.log)
        return kinds.FloatDistribution(self.low, self.high, log=self.log)

    def write(self, value: Any) -> str:
        """A value as a recipe writes it: numbers with three digits that count, choices as they are."""
        if self.choices:
            return str(value)
        return str(int(value)) if self.whole else write_number(value)

    def read(self, written: str) -> Any | None:
        """The value for Optuna of what a recipe has; None where it is no value of this setting."""
        if self.choices:
            wanted = parse_yaml(written, source=self.key)
            return next((c for c in self.choices if parse_yaml(c, source=self.key) == wanted), None)
        value = parse_yaml(written, source=self.key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return None
        return int(value) if self.whole else float(value)

    def ends(self) -> tuple[str, ...]:
        """The values between which, or among which, is searched."""
        return self.choices or (self.write(self.low), self.write(self.high))

    def describe(self) -> str:
        """For people."""
        if self.choices:
            return ", ".join(self.choices)
        low, high = self.ends()
        return f"{low} to {high}{' (log)' if self.log else ''}"


def write_number(value: float) -> str:
    """A number with three digits that count, as YAML reads it back: ``0.00123``, ``1e-05``."""
    return f"{float(value):.{SIGNIFICANT}g}"


def value_at(recipe: Recipe, key: str) -> Any:
    """The value of a dotted key.

    Raises:
        ConfigError: the recipe has no such key.
    """
    from mmcl.config import nearest_key

    value: Any = recipe
    for name in key.split("."):
        known = type(value).model_fields if hasattr(type(value), "model_fields") else {}
        if name not in known and not (isinstance(value, dict) and name in value):
            near = nearest_key(key)
            raise ConfigError(f"--search {key}: no such recipe key" + (f"; did you mean {near!r}?" if near else ""))
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


def as_yaml(value: Any) -> str:
    """A recipe's value in one line of YAML: ``0.1``, ``[1024]``, ``null``."""
    import yaml

    plain = _plain(value)
    if isinstance(plain, float):
        return repr(plain)  # all of its digits; 1e-05 is a number to a recipe
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):  # a whole section: what of it is not the default
        return value.model_dump(mode="json", exclude_defaults=True)
    return [_plain(one) for one in value] if isinstance(value, (tuple, list)) else value


def parse_setting(text: str, recipe: Recipe) -> Setting:
    """A setting as ``--search`` has it.

    Args:
        text: ``key=low..high``, ``key=low..high:log`` or ``key=a,b,c``; values are YAML.
        recipe: whose key it is. A range of whole numbers stays whole unless the recipe's value is a fraction.

    Raises:
        ConfigError: it is neither, the key is none of the recipe's, or it is one that no search may change.

    Example:
        >>> from mmcl.config import recipe_from_tree
        >>> recipe = recipe_from_tree({"data": {"path": "shapes"}}, source="example")
        >>> parse_setting("train.batch_size=32,64", recipe).choices
        ('32', '64')
    """
    key, sign, values = (part.strip() for part in text.partition("="))
    if not sign or not key or not values:
        raise ConfigError(f"--search {text!r}: want key=low..high, key=low..high:log or key=a,b,c")
    fixed = next((name for name in FIXED_KEYS if key == name or key.startswith(f"{name}.")), None)
    if fixed is not None:
        hint = "; --metric and --seeds change what is measured" if fixed in ("evaluate", "run") else ""
        raise ConfigError(f"--search {key}: it decides where or by what is judged, and is no setting to search{hint}")
    now = value_at(recipe, key)
    if found := _RANGE.fullmatch(values):
        low, high = found[1], found[2]
        whole = not isinstance(now, float) and all(re.fullmatch(r"[-+]?\d+", end) for end in (low, high))
        return Setting(key, float(low), float(high), log=bool(found[3]), whole=whole)
    if ".." in values:
        raise ConfigError(f"--search {text!r}: want numbers, such as {key}=1e-4..1e-2:log")
    choices = tuple(choice.strip() for choice in _BETWEEN_CHOICES.split(values))
    for choice in choices:
        parse_yaml(choice, source=f"--search {text!r}")
    return Setting(key, choices=choices)


def parse_settings(texts: Sequence[str], recipe: Recipe) -> tuple[Setting, ...]:
    """Several; a key may stand once.

    Raises:
        ConfigError: see ``parse_setting``; a key twice.
    """
    settings = [parse_setting(text, recipe) for text in texts]
    keys = [setting.key for setting in settings]
    twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
    if twice is not None:
        raise ConfigError(f"--search {twice} is given twice; give it once, with all its values")
    return tuple(settings)
