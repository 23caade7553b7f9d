"""open_clip's tokenizers as tokenizers of transformers, in one ``tokenizer.json`` that needs no download.

open_clip cleans captions before it tokenizes them: ftfy mends the text, HTML entities are resolved twice, white space
is joined, and letters are made small or punctuation removed. A ``tokenizer.json`` holds replacements, not programs:
what is common is replaced as open_clip does it (the entities of Latin letters and of punctuation, curly quotes,
ligatures), what is rare is not (see ``CLEANING_NOTE``).
"""

from __future__ import annotations

import html
import string
from dataclasses import dataclass
from html.entities import name2codepoint
from typing import Any

from mmcl.hub.formats.weight_names.fitting import UnfitError
from mmcl.models.towers.text_preprocessing import OpenClipText

CLEANING_NOTE = (
    "The tokenizer gives open_clip's tokens, but for captions that only ftfy mends (wrongly decoded letters, "
    "full-width letters), rare HTML entities or such without a semicolon, and Greek words that are all in capitals."
)
# open_clip's names of the two tokens -> those of every CLIP tokenizer in transformers.
_SPECIAL = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
_NUMBERS = (34, 39, 60, 62, 160, 8211, 8212, 8216, 8217, 8220, 8221, 8230)
_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl"}


@dataclass(frozen=True)
class SpecialTokens:
    """Numbers of tokens.

    Attributes:
        begin, end, pad: the tokens around and behind a caption; ``pad`` is what transformers pads with.
        end_is_greatest: whether no token has a greater number than ``end``.
    """

    begin: int | None
    end: int | None
    pad: int | None
    end_is_greatest: bool


def special_tokens(preprocessing: OpenClipText) -> SpecialTokens:
    """The special tokens of an open_clip tokenizer that ``transformers_tokenizer`` can write.

    Raises:
        UnfitError: the tokenizer does what a ``tokenizer.json`` cannot say.
    """
    import open_clip

    source = preprocessing.tokenizer
    if isinstance(source, open_clip.SimpleTokenizer):
        if source.reduction_fn is not None:
            raise UnfitError("the tokenizer shortens captions by a reduction_mask, where transformers cuts them off")
        if len(source.all_special_ids) > 2:
            raise UnfitError("the tokenizer has special tokens besides the start and the end of a text")
        if source.clean_fn is open_clip.tokenizer.get_clean_fn("whitespace"):
            raise UnfitError("the tokenizer keeps capitals, which CLIP's vocabulary is not made for")
        _cleaning(source.clean_fn)
        begin, end = source.all_special_ids
        return SpecialTokens(begin, end, end, end_is_greatest=end == source.vocab_size - 1)
    if not isinstance(source, open_clip.tokenizer.HFTokenizer):
        raise UnfitError(f"open_clip's {type(source).__name__} is no tokenizer that transformers can be given")
    own = source.tokenizer
    if source.tokenizer_mode or source.strip_sep_token:
        raise UnfitError("open_clip changes the tokens of its tokenizer (tokenizer_mode or strip_sep_token)")
    if getattr(own, "backend_tokenizer", None) is None:
        raise UnfitError(f"its tokenizer, a {type(own).__name__}, is none that is kept in one tokenizer.json")
    _cleaning(source.clean_fn)
    greatest = own.eos_token_id == len(own) - 1
    return SpecialTokens(own.bos_token_id, own.eos_token_id, own.pad_token_id, end_is_greatest=greatest)


def transformers_tokenizer(preprocessing: OpenClipText) -> Any:
    """A tokenizer of transformers that gives the tokens of an open_clip tokenizer, the end token in the place of zeros.

    Its ``tokenizer.json`` must be read as it is, by ``PreTrainedTokenizerFast``: a ``CLIPTokenizer`` would make its own
    replacements when it is read.

    Args:
        preprocessing: of an open_clip text tower.

    Raises:
        UnfitError: see ``special_tokens``.
    """
    import open_clip

    special_tokens(preprocessing)
    source = preprocessing.tokenizer
    make = _simple if isinstance(source, open_clip.SimpleTokenizer) else _hugging_face
    return make(source)


def _simple(source: Any) -> Any:
    """CLIP's own byte pairs."""
    from tokenizers import decoders
    from transformers import CLIPTokenizer

    vocab = {_SPECIAL.get(token, token): number for token, number in source.encoder.items()}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=list(source.bpe_ranks))
    _clean_first(tokenizer.backend_tokenizer, source)
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("</w>", " "), decoders.Strip(" ", 0, 1)]
    )
    return tokenizer


def _hugging_face(source: Any) -> Any:
    """A tokenizer of transformers that open_clip cleans captions for."""
    from transformers import PreTrainedTokenizerFast

    own = source.tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own.backend_tokenizer, padding_side=own.padding_side, **own.special_tokens_map
    )
    _clean_first(tokenizer.backend_tokenizer, source)
    return tokenizer


def _clean_first(backend: Any, source: Any) -> None:
    from tokenizers import normalizers

    own = [backend.normalizer] if backend.normalizer is not None else []
    backend.normalizer = normalizers.Sequence([*_cleaning(source.clean_fn), *own])


def _cleaning(clean: Any) -> list[Any]:
    """What open_clip does to a caption before its tokenizer, as normalizers.

    Raises:
        UnfitError: a cleaning of somebody's own.
    """
    from open_clip import tokenizer
    from tokenizers import Regex, normalizers

    replace = normalizers.Replace
    steps = [replace(entity, character) for entity, character in _entities()]
    steps += [replace(Regex("[‘’‚‛]"), "'"), replace(Regex("[“”„‟]"), '"')]
    steps += [replace(ligature, letters) for ligature, letters in _LIGATURES.items()]
    if clean is tokenizer.get_clean_fn("canonicalize"):
        marks = "".join(f"\\{mark}" for mark in string.punctuation)
        steps += [replace("_", " "), replace(Regex(f"[{marks}]"), ""), normalizers.Lowercase()]
    elif clean is tokenizer.get_clean_fn("lower"):
        steps += [normalizers.Lowercase()]
    elif clean is not tokenizer.get_clean_fn("whitespace"):
        raise UnfitError("the tokenizer cleans captions in a way that is not open_clip's own")
    return [*steps, replace(Regex(r"\s+"), " "), normalizers.Strip()]


def _entities() -> list[tuple[str, str]]:
    """Entities of Latin letters and of punctuation; the ampersand's before all, for entities that are escaped again."""
    names = [name for name, code in name2codepoint.items() if name != "amp" and (code < 256 or 0x2000 <= code < 0x2123)]
    written = ["&amp;", "&amp;", "&#38;", *(f"&{name};" for name in names), "&apos;", "&#039;", "&#x27;"]
    written += [f"&#{number};" for number in _NUMBERS]
    return [(entity, html.unescape(entity)) for entity in written]
