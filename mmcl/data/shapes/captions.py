"""Captions of scenes: several phrasings that say the same, and foils that are false by one exchange."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from mmcl.data.shapes.scenes import (
    COLOURS,
    COMBINATIONS,
    OPPOSITE,
    SHAPES,
    TEXTURES,
    UNSEEN_COMBINATIONS,
    Kind,
    Scene,
    swapped,
    unseen_count,
)

Exchange = tuple[int, str, object]  # which kind, its attribute, the other value

FOIL_KINDS = ("colour", "shape", "texture", "count", "relation", "binding")
_COMPOSED = ("relation", "binding")  # what only a model that knows which word belongs to which can tell
_COUNT_WORDS = {1: "a", 2: "two", 3: "three"}
_RELATION_WORDS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
_TEMPLATES = (
    "{things} on a {background} background",
    "there {verb} {things} on a {background} background",
    "a {background} background with {things}",
    "a picture of {things} on a {background} background",
    "on a {background} background you see {things}",
)


class Phrasing(NamedTuple):
    """A template, and for two kinds which is named first: ``converse`` says "B below A" for "A above B"."""

    template: str
    converse: bool


_SINGLE_PHRASINGS = tuple(Phrasing(template, False) for template in _TEMPLATES)
_PAIR_PHRASINGS = tuple(Phrasing(template, converse) for template in _TEMPLATES for converse in (False, True))

# The colours (shapes) that leave a combination unseen where it is unseen, and seen where it is seen.
_COLOURS_AS_SEEN = {
    (colour, shape): tuple(
        c for c in COLOURS if ((c, shape) in UNSEEN_COMBINATIONS) == ((colour, shape) in UNSEEN_COMBINATIONS)
    )
    for colour, shape in COMBINATIONS
}
_SHAPES_AS_SEEN = {
    (colour, shape): tuple(
        s for s in SHAPES if ((colour, s) in UNSEEN_COMBINATIONS) == ((colour, shape) in UNSEEN_COMBINATIONS)
    )
    for colour, shape in COMBINATIONS
}


def _plural(shape: str) -> str:
    return shape + ("es" if shape == "cross" else "s")


def _noun_phrase(kind: Kind) -> str:
    size = f"{kind.size} " if kind.size else ""
    shape = kind.shape if kind.count == 1 else _plural(kind.shape)
    return f"{_COUNT_WORDS[kind.count]} {size}{kind.texture} {kind.colour} {shape}"


def caption(scene: Scene, phrasing: Phrasing) -> str:
    """The scene in words, 9 to 20 of them: every attribute of it, whatever the phrasing.

    Example:
        >>> scene = Scene((Kind(2, "small", "striped", "red", "star"),), None, "plain")
        >>> caption(scene, Phrasing("{things} on a {background} background", converse=False))
        'two small striped red stars on a plain background'
    """
    kinds, relation = scene.kinds, scene.relation
    if relation is not None and phrasing.converse:
        kinds, relation = kinds[::-1], OPPOSITE[relation]
    things = _noun_phrase(kinds[0])
    if relation is not None:
        things = f"{things} {_RELATION_WORDS[relation]} {_noun_phrase(kinds[1])}"
    verb = "is" if kinds[0].count == 1 else "are"
    return phrasing.template.format(things=things, verb=verb, background=scene.background)


def sample_phrasings(rng: Random, scene: Scene, count: int = 3) -> list[Phrasing]:
    """``count`` different phrasings of the scene."""
    left = list(_SINGLE_PHRASINGS if scene.relation is None else _PAIR_PHRASINGS)
    return [left.pop(int(rng.random() * len(left))) for _ in range(count)]


def _with(scene: Scene, index: int, attribute: str, value: object) -> Scene:
    kinds = list(scene.kinds)
    kinds[index] = _exchanged(kinds[index], attribute, value)
    return Scene(tuple(kinds), scene.relation, scene.background)


def _exchanged(kind: Kind, attribute: str, value: object) -> Kind:
    """``dataclasses.replace``, which takes several times as long."""
    values = {"count": kind.count, "size": kind.size, "texture": kind.texture}
    values |= {"colour": kind.colour, "shape": kind.shape, attribute: value}
    return Kind(**values)


def _colour_exchanges(scene: Scene) -> list[Exchange]:
    taken = {kind.colour for kind in scene.kinds}
    return [
        (index, "colour", colour)
        for index, kind in enumerate(scene.kinds)
        for colour in _COLOURS_AS_SEEN[kind.colour, kind.shape]
        if colour not in taken
    ]


def _shape_exchanges(scene: Scene) -> list[Exchange]:
    taken = {kind.shape for kind in scene.kinds}
    return [
        (index, "shape", shape)
        for index, kind in enumerate(scene.kinds)
        for shape in _SHAPES_AS_SEEN[kind.colour, kind.shape]
        if shape not in taken
    ]


def _texture_exchanges(scene: Scene) -> list[Exchange]:
    return [
        (index, "texture", texture)
        for index, kind in enumerate(scene.kinds)
        for texture in TEXTURES
        if texture != kind.texture
    ]


def _count_exchanges(scene: Scene) -> list[Exchange]:
    """Two for three and three for two, of one kind: other counts would change a second word, or are never drawn."""
    count = scene.kinds[0].count
    return [(0, "count", 5 - count)] if scene.relation is None and count > 1 else []


_EXCHANGES: dict[str, Callable[[Scene], list[Exchange]]] = {
    "colour": _colour_exchanges,
    "shape": _shape_exchanges,
    "texture": _texture_exchanges,
    "count": _count_exchanges,
}


def _colours_swapped(scene: Scene) -> Scene | None:
    """The scene with its two colours exchanged, where that leaves as many unseen combinations as there were."""
    first, second = scene.kinds
    combinations = (first.colour, first.shape), (second.colour, second.shape)
    if unseen_count(combinations) != unseen_count(swapped(*combinations)):
        return None
    kinds = (_exchanged(first, "colour", second.colour), _exchanged(second, "colour", first.colour))
    return Scene(kinds, scene.relation, scene.background)


def foil_scene(rng: Random, scene: Scene, kind: str) -> Scene | None:
    """A scene that differs from this one in exactly one thing of the kind given; None where there is none.

    It is a scene that the data set could hold, with as many unseen combinations as the true one, so that knowing which
    combinations training left out does not tell the two apart. There is none for the count of a single object or of
    two kinds, for relation and binding of one kind, and for binding where exchanging the colours would change the
    number of unseen combinations.

    Args:
        rng: which of the possible scenes it is.
        scene: the true scene.
        kind: one of ``FOIL_KINDS``.
    """
    if kind in _EXCHANGES:
        exchanges = _EXCHANGES[kind](scene)
        return _with(scene, *exchanges[int(rng.random() * len(exchanges))]) if exchanges else None
    if scene.relation is None:
        return None
    if kind == "binding":
        return _colours_swapped(scene)
    return Scene(scene.kinds, OPPOSITE[scene.relation], scene.background)


def sample_foils(rng: Random, scene: Scene, phrasings: list[Phrasing]) -> list[dict[str, str]]:
    """One foil of each kind that the scene allows, as ``{"kind", "caption", "foil"}``.

    ``caption`` is the scene in one of the phrasings and ``foil`` a false scene in the same one: one word is another
    (binding: the two colours have changed places). Captions count exactly, so "two" is false of three.
    """
    foils = []
    for kind in FOIL_KINDS:
        false = foil_scene(rng, scene, kind)
        if false is not None:
            phrasing = phrasings[int(rng.random() * len(phrasings))]
            foils.append({"kind": kind, "caption": caption(scene, phrasing), "foil": caption(false, phrasing)})
    return foils


def sample_negatives(rng: Random, scene: Scene, phrasings: list[Phrasing]) -> list[str]:
    """False captions to train against, each a true caption of the scene but for one exchange (see ``foil_scene``).

    Two kinds of object: the relation turned round and the colours exchanged, in two phrasings each, and one exchange of
    a colour, a shape or a texture. One kind: one exchange of each kind that the scene allows. They are phrased as the
    true captions are, so that words alone do not give them away.

    Args:
        rng: a generator of its own: what else is drawn of the scene does not change with it.
        scene: the true scene.
        phrasings: of the row's true captions, at least two.

    Example:
        >>> scene = Scene((Kind(2, "small", "striped", "red", "star"),), None, "plain")
        >>> len(sample_negatives(Random(0), scene, sample_phrasings(Random(0), scene)))
        4
    """
    if scene.relation is None:
        return [_in_one_of(rng, phrasings, false) for kind in _EXCHANGES if (false := foil_scene(rng, scene, kind))]
    captions = []
    for kind in _COMPOSED:
        false = foil_scene(rng, scene, kind)
        if false is not None:
            left_out = int(rng.random() * len(phrasings))
            captions += [caption(false, said) for i, said in enumerate(phrasings) if i != left_out][:2]
    kinds = ("colour", "shape", "texture")
    false = foil_scene(rng, scene, kinds[int(rng.random() * len(kinds))])
    return captions if false is None else [*captions, _in_one_of(rng, phrasings, false)]


def _in_one_of(rng: Random, phrasings: list[Phrasing], scene: Scene) -> str:
    return caption(scene, phrasings[int(rng.random() * len(phrasings))])
