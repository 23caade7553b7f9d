"""The tokenizer of any text tower as a `tokenizer.json`, which `tokenizers` alone reads, and whether it is the same."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

from mmcl.errors import ConfigError
from mmcl.models.encoder import Encoder
from mmcl.models.towers.text_preprocessing import OpenClipText, TextPreprocessing
from mmcl.runtime.captions import CLEANINGS, CaptionTokenizer, TextSettings

# Where tokenizers part: capitals, entities, accents, broken encodings, other scripts, blanks, special tokens, length.
HARD_CAPTIONS = (
    "", " ", "a", "A Red CIRCLE.", "a!$b", "fish &amp; chips &lt;3", "&amp;amp;quot;twice&amp;amp;quot;", "naïve café",
    "schÃ¶n, not beautiful", "e\u0301 and é", "\u201cquotes\u201d \u2014 don't, they'll, I'M, we'Ve",
    "emoji \U0001f600\U0001f44d\U0001f3fd \u2764\ufe0f", "日本語の説明", "привет мир", "שלום عليكم",
    "tabs\tand\nlines   here", "12345 3.14 1,000", "under_scores__ #tags @names", "ſtraße İstanbul ΑΣ ﬁne Å",
    "<start_of_text> in <end_of_text>!", "[CLS] [SEP] <s> </s> <pad> <|endoftext|>", "\u200bzero\u00a0width\ufeff",
    "the big dog " * 120, "x" * 700,
)  # fmt: skip


def tokenizer_obstacle(encoder: Encoder) -> str | None:
    """Why a text tower's tokenizer cannot be written as a ``tokenizer.json``; None where it can."""
    preprocessing = encoder.tower.preprocessing
    if isinstance(preprocessing, TextPreprocessing):
        return _not_fast(preprocessing.tokenizer)
    import open_clip

    tokenizer = preprocessing.tokenizer
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        if tokenizer.reduction_fn is not None:
            return "the text tower's tokenizer drops words of long captions at random"
        return _unknown_cleaning(tokenizer)
    if not isinstance(tokenizer, open_clip.HFTokenizer) or tokenizer.tokenizer_mode:
        mode = getattr(tokenizer, "tokenizer_mode", "")
        return f"the text tower's tokenizer is open_clip's {type(tokenizer).__name__} {mode}".rstrip()
    return _not_fast(tokenizer.tokenizer) or _unknown_cleaning(tokenizer)


def _not_fast(tokenizer: Any) -> str | None:
    if getattr(tokenizer, "is_fast", False) and hasattr(tokenizer, "backend_tokenizer"):
        return None
    return f"the text tower's tokenizer, a {type(tokenizer).__name__}, has no tokenizer.json"


def _unknown_cleaning(tokenizer: Any) -> str | None:
    return None if _cleaning(tokenizer) else "the text tower's tokenizer cleans captions in a way of its own"


def _cleaning(tokenizer: Any) -> str | None:
    """What ``CLEANINGS`` calls an open_clip tokenizer's cleaning."""
    from open_clip import tokenizer as library

    known = (name for name in CLEANINGS if name != "none")
    return next((name for name in known if library.get_clean_fn(name) is tokenizer.clean_fn), None)


def export_tokenizer(encoder: Encoder) -> CaptionTokenizer:
    """A text tower's tokenizer for the runtime, compared with the tower's own on ``HARD_CAPTIONS``.

    Args:
        encoder: the text side; it has no ``tokenizer_obstacle``.

    Raises:
        ConfigError: it gives other tokens than the tower's own.
    """
    preprocessing = encoder.tower.preprocessing
    exported = CaptionTokenizer(*_rebuilt(preprocessing))
    wanted = preprocessing.tokens(list(HARD_CAPTIONS))
    for row, (caption, found) in enumerate(zip(HARD_CAPTIONS, exported.tokens(list(HARD_CAPTIONS)))):
        own = [int(token) for token in wanted.ids(row)]
        padded = [*found.tolist(), *[exported.settings.pad_id] * (len(own) - len(found))]
        if own != padded:
            raise ConfigError(
                f"the text tower {encoder.tower.spec['name']!r}: as tokenizer.json its tokenizer gives other tokens of "
                f"{caption[:40]!r} ({padded[:6]} ..., wanted {own[:6]} ...), so it cannot be exported to ONNX"
            )
    return exported


def _rebuilt(preprocessing: TextPreprocessing | OpenClipText) -> tuple[Any, TextSettings]:
    import open_clip

    if isinstance(preprocessing, TextPreprocessing):
        settings = TextSettings(
            preprocessing.max_length, preprocessing.padding, preprocessing.tokenizer.pad_token_id,
            preprocessing.use_mask,
        )  # fmt: skip
        return _copied(preprocessing.tokenizer), settings
    tokenizer = preprocessing.tokenizer
    padding = "longest" if preprocessing.trim else "max_length"
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        settings = TextSettings(preprocessing.max_length, padding, 0, False, _cleaning(tokenizer))
        return _byte_pairs(tokenizer), settings
    inner = tokenizer.tokenizer
    replaced = {inner.sep_token_id: 0} if tokenizer.strip_sep_token else {}
    settings = TextSettings(
        preprocessing.max_length, padding, inner.pad_token_id, False, _cleaning(tokenizer), replaced
    )
    return _copied(inner), settings


def _copied(tokenizer: Any) -> Any:
    """A fast tokenizer of transformers' without transformers."""
    from tokenizers import Tokenizer

    copied = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copied.enable_truncation(8, direction=tokenizer.truncation_side)  # the length is the runtime's to set
    return copied


def _byte_pairs(tokenizer: Any) -> Any:
    """open_clip's own tokenizer, from its own vocabulary, as byte pairs of ``tokenizers``.

    It splits a cleaned caption by a pattern, drops the blanks between, and joins byte pairs in each piece. A special
    token that a caption spells out is one piece, and one token.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    vocabulary = dict(tokenizer.encoder)
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    specials = [tokenizer.decoder[token] for token in tokenizer.all_special_ids]
    begin, end = specials[:2]
    for special in specials:
        _join_to_one_token(tokenizer, special, vocabulary, merges)
    rebuilt = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    # Digits stand alone; the last part is anything but letters, digits and blanks.
    letter, digit, other = (_character_class(part) for part in (r"\p{L}", r"\p{N}", r"^\s\p{L}\p{N}"))
    words = "|".join([*specials, "'s", "'t", "'re", "'ve", "'m", "'ll", "'d"])
    rebuilt.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(f"(?i:{words})|{letter}+|{digit}|{other}+"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    frame = [(name, tokenizer.encoder[name]) for name in (begin, end)]
    rebuilt.post_processor = processors.TemplateProcessing(single=f"{begin} $A {end}", special_tokens=frame)
    return rebuilt


@lru_cache
def _character_class(inner: str) -> str:
    """A class of open_clip's pattern, character by character: two libraries know two versions of Unicode."""
    from open_clip import tokenizer as library

    pattern = library.re.compile(f"[{inner}]+", library.re.IGNORECASE)
    ranges = []
    for start, stop in ((0, 0xD800), (0xE000, 0x110000)):  # between them are surrogates, which are no characters
        for run in pattern.finditer("".join(map(chr, range(start, stop)))):
            ranges.append((start + run.start(), start + run.end() - 1))
    return "[" + "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in ranges) + "]"


def _join_to_one_token(tokenizer: Any, special: str, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Let the letters of a special token join to it, by merges that come after all others.

    No other piece holds letters and signs together, so that none is changed.
    """
    plain = copy.copy(tokenizer)
    plain.cache = {}  # a special token is kept there whole
    parts = plain.bpe(special).split(" ")
    number, joined = vocabulary.pop(special), parts[0]
    for part in parts[1:-1]:
        merges.append((joined, part))
        joined += part
        vocabulary.setdefault(joined, max(vocabulary.values()) + 1)
    merges.append((joined, parts[-1]))
    vocabulary[joined + parts[-1]] = number
