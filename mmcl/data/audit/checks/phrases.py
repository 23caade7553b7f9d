"""Captions that unrelated rows share: boilerplate, templates and mere repetition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.audit.audited import Audited
from mmcl.data.audit.check import Check, Found
from mmcl.data.audit.checks.caption_text import shown

# What agencies, shops and programs put in; matters only where it is frequent.
PHRASES = (
    r"stock (photo|photograph|image|illustration|vector|footage|video)s?", r"royalty[- ]free",
    r"image (not|un)\s?available", r"no (image|description|caption)\b", r"click (here|to)\b", r"all rights reserved",
    r"getty images", r"shutterstock", r"\balamy\b", r"free (download|shipping)", r"\bvector illustration\b",
    r"^(untitled|unknown|placeholder|n/?a|none|null|caption|image|photo|picture)$",
)  # fmt: skip
# What opens a caption and says nothing; a way of speaking, where a data set has it throughout.
LEAD_IN = r"^(an? |the )?(image|picture|photo|photograph|illustration|screenshot|drawing) (of|showing)\b"
_EDGE_WORDS = 5
_EDGES = {
    "begin": rf"(?s)^((?:\S+\s+){{{_EDGE_WORDS - 1}}}\S+)\s.*$",
    "end": rf"(?s)^.*\s((?:\S+\s+){{{_EDGE_WORDS - 1}}}\S+)$",
}
_LEAST_CAPTIONS = 20


def kin_counts(audited: Audited) -> np.ndarray:
    """(m,) how many unrelated sets of rows have each caption, by its code."""
    codes, kin = audited.captions.codes.astype(np.int64), audited.kin[audited.captions.rows]
    span = int(kin.max(initial=0)) + 1
    pairs = np.unique(codes * span + kin)
    return np.bincount(pairs // span, minlength=int(codes.max(initial=-1)) + 1)


def _caption_at(audited: Audited, place: int) -> str:
    return audited.captions.texts[int(place)].as_py()


def _found_captions(audited: Audited, wanted: np.ndarray, counts: np.ndarray) -> Found:
    """The rows whose captions have a wanted code; each once."""
    places = np.flatnonzero(wanted[audited.captions.codes])
    rows, first = np.unique(audited.captions.rows[places], return_index=True)
    places = places[first]
    details = [
        f"{counts[audited.captions.codes[place]]:,} unrelated rows or groups have {shown(_caption_at(audited, place))}"
        for place in places
    ]
    return Found(rows, details)


def _boilerplate(audited: Audited) -> Iterator[Found]:
    counts = kin_counts(audited)
    yield _found_captions(audited, counts >= audited.limits.boilerplate_rows, counts)
    for pattern in PHRASES:
        yield from _with_phrase(audited, pattern, "a phrase")


def _with_phrase(audited: Audited, pattern: str, what: str) -> Iterator[Found]:
    """The rows that have a phrase, where there are enough unrelated ones."""
    parts = [np.zeros(0, dtype=np.int64)]
    for owners, texts in audited.captions.parts():
        matches = pc.match_substring_regex(texts, pattern=pattern, ignore_case=True)
        parts.append(owners[pc.fill_null(matches, False).to_numpy(zero_copy_only=False)])
    rows = np.unique(np.concatenate(parts))
    if len(np.unique(audited.kin[rows])) >= audited.limits.boilerplate_rows:
        yield Found(rows, f"{what} of {len(rows):,} rows, such as {shown(_text_of(audited, rows[0], pattern))}")


def _text_of(audited: Audited, row: int, pattern: str) -> str:
    dataset, number = audited.local(row)
    texts = dataset.texts(number)
    matches = pc.match_substring_regex(pa.array(texts), pattern=pattern, ignore_case=True).to_pylist()
    return next((text for text, matched in zip(texts, matches) if matched), texts[0])


def _repeated(audited: Audited) -> Iterator[Found]:
    counts = kin_counts(audited)
    yield _found_captions(audited, (counts > 1) & (counts < audited.limits.boilerplate_rows), counts)


def _edges(texts: pa.Array, pattern: str) -> pa.Array:
    """The five words that captions begin or end with; null where they have no more words than that."""
    short = pc.invert(pc.match_substring_regex(texts, pattern=pattern))
    edge = pc.utf8_lower(pc.replace_substring_regex(texts, pattern=pattern, replacement=r"\1"))
    return pc.if_else(short, pa.scalar(None, edge.type), edge)


def _template(audited: Audited) -> Iterator[Found]:
    codes = audited.captions.codes
    distinct = np.unique(codes, return_index=True)[1]
    least = max(_LEAST_CAPTIONS, audited.limits.edge_share * len(distinct))
    first = np.zeros(len(codes), dtype=bool)
    first[distinct] = True
    told = np.zeros(len(audited), dtype=bool)  # a row is named once
    for found in _with_phrase(audited, LEAD_IN, "an opening"):
        told[found.rows] = True
        yield found
    for side, pattern in _EDGES.items():
        column = pa.chunked_array([_edges(texts, pattern) for _, texts in audited.captions.parts()], pa.string())
        encoded = column.dictionary_encode().unify_dictionaries()
        parts = [pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
        edge = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
        counts = np.bincount(edge[first & (edge >= 0)], minlength=1)
        frequent = np.flatnonzero(counts >= least)
        for number in frequent[np.argsort(-counts[frequent], kind="stable")]:
            rows = np.unique(audited.captions.rows[edge == number])
            rows = rows[~told[rows]]
            told[rows] = True
            text = encoded.chunk(0).dictionary[int(number)].as_py()
            yield Found(rows, f"{counts[number]:,} different captions {side} with {shown(text)}")


BOILERPLATE = Check(
    "boilerplate", "warning", "look",
    "Captions, or phrases of agencies and shops, that at least boilerplate_rows unrelated rows have (rows of different "
    "groups; of different labels where there are no groups): they say nothing of their image.",
    _boilerplate,
)  # fmt: skip

REPEATED_CAPTION = Check(
    "repeated_caption", "note", "keep",
    "Captions that a few unrelated rows share. A loss that takes other groups' captions for wrong answers is then "
    "wrong itself; retrieval counts one of several right images.",
    _repeated,
)  # fmt: skip

TEMPLATE = Check(
    "template", "note", "keep",
    "Captions of at least boilerplate_rows unrelated rows that open with 'a picture of' or the like; and different "
    "captions that begin or end with the same five words, at least 20 and the share edge_share of all: text from a "
    "machine, or a way of speaking.",
    _template,
)  # fmt: skip
