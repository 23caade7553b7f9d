"""`check_mergeable`: whether two models are one model with other weights, which alone can be averaged."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder
from mmcl.models.fingerprint import config_values
from mmcl.models.heads import head_description

# What acts in training alone, or names what no embedding depends on: two runs of one model may differ in it.
_NOT_IN_EMBEDDINGS = (
    "dropout",
    "drop_path",
    "drop_rate",
    "initializer",
    "id2label",
    "label2id",
    "use_cache",
    "return_",
)

# A vocabulary does not say how a tokenizer splits and folds words; these do.
_PROBES = ("A photo of two Red Circles, 3 cm.", "Äpfel & Birnen: naïve café", "  hyphen-ated\tCamelCase 12345 日本語")


def check_mergeable(first: DualEncoder, other: DualEncoder, *, names: tuple[str, str] = ("first", "second")) -> None:
    """Refuse two models that differ in more than their weights.

    Compared are the size of the embeddings, and of each side the tower's kind and config, pooling, head, preprocessing
    and tokenizer, then the names, shapes and dtypes of all weights. Dropout may differ: it acts in training alone. So
    may the names that towers were loaded by.

    Args:
        first, other: the models.
        names: what messages call them.

    Raises:
        ConfigError: the first thing that differs, and what each of the two has.
    """
    for what, own, others in itertools.chain(_descriptions(first, other), _weights(first, other)):
        if own != others:
            raise ConfigError(
                f"{names[0]} and {names[1]} cannot be merged: {what} is {own} in {names[0]} and {others} in "
                f"{names[1]}; weights are averaged only between models of one architecture that read one input"
            )


def _descriptions(first: DualEncoder, other: DualEncoder) -> Iterator[tuple[str, Any, Any]]:
    """(what, of the first, of the other) of all that is no weight."""
    yield "embedding_dim", first.embedding_dim, other.embedding_dim
    for side in ("image", "text"):
        one, two = first.encoder(side), other.encoder(side)
        kinds = [f"{encoder.tower.spec['family']} {type(encoder.tower.model).__name__}" for encoder in (one, two)]
        yield f"the {side} tower", kinds[0], kinds[1]
        yield from _settings(f"{side} tower's", _config(one), _config(two))
        yield f"the {side} pooling", one.pooling, two.pooling
        heads = [head_description(encoder.head) for encoder in (one, two)]
        yield f"the {side} head", heads[0]["name"], heads[1]["name"]
        yield from _settings(f"{side} head's", *map(_relevant, heads))
        plain = [_plain(encoder.tower.preprocessing.to_dict()) for encoder in (one, two)]
        yield from _settings(f"{side} preprocessing's", plain[0], plain[1])
    yield from _tokenizers(first.text.tower.preprocessing, other.text.tower.preprocessing)
    yield "a logit_bias", *("there" if model.logit_bias is not None else "missing" for model in (first, other))


def _plain(value: Any) -> Any:
    """As JSON has it: tuples are lists, and keys are strings."""
    return json.loads(json.dumps(value, default=str))


def _relevant(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if not any(word in key for word in _NOT_IN_EMBEDDINGS)}


def _config(encoder: Encoder) -> dict[str, Any]:
    spec = encoder.tower.spec
    return _relevant(json.loads(config_values(spec.get("config") or spec.get("options") or {})))


def _settings(whose: str, one: dict[str, Any], two: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The settings that both name: one that only one of them names is the other's default, or weights show it."""
    for key in sorted(one.keys() & two.keys()):
        yield f"the {whose} {key}", one[key], two[key]


def _tokenizers(one: Any, two: Any) -> Iterator[tuple[str, Any, Any]]:
    yield "the tokenizer", type(one).__name__, type(two).__name__
    vocabularies = [_vocabulary(preprocessing) for preprocessing in (one, two)]
    yield "the tokenizer's vocabulary", *(f"{len(words)} tokens" for words in vocabularies)
    if vocabularies[0] != vocabularies[1]:
        word = min(set(vocabularies[0].items()) ^ set(vocabularies[1].items()))[0]
        yield f"the tokenizer's id of {word!r}", *(words.get(word, "missing") for words in vocabularies)
    tokens = [preprocessing.tokens(_PROBES) for preprocessing in (one, two)]
    for row, probe in enumerate(_PROBES):
        yield f"the tokens of {probe!r}", *([int(token) for token in found.ids(row)] for found in tokens)


def _vocabulary(preprocessing: Any) -> dict[str, int]:
    """Token -> id; empty where a tokenizer of open_clip's has none to show, whose probes are compared all the same."""
    for tokenizer in (preprocessing.tokenizer, getattr(preprocessing.tokenizer, "tokenizer", None)):
        if hasattr(tokenizer, "get_vocab"):
            return tokenizer.get_vocab()
    return dict(getattr(preprocessing.tokenizer, "encoder", {}))


def _weights(first: DualEncoder, other: DualEncoder) -> Iterator[tuple[str, Any, Any]]:
    one, two = first.state_dict(), other.state_dict()
    for name in [*one, *(name for name in two if name not in one)]:
        yield (
            f"the weight {name}",
            *(
                f"{tuple(state[name].shape)} {state[name].dtype}" if name in state else "missing"
                for state in (one, two)
            ),
        )
