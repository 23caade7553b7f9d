"""Is an exported model the same model? Its embeddings of real samples beside the source's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mmcl.embedder import DualEncoderEmbedder
from mmcl.embedder.interface import EncodeMixin, check_items
from mmcl.errors import ExportError
from mmcl.evaluation import RetrievalEvaluator
from mmcl.hub.formats.format import Opened
from mmcl.hub.samples import Samples

RECALL_TOLERANCE = 0.01  # one point of R@10
_RECALLS = ("retrieval/i2t_recall@10", "retrieval/t2i_recall@10")


@dataclass(frozen=True)
class Difference:
    """How far an exported model's unit embeddings are from the source's.

    Attributes:
        pixels: largest absolute difference over images, both given the same pixels.
        texts: largest absolute difference over captions, each through its own tokenizer.
        images: the same, each through its own preprocessing; libraries that resize with Pillow differ.
        images_mean: mean absolute difference of these.
        recall: R@10 both ways of the exported model minus the source's; None where it was not asked for.
        mended_texts: captions that the library changes before its tokenizer sees them (quotes, entities); these are
            compared with what the source says of the changed caption.
    """

    pixels: float
    texts: float
    images: float
    images_mean: float
    recall: dict[str, float] | None = None
    mended_texts: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class Checker:
    """Compares exported models with one source; what the source says is computed once.

    Args:
        source: the model that was exported.
        samples: what both embed.
    """

    def __init__(self, source: DualEncoderEmbedder, samples: Samples) -> None:
        self.source, self.samples = source, samples
        self._pixels = source.image_inputs(samples.images)["pixel_values"].cpu()
        self._images = source.encode_image(samples.images)
        self._texts = source.encode_text(samples.texts)
        self._recalls: dict[str, float] | None = None

    def compare(self, opened: Opened, *, by_recall: bool = False) -> Difference:
        """Embed the samples by an exported model and compare.

        Args:
            opened: the exported model.
            by_recall: also judge both by retrieval.

        Raises:
            ExportError: it gives another number or size of embeddings, or some that are not finite.
        """
        from torchvision.transforms.v2.functional import to_pil_image

        pictures = [to_pil_image(image) for image in self.samples.images]
        same_pixels = _distance(opened.embed_pixels(self._pixels), self._images, "images")
        own_pixels = _distance(opened.embed_images(pictures), self._images, "images")
        mended, wanted = self._texts_as_read(opened)
        texts = _distance(opened.embed_texts(self.samples.texts), wanted, "captions")
        return Difference(
            same_pixels.max().item(),
            texts.max().item(),
            own_pixels.max().item(),
            own_pixels.mean().item(),
            recall=self._recall(opened) if by_recall else None,
            mended_texts=mended,
        )

    def _texts_as_read(self, opened: Opened) -> tuple[int, Tensor]:
        """How many captions the library mends first, and what the source says of the captions as it reads them."""
        reads_as = getattr(opened, "reads_as", None)
        read = self.samples.texts if reads_as is None else [reads_as(text) for text in self.samples.texts]
        mended = sum(before != after for before, after in zip(self.samples.texts, read))
        return mended, self.source.encode_text(read) if mended else self._texts

    def _recall(self, opened: Opened) -> dict[str, float]:
        if self._recalls is None:
            self._recalls = _recalls(self.source, self.samples)
        found = _recalls(_Exported(opened, self.source), self.samples)
        return {name: found[name] - self._recalls[name] for name in _RECALLS}


def check_difference(difference: Difference, tolerance: float | None, *, what: str) -> None:
    """Refuse an export that is not the same model.

    Args:
        difference: what was measured.
        tolerance: of ``pixels`` and ``texts``; None: R@10 may fall by ``RECALL_TOLERANCE``.
        what: the export, for the message.

    Raises:
        ExportError: it is further away.
    """
    if tolerance is None:
        fallen = {name: loss for name, loss in (difference.recall or {}).items() if loss < -RECALL_TOLERANCE - 1e-9}
        if fallen:
            told = ", ".join(f"{name} by {-100 * loss:.1f} points" for name, loss in fallen.items())
            raise ExportError(
                f"{what} falls {told} (at most {100 * RECALL_TOLERANCE:.0f} is allowed); leave it out with --no-int8, "
                f"or judge it on more rows with --data"
            )
        return
    for name in ("pixels", "texts"):
        found = getattr(difference, name)
        if not found <= tolerance:
            of = "images" if name == "pixels" else "captions"
            raise ExportError(
                f"{what} gives other embeddings of {of} than the model it was made from: they differ by {found:.1e}, "
                f"at most {tolerance:.0e} is allowed; nothing was written. Please report this with the towers' names"
            )


def _distance(found: Tensor, wanted: Tensor, what: str) -> Tensor:
    found = torch.as_tensor(found)
    if found.shape != wanted.shape:
        raise ExportError(f"the exported model gives {what} of shape {tuple(found.shape)}; want {tuple(wanted.shape)}")
    if not torch.isfinite(found).all():
        raise ExportError(f"the exported model gives embeddings of {what} that are not finite")
    return (found.float() - wanted).abs()


class _Exported(EncodeMixin):
    """An exported model as the evaluators see models."""

    def __init__(self, opened: Opened, source: DualEncoderEmbedder) -> None:
        self.opened, self.source = opened, source
        self.embedding_dim, self.modalities = source.embedding_dim, source.modalities
        self.logit_scale = source.logit_scale

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        """Items to embeddings; images are prepared by the source, so that the graphs alone differ."""
        check_items(items, modality, batch_size, modalities=self.modalities)
        parts = [torch.empty(0, self.embedding_dim)]
        for start in range(0, len(items), batch_size):
            some = items[start : start + batch_size]
            if modality == "text":
                parts.append(torch.as_tensor(self.opened.embed_texts(list(some))))
            else:
                pixels = self.source.image_inputs(some)["pixel_values"].cpu()
                parts.append(torch.as_tensor(self.opened.embed_pixels(pixels)))
        return torch.cat(parts)


def _recalls(embedder: Any, samples: Samples) -> dict[str, float]:
    metrics = RetrievalEvaluator(samples.dataset, confidence=False, same_modality=False)(embedder)
    return {name: metrics[name] if math.isfinite(metrics[name]) else 0.0 for name in _RECALLS}
