"""`Format`: what every export format says of itself, and how its result is opened to be checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmcl.models.dual_encoder import DualEncoder


@dataclass(frozen=True)
class ExportOptions:
    """What a person may choose.

    Attributes:
        repo_id: ``owner/name`` the folder is meant for; a format whose config must name its own repository uses it.
        int8: onnx: also write int8 graphs.
        combined: the folder already holds the model as mmcl and transformers read it; those files stay as they are.
    """

    repo_id: str | None = None
    int8: bool = True
    combined: bool = False


class Opened(Protocol):
    """An exported model as the format's own library opens it: none of mmcl's towers or preprocessing runs.

    All three return float32 unit rows (n, d) on the CPU, whatever n is. One whose tokenizer changes captions first,
    such as quotes and entities, also has ``reads_as(text) -> str``, the caption that it embeds in place of ``text``.
    """

    def embed_pixels(self, pixel_values: Tensor) -> Tensor:
        """``pixel_values`` (n, 3, h, w) float32, prepared by the source model's own preprocessing."""

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """RGB pictures of any size, through the format's own preprocessing."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Captions, through the format's own tokenizer."""


@dataclass(frozen=True)
class Format:
    """One export format.

    Attributes:
        name: what ``--format`` calls it.
        obstacle: why a model cannot be written so, as one clause without a full stop that names the tower, pooling or
            head in the way; None where it can.
        write: (model, empty folder, options) -> notes for the report, one sentence each. Called only where there is no
            obstacle.
        open: (folder, options) -> its variants by name; ``""`` is the main one, onnx has ``"int8"`` besides.
        tolerances: variant -> largest absolute difference between unit embeddings, of the same pixels and of texts;
            None: judged by retrieval instead (R@10 within one point).
        reference: (folder) -> the MODEL that names the folder.
        extra: the extra of mmcl's that brings its library; None: a core dependency does.
        needs: files every folder of this format has, relative to it.
    """

    name: str
    obstacle: Callable[[DualEncoder], str | None]
    write: Callable[[DualEncoder, Path, ExportOptions], Sequence[str]]
    open: Callable[[Path, ExportOptions], Mapping[str, Opened]]
    tolerances: Mapping[str, float | None]
    reference: Callable[[Path], str]
    extra: str | None = None
    needs: tuple[str, ...] = ()
