"""Fewer dimensions and coded galleries: the figures are those of naive loops and of the plain evaluator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import six_models
import torch

from mmcl.data.sources.loading import load
from mmcl.embedder import CachedEmbedder, DualEncoderEmbedder, check_embedder
from mmcl.embedder.truncated import TruncatedEmbedder
from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation import RetrievalEvaluator
from mmcl.evaluation.retrieval.galleries import Galleries
from mmcl.hub.shrinking.coded_retrieval import SCHEMES, code_gallery, coded_recalls, search_codes
from mmcl.hub.shrinking.truncation import default_dims, dimension_curve, truncate
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.saving import from_pretrained, save_pretrained


@pytest.mark.parametrize("name", ["bert_vit", "minilm_cnn", "siglip", "open_clip"])
def test_a_smaller_model_gives_the_first_values(trained, name: str, tmp_path) -> None:
    model: DualEncoder = trained(name)
    whole = DualEncoderEmbedder(model, device="cpu")
    smaller = from_pretrained(save_pretrained(truncate(model, 8), tmp_path / "model"))
    found = DualEncoderEmbedder(smaller, device="cpu")
    for embed, items in (("encode_image", six_models.make_images()), ("encode_text", six_models.CAPTIONS)):
        full = getattr(whole, embed)(items)
        wanted = torch.nn.functional.normalize(full[:, :8], dim=-1)
        assert torch.allclose(getattr(found, embed)(items), wanted, atol=1e-5)
        last = torch.nn.functional.normalize(full[:, -8:], dim=-1)
        assert not torch.allclose(getattr(found, embed)(items), last, atol=1e-2)
    assert smaller.embedding_dim == 8
    assert model.embedding_dim in (24, 32)  # not changed


def test_truncated_embedders_keep_the_promises(trained) -> None:
    check_embedder(TruncatedEmbedder(DualEncoderEmbedder(trained("bert_vit"), device="cpu"), 8))


def test_the_curve_embeds_once_and_falls_from_what_the_model_has(trained) -> None:
    data = load("shapes?train=0&test=24:test")
    embedder = CachedEmbedder(DualEncoderEmbedder(trained("bert_vit"), device="cpu"))
    evaluator = RetrievalEvaluator(data, confidence=False, same_modality=False)
    calls = []
    inner = embedder.inner.embed_dataset_images
    embedder.inner.embed_dataset_images = lambda *a, **k: calls.append(1) or inner(*a, **k)
    curve = dimension_curve(embedder, evaluator, [4, 24, 12])
    assert list(curve) == [24, 12, 4]
    assert len(calls) == 1
    assert curve[24] == evaluator(embedder)
    assert curve[4] != curve[24]


def test_sizes_that_cannot_be(trained) -> None:
    model = trained("bert_vit")
    embedder = DualEncoderEmbedder(model, device="cpu")
    assert default_dims(256) == [256, 128, 64, 32, 16, 8]
    assert default_dims(5) == [5]
    with pytest.raises(ConfigError, match="embedding_dim is 25; want 2 to 24"):
        truncate(model, 25)
    with pytest.raises(ConfigError, match="embedding_dim is 0; want 1 to 24"):
        dimension_curve(embedder, lambda embedder: {}, [24, 0])
    with pytest.raises(ConfigError, match="dims is empty"):
        dimension_curve(embedder, lambda embedder: {}, [])


@pytest.fixture
def galleries() -> Galleries:
    """120 images of 60 groups and two captions a group, near one another, in 33 dimensions."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(60, 33))

    def rows(groups: np.ndarray, noise: float) -> torch.Tensor:
        made = centres[groups] + noise * draw.normal(size=(len(groups), 33))
        return torch.from_numpy((made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32))

    groups = np.arange(120) % 60
    images, texts = rows(groups, 1.0), rows(groups, 1.0)
    ids = torch.from_numpy(groups)
    captions = [str(row) for row in range(120)]
    return Galleries(images, np.arange(120), ids, texts, captions, torch.arange(120), ids, 0)


def naive(galleries: Galleries, scheme: str, k: int, rescore: int, depth: int) -> float:
    """R@k of images searching captions, one query at a time in float64, ties against the model."""
    images, texts = galleries.images.numpy().astype(np.float64), galleries.texts.numpy().astype(np.float64)
    low = np.minimum(images.min(0), texts.min(0)).astype(np.float32).astype(np.float64)
    high = np.maximum(images.max(0), texts.max(0)).astype(np.float32).astype(np.float64)
    int8 = np.round((texts - low) / ((high - low) / 255)) * ((high - low) / 255) + low
    signs = np.where(texts > 0, 1.0, -1.0)
    hits = 0
    for query, group in zip(images, galleries.image_groups.tolist()):
        right = galleries.text_groups.numpy() == group
        if scheme in ("float32", "int8"):
            scores = (texts if scheme == "float32" else int8) @ query
        else:
            scores = signs @ np.where(query > 0, 1.0, -1.0)
        if "rescored" in scheme:
            order = sorted(range(len(texts)), key=lambda row: (-scores[row], right[row]))[: depth * rescore]
            again = (int8 if scheme.endswith("int8") else signs) @ query
            scores = np.array([again[row] if row in set(order) else -np.inf for row in range(len(texts))])
        best = scores[right].max()
        hits += np.isfinite(best) and ((scores >= best) & ~right).sum() < k
    return hits / len(images)


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "float16"])
def test_recalls_of_codes_equal_a_naive_loop(galleries: Galleries, scheme: str) -> None:
    found = coded_recalls(galleries, scheme, ks=(1, 5), rescore=2)
    for k in (1, 5):
        assert found[f"retrieval/i2t_recall@{k}"] == pytest.approx(naive(galleries, scheme, k, 2, 5), abs=1e-12)
    assert 0.1 < found["retrieval/i2t_recall@1"] < 0.95


def test_uncoded_recalls_are_the_evaluators(trained) -> None:
    from mmcl.evaluation.retrieval.galleries import embed_galleries

    data = load("shapes?train=0&test=40:test")
    embedder = DualEncoderEmbedder(trained("bert_vit"), device="cpu")
    wanted = RetrievalEvaluator(data, confidence=False, same_modality=False)(embedder)
    found = coded_recalls(embed_galleries(embedder, data, batch_size=64), "float32")
    for name in (name for name in found if "recall" in name):
        assert found[name] == pytest.approx(wanted[name], abs=1e-7)


def test_rescoring_wins_back_what_signs_lose(galleries: Galleries) -> None:
    recall = {scheme: coded_recalls(galleries, scheme)["retrieval/i2t_recall@1"] for scheme in SCHEMES}
    assert recall["binary"] < recall["binary, rescored"] < recall["float32"]
    assert recall["binary, rescored"] < recall["binary, rescored by int8"]
    everything = coded_recalls(galleries, "binary, rescored by int8", rescore=12)
    assert everything["retrieval/i2t_recall@1"] == recall["int8"]
    sizes = {scheme: coded_recalls(galleries, scheme)["bytes_per_embedding"] for scheme in SCHEMES}
    assert sizes == {"float32": 132, "float16": 66, "int8": 33, "binary": 5, "binary, rescored": 5,
                     "binary, rescored by int8": 38}  # fmt: skip


def test_a_collapsed_model_scores_nothing_by_ties(galleries: Galleries) -> None:
    same = replace(galleries, images=torch.ones_like(galleries.images), texts=torch.ones_like(galleries.texts))
    for scheme in SCHEMES:
        assert coded_recalls(same, scheme)["retrieval/i2t_recall@10"] == 0


def test_search_finds_what_is_nearest(galleries: Galleries) -> None:
    images, texts = galleries.images.numpy(), galleries.texts.numpy()
    scores, rows = search_codes(images, code_gallery(texts, "float32"), 7)
    wanted = np.sort(images @ texts.T, axis=1)[:, ::-1][:, :7]
    assert np.allclose(scores, wanted, atol=1e-6)
    assert np.allclose(np.take_along_axis(images @ texts.T, rows, axis=1), wanted, atol=1e-6)
    all_again = search_codes(images, code_gallery(texts, "binary, rescored"), 7, rescore=1_000)
    assert np.allclose(all_again[0], np.sort(images @ np.where(texts > 0, 1, -1).T, axis=1)[:, ::-1][:, :7], atol=1e-5)
    assert search_codes(images, code_gallery(texts, "binary"), 500)[1].shape == (120, 120)


def test_what_search_refuses(galleries: Galleries) -> None:
    gallery = code_gallery(galleries.texts.numpy(), "int8")
    with pytest.raises(ShapeError, match="33 values"):
        search_codes(np.ones((2, 4)), gallery, 1)
    with pytest.raises(ConfigError, match="k is 0"):
        search_codes(np.ones((2, 33)), gallery, 0)
    with pytest.raises(ConfigError, match="scheme is 'int4'"):
        coded_recalls(galleries, "int4")
    with pytest.raises(ConfigError, match="ks is"):
        coded_recalls(galleries, "int8", ks=())
