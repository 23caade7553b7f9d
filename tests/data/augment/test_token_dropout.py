"""Token dropout: which tokens go, which stay, and what the tower is given instead."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmcl.data.augment.seeds import TOKENS, row_seed, row_seeds
from mmcl.data.augment.tokens import TokenDropout
from mmcl.errors import ConfigError
from mmcl.models.towers.text_preprocessing import OpenClipText, TextPreprocessing
from mmcl.models.towers.tiny_tower import word_tokenizer

TEXTS = ["red dog", "a big blue cat sits on a mat", "x"]


def preprocessing(**options: object) -> TextPreprocessing:
    return TextPreprocessing(word_tokenizer(TEXTS), max_length=16, **options)


def naive(ids: list[int], special: set[int], probability: float, seed: int) -> list[int]:
    """The tokens that stay, one by one."""
    mixed = row_seed(0, TOKENS, seed)
    lots = [row_seed(0, 0, mixed + place) / 2**63 for place in range(len(ids))]
    stays = [token in special or lot >= probability for token, lot in zip(ids, lots)]
    usual = [place for place, token in enumerate(ids) if token not in special]
    if usual and not any(stays[place] for place in usual):
        stays[max(usual, key=lambda place: lots[place])] = True
    return [token for token, stay in zip(ids, stays) if stay]


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.9, 1.0])
def test_tokens_are_dropped_by_their_rows_lots(probability: float) -> None:
    plain = preprocessing()
    special = set(plain.tokenizer("")["input_ids"])
    dropout = TokenDropout(plain, probability)
    for first in range(40):
        seeds = row_seeds(0, first, range(3))
        made = dropout(TEXTS, seeds=seeds)
        expected = [
            naive(plain.tokenizer(text)["input_ids"], special, probability, int(seed))
            for text, seed in zip(TEXTS, seeds)
        ]
        longest = max(map(len, expected))
        assert made["input_ids"].tolist() == [
            ids + [plain.tokenizer.pad_token_id] * (longest - len(ids)) for ids in expected
        ]
        assert made["attention_mask"].sum(1).tolist() == [len(ids) for ids in expected]
        assert made["input_ids"].dtype == made["attention_mask"].dtype == torch.int64
        # A special token at either end, and one other at least between them.
        assert all(len(ids) >= 3 and ids[0] in special and ids[-1] in special for ids in expected)


def test_without_seeds_and_without_captions_nothing_is_dropped() -> None:
    plain, dropout = preprocessing(), TokenDropout(preprocessing(), 1.0)
    assert torch.equal(dropout(TEXTS)["input_ids"], plain(TEXTS)["input_ids"])
    assert not torch.equal(dropout(TEXTS, seeds=[1, 2, 3])["input_ids"], plain(TEXTS)["input_ids"])
    assert dropout([], seeds=[])["input_ids"].shape == (0, 0)


def test_tokens_go_as_often_as_asked() -> None:
    number, chance = 3000, 0.2
    dropout = TokenDropout(preprocessing(), chance)
    lengths = dropout([TEXTS[1]] * number, seeds=row_seeds(0, 0, range(number)))["attention_mask"].sum(1)
    gone = number * 10 - int(lengths.sum())  # eight words and two special tokens
    tokens = number * 8
    assert abs(gone / tokens - chance) < 5 * math.sqrt(chance * (1 - chance) / tokens)


def test_masked_tokens_keep_their_places() -> None:
    plain = preprocessing()
    whole = plain(TEXTS)
    plain.tokenizer.mask_token = "[UNK]"
    made = TokenDropout(plain, 0.5, by="mask")(TEXTS, seeds=[1, 2, 3])
    masked = made["input_ids"] == plain.tokenizer.mask_token_id
    assert torch.equal(made["attention_mask"], whole["attention_mask"])
    assert torch.equal(made["input_ids"][~masked], whole["input_ids"][~masked])
    assert masked.any()
    assert not masked[whole["attention_mask"] == 0].any()
    assert not masked[:, 0].any()


def test_a_fixed_number_of_tokens_stays_fixed() -> None:
    plain = preprocessing(padding="max_length", use_mask=False)
    made = TokenDropout(plain, 0.5)(TEXTS, seeds=[1, 2, 3])
    assert set(made) == {"input_ids"}
    assert made["input_ids"].shape == (3, 16)
    usual = TokenDropout(preprocessing(), 0.5)(TEXTS, seeds=[1, 2, 3])["input_ids"]
    assert torch.equal(made["input_ids"][:, : usual.shape[1]], usual)
    assert (made["input_ids"][:, usual.shape[1] :] == plain.tokenizer.pad_token_id).all()


class OpenClipTokens:
    """Start 90, letters, end 91, zeros, as open_clip's tokenizer has it."""

    def __call__(self, texts: list[str], context_length: int) -> torch.Tensor:
        ids = np.zeros((len(texts), context_length), dtype=np.int64)
        for row, text in enumerate(texts):
            known = [90, *(ord(letter) - 96 for letter in text.replace(" ", "")), 91][:context_length]
            ids[row, : len(known)] = known
        return torch.from_numpy(ids)


@pytest.mark.parametrize("trim", [True, False])
def test_open_clips_tokens(trim: bool) -> None:
    plain = OpenClipText(OpenClipTokens(), max_length=12, trim=trim)
    made = TokenDropout(plain, 0.5)(["abcdef", "xy"], seeds=[3, 4])["input_ids"]
    assert made.shape[1] == (12 if not trim else int((made != 0).sum(1).max()))
    for row, text in zip(made.tolist(), ("abcdef", "xy")):
        letters = row[1 : row.index(91)]
        assert row[0] == 90
        assert row[row.index(91) + 1 :] == [0] * (len(row) - len(letters) - 2)
        assert letters == sorted(letters)
        assert 1 <= len(letters) < len(text) or len(text) == 2
        assert set(letters) <= {ord(letter) - 96 for letter in text}


def test_masking_needs_a_mask_token() -> None:
    with pytest.raises(
        ConfigError, match=r"the text tower's tokenizer \(OpenClipTokens\) has no mask token; use 'drop'"
    ):
        TokenDropout(OpenClipText(OpenClipTokens(), max_length=12, trim=True), 0.5, by="mask")
