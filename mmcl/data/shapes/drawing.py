"""Pictures to pixels: signed distances of all objects of one shape at once, antialiased, in plain numpy.

Only operations that IEEE 754 rounds exactly touch the pixels (no sine, power or exponential), so a picture's bytes do
not depend on which others are drawn with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mmcl.data.shapes.layout import REACH, Picture, Placed
from mmcl.data.shapes.scenes import TEXTURES

_RGB = {
    "red": (220, 25, 25),
    "orange": (245, 130, 15),
    "yellow": (250, 228, 40),
    "green": (35, 160, 50),
    "cyan": (50, 215, 225),
    "blue": (35, 65, 225),
    "purple": (125, 35, 170),
    "pink": (255, 140, 195),
}
PALETTE = {name: np.array(rgb, dtype=np.float32)[:, None, None] for name, rgb in _RGB.items()}
_DARK = 0.22  # the second colour of stripes and dots is the first one, this much as bright
_NOISE = np.random.Generator(np.random.PCG64(0)).integers(-26, 27, (128, 128, 1)).astype(np.float32)

Plane = np.ndarray  # float32 (m, p, p)


def _box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    return np.maximum(np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height))


def _circle(x: Plane, y: Plane) -> Plane:
    return np.sqrt(x * x + y * y) - np.float32(1.0)


def _square(x: Plane, y: Plane) -> Plane:
    return _box(x, y, 0.86, 0.86)


def _triangle(x: Plane, y: Plane) -> Plane:
    y = y - np.float32(0.18)
    return np.maximum(np.abs(x) * np.float32(0.866) - y * np.float32(0.5), y) - np.float32(0.56)


def _star(x: Plane, y: Plane) -> Plane:
    """Five points, by folding the plane onto one half point (Quilez, 2D distance functions, sdStar5)."""
    radius, inner = np.float32(1.18), np.float32(0.5)
    cos, sin = np.float32(0.809016994), np.float32(0.587785252)
    x, y = np.abs(x), -y
    fold = np.float32(2) * np.maximum(cos * x - sin * y, 0)
    x, y = x - fold * cos, y + fold * sin
    fold = np.float32(2) * np.maximum(-cos * x - sin * y, 0)
    x, y = np.abs(x + fold * cos), y + fold * sin - radius
    edge_x, edge_y = inner * sin, inner * cos - np.float32(1)
    along = np.clip((x * edge_x + y * edge_y) / (edge_x * edge_x + edge_y * edge_y), 0, radius)
    away_x, away_y = x - edge_x * along, y - edge_y * along
    return np.sqrt(away_x * away_x + away_y * away_y) * np.sign(y * edge_x - x * edge_y)


def _diamond(x: Plane, y: Plane) -> Plane:
    return (np.abs(x) * np.float32(1.25) + np.abs(y) - np.float32(1.15)) * np.float32(0.625)


def _cross(x: Plane, y: Plane) -> Plane:
    return np.minimum(_box(x, y, 1.0, 0.36), _box(x, y, 0.36, 1.0))


def _heart(x: Plane, y: Plane) -> Plane:
    """Two quarter arcs on a right angle (Quilez, 2D distance functions, sdHeart)."""
    scale = np.float32(1.85)
    x, y = np.abs(x) / scale, np.float32(0.56) - y / scale
    quarter = np.float32(0.25)
    lobe = np.sqrt((x - quarter) ** 2 + (y - 3 * quarter) ** 2) - np.float32(math.sqrt(2) / 4)
    foot = np.maximum(x + y, 0) / np.float32(2)
    side = np.minimum(x * x + (y - 1) ** 2, (x - foot) ** 2 + (y - foot) ** 2)
    return np.where(x + y > 1, lobe, np.sqrt(side) * np.sign(x - y)) * scale


def _moon(x: Plane, y: Plane) -> Plane:
    bite_x, bite_y = x - np.float32(0.68), y + np.float32(0.1)
    bite = np.float32(0.8) - np.sqrt(bite_x * bite_x + bite_y * bite_y)
    return np.maximum(np.sqrt(x * x + y * y) - np.float32(1.08), bite)


DISTANCES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "diamond": _diamond,
    "cross": _cross,
    "heart": _heart,
    "moon": _moon,
}


def _step(distance: Plane) -> Plane:
    """1 inside (distance in pixels below 0), 0 outside, a pixel of ramp between."""
    return np.clip(np.float32(0.5) - distance, 0, 1)


def _wave(position: Plane) -> Plane:
    """Distance to the nearest whole number."""
    return np.abs(position - np.rint(position))


def _column(values: Sequence[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None, None]  # (m, 1, 1)


def _masks(objects: Sequence[Placed], image_size: int) -> tuple[np.ndarray, np.ndarray, Plane, Plane]:
    """Patches of objects of one shape: left and top pixel (m,), cover and darkness (m, p, p) in [0, 1]."""
    unit = image_size / 64  # textures keep their pitch at 64 px, so that small objects show them too
    side = math.ceil(2 * REACH * max(o.radius for o in objects) * image_size) + 2
    x_centre = np.array([o.x * image_size for o in objects])
    y_centre = np.array([o.y * image_size for o in objects])
    left = np.floor(x_centre - side / 2).astype(np.int64)
    top = np.floor(y_centre - side / 2).astype(np.int64)
    pixel = np.arange(side) + 0.5
    x = (left[:, None] + pixel - x_centre[:, None]).astype(np.float32)[:, None, :]  # (m, 1, p), pixels
    y = (top[:, None] + pixel - y_centre[:, None]).astype(np.float32)[:, :, None]  # (m, p, 1)
    radius = _column([o.radius * image_size for o in objects])
    cos, sin = (_column([f(o.tilt) for o in objects]) for f in (math.cos, math.sin))
    distance = DISTANCES[objects[0].kind.shape]((x * cos + y * sin) / radius, (y * cos - x * sin) / radius) * radius

    cover, dark = _step(distance), np.zeros_like(distance)
    for texture in TEXTURES[1:]:
        rows = np.array([i for i, o in enumerate(objects) if o.kind.texture == texture], dtype=np.int64)
        if not len(rows):
            continue
        cos, sin = (_column([f(objects[i].texture_angle) for i in rows]) for f in (math.cos, math.sin))
        if texture == "hollow":
            cover[rows] -= _step(distance[rows] + np.float32(2.1 * unit))
            continue
        pitch = np.float32(4.6 * unit)
        u = _wave((x[rows] * cos + y[rows] * sin) / pitch) * pitch
        if texture == "striped":
            dark[rows] = _step(u - np.float32(1.0 * unit))
        else:
            v = _wave((y[rows] * cos - x[rows] * sin) / pitch) * pitch
            dark[rows] = _step(np.sqrt(u * u + v * v) - np.float32(1.25 * unit))
    return left, top, cover, dark


def _backgrounds(pictures: Sequence[Picture], image_size: int) -> np.ndarray:
    """(n, 3, h, w) float32."""
    backdrops = [picture.backdrop for picture in pictures]
    axis = ((np.arange(image_size) + 0.5) / image_size).astype(np.float32)
    slope = np.array([b.slope for b in backdrops], dtype=np.float32)
    ramp = slope[:, :1, None] * (axis - 0.5) + slope[:, 1:, None] * (axis[:, None] - 0.5)  # (n, h, w)
    for row, backdrop in enumerate(backdrops):
        if backdrop.kind == "checkered":
            right, down = (np.floor(axis * 6 + np.float32(2 * offset)) for offset in backdrop.offset)
            ramp[row] += ((right + down[:, None]) % 2) * 44 - 22
        elif backdrop.kind == "speckled":
            steps = (axis * 64).astype(np.int64)  # grains stay 1/64 of the side wide at any size
            x, y = ((steps + int(128 * offset)) % 128 for offset in backdrop.offset)
            ramp[row] += _NOISE[y[:, None], x, 0]
    tone = np.array([b.tone for b in backdrops], dtype=np.float32)
    return ramp[:, None] + tone[:, :, None, None]


def draw(pictures: Sequence[Picture], image_size: int) -> np.ndarray:
    """The pictures as pixels, uint8 (n, image_size, image_size, 3); (0, ...) for none."""
    if not pictures:
        return np.zeros((0, image_size, image_size, 3), dtype=np.uint8)
    canvas = _backgrounds(pictures, image_size)
    by_shape: dict[str, list[tuple[int, Placed]]] = {}
    for row, picture in enumerate(pictures):
        for placed in picture.objects:
            by_shape.setdefault(placed.kind.shape, []).append((row, placed))
    for members in by_shape.values():
        objects = [placed for _, placed in members]
        left, top, cover, dark = _masks(objects, image_size)
        light = np.float32(1) - np.float32(1 - _DARK) * dark
        for i, (row, placed) in enumerate(members):
            x, y, side = int(left[i]), int(top[i]), cover.shape[-1]
            frame = slice(None), slice(max(y, 0), y + side), slice(max(x, 0), x + side)
            inner = slice(max(-y, 0), image_size - y), slice(max(-x, 0), image_size - x)
            colour = PALETTE[placed.kind.colour] * np.float32(placed.shade)  # (3, 1, 1)
            alpha = cover[i][inner]
            target = canvas[row][frame]
            target += alpha * (light[i][inner] * colour - target)
    canvas += np.float32(0.5)
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8).transpose(0, 2, 3, 1)
