"""Captions in figures: how many, how long, and how often one stands on several rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.summary.distributions import Spread, spread_of

CONTEXT_TOKENS = 77  # of CLIP's text encoder; what is longer is cut
TOKENS_PER_WORD = 1.2
BATCH_SIZE = 256  # that false negatives are counted for
KEPT_CAPTIONS = 5


@dataclass(frozen=True)
class CaptionFacts:
    """Captions of one split.

    Attributes:
        total: captions, each row's counted.
        distinct: different captions.
        per_row: captions a row.
        characters, words: lengths; words are what stands between white space, so a caption in Chinese is one.
        longest: the beginning of the longest caption.
        over_context: share of captions that CLIP's tokenizer would make more than 77 tokens of, estimated: 2 marks, 1.2
            tokens a word and 1 for each byte that UTF-8 needs beyond one a character.
    """

    total: int
    distinct: int
    per_row: Spread
    characters: Spread
    words: Spread
    longest: str
    over_context: float


@dataclass(frozen=True)
class RepeatFacts:
    """Captions that stand on rows of several groups: a contrastive loss takes such rows for negatives of one another.

    Attributes:
        captions: distinct captions that stand on several groups (a row without a group is a group of its captions).
        rows: rows that have such a caption.
        share: ``rows`` of all rows.
        batch_size: the batch of the two figures below; all rows where there are fewer.
        equal_pairs: expected pairs of rows in a random batch that show the same caption, each row showing one of its
            captions at random. ``loss.positives=pair`` takes them all for negatives.
        negative_pairs: those of them in different groups: what ``loss.positives=group`` still takes for negatives.
        most_repeated: the captions on the most rows, with the number of rows; those on more than one alone.
    """

    captions: int
    rows: int
    share: float
    batch_size: int
    equal_pairs: float
    negative_pairs: float
    most_repeated: dict[str, int]


@dataclass(frozen=True)
class Captions:
    """The captions of a data set as arrays.

    Attributes:
        texts: (o,) all captions in the order of rows.
        row_of: (o,) int64, the row of each.
        per_row: (n,) int64, captions of each row.
        distinct: (m,) the different captions.
        code_of: (o,) int64 in [0, m).
    """

    texts: pa.Array
    row_of: np.ndarray
    per_row: np.ndarray
    distinct: pa.Array
    code_of: np.ndarray


def read_captions(dataset: ImageTextDataset) -> Captions:
    """The captions of all rows, numbered; no Python object is made for any."""
    column = dataset.table["texts"]
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    per_row = column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    texts = column.flatten()
    encoded = texts.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Captions(texts, np.repeat(np.arange(len(per_row)), per_row), per_row, encoded.dictionary, codes)


def caption_facts(captions: Captions) -> CaptionFacts:
    """Count and measure captions."""
    # Measured once for each distinct caption: web data repeat themselves.
    characters = pc.utf8_length(captions.distinct).to_numpy(zero_copy_only=False)
    pieces = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(captions.distinct))
    words = pc.list_value_length(pieces).to_numpy(zero_copy_only=False)
    words = np.where(characters == 0, 0, words)
    further_bytes = pc.binary_length(captions.distinct).to_numpy(zero_copy_only=False) - characters
    over = 2 + TOKENS_PER_WORD * words + further_bytes > CONTEXT_TOKENS
    longest = captions.distinct[int(characters.argmax())].as_py() if len(characters) else ""
    return CaptionFacts(
        total=len(captions.texts),
        distinct=len(captions.distinct),
        per_row=spread_of(captions.per_row),
        characters=spread_of(characters[captions.code_of]),
        words=spread_of(words[captions.code_of]),
        longest=longest[:200],
        over_context=float(over[captions.code_of].mean()) if len(captions.texts) else 0.0,
    )


def repeat_facts(captions: Captions, groups: np.ndarray, *, batch_size: int = BATCH_SIZE) -> RepeatFacts:
    """Find captions on several groups, and how often a random batch holds one twice.

    Args:
        captions: of n rows.
        groups: (n,) int64, the group of each row, as ``dataset.group_ids()`` numbers them.
        batch_size: rows of a batch, drawn without replacement.
    """
    num_rows, num_codes = len(captions.per_row), len(captions.distinct)
    rows, codes = captions.row_of, captions.code_of
    # One entry for each caption of each row, with the probability that the row shows it.
    row_code, row_code_at = np.unique(rows * max(num_codes, 1) + codes, return_inverse=True)
    shown = np.bincount(row_code_at, weights=1.0 / captions.per_row[rows], minlength=len(row_code))
    row, code = np.divmod(row_code, max(num_codes, 1))
    group_code, group_code_at = np.unique(groups[row] * max(num_codes, 1) + code, return_inverse=True)
    shown_in_group = np.bincount(group_code_at, weights=shown, minlength=len(group_code))
    code_of_group = group_code % max(num_codes, 1)
    several = np.bincount(code_of_group, minlength=num_codes) > 1

    def pairs(weights: np.ndarray, owner: np.ndarray) -> float:
        sums = np.bincount(owner, weights=weights, minlength=num_codes)
        squares = np.bincount(owner, weights=weights * weights, minlength=num_codes)
        return float(np.maximum(sums * sums - squares, 0).sum() / 2)

    batch = min(batch_size, num_rows)
    meet = batch * (batch - 1) / (num_rows * (num_rows - 1)) if num_rows > 1 else 0.0
    shared_rows = int(np.unique(row[several[code]]).size)
    rows_of_code = np.bincount(code, minlength=num_codes)
    first = np.argsort(-rows_of_code, kind="stable")[:KEPT_CAPTIONS]
    return RepeatFacts(
        captions=int(several.sum()),
        rows=shared_rows,
        share=shared_rows / num_rows if num_rows else 0.0,
        batch_size=batch,
        equal_pairs=round(meet * pairs(shown, code), 6),
        negative_pairs=round(meet * pairs(shown_in_group, code_of_group), 6),
        most_repeated={
            captions.distinct[int(at)].as_py()[:200]: int(rows_of_code[at]) for at in first if rows_of_code[at] > 1
        },
    )
