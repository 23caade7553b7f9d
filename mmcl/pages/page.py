"""`Page`: headings, tables, figures and pictures in one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

THUMBNAIL_PIXELS = 128  # of the longer side

_TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Item:
    """A picture, a text or both, as a card shows it.

    Attributes:
        text: what it says; shown as it is, whatever characters it holds.
        image: a uint8 picture (3, h, w), shown small; None: the text alone.
        score: shown behind the text.
        right: whether it is a right answer (framed green), a wrong one (red), or neither.
    """

    text: str
    image: Tensor | None = None
    score: float | None = None
    right: bool | None = None


class Page:
    """Blocks, one under another, then one file: no script, no link, pictures inside it.

    Args:
        title: of the page.

    Example:
        >>> page = Page("Two models")
        >>> page.table(["model", "R@1"], [["a", "50.0 %"]])
        >>> "50.0 %" in page.html()
        True
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._blocks: list[dict[str, object]] = []

    def heading(self, text: str) -> None:
        """A heading within the page."""
        self._blocks.append({"kind": "heading", "text": text})

    def paragraph(self, text: str) -> None:
        """A paragraph of plain text."""
        self._blocks.append({"kind": "paragraph", "text": text})

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "") -> None:
        """A table; the first column is set to the left, the others to the right."""
        self._blocks.append({"kind": "table", "header": list(header), "rows": [list(r) for r in rows], "text": caption})

    def figure(self, svg: str, *, caption: str) -> None:
        """A drawing as SVG source, put in as it is: only what this program drew itself."""
        self._blocks.append({"kind": "figure", "svg": svg, "text": caption})

    def card(self, query: Item, items: Sequence[Item], *, note: str = "") -> None:
        """A query and what answered it."""
        shown = [_shown(item) for item in items]
        self._blocks.append({"kind": "card", "query": _shown(query), "answers": shown, "text": note})

    def grid(self, items: Sequence[Item]) -> None:
        """Pictures side by side, each over its text."""
        self._blocks.append({"kind": "grid", "answers": [_shown(item) for item in items]})

    def html(self) -> str:
        """The page's source; texts are escaped."""
        from jinja2 import Environment

        template = _TEMPLATE.read_text(encoding="utf-8")
        return Environment(autoescape=True).from_string(template).render(title=self.title, blocks=self._blocks)

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all.

        Raises:
            ConfigError: it cannot be written there.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.part")
            beside.write_text(self.html(), encoding="utf-8")
            os.replace(beside, path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror or error}; name another file") from error
        return path


def _shown(item: Item) -> dict[str, object]:
    mark = "" if item.right is None else "right" if item.right else "wrong"
    image = None if item.image is None else thumbnail(item.image)
    return {"text": item.text, "image": image, "score": item.score, "mark": mark}


def thumbnail(image: Tensor, *, size: int = THUMBNAIL_PIXELS) -> str:
    """A picture as a small ``data:`` address.

    Args:
        image: (3, h, w) uint8.
        size: of the longer side, in pixels; smaller pictures stay as they are.
    """
    from torchvision.transforms.v2.functional import to_pil_image

    picture = to_pil_image(image)
    picture.thumbnail((size, size))
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
