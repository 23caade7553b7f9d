from __future__ import annotations

import pytest
import tiny_folders
import torch
from tiny_folders import CAPTIONS

from mmcl.errors import ConfigError
from mmcl.models.towers.text_preprocessing import TextPreprocessing


def test_padded_to_the_longest_and_cut():
    text = TextPreprocessing(tiny_folders.word_tokenizer(), max_length=10)
    inputs = text(CAPTIONS)
    lengths = [len(caption.split()) + 2 for caption in CAPTIONS]
    assert text.lengths(CAPTIONS) == [min(length, 10) for length in lengths]
    assert inputs["input_ids"].shape == (4, 10)
    assert inputs["attention_mask"].sum(1).tolist() == text.lengths(CAPTIONS)
    assert text(CAPTIONS[:1])["input_ids"].shape == (1, 5), "no further than the longest"
    assert inputs["input_ids"].dtype == torch.int64
    assert text.lengths([]) == []


def test_fixed_length_without_a_mask():
    text = TextPreprocessing(tiny_folders.word_tokenizer(), max_length=12, padding="max_length", use_mask=False)
    inputs = text(["a"])
    assert inputs["input_ids"].shape == (1, 12)
    assert set(inputs) == {"input_ids"}


def test_padding_token_and_side():
    tokenizer = tiny_folders.word_tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = None, "left"
    text = TextPreprocessing(tokenizer, max_length=10)
    assert tokenizer.pad_token == tokenizer.eos_token
    ids, mask = text(["a red", "two"]).values()
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert (ids[:, 0] == tokenizer.cls_token_id).all()
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="neither a padding nor an end token"):
        TextPreprocessing(tokenizer, max_length=10)


def test_fingerprint_changes_with_the_tokens():
    one = TextPreprocessing(tiny_folders.word_tokenizer(), max_length=10).fingerprint()
    assert TextPreprocessing(tiny_folders.word_tokenizer(), max_length=10).fingerprint() == one
    assert TextPreprocessing(tiny_folders.word_tokenizer(), max_length=9).fingerprint() != one
    assert TextPreprocessing(tiny_folders.word_tokenizer("roberta"), max_length=10).fingerprint() != one
