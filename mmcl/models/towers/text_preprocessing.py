"""What a text tower wants its tokens to look like: the tower's own tokenizer, padded no further than it needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ConfigError


class Tokens:
    """Tokenised captions, each as long as it is.

    Args:
        ids: the tokens of each caption.
        pad: the token to pad with.
        width: tokens of every batch; None: those of its longest caption.
        use_mask: whether batches have an attention mask.
    """

    def __init__(
        self, ids: Sequence[Sequence[int] | np.ndarray], *, pad: int, width: int | None = None, use_mask: bool = False
    ) -> None:
        self._ids, self._pad, self._width, self._use_mask = ids, pad, width, use_mask

    @property
    def lengths(self) -> list[int]:
        """Tokens of each caption."""
        return [len(ids) for ids in self._ids]

    def ids(self, row: int) -> Sequence[int] | np.ndarray:
        """The tokens of one caption."""
        return self._ids[row]

    def with_ids(self, ids: Sequence[Sequence[int] | np.ndarray]) -> Tokens:
        """Other captions' tokens, made into batches in the same way."""
        return Tokens(ids, pad=self._pad, width=self._width, use_mask=self._use_mask)

    def batch(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Some captions as ``input_ids`` and, where it is wanted, ``attention_mask``, int64 (b, t)."""
        picked = [self._ids[row] for row in rows]
        shape = (len(picked), self._width or max(map(len, picked), default=0))
        input_ids, mask = np.full(shape, self._pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for row, ids in enumerate(picked):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        inputs = {"input_ids": torch.from_numpy(input_ids)}
        return inputs | {"attention_mask": torch.from_numpy(mask)} if self._use_mask else inputs


class TextPreprocessing:
    """From captions to a tower's tokens, padded to the longest of the batch, never further than the tower needs.

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_length: tokens kept; longer captions are cut.
        padding: ``"longest"``, or ``"max_length"`` for towers that read a fixed number of tokens, unmasked (SigLIP).
        use_mask: whether the tower takes an attention mask.

    Raises:
        ConfigError: the tokenizer has no token to pad with.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        padding: Literal["longest", "max_length"] = "longest",
        use_mask: bool = True,
    ) -> None:
        self.tokenizer, self.max_length, self.padding, self.use_mask = tokenizer, max_length, padding, use_mask
        tokenizer.padding_side = "right"  # the class token stands first, and positions count from it
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ConfigError("the tokenizer has neither a padding nor an end token; batches cannot be padded")
            tokenizer.pad_token = tokenizer.eos_token

    @property
    def starts_with_cls(self) -> bool:
        """Whether every caption's first token is a class token."""
        ids = self.tokenizer("a")["input_ids"]
        return len(ids) > 0 and self.tokenizer.cls_token_id is not None and ids[0] == self.tokenizer.cls_token_id

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Captions to ``input_ids`` and ``attention_mask``, int64 (b, t)."""
        return self.tokens(texts).batch(range(len(texts)))

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Captions tokenised once, for batches of some of them."""
        ids: list[list[int]] = []
        if len(texts):
            ids = self.tokenizer(
                list(texts),
                truncation=True,
                max_length=self.max_length,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
        width = self.max_length if self.padding == "max_length" else None
        return Tokens(ids, pad=self.tokenizer.pad_token_id, width=width, use_mask=self.use_mask)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each caption."""
        return self.tokens(texts).lengths

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; the tokenizer itself is saved beside it."""
        return {"max_length": self.max_length, "padding": self.padding, "use_mask": self.use_mask}

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files; other libraries, which read them alone, then cut captions where this does."""
        own, self.tokenizer.model_max_length = self.tokenizer.model_max_length, self.max_length
        try:
            self.tokenizer.save_pretrained(str(folder))
        finally:
            self.tokenizer.model_max_length = own

    def fingerprint(self) -> str:
        """A string that changes when the tokens of a caption would."""
        return json.dumps([self.to_dict(), self.tokenizer.get_vocab()], sort_keys=True)


class OpenClipText:
    """open_clip's tokenizers. Where a tower reads no further than the end token, the padding behind it is cut off.

    That is exact: under a causal mask no token sees those after it (measured in ``tests/models``).

    Args:
        tokenizer: from ``open_clip.get_tokenizer``.
        max_length: tokens kept; longer captions are cut.
        trim: whether padding is cut off.
        pad: the token that the tokenizer pads with.
    """

    def __init__(self, tokenizer: Any, *, max_length: int, trim: bool, pad: int = 0) -> None:
        self.tokenizer, self.max_length, self.trim, self.pad = tokenizer, max_length, trim, pad

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Captions to ``input_ids`` int64 (b, t)."""
        return self.tokens(texts).batch(range(len(texts)))

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Captions tokenised once, for batches of some of them."""
        if not len(texts):
            return Tokens([], pad=self.pad)
        ids = self.tokenizer(list(texts), context_length=self.max_length).numpy()
        if not self.trim:
            return Tokens(list(ids), pad=self.pad)
        # A caption may hold the padding token itself; the end token, behind which there is but padding, is another.
        ends = ids.shape[1] - (ids != self.pad)[:, ::-1].argmax(1)
        return Tokens([row[:end].copy() for row, end in zip(ids, ends)], pad=self.pad)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each caption that the tower reads."""
        return self.tokens(texts).lengths

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"max_length": self.max_length, "trim": self.trim}

    def save(self, folder: Path) -> None:
        """Write a Hugging Face tokenizer's files; open_clip carries its own vocabulary itself."""
        if hasattr(self.tokenizer, "save_pretrained"):
            folder.mkdir(parents=True, exist_ok=True)
            self.tokenizer.save_pretrained(str(folder))

    def fingerprint(self) -> str:
        """A string that changes when the tokens of a caption would."""
        inner = getattr(self.tokenizer, "tokenizer", None)
        vocabulary = inner.get_vocab() if hasattr(inner, "get_vocab") else type(self.tokenizer).__name__
        return json.dumps([self.to_dict(), vocabulary], sort_keys=True)
