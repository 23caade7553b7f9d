"""`RobustnessEvaluator` against naive loops over conditions, and what it does where there is nothing to measure."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl.data.dataset import SCHEMA, ImageTextDataset
from mmcl.data.shapes.images import ArrayImages
from mmcl.embedder import CachedEmbedder, DualEncoderEmbedder, VectorsEmbedder
from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation import (
    CORRUPTIONS,
    TEXT_CHANGES,
    RetrievalEvaluator,
    RobustnessEvaluator,
    ZeroShotEvaluator,
    change_text,
    corrupt_images,
    render_table,
)
from mmcl.evaluation.report import render_robustness

LABELS = ("disk", "ring", "bar")
IMAGES = 24


def pictures() -> np.ndarray:
    """24 small pictures of three kinds, each of its own colours."""
    rng = np.random.RandomState(0)
    y, x = np.mgrid[-1:1:20j, -1:1:20j]
    masks = [x**2 + y**2 < 0.5, (x**2 + y**2 < 0.9) & (x**2 + y**2 > 0.4), abs(x) < 0.3]
    out = np.empty((IMAGES, 20, 20, 3), dtype=np.uint8)
    for number in range(IMAGES):
        back, front = rng.randint(0, 256, (2, 3))
        out[number] = np.where(masks[number % 3][..., None], front, back)
    return out


def made(**columns: list[Any]) -> ImageTextDataset:
    texts = [[f"a {LABELS[i % 3]}, number {i}", f"picture {i} of a {LABELS[i % 3]}"] for i in range(IMAGES)]
    columns = {"texts": texts, "id": [f"i{i}" for i in range(IMAGES)], **columns}
    table = pa.table({name: pa.array(values, SCHEMA.get(name)) for name, values in columns.items()})
    return ImageTextDataset(ArrayImages(pictures(), name="made"), table, name="made:test")


def labelled(**columns: list[Any]) -> ImageTextDataset:
    return made(label=[LABELS[i % 3] if i % 8 else None for i in range(IMAGES)], **columns)


class SeeingEmbedder:
    """Reads pixels through a fixed random network; a text is near the pictures that it names, other words are noise."""

    modalities = frozenset({"image", "text"})
    embedding_dim = 12
    logit_scale = 20.0
    pixel_statistics = (torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3]))

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(384, 12)
        ).eval()
        self.reads = 0
        clean = self.encode_image(torch.from_numpy(pictures().transpose(0, 3, 1, 2).copy()))
        self.centres = F.normalize(torch.stack([clean[i::3].mean(0) for i in range(3)]), dim=-1)
        self.clean = clean

    def image_inputs(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        mean, std = (value.view(3, 1, 1) for value in self.pixel_statistics)
        return {"pixel_values": (torch.stack(list(images)).float() / 255 - mean) / std}

    def embed_inputs(self, inputs: dict[str, Tensor], modality: str) -> Tensor:
        return F.normalize(self.net(inputs["pixel_values"]), dim=-1)

    @torch.no_grad()
    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        if modality == "text":
            return torch.stack([self._text(item) for item in items])
        self.reads += len(items)
        return self.embed_inputs(self.image_inputs(items), "image")

    def _text(self, text: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
        total = 0.35 * F.normalize(torch.randn(12, generator=torch.Generator().manual_seed(seed)), dim=0)
        for word in text.replace(",", "").split():
            if word.isdigit() and int(word) < IMAGES:
                total = total + self.clean[int(word)]
            elif word.strip(".") in LABELS:
                total = total + 0.3 * self.centres[LABELS.index(word.strip("."))]
        return F.normalize(total, dim=0)

    def encode_image(self, images: Sequence[Any], **options: Any) -> Tensor:
        return self.embed(images, "image", **options)

    def encode_text(self, texts: Sequence[str], **options: Any) -> Tensor:
        return self.embed(texts, "text", **options)

    def fingerprint(self) -> str:
        return "seeing"


class BlackBox:
    """The same, of which no gradient can be had."""

    modalities, embedding_dim, logit_scale = SeeingEmbedder.modalities, 12, 20.0

    def __init__(self, seeing: SeeingEmbedder) -> None:
        self.embed, self.encode_image, self.encode_text = seeing.embed, seeing.encode_image, seeing.encode_text


@pytest.fixture(scope="module")
def embedder() -> SeeingEmbedder:
    return SeeingEmbedder()


def naive_hits(images: Tensor, texts: Tensor, image_of_text: list[int]) -> tuple[list[float], list[float]]:
    """First answers both ways by loops; every caption is of another image, ties are wrong."""
    i2t, t2i = [], []
    scores = (images.double() @ texts.double().T).tolist()
    for i, row in enumerate(scores):
        own = max(value for value, owner in zip(row, image_of_text) if owner == i)
        i2t.append(float(all(value < own for value, owner in zip(row, image_of_text) if owner != i)))
    for j, owner in enumerate(image_of_text):
        column = [scores[i][j] for i in range(len(scores))]
        t2i.append(float(all(value < column[owner] for i, value in enumerate(column) if i != owner)))
    return i2t, t2i


def test_every_condition_equals_a_naive_loop(embedder: SeeingEmbedder) -> None:
    dataset = labelled()
    names, severities = ("gaussian_noise", "pixelate", "fog"), (2, 5)
    changes = ("typos", "word_order")
    evaluator = RobustnessEvaluator(
        dataset, corruptions=names, severities=severities, texts=changes, attacks=(), templates=["a {}."]
    )
    metrics = evaluator(embedder)
    captions = [text for cell in dataset.column("texts") for text in cell]
    owner = [row for row, cell in enumerate(dataset.column("texts")) for _ in cell]
    texts = embedder.encode_text(captions)
    classes = sorted(LABELS)
    weights = embedder.encode_text([f"a {name}." for name in classes]).double()
    rows = [row for row in range(IMAGES) if row % 8]

    def measure(images: Tensor, texts: Tensor) -> dict[str, float]:
        i2t, t2i = naive_hits(images, texts, owner)
        right = [classes[int((weights @ images[row].double()).argmax())] == LABELS[row % 3] for row in rows]
        return {"i2t_recall@1": np.mean(i2t), "t2i_recall@1": np.mean(t2i), "zeroshot_top1": np.mean(right)}

    conditions = {}
    for name in names:
        for severity in severities:
            changed = corrupt_images(dataset, name, severity)
            images = embedder.encode_image([changed.images.read(row) for row in range(IMAGES)])
            conditions[name, severity] = measure(images, texts)
    clean = measure(embedder.clean, texts)
    for key, value in clean.items():
        assert metrics[f"robustness/{key}_clean"] == pytest.approx(value)
        for (name, severity), found in conditions.items():
            assert metrics[f"robustness/{key}_{name}_{severity}"] == pytest.approx(found[key])
        for name in names:
            mean = np.mean([conditions[name, severity][key] for severity in severities])
            assert metrics[f"robustness/{key}_{name}"] == pytest.approx(mean)
        for severity in severities:
            mean = np.mean([conditions[name, severity][key] for name in names])
            assert metrics[f"robustness/{key}_severity_{severity}"] == pytest.approx(mean)
        total = np.mean([found[key] for found in conditions.values()])
        assert metrics[f"robustness/{key}_corruption_mean"] == pytest.approx(total)
        assert metrics[f"robustness/{key}_relative_drop"] == pytest.approx(1 - total / value)
        low, high = metrics[f"robustness/{key}_corruption_mean_ci95"]
        assert low <= total <= high
        assert 0 < total < value, "a control: the conditions do change the figures"
    for name in changes:
        changed = [change_text(caption, name) for caption in captions]
        found = measure(embedder.clean, embedder.encode_text(changed))
        for key in ("i2t_recall@1", "t2i_recall@1"):
            assert metrics[f"robustness/{key}_text_{name}"] == pytest.approx(found[key])
        assert metrics[f"robustness/text_{name}_unchanged"] == 0
    both = [metrics[f"robustness/t2i_recall@1_text_{name}"] for name in changes]
    assert metrics["robustness/t2i_recall@1_text_mean"] == pytest.approx(np.mean(both))
    assert metrics["robustness/zeroshot_top1_chance"] == pytest.approx(1 / 3)
    assert metrics["robustness/i2t_recall@1_chance"] == pytest.approx(2 / 48)
    assert metrics["robustness/num_images"] == IMAGES
    assert metrics["robustness/num_texts"] == 2 * IMAGES
    assert evaluator.primary_metric == "robustness/zeroshot_top1_corruption_mean"
    assert evaluator.primary_metric in metrics


def test_unchanged_is_what_the_other_evaluators_say(embedder: SeeingEmbedder) -> None:
    dataset = labelled()
    metrics = RobustnessEvaluator(dataset, corruptions=(), texts=(), attacks=())(embedder)
    assert metrics["robustness/zeroshot_top1_clean"] == ZeroShotEvaluator(dataset)(embedder)["zeroshot/top1"]
    retrieval = RetrievalEvaluator(dataset)(embedder)
    for way in ("i2t", "t2i"):
        assert metrics[f"robustness/{way}_recall@1_clean"] == retrieval[f"retrieval/{way}_recall@1"]
    assert not [name for name in metrics if "corruption" in name or "text_" in name or "eps" in name]
    evaluator = RobustnessEvaluator(made(), corruptions=(), texts=(), attacks=())
    assert evaluator.primary_metric == "robustness/i2t_recall@1_clean"
    assert not [name for name in evaluator(embedder) if "zeroshot" in name]


def test_a_model_that_ignores_pixels_loses_nothing() -> None:
    class Still(SeeingEmbedder):
        def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
            return super().embed(items, modality) if modality == "text" else self.rows[: len(items)]

    still = Still.__new__(Still)
    seeing = SeeingEmbedder()
    still.__dict__ = {**seeing.__dict__, "rows": seeing.clean}
    options = {"corruptions": ["snow"], "severities": [5], "texts": (), "attacks": ()}
    metrics = RobustnessEvaluator(made(), **options)(still)
    assert metrics["robustness/i2t_recall@1_relative_drop"] == 0
    assert metrics["robustness/i2t_recall@1_relative_drop_ci95"] == [0, 0]
    assert RobustnessEvaluator(made(), **options)(seeing)["robustness/i2t_recall@1_relative_drop"] > 0
    still.rows = torch.ones(IMAGES, 12)
    metrics = RobustnessEvaluator(made(), **options)(still)
    assert metrics["robustness/t2i_recall@1_clean"] == 0, "equal embeddings tie, and ties are wrong"
    assert "robustness/t2i_recall@1_relative_drop" not in metrics
    still.rows = torch.full((IMAGES, 12), torch.nan)
    with pytest.raises(ShapeError, match="image embeddings row 0"):
        RobustnessEvaluator(made(), **options)(still)


def test_one_word_captions_have_no_order(embedder: SeeingEmbedder) -> None:
    dataset = made(texts=[[str(i)] for i in range(IMAGES)])
    metrics = RobustnessEvaluator(dataset, corruptions=(), attacks=())(embedder)
    for name in ("word_order", "dropped_words", "lower_case"):
        assert metrics[f"robustness/text_{name}_unchanged"] == 1
        assert metrics[f"robustness/t2i_recall@1_text_{name}"] == metrics["robustness/t2i_recall@1_clean"]
    assert metrics["robustness/text_paraphrase_unchanged"] == 0
    assert {name.split("_text_")[1] for name in metrics if "t2i_recall@1_text_" in name and "ci95" not in name} == {
        *TEXT_CHANGES, "mean",
    }  # fmt: skip


def test_attacks_lower_the_score(embedder: SeeingEmbedder) -> None:
    before = [value.clone() for value in embedder.net.state_dict().values()]
    for dataset, key in ((labelled(), "zeroshot_top1"), (made(), "i2t_recall@1")):
        evaluator = RobustnessEvaluator(dataset, corruptions=(), texts=(), epsilons=(0, 2, 16), batch_size=7)
        metrics = evaluator(embedder)
        clean = metrics[f"robustness/{key}_clean"]
        for attack in ("fgsm", "pgd"):
            assert metrics[f"robustness/{key}_{attack}_eps0"] == clean
            assert metrics[f"robustness/{key}_{attack}_eps16"] <= metrics[f"robustness/{key}_{attack}_eps2"] < clean
            low, high = metrics[f"robustness/{key}_{attack}_eps2_ci95"]
            assert low <= metrics[f"robustness/{key}_{attack}_eps2"] <= high
        for epsilon in (2, 16):
            by_steps = metrics[f"robustness/{key}_pgd_eps{epsilon}"]
            assert by_steps <= metrics[f"robustness/{key}_fgsm_eps{epsilon}"]
        assert metrics["robustness/num_attacked"] == (21 if key == "zeroshot_top1" else IMAGES)
        assert evaluator(CachedEmbedder(embedder)) == metrics
    assert all(torch.equal(one, other) for one, other in zip(before, embedder.net.state_dict().values()))
    assert all(parameter.grad is None for parameter in embedder.net.parameters())


def test_attacks_on_a_model_of_ours() -> None:
    from mmcl.config import ModelSection, TowerSection
    from mmcl.models.dual_encoder import build_dual_encoder

    torch.manual_seed(0)
    section = ModelSection(image=TowerSection(options={"num_hidden_layers": 1}), embedding_dim=16)
    model = build_dual_encoder(section, captions=["a disk ring bar number picture of"])
    ours = CachedEmbedder(DualEncoderEmbedder(model, device="cpu"))
    options = {"corruptions": (), "texts": (), "epsilons": (0, 8), "max_images": 4}
    metrics = RobustnessEvaluator(made(), **options)(ours)
    for attack in ("fgsm", "pgd"):
        assert metrics[f"robustness/i2t_recall@1_{attack}_eps0"] == metrics["robustness/i2t_recall@1_clean"]
        assert 0 <= metrics[f"robustness/i2t_recall@1_{attack}_eps8"] <= 1
    assert metrics["robustness/num_attacked"] == 4
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_without_gradients_is_not_attacked(
    embedder: SeeingEmbedder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mmcl"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="mmcl"):
        metrics = RobustnessEvaluator(made(), corruptions=["fog"], severities=[3], texts=())(BlackBox(embedder))
    assert metrics["robustness/num_attacked"] == 0
    assert not [name for name in metrics if "eps" in name]
    assert "attacks are left out" in caplog.text


def test_a_sample_is_drawn_once_and_keeps_all_classes(embedder: SeeingEmbedder) -> None:
    options = {"corruptions": ["fog"], "severities": [1], "texts": (), "attacks": (), "max_images": 4}
    first, again, other = (RobustnessEvaluator(labelled(), seed=seed, **options) for seed in (0, 0, 1))
    assert first.dataset.column("id") == again.dataset.column("id") != other.dataset.column("id")
    metrics = first(embedder)
    assert metrics["robustness/num_images"] == 4
    assert metrics["robustness/zeroshot_top1_chance"] == pytest.approx(1 / 3)
    assert again(embedder) == metrics
    whole = RobustnessEvaluator(labelled(), **{**options, "max_images": 1000})
    assert len(whole.dataset) == IMAGES


def test_nothing_is_embedded_twice_and_progress_is_told(embedder: SeeingEmbedder) -> None:
    evaluator = RobustnessEvaluator(made(), corruptions=["fog", "frost"], severities=[1, 3], attacks=())
    told: list[tuple[int, int]] = []
    evaluator.progress = lambda done, total: told.append((done, total))
    cached = CachedEmbedder(embedder)
    before = embedder.reads
    metrics = evaluator(cached)
    assert embedder.reads - before == 5 * IMAGES
    assert evaluator(cached) == metrics
    assert embedder.reads - before == 5 * IMAGES
    assert told[: len(told) // 2] == [(done, 13) for done in range(1, 14)]


def test_unreadable_images_are_left_out_everywhere(make_dataset: Callable, embedder: SeeingEmbedder) -> None:
    dataset = make_dataset([["0"], ["1"], ["2"]], unreadable=[1])

    class Wide(SeeingEmbedder):
        def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
            grown = items if modality == "text" else [F.interpolate(one[None], size=20)[0] for one in items]
            return super().embed(grown, modality)

    metrics = RobustnessEvaluator(dataset, corruptions=["fog"], severities=[1], texts=["typos"], attacks=())(Wide())
    assert (metrics["robustness/num_skipped"], metrics["robustness/num_images"]) == (1, 2)
    assert metrics["robustness/i2t_recall@1_chance"] == 0.5


def test_what_cannot_be_measured(make_dataset: Callable, embedder: SeeingEmbedder) -> None:
    for options, message in (
        ({"corruptions": ["fogg"]}, "did you mean 'fog'"),
        ({"severities": [0]}, "severity is 0"),
        ({"texts": ["typo"]}, "did you mean 'typos'"),
        ({"attacks": ["cw"]}, "unknown attack 'cw'"),
        ({"epsilons": [-1]}, "epsilon is -1"),
        ({"max_images": 0}, "max_images is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            RobustnessEvaluator(made(), **options)
    with pytest.raises(ConfigError, match="nothing to tell apart"):
        RobustnessEvaluator(make_dataset([["a"], ["a"]]))
    evaluator = RobustnessEvaluator(made())

    class ImagesAlone(SeeingEmbedder):
        modalities = frozenset({"image"})

    with pytest.raises(ConfigError, match="lacks text"):
        evaluator(ImagesAlone())
    vectors = VectorsEmbedder.__new__(VectorsEmbedder)
    vectors.modalities, vectors.embedding_dim = frozenset({"image", "text"}), 3
    for one in (vectors, CachedEmbedder(vectors)):
        with pytest.raises(ConfigError, match="reads pixels and words"):
            evaluator(one)


def test_tables(embedder: SeeingEmbedder) -> None:
    metrics = RobustnessEvaluator(labelled(), severities=[1, 5], epsilons=[4])(embedder)
    # Unchanged, corruptions, severities, changes of captions, attacks.
    assert render_robustness(metrics).row_count == 1 + len(CORRUPTIONS) + 2 + len(TEXT_CHANGES) + 2
    assert render_robustness({"retrieval/i2t_recall@1": 0.5}).row_count == 0
    assert render_table(metrics).row_count == 3 + 4 + 4
