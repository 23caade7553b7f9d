"""The gallery as a picture, drawn with Pillow: framed thumbnails, wrapped captions, ticks and crosses."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MAX_BYTES = 300_000
_WIDTH, _MARGIN, _GAP = 960, 24, 12
_QUERY, _CELL = 216, 128  # width of a query's column, side of a thumbnail
_HALF = (_WIDTH - 2 * _MARGIN) // 2  # two image queries stand side by side
_PAPER, _INK, _GREY = (255, 255, 255), (32, 32, 32), (112, 112, 112)
_RIGHT, _WRONG = (24, 128, 56), (196, 40, 28)
_QUALITIES = (88, 75, 60, 45, 30)


@dataclass(frozen=True)
class Answer:
    """A query and what it found.

    Attributes:
        caption: the query, or the first caption of the image that is.
        image: row of the query, where it is an image.
        found: rows of images, or captions, best first.
        scores: cosines.
        right: which of them belong to the query.
    """

    caption: str
    image: int | None
    found: list[int] | list[str]
    scores: list[float]
    right: list[bool]


def draw_gallery(
    by_caption: Sequence[Answer], by_image: Sequence[Answer], pictures: Mapping[int, Image.Image]
) -> tuple[Image.Image, list[str]]:
    """Draw what captions and images found.

    Args:
        by_caption: captions with the rows of images they found.
        by_image: rows of images with the captions they found.
        pictures: row -> RGB picture of any size.

    Returns:
        The picture, and the captions whose letters the font lacks: a number in brackets stands in their place.
    """
    sheet = _Sheet(len(by_caption), len(by_image))
    if by_caption:
        sheet.heading("A caption, and the images nearest to it")
        for answer in by_caption:
            sheet.caption_row(answer, pictures)
    if by_image:
        sheet.heading("An image, and the captions nearest to it")
        for start in range(0, len(by_image), 2):
            sheet.image_row(by_image[start : start + 2], pictures)
    return sheet.cut(), sheet.undrawn


def write_webp(picture: Image.Image, path: Path, *, most_bytes: int = MAX_BYTES) -> None:
    """Write a picture as WebP, as good as it may be below a size; at last it is made smaller."""
    while True:
        for quality in _QUALITIES:
            picture.save(path, format="WEBP", quality=quality, method=6)
            if path.stat().st_size < most_bytes:
                return
        picture = picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))


class _Sheet:
    """Rows one under another on white."""

    def __init__(self, captions: int, images: int) -> None:
        height = 2 * _MARGIN + 2 * 48 + (captions + (images + 1) // 2) * (_CELL + 24 + 2 * _GAP)
        self._image = Image.new("RGB", (_WIDTH, height), _PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._font, self._small, self._bold = _font(16), _font(13), _font(18)
        self._y = _MARGIN
        self.undrawn: list[str] = []

    def heading(self, text: str) -> None:
        """A line above rows."""
        self._draw.text((_MARGIN, self._y), text, font=self._bold, fill=_INK)
        self._y += 36

    def caption_row(self, answer: Answer, pictures: Mapping[int, Image.Image]) -> None:
        """A caption, and the images it found with their cosines."""
        self._wrapped(answer.caption or "", _MARGIN, self._y + 8, _QUERY - _GAP, lines=6)
        for place, (row, score, right) in enumerate(zip(answer.found, answer.scores, answer.right)):
            left = _MARGIN + _QUERY + place * (_CELL + _GAP)
            self._framed(pictures[row], left, self._y, right)
            self._draw.text((left, self._y + _CELL + 4), f"{score:.2f}", font=self._small, fill=_GREY)
        self._y += _CELL + 24 + _GAP

    def image_row(self, answers: Sequence[Answer], pictures: Mapping[int, Image.Image]) -> None:
        """At most two images side by side, each with the captions it found and its own under it."""
        for column, answer in enumerate(answers):
            left = _MARGIN + column * _HALF
            self._framed(pictures[answer.image], left, self._y, None)
            for place, (caption, score, right) in enumerate(zip(answer.found, answer.scores, answer.right)):
                top = self._y + place * (_CELL // max(1, len(answer.found))) + 4
                self._mark(left + _CELL + _GAP, top, right)
                self._draw.text((left + _CELL + _GAP + 28, top + 3), f"{score:.2f}", font=self._small, fill=_GREY)
                text = left + _CELL + _GAP + 66
                self._wrapped(caption, text, top, _MARGIN + (column + 1) * _HALF - _GAP - text, lines=2)
            own = f"its own: {self._drawable(answer.caption or '')}"
            self._draw.text((left, self._y + _CELL + 4), self._cut(own, _HALF), font=self._small, fill=_GREY)
        self._y += _CELL + 24 + _GAP

    def cut(self) -> Image.Image:
        """What was drawn on."""
        return self._image.crop((0, 0, _WIDTH, min(self._y + _MARGIN, self._image.height)))

    def _framed(self, picture: Image.Image, left: int, top: int, right: bool | None) -> None:
        """A thumbnail in the middle of its cell; right ones are framed and ticked, wrong ones framed and crossed."""
        small = picture.convert("RGB")
        factor = min((_CELL - 8) / small.width, (_CELL - 8) / small.height)
        small = small.resize((max(1, round(small.width * factor)), max(1, round(small.height * factor))))
        self._image.paste(small, (left + (_CELL - small.width) // 2, top + (_CELL - small.height) // 2))
        colour = _GREY if right is None else _RIGHT if right else _WRONG
        self._draw.rectangle(
            (left, top, left + _CELL - 1, top + _CELL - 1), outline=colour, width=1 if right is None else 4
        )
        if right is not None:
            self._mark(left + _CELL - 22, top, right)

    def _mark(self, left: int, top: int, right: bool) -> None:
        """A tick or a cross in a square of 22 pixels: colours alone do not reach everybody."""
        self._draw.rectangle((left, top, left + 21, top + 21), fill=_RIGHT if right else _WRONG)
        if right:
            self._draw.line([(left + 5, top + 11), (left + 9, top + 16), (left + 17, top + 6)], fill=_PAPER, width=3)
        else:
            self._draw.line([(left + 6, top + 6), (left + 16, top + 16)], fill=_PAPER, width=3)
            self._draw.line([(left + 16, top + 6), (left + 6, top + 16)], fill=_PAPER, width=3)

    def _wrapped(self, text: str, left: int, top: int, width: int, *, lines: int) -> None:
        for number, line in enumerate(self._lines(self._drawable(text), width, lines)):
            self._draw.text((left, top + number * 20), line, font=self._font, fill=_INK)

    def _drawable(self, text: str) -> str:
        """The text, or a number in brackets where the font lacks its letters."""
        text = " ".join(text.split())
        missing = bytes(self._font.getmask("\U000f0000"))
        if all(letter.isspace() or bytes(self._font.getmask(letter)) != missing for letter in set(text)):
            return text
        if text not in self.undrawn:
            self.undrawn.append(text)
        return f"({self.undrawn.index(text) + 1})"

    def _lines(self, text: str, width: int, most: int) -> list[str]:
        lines, line = [], ""
        for word in text.split(" "):
            longer = f"{line} {word}".strip()
            if line and self._font.getlength(longer) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines = [self._cut(line, width) for line in (*lines, line)]
        return lines if len(lines) <= most else [*lines[: most - 1], self._cut(lines[most - 1] + " ...", width)]

    def _cut(self, line: str, width: int) -> str:
        while len(line) > 4 and self._font.getlength(line) > width:
            line = line.removesuffix("...")[:-1] + "..."
        return line


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """matplotlib's DejaVu Sans where it is installed, which has most alphabets; else Pillow's own."""
    spec = importlib.util.find_spec("matplotlib")
    file = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if spec is not None and spec.origin else None
    if file is not None and file.is_file():
        return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)
