"""Captions tokenised once: the tensors of tokenising them anew, whatever the tower's preprocessing."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcl.data.batches.cached_tokens import CachedTokens, cache_tokens
from mmcl.models.towers.text_preprocessing import OpenClipText, TextPreprocessing

CAPTIONS = [
    "a red apple",
    "",
    "two dogs, one of them asleep in the sun on a wooden floor",
    "ein großer Baum 🌳",
    "a red apple",
]


def word_level(**options: Any) -> TextPreprocessing:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in CAPTIONS for word in text.split()})
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{word: number + 2 for number, word in enumerate(words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    return TextPreprocessing(fast, max_length=8, **options)


def open_clip_text(*, trim: bool) -> OpenClipText:
    import open_clip

    return OpenClipText(open_clip.get_tokenizer("ViT-B-32"), max_length=77, trim=trim)


KINDS: dict[str, Callable[[], Any]] = {
    "masked": word_level,
    "unmasked": lambda: word_level(use_mask=False),
    "fixed length": lambda: word_level(padding="max_length", use_mask=False),
    "open_clip, trimmed": lambda: open_clip_text(trim=True),
    "open_clip, padded": lambda: open_clip_text(trim=False),
}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


class Counted:
    """A tower's preprocessing, and the captions it was given."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.given = inner, []

    def tokens(self, texts: list[str]) -> Any:
        self.given += texts
        return self.inner.tokens(texts)

    def fingerprint(self) -> str:
        return self.inner.fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_tower(tmp_path: Path, kind: str) -> None:
    preprocessing = KINDS[kind]()
    cached = cache_tokens(preprocessing, lambda: CAPTIONS, folder=tmp_path)
    assert len(cached) == 4
    for texts in (CAPTIONS, CAPTIONS[:1], CAPTIONS[2:], [CAPTIONS[3], "a caption that is not kept", CAPTIONS[0]]):
        assert_equal(cached(texts), preprocessing(texts))
    assert not torch.equal(cached(CAPTIONS[:2])["input_ids"], preprocessing(CAPTIONS[1::-1])["input_ids"]), "control"
    assert cached.tokens(CAPTIONS).lengths == preprocessing.tokens(CAPTIONS).lengths


def test_each_caption_is_tokenised_once(tmp_path: Path) -> None:
    counted, told = Counted(word_level()), []
    cached = cache_tokens(counted, lambda: CAPTIONS * 3, folder=tmp_path, progress=lambda *at: told.append(at))
    assert sorted(counted.given) == sorted(set(CAPTIONS))
    assert told == [("tokens of captions", 15, 15)]
    counted.given.clear()
    again = cache_tokens(counted, lambda: CAPTIONS * 3, folder=tmp_path)
    again(CAPTIONS)
    assert counted.given == []
    assert again.folder == cached.folder
    again(["never seen"])
    assert counted.given == ["never seen"]


def test_the_key_says_what_the_tokens_depend_on(tmp_path: Path) -> None:
    def folder(preprocessing: Any, captions: list[str]) -> Path:
        return cache_tokens(preprocessing, lambda: captions, folder=tmp_path).folder

    first = folder(word_level(), CAPTIONS)
    assert folder(word_level(), CAPTIONS) == first
    others = {folder(word_level(), CAPTIONS[:3]), folder(word_level(use_mask=False), CAPTIONS)}
    assert len({first, *others}) == 3
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"


def test_many_captions_in_parts_and_from_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcl.data.batches.cached_tokens.CHUNK", 7)
    texts = [f"{'a red apple ' * (number % 4)}{number % 30}" for number in range(100)]
    preprocessing = word_level()
    cached = cache_tokens(preprocessing, lambda: iter(texts), folder=tmp_path)
    assert len(cached) == len(set(texts))
    copy = pickle.loads(pickle.dumps(cached))
    assert isinstance(copy, CachedTokens)
    assert_equal(copy(texts), preprocessing(texts))
    assert len(pickle.dumps(cached.__getstate__().get("_hashes"))) < 100, "the tables do not travel"


def test_no_captions_and_a_writer_that_fails(tmp_path: Path) -> None:
    cached = cache_tokens(word_level(), list, folder=tmp_path)
    assert len(cached) == 0
    assert_equal(cached(CAPTIONS), word_level()(CAPTIONS))
    assert cached([])["input_ids"].shape == (0, 0)

    class Broken(Counted):
        def tokens(self, texts: list[str]) -> Any:
            if texts:
                raise KeyboardInterrupt
            return super().tokens(texts)

    with pytest.raises(KeyboardInterrupt):
        cache_tokens(Broken(word_level()), lambda: CAPTIONS, folder=tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []
