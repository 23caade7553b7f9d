"""An exported folder as plain open_clip opens it, to be compared with the model it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.logs import quiet_root_logger
from mmcl.models.towers.open_clip_folder import opened_alone
from mmcl.models.towers.transformers_loading import first_line, quiet_transformers

if TYPE_CHECKING:
    from PIL.Image import Image

_BATCH = 64


class OpenClipModel:
    """A folder as plain open_clip opens it; see ``Opened``."""

    def __init__(self, folder: Path) -> None:
        import open_clip

        with (
            quiet_root_logger(),
            quiet_transformers(),
            torch.random.fork_rng(devices=[]),
            opened_alone(folder) as alone,
        ):
            try:
                made = open_clip.create_model_and_transforms(f"local-dir:{alone}")
                self.tokenizer = open_clip.get_tokenizer(f"local-dir:{alone}")
            except Exception as error:  # safetensors, torch, timm and transformers raise many kinds
                raise ConfigError(f"{folder}: open_clip cannot open it ({first_line(error)})") from error
        self.model, self.transform = made[0].eval(), made[2]

    def reads_as(self, text: str) -> str:
        """A caption as the tokenizer mends it before it splits it; it embeds as this does."""
        return self.tokenizer.clean_fn(text)

    @torch.no_grad()
    def _batches(self, count: int, embed: Callable[[slice], Tensor]) -> Tensor:
        rows = [embed(slice(start, start + _BATCH)) for start in range(0, count, _BATCH)]
        return torch.cat(rows).float() if rows else torch.empty(0, self._dim)

    @property
    def _dim(self) -> int:
        return self.model.text.output_dim

    def embed_pixels(self, pixel_values: Tensor) -> Tensor:
        """See ``Opened``."""
        return self._batches(
            len(pixel_values), lambda rows: self.model.encode_image(pixel_values[rows], normalize=True)
        )

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """See ``Opened``."""
        if not len(images):
            return torch.empty(0, self._dim)

        def embed(rows: slice) -> Tensor:
            return self.embed_pixels(torch.stack([self.transform(image) for image in images[rows]]))

        return self._batches(len(images), embed)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """See ``Opened``."""
        listed = list(texts)
        return self._batches(
            len(listed), lambda rows: self.model.encode_text(self.tokenizer(listed[rows]), normalize=True)
        )
