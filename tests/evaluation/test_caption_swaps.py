"""`swap_caption` and `make_foils`: captions made false by rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from mmcl.errors import ConfigError
from mmcl.evaluation.compositionality import caption_swaps
from mmcl.evaluation.compositionality.caption_swaps import SWAP_KINDS, make_foils, swap_caption


@pytest.mark.parametrize(
    ("text", "kind", "possible"),
    [
        ("a small dog", "attribute", {"a large dog"}),
        ("A young man", "attribute", {"An old man"}),
        ("an empty, dry bed", "attribute", {"a full, dry bed", "an empty, wet bed"}),
        ("an old man", "attribute", {"a young man"}),
        ("two dogs", "count", {"three dogs"}),
        ("Three dogs", "count", {"Two dogs", "Four dogs"}),
        ("9 dogs", "count", {"8 dogs", "10 dogs"}),
        ("twelve eggs", "count", {"eleven eggs"}),
        ("a cup to the left of a box", "relation", {"a cup to the right of a box"}),
        ("a cat IN FRONT OF a box", "relation", {"a cat BEHIND a box"}),
        ("a cat on top of a box", "relation", {"a cat underneath a box"}),
        ("a red cup and a blue plate", "swap", {"a blue cup and a red plate"}),
        ("Red cup, small blue plate", "swap", {"Blue cup, small red plate"}),
        ("two cats and three dogs", "swap", {"three cats and two dogs"}),
        ("an open box on a closed one", "swap", {"a closed box on an open one"}),
    ],
)
def test_what_is_exchanged(text: str, kind: str, possible: set[str]) -> None:
    found = {swap_caption(text, kind, seed=seed) for seed in range(60)}
    assert found == possible


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a dog", "attribute"),
        ("an orange", "attribute"),  # the fruit
        ("a blackbird, redder than red-hot", "attribute"),  # no word by itself
        ("a dog and one cat", "count"),
        ("at 12:30, 3.5 m, 50%, 1990s, no. 1/2", "count"),
        ("overall understanding", "relation"),
        ("a red and blue flag", "swap"),  # the other order says the same
        ("red, blue", "swap"),
        ("a red cup on a red plate", "swap"),
        ("маленькая красная звезда", "attribute"),
        ("", "attribute"),
    ],
)
def test_what_is_left_alone(text: str, kind: str) -> None:
    assert {swap_caption(text, kind, seed=seed) for seed in range(20)} == {None}


def test_colours_change_to_one_that_is_not_there() -> None:
    text = "a red cup on a grey table"
    found = {swap_caption(text, "attribute", seed=seed) for seed in range(300)}
    assert len(found) == 2 * 9
    for foil in found:
        assert foil.count("red") + foil.count("grey") == 1
        assert sum(a != b for a, b in zip(text.split(), foil.split())) in (1, 2)  # "an orange"
    assert "an orange cup" in " ".join(found)
    every = " ".join(f"{colour} x" for colour in caption_swaps._COLOURS)
    assert swap_caption(every, "attribute") is None


def test_equal_captions_get_equal_foils() -> None:
    foils = {swap_caption("a red cup left of two blue plates", kind, seed=3) for kind in SWAP_KINDS for _ in range(5)}
    assert len(foils) == 4


def test_foils_of_a_data_set(make_dataset: Callable) -> None:
    texts = [["two red cups"], ["two red cups", "three red cups"], ["a dog"]]
    cells, dropped = make_foils(make_dataset(texts))
    # In the second row "two" and "three" are both true; in the first, "three red cups" is false.
    kinds = Counter(foil["kind"] for cell in cells for foil in cell)
    assert dropped in (1, 2)
    assert kinds["count"] + dropped == 3
    assert kinds["attribute"] == 3
    assert cells[2] == []
    grouped, more = make_foils(make_dataset(texts, group=["g", "g", "h"]))
    assert more == dropped + 1
    assert len(grouped[0]) == len(cells[0]) - 1
    for row, cell in enumerate(cells):
        for foil in cell:
            assert foil["caption"] in texts[row]
            assert foil["foil"] not in texts[row]


def test_unknown_kind() -> None:
    with pytest.raises(ConfigError, match="there are attribute, count"):
        swap_caption("a", "negation")
