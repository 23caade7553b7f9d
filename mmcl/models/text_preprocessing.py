"""What a text tower wants its tokens to look like: the tower's own tokenizer, padded no further than it needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mmcl.errors import ConfigError


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
        encoded = self.tokenizer(
            list(texts),
            padding=self.padding,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        return {
            "input_ids": encoded["input_ids"],
            **({"attention_mask": encoded["attention_mask"]} if self.use_mask else {}),
        }

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each caption, for sorting by length."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length, padding=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; the tokenizer itself is saved beside it."""
        return {"max_length": self.max_length, "padding": self.padding, "use_mask": self.use_mask}

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save_pretrained(str(folder))

    def fingerprint(self) -> str:
        """A string that changes when the tokens of a caption would."""
        return json.dumps([self.to_dict(), self.tokenizer.get_vocab()], sort_keys=True)


class OpenClipText:
    """open_clip's own tokenizers. Where a tower reads no further than the end token, the padding behind it is cut off.

    That is exact: under a causal mask no token sees those after it (measured in ``tests/models``).

    Args:
        tokenizer: from ``open_clip.get_tokenizer``.
        max_length: tokens kept; longer captions are cut.
        trim: whether padding (zeros) is cut off.
    """

    def __init__(self, tokenizer: Any, *, max_length: int, trim: bool) -> None:
        self.tokenizer, self.max_length, self.trim = tokenizer, max_length, trim

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Captions to ``input_ids`` int64 (b, t)."""
        ids = self.tokenizer(list(texts), context_length=self.max_length)
        if self.trim and len(ids):
            ids = ids[:, : int((ids != 0).sum(1).max())]
        return {"input_ids": ids}

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each caption, for sorting by length."""
        return (self.tokenizer(list(texts), context_length=self.max_length) != 0).sum(1).tolist() if texts else []

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
