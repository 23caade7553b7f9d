"""Convolutional stems for small transformers towers: what is near is joined before attention sees it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mmcl.errors import ConfigError

# The config value that says a ViT or a BERT has the stem; plain transformers does not know it.
OPTION = "convolutional_stem"


class ConvolutionalStem(nn.Module):
    """Two strided 3 × 3 convolutions with group norm, then one of patch_size / 4: overlapping, nonlinear patches.

    Shapes inside a patch are learnt by shared small filters rather than by a linear map of whole patches; a small ViT
    trained from scratch learns them several times faster. Source: Xiao et al. 2021, "Early Convolutions Help
    Transformers See Better" (arXiv:2106.14881), section 3; deviations: two strided convolutions instead of four, and
    group norm instead of batch norm, so that a batch spread over processes gives the same result as on one.

    Args:
        hidden_size: width of the ViT.
        patch_size: a multiple of 4.
    """

    WIDTHS = (24, 48)

    def __init__(self, hidden_size: int, patch_size: int) -> None:
        super().__init__()
        first, second = self.WIDTHS
        self.layers = nn.Sequential(
            nn.Conv2d(3, first, 3, stride=2, padding=1),
            nn.GroupNorm(6, first),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.GroupNorm(6, second),
            nn.ReLU(),
        )
        self.projection = nn.Conv2d(second, hidden_size, patch_size // 4, stride=patch_size // 4)

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """pixel_values (b, 3, h, w) -> patch embeddings (b, h w / patch_size², hidden_size)."""
        return self.projection(self.layers(pixel_values)).flatten(2).transpose(1, 2)


class TextConvolutionalStem(nn.Module):
    """Word embeddings, and added to them what two convolutions of width 5 make of their neighbours.

    "A red star above a blue circle" and the same with the colours exchanged hold the same words: a model that is to
    tell them apart must join "red" with "star". A small BERT from scratch has to find neighbours by learnt positions,
    one by one, and stays a reader of word lists for long; a convolution has them from the start.

    What lies beyond a text's end is zero to both convolutions, so that padding changes nothing. Source: the idea of the
    image stem, Xiao et al. 2021 (arXiv:2106.14881), and of convolutions beside attention, Gulati et al. 2020
    (arXiv:2005.08100); this arrangement is this package's own.

    Args:
        embeddings: those of a BERT.
        hidden_size: their width.
        pad_token_id: of the tokens that are padding.
    """

    WIDTH = 5

    def __init__(self, embeddings: nn.Module, hidden_size: int, pad_token_id: int) -> None:
        super().__init__()
        self.embeddings, self.pad_token_id = embeddings, pad_token_id
        self.first, self.second = (
            nn.Conv1d(hidden_size, hidden_size, self.WIDTH, padding=self.WIDTH // 2) for _ in range(2)
        )
        self.norm = nn.LayerNorm(hidden_size)

    @property
    def word_embeddings(self) -> nn.Module:
        """Where transformers looks for them."""
        return self.embeddings.word_embeddings

    def forward(self, input_ids: Tensor | None = None, **inputs: Any) -> Tensor:
        """input_ids (b, t) -> (b, t, hidden_size)."""
        words = self.embeddings(input_ids=input_ids, **inputs)
        is_text = (input_ids != self.pad_token_id)[:, None].to(words.dtype)  # (b, 1, t)
        hidden = F.gelu(self.first(words.transpose(1, 2) * is_text))
        return self.norm(words + self.second(hidden * is_text).transpose(1, 2))


def build_with_stem(config: Any) -> Any:
    """A ``ViTModel`` or ``BertModel`` from its config, with the stem where the config asks for it.

    Raises:
        ConfigError: the stem with a patch size that is no multiple of 4, or of another kind of model.
    """
    from transformers import BertModel, ViTModel

    kinds = {"vit": ViTModel, "bert": BertModel}
    if config.model_type not in kinds:
        raise ConfigError(f"a {config.model_type} has no convolutional stem; want one of {', '.join(kinds)}")
    model = kinds[config.model_type](config)
    if not getattr(config, OPTION, False):
        return model
    if config.model_type == "bert":
        model.embeddings = TextConvolutionalStem(model.embeddings, config.hidden_size, config.pad_token_id or 0)
    elif config.patch_size % 4:
        raise ConfigError(f"model.image.options.patch_size is {config.patch_size}; the stem wants a multiple of 4")
    else:
        model.embeddings.patch_embeddings = ConvolutionalStem(config.hidden_size, config.patch_size)
    return model
