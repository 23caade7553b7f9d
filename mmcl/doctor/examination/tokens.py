"""Checks of the tokens: whether the tokenizer is the text tower's, and what of the captions it leaves."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mmcl.doctor.examination.subject import Subject
from mmcl.doctor.finding import Finding
from mmcl.models.towers.text_preprocessing import TextPreprocessing

UNKNOWN, MOSTLY_UNKNOWN = 0.05, 0.3  # share of tokens
PIECES = 3.0  # tokens a word, of words written in letters with blanks between
CUT, MOSTLY_CUT = 0.3, 0.6  # share of captions
MERGED = 0.05  # share of distinct captions that become another's tokens
SPARE_ROWS = 1.25  # rows of the table of embeddings, for each token there is
PAIRS, KINSHIP = 40, 3.0  # pairs of kindred words that are looked at; standard errors by which they are alike


@dataclass(frozen=True)
class TokenFacts:
    """What a tokenizer makes of captions.

    Attributes:
        largest: id.
        rows: of the tower's table of embeddings; 0: it has none.
        vocabulary: tokens that the tokenizer knows.
        unknown: share of tokens that stand for what it does not know.
        pieces: tokens a word.
        cut: share of captions that are longer than the tower reads.
        kept: mean share of a cut caption's tokens that is read.
        merged: share of distinct captions whose tokens are those of another one.
        limit: tokens that are read.
    """

    largest: int
    rows: int
    vocabulary: int
    unknown: float
    pieces: float
    cut: float
    kept: float
    merged: float
    limit: int


def token_facts(tower: Any, texts: Sequence[str]) -> TokenFacts | None:
    """Tokenise captions as a run does, and without a limit.

    Args:
        tower: the text tower.
        texts: captions.

    Returns:
        None where there are no captions, or the tokenizer is none of Hugging Face's.
    """
    preprocessing, distinct = tower.preprocessing, sorted(set(texts))
    if not distinct or not isinstance(preprocessing, TextPreprocessing):
        return None
    tokenizer, limit = preprocessing.tokenizer, preprocessing.max_length
    whole = tokenizer(distinct, truncation=False, padding=False, add_special_tokens=True, verbose=False)["input_ids"]
    read = preprocessing.tokens(distinct)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    inner = [[number for number in ids if number not in special] for ids in whole]
    tokens = sum(map(len, inner))
    unknown = sum(ids.count(tokenizer.unk_token_id) for ids in inner) if tokenizer.unk_token_id is not None else 0
    longer = [limit / len(ids) for ids in whole if len(ids) > limit]
    table = embedding_table(tower.model)
    return TokenFacts(
        largest=max((max(ids) for ids in whole if ids), default=0),
        rows=0 if table is None else table.num_embeddings,
        vocabulary=len(tokenizer),
        unknown=unknown / tokens if tokens else 0.0,
        pieces=tokens / max(1, sum(len(text.split()) for text in distinct)),
        cut=len(longer) / len(distinct),
        kept=float(np.mean(longer)) if longer else 1.0,
        merged=1 - len({tuple(read.ids(row)) for row in range(len(distinct))}) / len(distinct),
        limit=limit,
    )


def embedding_table(model: nn.Module) -> nn.Embedding | None:
    """A text model's table of token embeddings: what transformers calls so, or the largest there is."""
    if hasattr(model, "get_input_embeddings"):
        with contextlib.suppress(NotImplementedError):  # transformers' way of saying that a model has none
            table = model.get_input_embeddings()
            if isinstance(table, nn.Embedding):
                return table
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return max(tables, key=lambda table: table.num_embeddings, default=None)


def tokenizer(subject: Subject) -> list[Finding]:
    """Tokens that the tower's table does not have, unknown words, words spelled in letters, another model's tokens."""
    model = subject.start or subject.trained
    facts = None if model is None or subject.train is None else token_facts(model.text.tower, subject.train.texts)
    if facts is None:
        return []
    return [found for found in (_beyond(subject, facts), _pieces(subject, facts), _strange(subject)) if found][:1]


def _advice(subject: Subject) -> str:
    name = subject.recipe.model.init_from or subject.recipe.model.text.name
    return (
        f"Put the tokenizer's files that belong to its weights beside them in {name}, or name a tower that was trained "
        f"on the captions' language (model.text.name)."
    )


def _beyond(subject: Subject, facts: TokenFacts) -> Finding | None:
    if facts.rows and facts.largest >= facts.rows:
        text = (
            f"The tokenizer gives ids up to {facts.largest:,}, and the text tower's table has {facts.rows:,} rows: the "
            f"tokenizer ({facts.vocabulary:,} tokens) is not this tower's."
        )
        return Finding("tokenizer_mismatch", "fault", text, facts.largest, facts.rows, _advice(subject))
    return None


def _pieces(subject: Subject, facts: TokenFacts) -> Finding | None:
    if facts.unknown >= UNKNOWN:
        text = f"{100 * facts.unknown:.0f} % of the captions' tokens stand for words that the tokenizer does not know."
        severity = "fault" if facts.unknown >= MOSTLY_UNKNOWN else "warning"
        return Finding("tokenizer_mismatch", severity, text, facts.unknown, UNKNOWN, _advice(subject))
    letters = sum(text.count(" ") + 1 for text in subject.train.texts) >= 2 * len(subject.train)  # words, with blanks
    if facts.pieces >= PIECES and letters and all(map(_is_spelled, subject.train.texts[:50])):
        text = f"The tokenizer splits a word into {facts.pieces:.1f} tokens on average: it does not know these words."
        severity = "fault" if not subject.has_learnt else "warning"
        return Finding("tokenizer_mismatch", severity, text, facts.pieces, PIECES, _advice(subject))
    return None


def _is_spelled(text: str) -> bool:
    """Whether most of a caption's letters are of an alphabet, whose words are a few letters long."""
    alphabetic = sum(ord(letter) < 0x2E80 for letter in text)
    return alphabetic >= 0.8 * len(text) and len(text) <= 14 * max(1, len(text.split()))


def _strange(subject: Subject) -> Finding | None:
    """Pretrained weights whose table does not know that a word and its plural are kindred."""
    tower = subject.start.text.tower if subject.start is not None else None
    pretrained = subject.recipe.model.text.pretrained and subject.recipe.model.text.name != "tiny"
    if tower is None or not pretrained or subject.recipe.model.init_from:
        return None
    measured = kinship(tower)
    if measured is None or measured >= KINSHIP:
        return None
    text = (
        f"In the text tower's table a word and its plural are no more alike than two words by lot ({measured:.1f} "
        f"standard errors): its rows belong to other tokens than the tokenizer gives."
    )
    return Finding("tokenizer_mismatch", "fault", text, measured, KINSHIP, _advice(subject))


@torch.no_grad()
def kinship(tower: Any) -> float | None:
    """By how many standard errors embeddings of words and their plurals are more alike than those of words by lot.

    Args:
        tower: a text tower.

    Returns:
        None where the vocabulary holds fewer than 40 such pairs, or the tokenizer is none of Hugging Face's.
    """
    table = embedding_table(tower.model)
    if table is None or not isinstance(tower.preprocessing, TextPreprocessing):
        return None
    known = dict(tower.preprocessing.tokenizer.get_vocab())
    pairs = [
        (number, known[token + "s"])
        for token, number in known.items()
        if token + "s" in known and sum(map(str.isalpha, token)) >= 4 and not token.startswith(("##", "["))
    ]
    pairs = [pair for pair in sorted(pairs) if max(pair) < table.num_embeddings][:2000]
    if len(pairs) < PAIRS:
        return None
    one, other = torch.tensor(pairs).T
    rows = nn.functional.normalize(table.weight.float() - table.weight.float().mean(0), dim=1)
    kin = (rows[one] * rows[other]).sum(1)
    lot = (rows[one] * rows[other.roll(len(other) // 2)]).sum(1)
    error = math.sqrt(float(kin.var() + lot.var()) / len(pairs))
    return float(kin.mean() - lot.mean()) / max(error, 1e-12)


def cut(subject: Subject) -> list[Finding]:
    """Captions of which the tower reads a part only."""
    model = subject.start or subject.trained
    facts = None if model is None or subject.train is None else token_facts(model.text.tower, subject.train.texts)
    if facts is None or facts.cut < CUT:
        return []
    severe = facts.cut >= MOSTLY_CUT and (facts.kept < 0.6 or facts.merged >= MERGED)
    same = f", and {100 * facts.merged:.0f} % of distinct captions become the same tokens" if facts.merged else ""
    return [
        Finding(
            "captions_cut",
            "fault" if severe and not subject.has_learnt else "warning",
            f"{100 * facts.cut:.0f} % of the captions are longer than the {facts.limit} tokens that the text tower "
            f"reads: {100 * facts.kept:.0f} % of such a caption is read{same}.",
            facts.cut,
            CUT,
            "Raise model.text.max_length (null: what the tower was trained with), or shorten the captions.",
        )
    ]
