"""What a scene of the `shapes` data set holds, how scenes are drawn by lot, and which of them each split may use."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from random import Random
from typing import TypeVar

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "moon")
TEXTURES = ("solid", "striped", "dotted", "hollow")
SIZES = ("small", "large")
BACKGROUNDS = ("plain", "checkered", "speckled")
RELATIONS = ("left", "above")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
SPLITS = ("train", "validation", "test", "test_seen")

# Colour i is never seen with shape i nor with shape i + 3: two shapes a colour and two colours a shape, so that on the
# unseen combinations a colour does not give its shape away, nor a shape its colour.
UNSEEN_COMBINATIONS = frozenset(
    (colour, SHAPES[(i + step) % len(SHAPES)]) for i, colour in enumerate(COLOURS) for step in (0, 3)
)
COMBINATIONS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
_BUCKETS = {0: "validation", 1: "test_seen"}  # of eight; the other six are train's
_PAIR_COUNTS = ((1, 1), (1, 1), (1, 2), (2, 1))

T = TypeVar("T")
Combination = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Kind:
    """One, two or three alike objects. ``size`` is None in scenes of two kinds, where no caption speaks of it."""

    count: int
    size: str | None
    texture: str
    colour: str
    shape: str

    @property
    def unseen(self) -> bool:
        """Whether colour and shape are a combination that no training scene holds."""
        return (self.colour, self.shape) in UNSEEN_COMBINATIONS


@dataclass(frozen=True, slots=True)
class Scene:
    """One kind of object, or two kinds and the relation of the first to the second, before a background.

    Attributes:
        kinds: one or two; two kinds differ in colour and in shape.
        relation: "left", "right", "above" or "below": where the first kind stands, seen from the second.
        background: one of ``BACKGROUNDS``.
    """

    kinds: tuple[Kind, ...]
    relation: str | None
    background: str

    @property
    def group(self) -> str:
        """The description in one canonical form: equal where, and only where, the same captions are true."""
        kinds, relation = self.kinds, self.relation
        if relation is not None and relation not in RELATIONS:
            kinds, relation = kinds[::-1], OPPOSITE[relation]
        things = [" ".join(filter(None, (str(k.count), k.size, k.texture, k.colour, k.shape))) for k in kinds]
        return f", {relation}: ".join(things) + f", on {self.background}"

    @property
    def appearance(self) -> str:
        """All that colours, the number of objects, their size and the background tell; not what belongs to what."""
        count = sum(kind.count for kind in self.kinds)
        colours = sorted(kind.colour for kind in self.kinds)
        return " ".join(filter(None, (str(count), self.kinds[0].size, *colours, "on", self.background)))


def pick(rng: Random, items: tuple[T, ...]) -> T:
    """One of the items. Only ``Random.random`` is promised to give the same numbers in every Python version."""
    return items[int(rng.random() * len(items))]


def unseen_count(combinations: tuple[Combination, ...]) -> int:
    """How many of the (colour, shape) combinations are unseen ones."""
    return sum(combination in UNSEEN_COMBINATIONS for combination in combinations)


def swapped(first: Combination, second: Combination) -> tuple[Combination, Combination]:
    """The two combinations with their colours exchanged."""
    return (second[0], first[1]), (first[0], second[1])


def _pairs(*, unseen: bool) -> tuple[tuple[Combination, Combination], ...]:
    """The ordered pairs of combinations, different in both, that a split of unseen or of seen combinations may hold.

    Unseen: both are unseen, or one is and exchanging the colours gives one unseen combination again, so that counting
    unseen combinations does not tell the scene from its binding foil.
    """
    pairs = []
    for first in COMBINATIONS:
        for second in COMBINATIONS:
            if first[0] == second[0] or first[1] == second[1]:
                continue
            count = unseen_count((first, second))
            balanced = count == unseen_count(swapped(first, second))
            if (count == 2 or (count == 1 and balanced)) if unseen else count == 0:
                pairs.append((first, second))
    return tuple(pairs)


_PAIRS = {unseen: _pairs(unseen=unseen) for unseen in (False, True)}
_SINGLES = {unseen: tuple(c for c in COMBINATIONS if (c in UNSEEN_COMBINATIONS) == unseen) for unseen in (False, True)}


def split_of(scene: Scene) -> str:
    """The one split that may hold the scene: by its combinations, then by the hash of its group.

    A scene with an unseen combination belongs to ``test``. Of the others' groups, one in eight belongs to
    ``validation``, one in eight to ``test_seen`` and the rest to ``train``. So no group stands in two splits, whatever
    their seeds and sizes.
    """
    if any(kind.unseen for kind in scene.kinds):
        return "test"
    bucket = hashlib.blake2b(scene.group.encode(), digest_size=1).digest()[0] % 8
    return _BUCKETS.get(bucket, "train")


def sample_scene(rng: Random, *, split: str) -> Scene:
    """A scene of the split: half of them hold one kind of object (1 to 3 of it), half two kinds (2 or 3 in all)."""
    unseen = split == "test"
    while True:
        background = pick(rng, BACKGROUNDS)
        if rng.random() < 0.5:
            colour, shape = pick(rng, _SINGLES[unseen])
            kind = Kind(pick(rng, (1, 2, 3)), pick(rng, SIZES), pick(rng, TEXTURES), colour, shape)
            scene = Scene((kind,), None, background)
        else:
            counts = pick(rng, _PAIR_COUNTS)
            combinations = pick(rng, _PAIRS[unseen])
            kinds = tuple(Kind(n, None, pick(rng, TEXTURES), *c) for n, c in zip(counts, combinations))
            scene = Scene(kinds, pick(rng, RELATIONS), background)
        if split_of(scene) == split:
            return scene
