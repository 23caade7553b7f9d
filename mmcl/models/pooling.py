"""Features of a whole image or caption from its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmcl.errors import ShapeError

if TYPE_CHECKING:
    from mmcl.models.towers.tower import Tower


def pool_tokens(tokens: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Pool tokens without parameters.

    Args:
        tokens: (b, t, f).
        mask: (b, t) bool; tokens that count.
        pooling: ``"cls"`` (the first token), ``"mean"`` or ``"max"`` over the tokens that count.

    Returns:
        (b, f). A row whose mask is all false pools to zeros (mean) or the lowest finite value (max).

    Raises:
        ShapeError: tokens and mask do not fit, or an unknown pooling.
    """
    if tokens.ndim != 3 or mask.shape != tokens.shape[:2]:
        raise ShapeError(f"tokens (b, t, f) need a mask (b, t), got {tuple(tokens.shape)} and {tuple(mask.shape)}")
    if pooling == "cls":
        return tokens[:, 0]
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(tokens.dtype)  # (b, t, 1)
        return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)
    if pooling == "max":
        return tokens.masked_fill(~mask.unsqueeze(-1), torch.finfo(tokens.dtype).min).amax(1)
    raise ShapeError(f"pooling is {pooling!r}; want cls, mean or max")


class AttentionPooling(nn.Module):
    """One learned query attends to the tokens (SigLIP's MAP head without its MLP; Lee et al. 2019, Set Transformer).

    Args:
        feature_dim: f.
        num_heads: attention heads; the largest of 8, 4, 2, 1 that divides f when None.
    """

    def __init__(self, feature_dim: int, num_heads: int | None = None) -> None:
        super().__init__()
        heads = num_heads or next(n for n in (8, 4, 2, 1) if feature_dim % n == 0)
        self.query = nn.Parameter(torch.randn(1, 1, feature_dim) * feature_dim**-0.5)
        self.attention = nn.MultiheadAttention(feature_dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(feature_dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (b, t, f), mask (b, t) bool -> features (b, f)."""
        query = self.query.expand(len(tokens), -1, -1)
        pooled, _ = self.attention(query, tokens, tokens, key_padding_mask=~mask, need_weights=False)
        return self.norm(pooled[:, 0])


class GridPooling(nn.Module):
    """The mean of an image's tokens, and added to it a linear map of how the token of each place differs from the mean.

    A mean cannot say where a thing was unless the tokens do; here "red on the left" is linear in the tokens. The map
    starts at zero, so that training starts from the plain mean. The least form of pooling by place, as in spatial
    pyramids (Lazebnik et al. 2006; He et al. 2014, arXiv:1406.4729), with the finest level and the whole alone.

    Args:
        num_tokens: n, tokens of places in every image; class and register tokens, which stand first, are left out.
        feature_dim: f.
    """

    def __init__(self, num_tokens: int, feature_dim: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.places = nn.Linear(num_tokens * feature_dim, feature_dim, bias=False)
        nn.init.zeros_(self.places.weight)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (b, t, f), mask (b, t) bool, true for the last n -> features (b, f).

        Raises:
            ShapeError: fewer tokens than the map was made for, or more that count.
        """
        of_places = tokens[:, -self.num_tokens :]
        if of_places.shape[1] < self.num_tokens or bool(mask[:, : -self.num_tokens].any()):
            raise ShapeError(
                f"pooling grid was made for {self.num_tokens} tokens an image, got {int(mask.sum(1).max())}; give "
                f"images of one size"
            )
        mean = of_places.mean(1)
        return mean + self.places((of_places - mean[:, None]).flatten(1))


def build_pooling(pooling: str, tower: Tower) -> nn.Module | None:
    """The pooling of that name where it has weights; None for one without."""
    if pooling == "attention":
        return AttentionPooling(tower.feature_dim)
    if pooling == "grid":
        with torch.no_grad():
            num_tokens = int(tower(**tower.example()).mask.sum())
        return GridPooling(num_tokens, tower.feature_dim)
    return None
