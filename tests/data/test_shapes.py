"""The built-in scenes: split rules, captions and foils against an independent parser, pictures against their pixels."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.shapes import ArrayImages, load_shapes
from mmcl.data.shapes.scenes import COLOURS, SHAPES, TEXTURES, UNSEEN_COMBINATIONS, Kind, Scene
from mmcl.errors import DataError, ShapeError

GALLERIES = ("validation", "test", "test_seen")
RELATIONS = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (1, -1), "below": (1, 1)}  # axis, sign
OPPOSITES = {frozenset(("left", "right")), frozenset(("above", "below"))}
COUNTS = {"a": 1, "two": 2, "three": 3}


@cache
def shapes(split: str, size: int = 300, seed: int = 0) -> ImageTextDataset:
    return load_shapes(split, size=size, seed=seed)


# An oracle of its own: it knows English words, and nothing of the scenes that captions were made from.


def parse_things(text: str) -> tuple[int, str | None, str, str, str]:
    match = re.fullmatch(r"(a|two|three) (?:(small|large) )?(\w+) (\w+) (\w+)", text)
    assert match, text
    count, size, texture, colour, noun = match.groups()
    plural = {shape + ("es" if shape == "cross" else "s"): shape for shape in SHAPES}
    shape = noun if count == "a" else plural[noun]
    assert (texture in TEXTURES, colour in COLOURS, shape in SHAPES) == (True, True, True), text
    return COUNTS[count], size, texture, colour, shape


@cache
def parse(caption: str) -> tuple:
    """(things, None, background) or (first, (axis, sign), second, background), the first being left or above."""
    background = re.search(r"\ba (plain|checkered|speckled) background\b", caption)
    assert background, caption
    rest = caption.replace(background[0], "")
    rest = " ".join(re.sub(r"\b(there is|there are|a picture of|you see|with|on)\b", "", rest).split())
    for words, (axis, sign) in RELATIONS.items():
        if f" {words} " in rest:
            first, second = (parse_things(part) for part in rest.split(f" {words} "))
            return (first, axis, second, background[1]) if sign < 0 else (second, axis, first, background[1])
    return (parse_things(rest), None, background[1])


def things_of(parsed: tuple) -> list[tuple[int, str | None, str, str, str]]:
    return [part for part in parsed if isinstance(part, tuple)]


def combinations(parsed: tuple) -> list[tuple[str, str]]:
    return [(colour, shape) for _, _, _, colour, shape in things_of(parsed)]


def unseen(parsed: tuple) -> int:
    return sum(combination in UNSEEN_COMBINATIONS for combination in combinations(parsed))


# Which scenes stand where.


def test_same_seed_same_bytes_and_another_seed_others():
    first, again, other = shapes("train", 70), load_shapes("train", size=70), shapes("train", 70, seed=1)
    assert np.array_equal(first.images.pixels, again.images.pixels)
    assert first.table.equals(again.table)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert not np.array_equal(first.images.pixels, other.images.pixels)
    assert first.column("texts") != other.column("texts")


@pytest.mark.parametrize("split", ["train", *GALLERIES])
def test_a_smaller_size_is_a_prefix(split):
    large, small = shapes(split), load_shapes(split, size=65)
    assert small.table.equals(large.table.slice(0, 65))
    assert np.array_equal(small.images.pixels, large.images.pixels[:65])
    assert not np.array_equal(small.images.pixels, large.images.pixels[1:66])


def test_image_size_changes_the_pixels_alone():
    small, large = shapes("test"), load_shapes("test", size=8, image_size=96)
    assert large.images.read(0).shape == (3, 96, 96)
    assert large.table.equals(small.table.slice(0, 8))
    assert load_shapes("test", size=3, image_size=16).images.read(2).shape == (3, 16, 16)


def test_unseen_combinations_are_two_a_colour_and_two_a_shape():
    assert Counter(colour for colour, _ in UNSEEN_COMBINATIONS) == dict.fromkeys(COLOURS, 2)
    assert Counter(shape for _, shape in UNSEEN_COMBINATIONS) == dict.fromkeys(SHAPES, 2)


@pytest.mark.parametrize("seed", [0, 1])
def test_unseen_combinations_stand_in_every_test_scene_and_nowhere_else(seed):
    for split in ("train", "validation", "test_seen"):
        assert {unseen(parse(texts[0])) for texts in shapes(split, seed=seed).column("texts")} == {0}
    assert {unseen(parse(texts[0])) for texts in shapes("test", seed=seed).column("texts")} == {1, 2}


def test_train_holds_every_seen_combination_and_test_every_unseen_one():
    def held(split: str, size: int) -> set[tuple[str, str]]:
        return {c for texts in shapes(split, size).column("texts") for c in combinations(parse(texts[0]))}

    every = {(colour, shape) for colour in COLOURS for shape in SHAPES}
    assert held("train", 1_000) == every - UNSEEN_COMBINATIONS
    assert held("test", 300) >= UNSEEN_COMBINATIONS


def test_no_group_stands_in_two_splits():
    groups = {split: set(shapes(split).column("group")) for split in GALLERIES}
    train = {group for seed in (0, 1) for group in shapes("train", 1_000, seed).column("group")}
    groups["train"] = train
    assert sum(len(held) for held in groups.values()) == len(set.union(*groups.values()))
    # The same split of another seed does share groups: disjoint splits are no accident of a large space.
    assert groups["validation"] & set(shapes("validation", seed=1).column("group"))


@pytest.mark.parametrize("split", GALLERIES)
def test_galleries_hold_each_group_once_and_train_does_not(split):
    assert len(set(shapes(split).column("group"))) == 300
    assert len(set(shapes("train", 1_000).column("group"))) < 1_000


def test_default_sizes():
    assert {split: len(load_shapes(split)) for split in ("test", "test_seen")} == {"test": 500, "test_seen": 500}


def test_progress_ends_at_the_total():
    seen: list[tuple[int, int]] = []
    load_shapes("train", size=100, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(64, 100), (100, 100)]


# What captions and columns say.


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_captions_of_a_group_say_the_same_and_other_groups_say_something_else(split):
    meanings: dict[str, set[tuple]] = {}
    for group, texts in zip(shapes(split, 1_000).column("group"), shapes(split, 1_000).column("texts")):
        assert len(set(texts)) == 3
        meanings.setdefault(group, set()).update(parse(text) for text in texts)
    assert {len(said) for said in meanings.values()} == {1}
    assert len({next(iter(said)) for said in meanings.values()}) == len(meanings) > 100


def test_group_is_the_same_for_a_relation_said_from_either_side():
    star, moon = Kind(1, None, "solid", "red", "star"), Kind(2, None, "dotted", "blue", "moon")
    left = Scene((star, moon), "left", "plain").group
    assert Scene((moon, star), "right", "plain").group == left
    others = {Scene((moon, star), "left", "plain").group, Scene((star, moon), "above", "plain").group}
    assert len(others | {left}) == 3


def test_columns_agree_with_the_captions():
    data = shapes("test")
    for row in range(len(data)):
        parsed = parse(data.texts(row)[0])
        things, background = things_of(parsed), parsed[-1]
        assert data.value("id", row) == f"test-{row:06d}"
        assert data.value("domain", row) == background
        assert data.value("label", row) == (things[0][4] if len(things) == 1 else None)
        words = {word for thing in things for word in thing[1:] if word} | {background}
        assert words <= set(data.value("tags", row)) <= words | {"one", "two", "three"}
        sizes = [thing[1] for thing in things if thing[1]]
        colours = sorted(thing[3] for thing in things)
        total = str(sum(thing[0] for thing in things))
        assert data.value("appearance", row).split() == [total, *sizes, *colours, "on", background]
    assert 0.3 < np.mean([label is None for label in data.column("label")]) < 0.7


def test_vocabulary_is_small_and_captions_are_short():
    captions = [text for texts in shapes("train", 1_000).column("texts") for text in texts]
    assert all(re.fullmatch(r"[a-z]+( [a-z]+){7,19}", text) for text in captions)
    words = {word for text in captions for word in text.split()}
    assert len(words) < 100
    foils = [foil["foil"] for split in GALLERIES for foils in shapes(split).column("foils") for foil in foils]
    assert {word for text in foils for word in text.split()} <= words


def test_a_reader_of_appearance_alone_finds_about_half_of_the_test_scenes():
    appearances = load_shapes("test").column("appearance")
    expected = sum(1 / count for count in Counter(appearances).values() for _ in range(count)) / 500
    assert 0.45 < expected < 0.56


# Foils: false by exactly one thing, and no easier to tell on unseen combinations.


def differences(true: tuple, false: tuple) -> set[str]:
    """Which attributes of which thing differ, with the things in the order in which the captions name them."""
    names = ("count", "size", "texture", "colour", "shape")
    return {
        f"{name} {i}"
        for i, (a, b) in enumerate(zip(things_of(true), things_of(false)))
        for name, x, y in zip(names, a, b)
        if x != y
    }


@pytest.mark.parametrize("split", ["train", *GALLERIES])
def test_foils_are_false_by_exactly_one_thing(split):
    data = shapes(split)
    kinds: Counter[str] = Counter()
    for texts, foils in zip(data.column("texts"), data.column("foils")):
        truth = parse(texts[0])
        for entry in foils:
            kind, caption, foil = entry["kind"], entry["caption"], entry["foil"]
            kinds[kind] += 1
            assert caption in texts
            false = parse(foil)
            assert false != truth
            exchanged = [(a, b) for a, b in zip(caption.split(), foil.split()) if a != b]
            assert len(caption.split()) == len(foil.split())
            if kind == "binding":
                assert differences(truth, false) == {"colour 0", "colour 1"}
                assert exchanged == [exchanged[0], exchanged[0][::-1]]
            elif kind == "relation":
                assert {frozenset(pair) for pair in exchanged} <= OPPOSITES
                assert len(exchanged) == 1
                assert (truth[0], truth[1], truth[2]) == (false[2], false[1], false[0])
            else:
                assert len(exchanged) == 1
                assert len(differences(truth, false)) == 1
                assert next(iter(differences(truth, false))).startswith(kind)
            assert unseen(false) == unseen(truth)
            things = things_of(false)
            if len(things) == 2:  # a scene that could be drawn: two kinds differ in colour and shape
                assert things[0][3] != things[1][3]
                assert things[0][4] != things[1][4]
    assert set(kinds) == {"colour", "shape", "texture", "count", "relation", "binding"}
    assert min(kinds.values()) > 40


def test_binding_foils_are_missing_only_where_the_swap_would_change_the_number_of_unseen_combinations():
    data = shapes("test")
    without = [
        parse(texts[0])
        for texts, foils in zip(data.column("texts"), data.column("foils"))
        if "binding" not in {foil["kind"] for foil in foils}
    ]
    pairs = [things_of(parsed) for parsed in without if len(things_of(parsed)) == 2]
    assert pairs
    for first, second in pairs:
        swapped = {(second[3], first[4]), (first[3], second[4])}
        assert len(swapped & UNSEEN_COMBINATIONS) != len({first[3:], second[3:]} & UNSEEN_COMBINATIONS)


# Negatives: false in the true captions' words.


@pytest.mark.parametrize("split", ["train", *GALLERIES])
def test_negatives_are_false_in_the_words_of_a_true_caption(split):
    data = shapes(split, 1_000 if split == "train" else 300)
    kinds: Counter[str] = Counter()
    for texts, negatives in zip(data.column("texts"), data.column("negatives")):
        truth = parse(texts[0])
        assert len(set(negatives)) == len(negatives)
        for negative in negatives:
            false = parse(negative)
            assert false != truth
            assert unseen(false) == unseen(truth)
            # One word is another, or two have changed places, in the words of one of the row's own captions.
            exchanged = min(
                ([(a, b) for a, b in zip(text.split(), negative.split()) if a != b] for text in texts), key=len
            )
            said = texts[[len(text.split()) for text in texts].index(len(negative.split()))]
            assert len(said.split()) == len(negative.split())
            if {frozenset(pair) for pair in exchanged} <= OPPOSITES:
                kinds["relation"] += 1
                assert len(exchanged) == 1
                assert (truth[0], truth[1], truth[2]) == (false[2], false[1], false[0])
            elif len(exchanged) == 2:
                kinds["binding"] += 1
                assert exchanged[0] == exchanged[1][::-1]
                assert differences(truth, false) == {"colour 0", "colour 1"}
            else:
                assert len(exchanged) == 1
                changed = differences(truth, false)
                assert len(changed) == 1
                kinds[next(iter(changed)).split()[0]] += 1
    assert set(kinds) == {"colour", "shape", "texture", "count", "relation", "binding"}
    pairs = sum(label is None for label in data.column("label"))
    assert kinds["relation"] == 2 * pairs
    assert kinds["binding"] > 0.8 * pairs  # there is none where the exchange changes how many are unseen
    assert min(kinds[kind] for kind in ("colour", "shape", "texture")) > 0.4 * len(data)


def test_negatives_cannot_be_told_from_captions_by_their_wording():
    """Every word stands about as often in negatives as in true captions: of scenes of two kinds, whose captions
    negatives draw on unequally, and of one."""
    data = shapes("train", 1_000)
    for is_pair in (False, True):
        rows = [row for row in range(len(data)) if (data.value("label", row) is None) == is_pair]
        true = Counter(word for row in rows for text in data.texts(row) for word in text.split())
        false = Counter(word for row in rows for text in data.value("negatives", row) for word in text.split())
        assert true.keys() == false.keys()
        ratio = sum(false.values()) / sum(true.values())
        frequent = [word for word, count in true.items() if count > 300]
        assert len(frequent) > 12
        for word in set(frequent) - {"two", "three", "a"}:  # counts of one are never exchanged
            assert 0.8 < false[word] / true[word] / ratio < 1.25, word


def test_negatives_are_drawn_beside_everything_else():
    """What was drawn before there were negatives is what it was."""
    data = shapes("train", 70)
    told = [[data.value(name, row) for name in ("texts", "foils", "group", "tags")] for row in range(70)]
    assert hashlib.sha256(repr(told).encode()).hexdigest()[:16] == "b5ac50ef0fe9952c"
    taught = {negative for negatives in data.column("negatives") for negative in negatives}
    judged = {foil["foil"] for foils in data.column("foils") for foil in foils}
    assert taught - judged
    assert judged - taught


# Pictures: what captions say, read off the pixels without knowing how they were drawn.

HUES = {"red": 0, "orange": 30, "yellow": 54, "green": 127, "cyan": 184, "blue": 231, "purple": 280, "pink": 331}


def colour_masks(image: torch.Tensor) -> dict[str, np.ndarray]:
    """(h, w) bool a colour: pixels of strong colour, by the nearest hue."""
    r, g, b = image.numpy().astype(float)
    high, low = np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)
    chroma = np.maximum(high - low, 1e-9)
    hue = np.select([high == r, high == g], [(g - b) / chroma % 6, (b - r) / chroma + 2], (r - g) / chroma + 4) * 60
    distance = np.stack([np.abs((hue - angle + 180) % 360 - 180) for angle in HUES.values()])
    nearest = distance.argmin(0)
    return {name: (nearest == i) & (chroma > 75) for i, name in enumerate(HUES)}


def components(mask: np.ndarray) -> list[np.ndarray]:
    """The 8-connected parts of four pixels or more, each (n, 2) of rows and columns."""
    left, parts = {tuple(p) for p in np.argwhere(mask)}, []
    while left:
        part, stack = [], [left.pop()]
        while stack:
            y, x = stack.pop()
            part.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack.extend(near)
        if len(part) >= 4:
            parts.append(np.array(part))
    return parts


def test_pictures_hold_the_named_colours_and_no_others():
    data = shapes("test")
    for row in range(len(data)):
        named = {thing[3] for thing in things_of(parse(data.texts(row)[0]))}
        area = {colour: int(mask.sum()) for colour, mask in colour_masks(data.images.read(row)).items()}
        assert min(area[colour] for colour in named) >= 12, (row, area)
        assert sum(area[colour] for colour in COLOURS if colour not in named) <= 6, (row, area, named)


def test_counts_and_relations_are_true_of_the_pixels():
    data = shapes("validation")
    counted, related = 0, 0
    for row in range(len(data)):
        parsed = parse(data.texts(row)[0])
        masks = colour_masks(data.images.read(row))
        for count, _, texture, colour, _ in things_of(parsed):
            if texture in ("solid", "hollow"):
                assert len(components(masks[colour])) == count, (row, data.texts(row)[0])
                counted += 1
        if parsed[1] is not None:
            first, axis, second, _ = parsed
            # Rows are y and columns x: axis 0 of the captions is x. Every pixel of one lies before every of the other.
            spans = [np.argwhere(masks[thing[3]])[:, 1 - axis] for thing in (first, second)]
            assert spans[0].max() + 2 <= spans[1].min(), (row, data.texts(row)[0])
            centres = [np.argwhere(masks[thing[3]]).mean(0) for thing in (first, second)]
            assert abs(centres[0] - centres[1])[axis] < abs(centres[0] - centres[1])[1 - axis]
            related += 1
    assert counted > 100
    assert related > 100


def test_small_objects_are_smaller_than_large_ones_of_their_shape():
    data, extents = shapes("train", 1_000), {}
    for row in range(len(data)):
        parsed = parse(data.texts(row)[0])
        count, size, texture, colour, shape = parsed[0]
        if parsed[1] is None and count == 1 and texture in ("solid", "hollow"):
            pixels = np.argwhere(colour_masks(data.images.read(row))[colour])
            extents.setdefault((shape, size), []).append(np.ptp(pixels, axis=0).max() + 1)
    for shape in SHAPES:
        assert max(extents[shape, "small"]) < min(extents[shape, "large"]) - 2, shape


def test_objects_are_whole():
    """Nothing of strong colour touches the frame."""
    data = shapes("train", 1_000)
    border = torch.ones(64, 64, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    touching = 0
    for row in range(300):
        masks = colour_masks(data.images.read(row))
        named = {thing[3] for thing in things_of(parse(data.texts(row)[0]))}
        touching += sum(int(masks[colour][border.numpy()].sum()) for colour in named)
    assert touching == 0


def test_textures_are_visible_in_small_and_large_objects():
    """By the shares of coloured and of dark pixels in the middle of single objects."""
    data, shares = shapes("train", 1_000), {}
    for row in range(len(data)):
        parsed = parse(data.texts(row)[0])
        count, size, texture, colour, shape = parsed[0]
        if parsed[1] is None and count == 1 and shape in ("circle", "square", "heart", "diamond"):
            image, half = data.images.read(row), 2 if size == "small" else 4
            coloured = colour_masks(image)[colour]
            y, x = (np.argwhere(coloured).max(0) + np.argwhere(coloured).min(0)) // 2
            middle = slice(y - half, y + half + 1), slice(x - half, x + half + 1)
            dark = image.amax(0)[middle].float() < 120
            shares.setdefault((texture, size), []).append((coloured[middle].mean(), float(dark.float().mean())))
    for size in ("small", "large"):
        solid, striped, dotted, hollow = (np.array(shares[texture, size]) for texture in TEXTURES)
        assert solid[:, 0].min() > 0.99
        assert hollow[:, 0].max() < 0.2
        assert solid[:, 1].max() < 0.01 < 0.03 < dotted[:, 1].min()
        assert dotted[:, 1].mean() + 0.1 < striped[:, 1].mean() < 0.6
        assert striped[:, 0].min() > 0.3


# The image store, and errors.


def test_array_images():
    images = shapes("test").images
    many = images.read_many([5, 0, 5])
    assert many.dtype == torch.uint8
    assert many.shape == (3, 3, 64, 64)
    assert torch.equal(many[0], images.read(5))
    assert torch.equal(many[0], many[2])
    assert not torch.equal(many[0], many[1])
    assert images.read_many([]).shape == (0, 3, 64, 64)
    assert torch.equal(images.read(5), torch.from_numpy(images.pixels[5].copy()).permute(2, 0, 1))

    chosen = images.select(np.array([7, 5])).select(np.array([1]))
    assert len(chosen) == 1
    assert torch.equal(chosen.read(0), images.read(5))
    assert chosen.describe(0) == "shapes:test, image 5"
    assert chosen.fingerprint() == images.select(np.array([5])).fingerprint() != images.fingerprint()
    assert shapes("test").select([3]).texts(0) == shapes("test").texts(3)


def test_a_read_image_is_a_copy():
    images = ArrayImages(np.zeros((2, 4, 5, 3), dtype=np.uint8), name="two")
    images.read(0).fill_(9)
    assert images.read(0).sum() == 0
    assert images.read(0).shape == (3, 4, 5)


@pytest.mark.parametrize("row", [-1, 2])
def test_rows_outside_the_store_are_refused(row):
    with pytest.raises(DataError, match=f"rows 0 to 1, got {row}"):
        ArrayImages(np.zeros((2, 4, 4, 3), dtype=np.uint8), name="two").read(row)


@pytest.mark.parametrize("pixels", [np.zeros((2, 4, 4, 3)), np.zeros((2, 3, 4, 4), dtype=np.uint8)])
def test_other_arrays_are_refused(pixels):
    with pytest.raises(ShapeError, match=r"uint8 \(n, h, w, 3\), got"):
        ArrayImages(pixels, name="wrong")


def test_errors_name_what_was_found_and_wanted():
    with pytest.raises(DataError, match="no split 'valid'; it has train, validation, test, test_seen"):
        load_shapes("valid")
    with pytest.raises(DataError, match="at least 1, got 0"):
        load_shapes("test", size=0)
    with pytest.raises(DataError, match="at least 16 pixels, got 8"):
        load_shapes("test", size=1, image_size=8)
