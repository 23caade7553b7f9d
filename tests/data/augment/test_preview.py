"""The page of what augmentation makes of a data set."""

from __future__ import annotations

import html
import re

import pytest
import torch

from mmcl.config import AugmentSection, CaptionsSection
from mmcl.data.augment.captions import CaptionSampler
from mmcl.data.augment.images import ImageAugmentation
from mmcl.data.augment.preview import SquareResizer, preview
from mmcl.data.augment.seeds import row_seeds
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.shapes import load_shapes
from mmcl.errors import ConfigError, DataError
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.pages.page import thumbnail

DATA = load_shapes("train", size=12, image_size=32)
VARIED = CaptionsSection(word_dropout=0.2, tags_probability=0.5)


def test_it_shows_what_training_sees() -> None:
    augment = AugmentSection(preset="simclr", blur=0.25)
    page = preview(DATA, augment, VARIED, rows=12, views=3, size=32, seed=5).html()
    make, sample = ImageAugmentation(augment, ImagePreprocessing((32, 32), 32)), CaptionSampler(DATA, VARIED)
    for row in range(12):
        assert thumbnail(DATA.images.read(row)) in page
        for epoch in range(3):
            seed = int(row_seeds(5, epoch, [row])[0])
            assert thumbnail(make(DATA.images.read(row), seed=seed)) in page
            assert html.escape(sample([row], [seed])[0]) in page
        assert thumbnail(make(DATA.images.read(row), seed=int(row_seeds(5, 3, [row])[0]))) not in page
    settings = dict(re.findall(r"<td>(data\.[\w.]+)</td><td>([^<]*)</td>", page))
    assert settings["data.augment.preset"] == "simclr"
    assert (settings["data.augment.blur"], settings["data.augment.grayscale"]) == ("0.25", "0.2")
    assert settings["data.captions.word_dropout"] == "0.2"
    assert "data.augment.erase" not in settings
    assert preview(DATA, augment, VARIED, rows=12, views=3, size=32, seed=5).html() == page
    assert preview(DATA, augment, VARIED, rows=12, views=3, size=32, seed=6).html() != page


def test_several_views_are_shown_where_they_differ() -> None:
    page = preview(DATA, AugmentSection(preset="dino"), CaptionsSection(), rows=2, views=1, size=32).html()
    assert page.count("local crop 8") == 4  # text and the picture's description, of two rows
    assert "second view" in page
    assert "second view" not in preview(DATA, AugmentSection(preset="simclr"), CaptionsSection(), rows=2).html()


def test_rows_are_drawn_and_shown_in_order() -> None:
    page = preview(DATA, AugmentSection(), CaptionsSection(), rows=5, views=1, size=32).html()
    names = [DATA.value("id", row) or f"row {row}" for row in range(12)]
    shown = re.findall(r"<h2>(.*?)</h2>", page)
    assert len(shown) == 5
    assert shown == sorted(shown, key=names.index)
    assert len(re.findall("<h2>", preview(DATA, AugmentSection(), CaptionsSection(), rows=99, size=32).html())) == 12


def test_an_unreadable_image_is_told_and_its_captions_shown() -> None:
    class Broken:
        def __len__(self) -> int:
            return 12

        def read(self, row: int) -> torch.Tensor:
            raise DataError(f"file {row}: cut short")

    page = preview(ImageTextDataset(Broken(), DATA.table, name="broken"), AugmentSection(), VARIED, rows=2).html()
    assert len(re.findall(r"The image cannot be read: file \d+: cut short", page)) == 2


def test_texts_are_shown_as_they_are() -> None:
    table = DATA.table.set_column(1, "texts", [[["<b>" + "long " * 100]] * 12])
    page = preview(
        ImageTextDataset(DATA.images, table, name="odd"), AugmentSection(), CaptionsSection(token_dropout=0.3), rows=1
    ).html()
    assert "&lt;b&gt;long" in page
    assert "long lo ..." in page  # after 300 letters
    assert "data.captions.token_dropout takes 30% of the tokens" in page


@pytest.mark.parametrize("name", ["rows", "views", "size"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0; want at least 1"):
        preview(DATA, AugmentSection(), CaptionsSection(), **{name: 0})


def test_the_resizer_cuts_the_middle_out() -> None:
    image = torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    own = ImagePreprocessing((32, 32), 32)
    assert torch.equal(SquareResizer((32, 32)).resize_pixels(image), own.resize_pixels(image))
    assert SquareResizer((32, 32)).resize_pixels(image[:, :5, :5]).shape == (3, 32, 32)
