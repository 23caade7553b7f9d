"""`check_embedder` passes for every kind of model, and names each promise that is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_folders
import tiny_open_clip
import torch
from torch.nn import functional as F

import mmcl
from mmcl.embedder import CachedEmbedder, ContractError, DualEncoderEmbedder, Embedder, check_embedder
from mmcl.embedder.interface import check_items
from mmcl.evaluation.blind import BlindEmbedder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield tmp_path_factory.mktemp("models")


def _saved(folder: Path, save: Callable[[Path, str], Any], name: str) -> Path:
    path = folder / f"{save.__name__}_{name}"
    if not path.exists():
        path.mkdir()
        save(path, name)
    return path


def _open_clip(folder: Path) -> None:
    tiny_open_clip.register(_saved(folder, lambda path, name: None, "registered"))


@pytest.mark.parametrize("family", ["clip", "siglip", "vision_text_dual_encoder"])
def test_transformers(folder: Path, family: str) -> None:
    check_embedder(mmcl.load(_saved(folder, tiny_folders.save_dual_model, family), device="cpu"))


def test_sentence_transformers_with_images(folder: Path) -> None:
    pytest.importorskip("sentence_transformers")
    path = _saved(folder, tiny_folders.save_dual_model, "clip")
    model = mmcl.load(f"sentence-transformers:{path}", device="cpu")
    assert model.modalities == {"image", "text"}
    check_embedder(model)


def test_sentence_transformers_of_texts_alone(folder: Path) -> None:
    pytest.importorskip("sentence_transformers")
    path = _saved(folder, tiny_folders.save_text_model, "bert")
    model = mmcl.load(f"sentence-transformers:{path}", device="cpu")
    assert model.modalities == {"text"}
    check_embedder(model)


@pytest.mark.parametrize("arch", ["tiny-clip", "tiny-resnet"])
def test_open_clip(folder: Path, arch: str) -> None:
    _open_clip(folder)
    model = mmcl.load(f"open_clip:{arch}", device="cpu")
    check_embedder(model)
    again = mmcl.load(f"open_clip:{arch}", device="cpu")
    assert torch.equal(model.encode_text(["a dog"]), again.encode_text(["a dog"])), "random weights, always the same"


def test_open_clip_folder(folder: Path) -> None:
    _open_clip(folder)
    path = _saved(folder, tiny_open_clip.save_folder, "tiny-clip")
    check_embedder(mmcl.load(f"open_clip:{path}", device="cpu"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_mmcl(make_model: Callable, precision: str) -> None:
    check_embedder(DualEncoderEmbedder(make_model(), device="cpu", precision=precision))


def test_timm_tower_and_batch_norm(make_model: Callable) -> None:
    image = {"name": "timm:resnet10t", "pretrained": False, "image_size": 64, "options": {}}
    check_embedder(DualEncoderEmbedder(make_model(image=image, head={"name": "mlp", "norm": "batch"}), device="cpu"))


def test_vectors(tmp_path: Path) -> None:
    image, text = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    ids = [f"i{row}" for row in range(5)]
    np.savez(tmp_path / "v.npz", image=image, text=text, image_id=np.array(ids))
    embedder = mmcl.load(f"vectors:{tmp_path / 'v.npz'}")
    check_embedder(embedder, images=ids, texts=[str(row) for row in range(5)])
    check_embedder(CachedEmbedder(embedder), images=ids, texts=[str(row) for row in range(5)])


def test_blind() -> None:
    check_embedder(BlindEmbedder())


@pytest.mark.parametrize("keep", [True, False])
def test_cached(embedder: DualEncoderEmbedder, tmp_path: Path, keep: bool) -> None:
    check_embedder(CachedEmbedder(embedder, folder=tmp_path if keep else None))
    check_embedder(CachedEmbedder(BlindEmbedder(), folder=tmp_path if keep else None))


# -- broken embedders -------------------------------------------------------------------------------------------------


class Sound:
    """A small embedder that keeps every promise: bytes and letters through one matrix."""

    embedding_dim = 4
    modalities = frozenset({"image", "text"})
    logit_scale = 10.0

    def __init__(self) -> None:
        self.model = torch.nn.Linear(3, 4, bias=False)
        torch.nn.init.normal_(self.model.weight, generator=torch.Generator().manual_seed(0))
        self.model.eval()

    def features(self, item: Any, modality: str) -> list[float]:
        if modality == "image":
            return item.float().mean((1, 2)).tolist()
        return [float(len(item)), float(item.count(" ")), float(ord(item[0]))]

    def rows(self, items: Any, modality: str) -> torch.Tensor:
        values = torch.tensor([self.features(item, modality) for item in items]).reshape(len(items), 3)
        return F.normalize(self.model(values), dim=-1)

    @torch.no_grad()
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        check_items(items, modality, batch_size, modalities=self.modalities)
        self.model.eval()
        parts = [self.rows(items[start : start + batch_size], modality) for start in range(0, len(items), batch_size)]
        return torch.cat(parts) if parts else torch.empty(0, 4)

    def encode_image(self, images: Any, **options: Any) -> torch.Tensor:
        return self.embed(images, "image", **options)

    def encode_text(self, texts: Any, **options: Any) -> torch.Tensor:
        return self.embed(texts, "text", **options)


def test_the_sound_one_passes() -> None:
    check_embedder(Sound())


def _changed(change: Callable[[torch.Tensor], Any]) -> type:
    """``Sound`` with another result where there are rows."""

    class Broken(Sound):
        def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> Any:
            rows = super().embed(items, modality, batch_size=batch_size)
            return change(rows) if len(rows) else rows

    return Broken


class NoScale(Sound):
    logit_scale = None


class NoDim(Sound):
    embedding_dim = 4.0


class ListOfModalities(Sound):
    modalities = property(lambda self: ["image", "text"])


class Nameless(Sound):
    encode_text = property(lambda self: (_ for _ in ()).throw(AttributeError))


class OtherNames(Sound):
    def encode_text(self, texts: Any, **options: Any) -> torch.Tensor:
        return -self.embed(texts, "text", **options)


class Gradient(Sound):
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        rows = super().embed(items, modality, batch_size=batch_size)
        return rows.requires_grad_()


class Inference(Sound):
    @torch.inference_mode()
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        return super().embed(items, modality, batch_size=batch_size) * 1.0


class NothingIsNothing(Sound):
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        rows = super().embed(items, modality, batch_size=batch_size)
        return rows if len(rows) else torch.empty(0)


class BatchStatistics(Sound):
    def rows(self, items: Any, modality: str) -> torch.Tensor:
        rows = super().rows(items, modality)
        return F.normalize(rows - 0.5 * rows.mean(0), dim=-1) if len(rows) > 1 else rows


class FirstAlone(Sound):
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        rows = super().embed(items, modality, batch_size=batch_size)
        return rows if len(rows) == 1 else rows.flip(1)


class Sorted(Sound):
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        rows = super().embed(items, modality, batch_size=batch_size)
        return rows[rows[:, 0].argsort()]


class Constant(Sound):
    def features(self, item: Any, modality: str) -> list[float]:
        return [1.0, 2.0, 3.0]


class Restless(Sound):
    calls = 0

    def rows(self, items: Any, modality: str) -> torch.Tensor:
        self.calls += 1
        return F.normalize(super().rows(items, modality) + 1e-6 * self.calls, dim=-1)


class Draws(Sound):
    def rows(self, items: Any, modality: str) -> torch.Tensor:
        torch.rand(1)
        return super().rows(items, modality)


class StaysInTraining(Sound):
    @torch.no_grad()
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        training = self.model.training
        rows = super().embed(items, modality, batch_size=batch_size)
        self.model.train(training)
        return rows


class LeavesTraining(Sound):
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        rows = super().embed(items, modality, batch_size=batch_size)
        self.model.train()
        return rows


class DropsOut(Sound):
    @torch.no_grad()
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        check_items(items, modality, batch_size, modalities=self.modalities)
        rows = self.rows(items, modality)
        if self.model.training:
            rows = F.normalize(rows * torch.tensor([1.0, 0.0, 1.0, 1.0]), dim=-1)
        return rows


class TakesAString(Sound):
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        if modality == "text" and isinstance(items, str):
            items = list(items)
        return super().embed(items, modality, batch_size=batch_size)


class TakesNumbers(Sound):
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        if modality == "text" and not isinstance(items, str):
            items = [str(item) for item in items]
        return super().embed(items, modality, batch_size=batch_size)


class TakesAnyModality(Sound):
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        return super().embed(items, modality if modality in self.modalities else "text", batch_size=batch_size)


class TakesNoBatch(Sound):
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        return super().embed(items, modality, batch_size=batch_size or 64)


class BareError(Sound):
    def embed(self, items: Any, modality: str, *, batch_size: int = 64) -> torch.Tensor:
        if isinstance(items, str):
            raise KeyError(items)
        return super().embed(items, modality, batch_size=batch_size)


class FlatTexts(Sound):
    """Images are sound, texts are not: both modalities are looked at."""

    def rows(self, items: Any, modality: str) -> torch.Tensor:
        return super().rows(items, modality) * (2 if modality == "text" else 1)


BROKEN = {
    "no scale": (NoScale, "logit_scale: is None"),
    "float dim": (NoDim, "embedding_dim: is 4.0"),
    "list of modalities": (ListOfModalities, "modalities: are"),
    "a method lacks": (Nameless, "attributes: a Nameless has no encode_text"),
    "encode is another": (OtherNames, "encode_text: differs"),
    "list of rows": (_changed(lambda rows: rows.tolist()), "type: image embeddings are a list"),
    "numpy": (_changed(lambda rows: rows.numpy()), "type: image embeddings are a ndarray"),
    "float64": (_changed(lambda rows: rows.double()), "dtype: image embeddings are torch.float64"),
    "another device": (_changed(lambda rows: rows.to("meta")), "device: image embeddings are on meta"),
    "too wide": (_changed(lambda rows: torch.cat([rows, rows], 1)), "shape: image embeddings are"),
    "one row short": (_changed(lambda rows: rows[1:]), "shape: image embeddings are"),
    "gradient": (Gradient, "gradient: image embeddings require one"),
    "inference mode": (Inference, "gradient: image embeddings are inference tensors"),
    "NaN": (_changed(lambda rows: rows * float("nan")), "finite: image embeddings hold NaN"),
    "long rows": (_changed(lambda rows: rows * 1.01), "unit rows: norms of image embeddings are up to 0.01"),
    "nothing has no width": (NothingIsNothing, "no items"),
    "batch statistics": (BatchStatistics, "batch size: image embeddings of batch_size=1 and 5"),
    "alone is another": (FirstAlone, "order: images one by one"),
    "sorted": (Sorted, "order: the images in reverse|batch size"),
    "constant": (Constant, "order: all images have one embedding"),
    "restless": (Restless, "deterministic: image embeddings differ from call to call"),
    "draws": (Draws, "global randomness"),
    "stays in training": (StaysInTraining, "evaluation mode: .* stays so"),
    "leaves training": (LeavesTraining, "evaluation mode: the model is in training mode after"),
    "drops out": (DropsOut, "evaluation mode: a model that was left in training mode gives other"),
    "takes a string": (TakesAString, "bad input: a string in place of a list .text. is embedded"),
    "takes numbers": (TakesNumbers, "bad input: a number among texts .text. is embedded"),
    "takes any modality": (TakesAnyModality, "bad input: a modality that the model lacks .smell. is embedded"),
    "takes no batch": (TakesNoBatch, "bad input: batch_size=0 .image. is embedded"),
    "bare error": (BareError, "bad input: a string in place of a list .image. raises KeyError"),
    "texts alone are wrong": (FlatTexts, "unit rows: norms of text embeddings"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_promise_is_named(name: str) -> None:
    kind, says = BROKEN[name]
    broken: Embedder = kind()
    with pytest.raises(ContractError, match=says):
        check_embedder(broken)
