"""Where the objects of a scene stand and what no caption speaks of: exact sizes, tilts, shades, background tones."""

from __future__ import annotations

import math
from random import Random
from typing import NamedTuple

from mmcl.data.shapes.scenes import Kind, Scene

# Radii in parts of the image's side. The ranges of small and large lie far apart; kinds whose size no caption
# mentions range over both.
_RADIUS = {"small": (0.104, 0.116), "large": (0.158, 0.172), None: (0.115, 0.155)}
REACH = 1.25  # no shape reaches farther than this many radii
_GAP = 0.035  # between objects, and to the frame


class Placed(NamedTuple):
    """One object: positions and radius in parts of the image's side, angles in radians, ``shade`` a factor."""

    kind: Kind
    x: float
    y: float
    radius: float
    tilt: float
    texture_angle: float
    shade: float


class Backdrop(NamedTuple):
    """The background's look: grey level and tint (0 to 255), slope across the image, offset of its pattern."""

    kind: str
    tone: tuple[float, float, float]
    slope: tuple[float, float]
    offset: tuple[float, float]


class Picture(NamedTuple):
    """Everything that drawing needs, at any image size."""

    backdrop: Backdrop
    objects: tuple[Placed, ...]


def _between(rng: Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _scattered(rng: Random, radius: float, count: int) -> list[tuple[float, float]]:
    """Centres anywhere in the frame, far enough apart; drawn afresh until they are."""
    edge = REACH * radius + _GAP / 2
    apart = 2 * REACH * radius + _GAP
    while True:
        centres: list[tuple[float, float]] = []
        for _ in range(8 * count):
            x, y = _between(rng, edge, 1 - edge), _between(rng, edge, 1 - edge)
            if all(math.hypot(x - u, y - v) >= apart for u, v in centres):
                centres.append((x, y))
                if len(centres) == count:
                    return centres


def _beside(rng: Random, scene: Scene, radii: list[float]) -> list[list[tuple[float, float]]]:
    """Centres of two kinds on either side of the middle; a kind of two objects stands in line across."""
    centres = []
    for side, (kind, radius) in enumerate(zip(scene.kinds, radii)):
        reach = REACH * radius
        if kind.count == 1:
            across = [_between(rng, 0.36, 0.64)]
        else:
            low, high = reach + _GAP / 2, 0.5 - reach - _GAP / 2
            across = [_between(rng, low, high), 1 - _between(rng, low, high)]
        points = []
        for position in across:
            along = _between(rng, reach + _GAP / 2, 0.5 - reach - _GAP / 2)
            far = (1 - along) if (side == 1) == (scene.relation in ("left", "above")) else along
            points.append((far, position) if scene.relation in ("left", "right") else (position, far))
        centres.append(points)
    return centres


def _backdrop(rng: Random, kind: str) -> Backdrop:
    grey = _between(rng, 70, 215)
    tone = tuple(grey + _between(rng, -12, 12) for _ in range(3))
    return Backdrop(kind, tone, (_between(rng, -30, 30), _between(rng, -30, 30)), (rng.random(), rng.random()))


def arrange(rng: Random, scene: Scene) -> Picture:
    """A picture of which the scene's captions are true: objects whole, apart, and clearly in their relation."""
    radii = [_between(rng, *_RADIUS[kind.size]) for kind in scene.kinds]
    if scene.relation is None:
        centres = [_scattered(rng, radii[0], scene.kinds[0].count)]
    else:
        centres = _beside(rng, scene, radii)
    objects = tuple(
        Placed(kind, x, y, radius, _between(rng, -0.2, 0.2), _between(rng, 0, math.pi), _between(rng, 0.9, 1.05))
        for kind, radius, points in zip(scene.kinds, radii, centres)
        for x, y in points
    )
    return Picture(_backdrop(rng, scene.background), objects)
