"""Labels against those of the nearest images: sound, wrong in part, and where nothing can be said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmcl.config import recipe_from_tree
from mmcl.doctor.examination.neighbours import caption_ranks, disagreement, label_noise, nearest
from mmcl.doctor.examination.subject import Sample, Subject

KINDS = ("cat", "dog", "tree", "car")


def sample_of(rows: int = 300, *, wrong: float = 0.0, spread: float = 0.4, seed: int = 0) -> Sample:
    """Clouds of four kinds; a share of the labels drawn by lot."""
    generator = np.random.default_rng(seed)
    kinds = generator.integers(0, len(KINDS), rows)
    features = np.eye(len(KINDS), 16)[kinds] + spread * generator.normal(size=(rows, 16)) / 4
    lot = generator.random(rows) < wrong
    labels = np.where(lot, generator.integers(0, len(KINDS), rows), kinds)
    texts = [f"row {row}" for row in range(rows)]
    return Sample(
        texts, np.arange(rows), image_features=features.astype(np.float32), labels=[KINDS[kind] for kind in labels]
    )


def subject_of(sample: Sample) -> Subject:
    return Subject(recipe=recipe_from_tree({"data": {"path": "shapes"}}, source="test"), train=sample)


def test_the_nearest_against_a_loop() -> None:
    generator = np.random.default_rng(0)
    features, groups = generator.normal(size=(12, 5)), np.array([0, 0, 0, *range(1, 10)])
    values = (features - features.mean(0)) / features.std(0)
    found = nearest(features, groups, 3)
    for row in range(12):
        cosines = {
            other: values[row] @ values[other] / np.linalg.norm(values[row]) / np.linalg.norm(values[other])
            for other in range(12)
            if groups[other] != groups[row]
        }
        assert found[row].tolist() == sorted(cosines, key=lambda other: -cosines[other])[:3]


def test_the_share_of_wrong_labels() -> None:
    for wrong in (0.0, 0.2, 0.4):
        noise = label_noise(sample_of(400, wrong=wrong))
        assert noise is not None
        assert noise.share == pytest.approx(0.75 * wrong, abs=3 * noise.error + 0.02)  # a lot may fall on the right one
        assert noise.chance == pytest.approx(0.25, abs=0.03)
    assert "among" in noise.example


def test_many_wrong_labels_are_told_and_few_are_not() -> None:
    assert disagreement(subject_of(sample_of(400))) == []
    assert disagreement(subject_of(sample_of(400, wrong=0.15))) == []
    found = disagreement(subject_of(sample_of(400, wrong=0.55)))
    assert [(one.cause, one.severity) for one in found] == [("neighbours_disagree", "warning")]
    assert "data.columns.label" in found[0].next_step


def test_kinds_that_features_cannot_tell_are_no_noise() -> None:
    assert disagreement(subject_of(sample_of(400, spread=40.0))) == []  # neighbours do not agree among themselves
    assert disagreement(subject_of(sample_of(400, wrong=1.0))) == []


def captioned(rows: int = 400, *, wrong: float = 0.0, seed: int = 1) -> Sample:
    """``sample_of`` without labels, whose captions' features follow the images'; a share of them changed places."""
    generator = np.random.default_rng(seed)
    sample = sample_of(rows, seed=seed)
    texts = sample.image_features @ generator.normal(size=(16, 12)) + 0.1 * generator.normal(size=(rows, 12))
    moved = generator.permutation(rows)[: round(wrong * rows)]
    texts[moved] = texts[np.roll(moved, 1)]
    return replace(sample, labels=None, text_features=texts.astype(np.float32))


def test_captions_that_do_not_go_with_those_of_like_images() -> None:
    assert disagreement(subject_of(captioned())) == []
    found = disagreement(subject_of(captioned(wrong=0.4)))
    assert [(one.cause, one.severity) for one in found] == [("neighbours_disagree", "note")]
    assert found[0].value == pytest.approx(0.3, abs=0.15)  # of four kinds, one in four strangers is of the right one
    unrelated = replace(captioned(), text_features=np.random.default_rng(0).normal(size=(400, 12)))
    assert caption_ranks(unrelated).mean() == pytest.approx(0.5, abs=0.1)
    assert caption_ranks(captioned()).mean() < 0.2
    assert caption_ranks(replace(captioned(), texts=["one", "two"] * 200)) is None


def test_where_nothing_can_be_said() -> None:
    sample = sample_of()
    assert label_noise(sample) is not None  # the control
    assert label_noise(replace(sample, labels=None)) is None
    assert label_noise(replace(sample, image_features=None)) is None
    assert label_noise(replace(sample, image_features=np.full((300, 4), np.nan))) is None
    assert caption_ranks(captioned()) is not None  # the control
    assert caption_ranks(replace(captioned(), text_features=np.full((400, 4), np.nan))) is None
    assert label_noise(replace(sample, labels=["cat"] * len(sample))) is None
    assert label_noise(replace(sample, labels=[str(row) for row in range(len(sample))])) is None
    assert label_noise(replace(sample, labels=[*sample.labels[:100], *[None] * 200])) is None
    assert disagreement(Subject(recipe=subject_of(sample).recipe)) == []
