"""Token dropout: some of a caption's tokens are left out or masked after it was tokenised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from mmcl.data.augment.seeds import TOKENS, row_seeds
from mmcl.errors import ConfigError


class TokenizedCaptions(Protocol):
    """Captions as tokens, each as long as it is."""

    lengths: list[int]

    def batch(self, rows: Sequence[int]) -> dict[str, Tensor]: ...


class Tokenizing(Protocol):
    """What token dropout needs of a tower's text preprocessing."""

    def tokens(self, texts: Sequence[str]) -> TokenizedCaptions: ...

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]: ...


class TokenDropout:
    """A tower's text preprocessing whose captions lose tokens by their rows' seeds.

    What the tokenizer gives for an empty caption (class, start, end tokens) is never touched, and one other token of
    each caption always stays.

    Args:
        preprocessing: the tower's.
        probability: of each token to be lost.
        by: ``"drop"`` makes captions shorter; ``"mask"`` puts the tokenizer's mask token in.

    Raises:
        ConfigError: ``by="mask"`` and the tokenizer has no mask token.

    Source: the text masking of Li et al., arXiv:2305.07017, section 3.2: random masking, which drops tokens; here by a
        lot for each token, not down to a fixed number.
    """

    def __init__(self, preprocessing: Tokenizing, probability: float, *, by: Literal["drop", "mask"] = "drop") -> None:
        self.preprocessing, self.probability = preprocessing, probability
        # Observed, since tokenizers name these things in many ways.
        both = preprocessing.tokens(["", "a b c d e f g h"])
        padded, alone = both.batch([0, 1])["input_ids"].numpy(), both.batch([0])["input_ids"].numpy()
        self._special, self._pad = np.unique(alone[0, : both.lengths[0]]), int(padded[0, -1])
        self._fixed_width = padded.shape[1] == alone.shape[1]
        self._mask = _mask_token(preprocessing) if by == "mask" else None

    def __call__(self, texts: Sequence[str], *, seeds: Sequence[int] | np.ndarray | None = None) -> dict[str, Tensor]:
        """Captions and their seeds -> the tower's text inputs; without seeds, all tokens are there.

        Args:
            texts: any captions.
            seeds: (n,), of each; the same seed and caption lose the same tokens, beside whatever others.
        """
        if seeds is None or not len(texts):
            return self.preprocessing(texts)
        tokens = self.preprocessing.tokens(texts)
        inputs = tokens.batch(range(len(texts)))
        ids, lengths = inputs["input_ids"].numpy(), np.asarray(tokens.lengths)
        lost = self._lost(ids, lengths, np.asarray(seeds))
        if self._mask is not None:
            return {**inputs, "input_ids": torch.from_numpy(np.where(lost, self._mask, ids))}
        return self._without(inputs, ids, lengths, lost)

    def _lost(self, ids: np.ndarray, lengths: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """(b, t) bool: the tokens to lose."""
        places = np.arange(ids.shape[1])
        mixed = row_seeds(0, TOKENS, seeds).astype(np.uint64)
        lots = row_seeds(0, 0, mixed[:, None] + places.astype(np.uint64)) / 2.0**63  # (b, t) in [0, 1)
        losable = (places < lengths[:, None]) & ~np.isin(ids, self._special)
        lost = losable & (lots < self.probability)
        # Where all would go, the one with the highest lot stays.
        empty = np.flatnonzero(losable.any(1) & (lost == losable).all(1))
        lost[empty, np.where(losable[empty], lots[empty], -1.0).argmax(1)] = False
        return lost

    def _without(
        self, inputs: dict[str, Tensor], ids: np.ndarray, lengths: np.ndarray, lost: np.ndarray
    ) -> dict[str, Tensor]:
        kept = (np.arange(ids.shape[1]) < lengths[:, None]) & ~lost
        counts = kept.sum(1)
        # A tower that reads a fixed number of tokens gets as many as before; others no more than the longest has.
        width = ids.shape[1] if self._fixed_width else int(counts.max())
        shorter = np.full((len(ids), width), self._pad, dtype=np.int64)
        filled = np.arange(width) < counts[:, None]
        shorter[filled] = ids[kept]  # both row by row, from the left
        made = {"input_ids": torch.from_numpy(shorter)}
        if "attention_mask" in inputs:
            made["attention_mask"] = torch.from_numpy(filled.astype(np.int64))
        return made


def _mask_token(preprocessing: Any) -> int:
    tokenizer = getattr(preprocessing, "preprocessing", preprocessing).tokenizer  # or of what keeps its tokens
    inner = getattr(tokenizer, "tokenizer", None)  # open_clip wraps some Hugging Face tokenizers
    for known in (tokenizer, inner):
        token = getattr(known, "mask_token_id", None)
        if token is not None:
            return int(token)
    raise ConfigError(
        f"data.captions.token_dropout_by is 'mask', but the text tower's tokenizer ({type(tokenizer).__name__}) has no "
        f"mask token; use 'drop'"
    )
