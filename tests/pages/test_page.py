"""Pages: everything in one file, texts escaped, pictures inside, written whole or not at all."""

from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.report import Page
from mmcl.pages.figures import draw_bars, draw_lines
from mmcl.pages.page import Item, thumbnail


class Reader(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


def test_texts_are_shown_as_they_are_and_run_nothing() -> None:
    evil = '<script>alert(1)</script> & "quotes" {{ 7 * 7 }}'
    page = Page(evil)
    page.heading(evil)
    page.paragraph(evil)
    page.table([evil], [[evil]], caption=evil)
    page.card(Item(evil), [Item(evil, score=0.5, right=True)], note=evil)
    read = Reader(page.html())
    assert "script" not in [tag for tag, _ in read.tags]
    assert read.text.count(evil) >= 8
    assert not [text for text in read.text if "49" in text]


def test_a_table_keeps_its_cells_in_order() -> None:
    page = Page("t")
    page.table(["model", "R@1"], [["a", "50.0 %"], ["b", 0.25]])
    words = [text for text in Reader(page.html()).text if text]
    assert words[-6:] == ["model", "R@1", "a", "50.0 %", "b", "0.25"]


def test_pictures_stand_in_the_file_small_and_in_their_colours() -> None:
    image = torch.zeros(3, 300, 150, dtype=torch.uint8)
    image[0] = 255
    page = Page("t")
    page.card(Item("query", image), [Item("right", image, right=True), Item("wrong", right=False), Item("neither")])
    read = Reader(page.html())
    sources = [attributes["src"] for tag, attributes in read.tags if tag == "img"]
    assert len(sources) == 2
    assert sources[0] == thumbnail(image)
    shown = Image.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2]))).convert("RGB")
    assert shown.size == (64, 128)
    red, green, _ = shown.getpixel((20, 20))
    assert red > 200 > 60 > green
    marks = [
        attributes["class"].split()[1:] for tag, attributes in read.tags if "item " in (attributes.get("class") or "")
    ]
    assert marks == [["right"], ["wrong"], []]


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = Page("t")
    page.figure(draw_lines({"a": ([0, 1], [0, 1])}, x_label="x", y_label="y"), caption="c")
    read = Reader(page.html())
    assert "link" not in [tag for tag, _ in read.tags]
    loaded = [value for _, attributes in read.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(value.startswith(("data:", "#")) for value in loaded)


def test_a_page_is_written_with_its_folders_or_an_error_says_why(tmp_path: Path) -> None:
    page = Page("title")
    path = page.write(tmp_path / "deep" / "page.html")
    assert path.read_text(encoding="utf-8") == page.html()
    assert [child.name for child in path.parent.iterdir()] == ["page.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        page.write(tmp_path / "file" / "page.html")


def test_lines_are_drawn_through_their_points() -> None:
    svg = draw_lines({"one": ([0, 1], [0, 1]), "two": ([0, 1], [1, 0])}, x_label="x", y_label="y", diagonal=True)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    once = draw_lines({"one": ([0, 1], [0, 1])}, x_label="x", y_label="y", diagonal=True)
    assert svg.count("<path") > once.count("<path")
    bars = draw_lines({"one": ([0, 1], [0, 1])}, x_label="x", y_label="y", bars=([0.25, 0.75], [3, 1]))
    assert bars.count("<path") > draw_lines({"one": ([0, 1], [0, 1])}, x_label="x", y_label="y").count("<path")
    assert draw_lines({}, x_label="x", y_label="y", bars=([], []))  # no point at all is an empty drawing


def test_the_same_drawing_is_the_same_text() -> None:
    def drawn(height: float) -> str:
        return draw_lines({"a": ([0, 1], [0, height]), "b": ([0, 1], [1, 0])}, x_label="x", y_label="y", diagonal=True)

    assert drawn(1.0) == drawn(1.0)
    assert drawn(1.0) != drawn(0.5)


def test_a_grid_shows_pictures_over_their_texts() -> None:
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    page = Page("t")
    page.grid([Item("<b>one</b>", image), Item("two")])
    read = Reader(page.html())
    assert [tag for tag, _ in read.tags].count("img") == 1
    assert "b" not in [tag for tag, _ in read.tags]
    words = [text for text in read.text if text]
    assert words[-2:] == ["<b>one</b>", "two"]
    empty = Page("t")
    empty.grid([])
    assert [attributes.get("class") for tag, attributes in Reader(empty.html()).tags if tag == "div"] == ["items"]


def bar_heights(svg: str) -> list[float]:
    """The heights of the filled rectangles of a drawing, in the order they were drawn; the background is left out."""
    heights = []
    for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
        numbers = [float(word) for word in (path.get("d") or "").replace("\n", " ").split() if word[-1].isdigit()]
        if path.get("clip-path") and len(numbers) == 8:
            heights.append(max(numbers[1::2]) - min(numbers[1::2]))
    return heights


def test_bars_are_as_high_as_they_say() -> None:
    svg = draw_bars(["a", "b"], {"train": [1, 2], "test": [4, 0.5]}, x_label="x", y_label="y")
    heights = bar_heights(svg)
    assert [round(height / heights[0], 3) for height in heights] == [1, 2, 4, 0.5]
    other = bar_heights(draw_bars(["a", "b"], {"train": [1, 2], "test": [3, 0.5]}, x_label="x", y_label="y"))
    assert [round(height / other[0], 3) for height in other] != [1, 2, 4, 0.5]


def test_bars_want_a_height_for_every_name() -> None:
    with pytest.raises(ShapeError, match=r"bars\['train'\] has 1 heights for 2 names"):
        draw_bars(["a", "b"], {"train": [1]}, x_label="x", y_label="y")
    assert "<svg" in draw_bars([], {}, x_label="x", y_label="y")
