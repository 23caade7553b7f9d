"""Whether images and captions belong together: shuffled, in part, merely hard, or sound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmcl.config import recipe_from_tree
from mmcl.doctor.examination.agreement import fit_of, measure_agreement, pixel_features, word_features
from mmcl.doctor.examination.pairing import easy_rows, pairs, strange_share
from mmcl.doctor.examination.subject import Sample, Subject

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 30),
    "blue": (30, 30, 220),
    "grey": (120, 120, 120),
    "yellow": (220, 200, 30),
    "pink": (230, 90, 180),
    "cyan": (30, 200, 200),
    "white": (245, 245, 245),
}
PLACES = {"first": 0, "second": 1, "third": 2, "last": 3}


def drawn(number: int, *, seed: int, told: float = 1.0) -> tuple[list[torch.Tensor], list[str]]:
    """Pictures of a bar in a colour at a place, with noise; ``told`` of the captions say so, others say little."""
    generator = np.random.default_rng(seed)
    images, texts = [], []
    for row in range(number):
        colour, place = generator.choice(list(COLOURS)), generator.choice(list(PLACES))
        picture = generator.integers(0, 90, (3, 24, 24))
        picture[:, :, 6 * PLACES[place] : 6 * PLACES[place] + 6] = np.array(COLOURS[colour])[:, None, None]
        images.append(torch.from_numpy(picture.clip(0, 255).astype(np.uint8)))
        said = f"a {colour} bar at the {place} place" if generator.random() < told else "something seen somewhere"
        texts.append(f"{said}, number {row}")
    return images, texts


def subject_of(images: list[torch.Tensor], texts: list[str]) -> Subject:
    sample = Sample(texts, np.arange(len(texts)), images, pixel_features(images))
    return Subject(recipe=recipe_from_tree({"data": {"path": "shapes"}}, source="test"), rows=len(texts), train=sample)


def shuffled(texts: list[str], share: float, seed: int = 0) -> list[str]:
    chosen = np.random.default_rng(seed).permutation(len(texts))[: round(share * len(texts))]
    changed = np.array(texts, dtype=object)
    changed[chosen] = changed[np.roll(chosen, 1)]
    return changed.tolist()


def test_fit_against_a_loop() -> None:
    generator = np.random.default_rng(0)
    scores, groups = generator.normal(size=(9, 9)), np.array([0, 0, 1, 2, 3, 3, 4, 5, 6])
    ranks = []
    for row in range(9):
        others = [scores[row, column] for column in range(9) if groups[column] != groups[row]]
        ranks.append(sum(other > scores[row, row] for other in others) / len(others))
    found = fit_of(scores, groups)
    np.testing.assert_allclose(found.ranks, ranks)
    assert found.auc == pytest.approx(1 - np.mean(ranks))
    assert found.recall == pytest.approx(np.mean(np.array(ranks) == 0))
    assert fit_of(scores, np.arange(9)).auc != pytest.approx(found.auc)  # groups count


def test_fit_where_all_scores_tie_is_chance() -> None:
    assert fit_of(np.ones((8, 8)), np.arange(8)).auc == 0.5
    assert fit_of(np.ones((8, 8)), np.zeros(8, dtype=int)).z == 0


def test_agreement_is_found_and_is_gone_when_shuffled() -> None:
    images, texts = drawn(160, seed=0)
    pixels, groups = pixel_features(images), np.arange(160)
    sound = measure_agreement(pixels, word_features(texts), groups)
    mixed = measure_agreement(pixels, word_features(shuffled(texts, 1.0)), groups)
    assert sound.p_value == 0.001
    assert sound.fit.auc > 0.8
    assert mixed.p_value > 0.01
    assert abs(mixed.fit.auc - 0.5) < 0.08


def test_p_values_of_unrelated_sides_are_even() -> None:
    values = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        one, other = generator.normal(size=(2, 60, 8))
        values.append(measure_agreement(one, other, np.arange(60), seed=seed).p_value)
    assert 0.3 < np.mean(values) < 0.7
    assert min(values) > 0.002


@pytest.mark.parametrize("image", [np.ones((60, 4)), np.zeros((60, 0))])
def test_nothing_to_measure(image: np.ndarray) -> None:
    text = np.random.default_rng(0).normal(size=(60, 4))
    assert measure_agreement(image, text, np.arange(60)) is None
    assert measure_agreement(text, image, np.arange(60)) is None
    assert measure_agreement(text[:20], text[:20], np.arange(20)) is None  # too few rows


def test_word_features_leave_out_what_says_nothing() -> None:
    found = word_features(["a dog", "a cat", "a dog", "a cat"])
    assert found.shape == (4, 2)
    assert word_features(["...", "!"]).shape == (2, 0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_the_share_of_strangers(share: float) -> None:
    generator = np.random.default_rng(1)
    ranks = np.where(generator.random(4000) < share, generator.random(4000), generator.random(4000) * 0.05)
    found = strange_share(ranks)
    assert found.value == pytest.approx(share, abs=3 * found.error)


def test_easy_rows_are_sure_and_usual() -> None:
    images, texts = drawn(160, seed=2)
    found = measure_agreement(pixel_features(images), word_features(texts), np.arange(160))
    rows = easy_rows(found)
    assert 0.2 <= len(rows) / 160 <= 0.4
    assert found.confident[rows].mean() > found.confident.mean()


def test_pairs_shuffled_in_part_and_sound() -> None:
    images, texts = drawn(400, seed=3)
    assert pairs(subject_of(images, texts)) == []
    whole = pairs(subject_of(images, shuffled(texts, 1.0)))
    assert [(one.cause, one.severity) for one in whole] == [("pairs_shuffled", "fault")]
    part = pairs(subject_of(images, shuffled(texts, 0.4)))
    assert [one.cause for one in part] == ["pairs_partly_shuffled"]
    assert part[0].value == pytest.approx(0.4, abs=0.15)


def test_hard_pairs_are_not_shuffled_pairs() -> None:
    # A third of the captions says what is to be seen, the others say nothing of it.
    found = pairs(subject_of(*drawn(400, seed=4, told=0.35)))
    assert "pairs_shuffled" not in [one.cause for one in found]


def test_rows_with_twins_are_not_judged_in_part_by_plain_figures() -> None:
    images, texts = drawn(200, seed=3)
    strange = subject_of(images, shuffled(texts, 0.4))
    assert [found.cause for found in pairs(strange)] == ["pairs_partly_shuffled"]  # the control
    twins = replace(strange.train, groups=np.arange(200) // 2)
    assert pairs(replace(strange, train=twins)) == []
