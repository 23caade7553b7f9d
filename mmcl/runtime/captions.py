"""From captions to a text graph's `input_ids`: a `tokenizer.json`, and the cleaning that the model was trained with."""

from __future__ import annotations

import html
import importlib
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from mmcl.errors import ConfigError, DataError, MissingDependencyError

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _repair(text: str) -> str:
    """Broken encodings mended, entities of HTML resolved, as OpenAI's CLIP cleans captions."""
    try:
        ftfy = importlib.import_module("ftfy")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "ftfy is not installed, which this model's captions are cleaned with: pip install ftfy"
        ) from error
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def _one_line(text: str) -> str:
    return " ".join(_repair(text).split())


def _without_punctuation(text: str) -> str:
    return " ".join(_repair(text).replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


# What open_clip calls them; "none": the tokenizer takes captions as they are.
CLEANINGS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "whitespace": _one_line,
    "lower": lambda text: _one_line(text).lower(),
    "canonicalize": _without_punctuation,
}


@dataclass(frozen=True)
class TextSettings:
    """What a text graph wants its tokens to look like.

    Attributes:
        max_length: tokens kept; longer captions are cut, their end token kept.
        padding: ``"longest"`` of the batch, or ``"max_length"``.
        pad_id: the token to pad with.
        use_mask: whether the graph takes an ``attention_mask``.
        cleaning: one of ``CLEANINGS``.
        replaced: tokens that others stand in for.
    """

    max_length: int
    padding: str
    pad_id: int
    use_mask: bool
    cleaning: str = "none"
    replaced: Mapping[int, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"replaced": {str(token): other for token, other in self.replaced.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str) -> TextSettings:
        """Read what ``to_dict`` gives.

        Raises:
            ConfigError: a value is missing, or none that can be.
        """
        missing = [each.name for each in fields(cls) if each.name not in values]
        if missing:
            raise ConfigError(f"{source}: its text preprocessing has no {', '.join(missing)}; export the model again")
        known = {name: values[name] for name in (each.name for each in fields(cls))}
        if known["cleaning"] not in CLEANINGS or known["padding"] not in ("longest", "max_length"):
            raise ConfigError(
                f"{source}: cleaning {known['cleaning']!r} or padding {known['padding']!r} is unknown; export the "
                f"model again, or upgrade mmcl"
            )
        return cls(**known | {"replaced": {int(token): other for token, other in known["replaced"].items()}})


class CaptionTokenizer:
    """Captions to tokens without transformers.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``; what it truncates and pads by is set here.
        settings: what the graph wants.
    """

    def __init__(self, tokenizer: Any, settings: TextSettings) -> None:
        self.settings, self._tokenizer = settings, tokenizer
        direction = (tokenizer.truncation or {}).get("direction", "right")
        tokenizer.no_padding()
        tokenizer.enable_truncation(settings.max_length, direction=direction)

    @classmethod
    def from_file(cls, path: Path, settings: TextSettings) -> CaptionTokenizer:
        """Read a ``tokenizer.json``.

        Raises:
            ConfigError: the file is missing or cannot be read.
        """
        from tokenizers import Tokenizer

        if not path.is_file():
            raise ConfigError(f"{path} is missing; export the model again")
        try:
            return cls(Tokenizer.from_file(str(path)), settings)
        except Exception as error:  # the library raises bare exceptions
            raise ConfigError(f"{path} cannot be read ({_first_line(error)}); export the model again") from error

    def to_json(self) -> str:
        """The content of a ``tokenizer.json``."""
        return self._tokenizer.to_str()

    def tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each caption, int64 (t,), each as long as it is.

        Raises:
            DataError: a text that is no Unicode.
        """
        clean = CLEANINGS[self.settings.cleaning]
        try:
            encoded = self._tokenizer.encode_batch([clean(text) for text in texts])
        except (TypeError, UnicodeError) as error:
            row = next((row for row, text in enumerate(texts) if not _is_unicode(text)), None)
            if row is None:
                raise
            raise DataError(f"text {row} holds half a surrogate pair, which is no character; mend it first") from error
        ids = [np.array(each.ids, dtype=np.int64) for each in encoded]
        for token, other in self.settings.replaced.items():
            ids = [np.where(each == token, other, each) for each in ids]
        return ids

    def batch(self, ids: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Tokens of some captions, at least one, as the graph's inputs: int64 (b, t) each."""
        fixed = self.settings.max_length if self.settings.padding == "max_length" else None
        width = fixed or max(1, *map(len, ids), 1)
        input_ids = np.full((len(ids), width), self.settings.pad_id, dtype=np.int64)
        mask = np.zeros((len(ids), width), dtype=np.int64)
        for row, each in enumerate(ids):
            input_ids[row, : len(each)] = each
            mask[row, : len(each)] = 1
        inputs = {"input_ids": input_ids}
        return inputs | {"attention_mask": mask} if self.settings.use_mask else inputs


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
