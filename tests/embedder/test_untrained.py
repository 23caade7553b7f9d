"""Random weights of the same architecture: another model, always the same, and the first one is left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_folders
import tiny_open_clip
import torch

import mmcl
from mmcl.embedder import CachedEmbedder, DualEncoderEmbedder, Embedder, check_embedder, fingerprint, untrained
from mmcl.evaluation.blind import BlindEmbedder

TIMM = {"name": "timm:resnet10t", "pretrained": False, "image_size": 64, "options": {}}
STEMS = {"image": {"options": {"convolutional_stem": True}}, "text": {"options": {"convolutional_stem": True}}}


def _mmcl(make_model: Callable, **sides: dict) -> Embedder:
    """As after training: no weight, and no batch statistic, is where it started."""
    model = make_model(**sides)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(3.0)
    return DualEncoderEmbedder(model, device="cpu")


@pytest.fixture
def open_embedder(make_model: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Embedder]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def opened(name: str) -> Embedder:
        if name in ("clip", "siglip", "vision_text_dual_encoder"):
            return mmcl.load(tiny_folders.save_dual_model(tmp_path, name), device="cpu")
        if name == "open_clip":
            tiny_open_clip.register(tmp_path)
            return mmcl.load("open_clip:tiny-clip", device="cpu")
        if name == "sentence-transformers":
            pytest.importorskip("sentence_transformers")
            return mmcl.load(f"sentence-transformers:{tiny_folders.save_text_model(tmp_path, 'bert')}", device="cpu")
        sides = {"tiny": {}, "timm": {"image": TIMM, "head": {"name": "mlp", "norm": "batch"}}, "stems": STEMS,
                 "pooling": {"image": {"pooling": "attention"}}}  # fmt: skip
        return _mmcl(make_model, **sides[name])

    return opened


KINDS = ("tiny", "timm", "stems", "pooling", "clip", "siglip", "vision_text_dual_encoder", "open_clip",
         "sentence-transformers")  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_it_is_another_model_and_the_same_every_time(open_embedder: Callable, name: str) -> None:
    embedder = open_embedder(name)
    before, state = fingerprint(embedder), torch.random.get_rng_state()
    drawn, again, other = untrained(embedder), untrained(embedder), untrained(embedder, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert fingerprint(embedder) == before
    assert len({before, fingerprint(drawn), fingerprint(other)}) == 3
    assert fingerprint(again) == fingerprint(drawn)
    check_embedder(drawn)
    assert (drawn.embedding_dim, drawn.modalities) == (embedder.embedding_dim, embedder.modalities)
    words = ["a red circle", "two"]
    assert not torch.allclose(drawn.encode_text(words), embedder.encode_text(words), atol=1e-3)
    assert drawn.model is not embedder.model


@pytest.mark.parametrize("name", ["tiny", "timm", "stems", "pooling", "open_clip"])
def test_every_weight_is_drawn_anew(open_embedder: Callable, name: str) -> None:
    """No tensor is the trained one, except what a new layer holds too (a norm's ones and zeros)."""
    embedder = open_embedder(name)
    trained, drawn = embedder.model.state_dict(), untrained(embedder).model.state_dict()
    assert trained.keys() == drawn.keys()
    for key, value in trained.items():
        constant = (drawn[key] == drawn[key].flatten()[0]).all()
        if not torch.equal(value, drawn[key]) or constant or not value.is_floating_point():
            continue
        raise AssertionError(f"{key} is still the trained one")
    for key, value in drawn.items():
        if key.endswith("running_mean"):
            assert (value == 0).all(), key
        if key.endswith("running_var"):
            assert (value == 1).all(), key


def test_it_is_drawn_as_a_new_model_is(make_model: Callable) -> None:
    """The spread of each tensor is that of a model built for training; shuffled weights would keep their own."""
    new = make_model(seed=5)
    drawn = untrained(_mmcl(make_model)).model
    for (name, one), other in zip(new.named_parameters(), drawn.parameters(), strict=True):
        if one.numel() > 1000:
            assert other.std().item() == pytest.approx(one.std().item(), rel=0.1), name
            assert abs(other.mean().item()) < 0.1 * one.std().item() + 1e-8, name
    assert drawn.logit_scale.item() == pytest.approx(1 / 0.07)


def test_precision_device_and_cache_go_along(make_model: Callable, tmp_path: Path) -> None:
    embedder = DualEncoderEmbedder(make_model(), device="cpu", precision="bf16")
    drawn = untrained(CachedEmbedder(embedder, folder=tmp_path, shared=False))
    assert isinstance(drawn, CachedEmbedder)
    assert (drawn.folder, drawn.inner.precision, drawn.inner.device.type) == (tmp_path, "bf16", "cpu")
    drawn.encode_text(["a"])
    assert len(list(tmp_path.glob("text-*"))) == 1


def test_none_where_there_are_no_weights(
    tmp_path: Path, make_model: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    np.savez(tmp_path / "v.npz", image=np.eye(3), text=np.eye(3))
    vectors = mmcl.load(f"vectors:{tmp_path / 'v.npz'}")
    assert untrained(vectors) is None
    assert untrained(CachedEmbedder(vectors)) is None
    assert untrained(BlindEmbedder()) is None
    assert not caplog.records
    strange = make_model()
    strange.image.head = torch.nn.Linear(128, 16)
    assert untrained(DualEncoderEmbedder(strange, device="cpu")) is None
    assert "no untrained model of the same architecture can be built" in caplog.text
