"""`check_embedder`: what every `Embedder` promises, checked on a few images and texts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmcl.embedder.interface import Embedder
from mmcl.errors import MmclError

# Products of other batch sizes are summed in another order.
TOLERANCE = 1e-4

TEXTS = ("a red circle", "two", "one big blue square next to three small green circles", "a dog", "a red circle")


class ContractError(MmclError, AssertionError):
    """An embedder breaks a promise of ``Embedder``."""


def check_embedder(
    embedder: Embedder, *, images: Sequence[Any] | None = None, texts: Sequence[str] | None = None
) -> None:
    """Check that an object keeps what ``Embedder`` promises, as scikit-learn's ``check_estimator`` does.

    Args:
        embedder: any object.
        images: at least three that are not all alike; default drawn ones of several sizes. A model that looks images
            up wants its own.
        texts: at least three that are not all alike; default short English ones.

    Raises:
        ContractError: the first promise that is broken, by name, with what was found.

    Example:
        >>> from mmcl.config import ModelSection
        >>> from mmcl.embedder import DualEncoderEmbedder
        >>> from mmcl.models.dual_encoder import build_dual_encoder
        >>> check_embedder(DualEncoderEmbedder(build_dual_encoder(ModelSection()), device="cpu"))
    """
    _check_attributes(embedder)
    own = {"image": images, "text": texts}
    for modality in sorted(embedder.modalities):
        items = _drawn(modality) if own[modality] is None else list(own[modality])
        for check in (_check_rows, _check_batches, _check_order, _check_side_effects, _check_wrong_items):
            check(embedder, items, modality)
    _check_strange_modality(embedder)


def _drawn(modality: str) -> list[Any]:
    if modality == "text":
        return list(TEXTS)
    generator = torch.Generator().manual_seed(0)
    sizes = [(32, 32), (40, 24), (24, 56), (48, 48), (33, 47)]
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


def _fail(promise: str, found: str) -> None:
    raise ContractError(f"{promise}: {found}")


def _check_attributes(embedder: Embedder) -> None:
    for name in ("embedding_dim", "modalities", "logit_scale", "embed", "encode_image", "encode_text"):
        if not hasattr(embedder, name):
            _fail("attributes", f"a {type(embedder).__name__} has no {name}")
    dim, modalities, scale = embedder.embedding_dim, embedder.modalities, embedder.logit_scale
    if not isinstance(dim, int) or dim < 1:
        _fail("embedding_dim", f"is {dim!r}; want a positive int")
    if not isinstance(modalities, frozenset) or not modalities or modalities - {"image", "text"}:
        _fail("modalities", f"are {modalities!r}; want a frozenset of image, text or both")
    if not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
        _fail("logit_scale", f"is {scale!r}; want a finite number above 0")


def _check_rows(embedder: Embedder, items: list[Any], modality: str) -> None:
    rows = embedder.embed(items, modality)
    shape = (len(items), embedder.embedding_dim)
    if not isinstance(rows, Tensor):
        _fail("type", f"{modality} embeddings are a {type(rows).__name__}; want a torch.Tensor")
    if rows.dtype != torch.float32:
        _fail("dtype", f"{modality} embeddings are {rows.dtype}; want torch.float32")
    if rows.device.type != "cpu":
        _fail("device", f"{modality} embeddings are on {rows.device}; want cpu")
    if tuple(rows.shape) != shape:
        _fail("shape", f"{modality} embeddings are {tuple(rows.shape)}; want (items, embedding_dim) = {shape}")
    if rows.requires_grad:
        _fail("gradient", f"{modality} embeddings require one; embed under torch.no_grad()")
    if rows.is_inference():
        _fail("gradient", f"{modality} embeddings are inference tensors, which nothing can be trained on; use no_grad")
    if not torch.isfinite(rows).all():
        _fail("finite", f"{modality} embeddings hold NaN or infinity")
    longest = (rows.norm(dim=1) - 1).abs().max().item()
    if longest > 1e-4:
        _fail("unit rows", f"norms of {modality} embeddings are up to {longest:.2g} away from 1")
    nothing = embedder.embed([], modality)
    if not isinstance(nothing, Tensor) or tuple(nothing.shape) != (0, embedder.embedding_dim):
        _fail("no items", f"[] gives {tuple(getattr(nothing, 'shape', ()))}; want (0, {embedder.embedding_dim})")
    encode = getattr(embedder, f"encode_{modality}")
    if not _close(encode(items), rows):
        _fail(f"encode_{modality}", f"differs from embed(items, {modality!r})")


def _close(some: Tensor, other: Tensor) -> bool:
    return some.shape == other.shape and torch.allclose(some, other, atol=TOLERANCE, rtol=0)


def _check_batches(embedder: Embedder, items: list[Any], modality: str) -> None:
    whole = embedder.embed(items, modality, batch_size=len(items))
    for size in (1, 2):
        rows = embedder.embed(items, modality, batch_size=size)
        if not _close(rows, whole):
            apart = (rows - whole).abs().max().item() if rows.shape == whole.shape else float("nan")
            _fail("batch size", f"{modality} embeddings of batch_size={size} and {len(items)} are {apart:.2g} apart")
    again = embedder.embed(items, modality, batch_size=len(items))
    if not torch.equal(again, whole):
        _fail("deterministic", f"{modality} embeddings differ from call to call")


def _check_order(embedder: Embedder, items: list[Any], modality: str) -> None:
    rows = embedder.embed(items, modality)
    if _close(rows, rows[:1].expand_as(rows)):
        _fail("order", f"all {modality}s have one embedding, whatever they hold")
    if not _close(embedder.embed(items[::-1], modality), rows.flip(0)):
        _fail("order", f"the {modality}s in reverse do not give the rows in reverse")
    alone = torch.cat([embedder.embed([item], modality) for item in items])
    if not _close(alone, rows):
        _fail("order", f"{modality}s one by one do not give the rows of all together")


def _check_side_effects(embedder: Embedder, items: list[Any], modality: str) -> None:
    model = getattr(embedder, "model", None)
    model = model if isinstance(model, nn.Module) else None
    before = _random_states()
    expected = embedder.embed(items, modality)
    if _random_states() != before:
        _fail("global randomness", f"embedding {modality}s moves a global random generator on")
    if model is None:
        return
    if any(part.training for part in model.modules()):
        _fail("evaluation mode", f"the model is in training mode after embedding {modality}s")
    model.train()
    try:
        found = embedder.embed(items[1:] + items[:1], modality).roll(1, 0)  # an order that no cache has met yet
        kept = any(part.training for part in model.modules())
    finally:
        model.eval()
    if not _close(found, expected):
        _fail("evaluation mode", f"a model that was left in training mode gives other {modality} embeddings")
    if kept:
        _fail("evaluation mode", f"a model that was left in training mode stays so while {modality}s are embedded")


def _random_states() -> tuple[bytes, str, str]:
    return torch.random.get_rng_state().numpy().tobytes(), str(np.random.get_state()), str(random.getstate())


def _check_wrong_items(embedder: Embedder, items: list[Any], modality: str) -> None:
    if modality == "text":
        _refused(lambda: embedder.embed(items[0], modality), "a string in place of a list", modality)
        _refused(lambda: embedder.embed([items[0], 3], modality), "a number among texts", modality)
    else:
        _refused(lambda: embedder.embed("image.png", modality), "a string in place of a list", modality)
    _refused(lambda: embedder.embed(items, modality, batch_size=0), "batch_size=0", modality)


def _check_strange_modality(embedder: Embedder) -> None:
    for strange in sorted(({"image", "text"} - embedder.modalities) | {"smell"}):
        _refused(lambda modality=strange: embedder.embed([], modality), "a modality that the model lacks", strange)


def _refused(call: Callable[[], Any], what: str, modality: str) -> None:
    try:
        call()
    except MmclError:
        return
    except Exception as error:
        _fail("bad input", f"{what} ({modality}) raises {type(error).__name__}: {error}; want one of mmcl.errors")
    _fail("bad input", f"{what} ({modality}) is embedded; want one of mmcl.errors")
