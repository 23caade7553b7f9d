"""Hard captions and images: drawn by the row's seed alone, each with the group that it truly belongs to."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmcl.batch import SkippedRow
from mmcl.config import CaptionsSection, NegativesSection
from mmcl.data.augment.seeds import row_seeds
from mmcl.data.batches.collate import BatchReader, ImagePixels
from mmcl.data.batches.reader_processes import ReaderProcesses
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.mining.hard_negatives import HardNegativeChoice, Lists, true_groups
from mmcl.data.shapes import ArrayImages, load_shapes
from mmcl.errors import ConfigError, DataError
from mmcl.models.towers.preprocessing import ImagePreprocessing

TEXTS = [["a", "b"], ["c"], ["a"], ["d", "e"], ["b", "f"]]
GROUPS = ["x", "y", "z", "x", "y"]
NEGATIVES = [["c", "nobody", "b"], None, ["d", "a", "c", "zz"], [], ["b"]]
ROWS = [[1, 2, 3], [0], None, [4, 4, 3, 0], [2]]


def data(**columns: object) -> ImageTextDataset:
    table = {"texts": TEXTS, "group": GROUPS, "negatives": NEGATIVES, "negative_rows": ROWS, **columns}
    pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(16, 1).repeat(16, 2).repeat(3, 3) * 10
    kept = {name: pa.array(column) for name, column in table.items() if column is not None}
    return ImageTextDataset(ArrayImages(pixels, name="five"), pa.table(kept), name="five")


class Words:
    """A tokenizer that says the code of the first letter and how long the text is."""

    def __call__(self, texts: list[str]) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([[ord(text[0]), len(text)] for text in texts])}


def reader(dataset: ImageTextDataset, seed: int = 0, **counts: int) -> BatchReader:
    pixels = ImagePixels(dataset, ImagePreprocessing(size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3))
    choice = HardNegativeChoice(dataset, NegativesSection(**counts))
    return BatchReader(dataset, pixels, Words(), captions=CaptionsSection(), seed=seed, negatives=choice)


# -- lists and draws -----------------------------------------------------------------------------------------------


def test_lists_of_a_column_with_nulls() -> None:
    lists = Lists(pa.chunked_array([pa.array(NEGATIVES[:2], pa.list_(pa.string())), pa.array(NEGATIVES[2:])]))
    assert lists.starts.tolist() == [0, 3, 3, 7, 7, 8]
    assert lists.owners().tolist() == [0, 0, 0, 2, 2, 2, 2, 4]
    assert lists.values.to_pylist() == [value for cell in NEGATIVES for value in cell or []]


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_a_draw_is_of_the_rows_own_values_without_repeats(count: int) -> None:
    lists = Lists(pa.array(NEGATIVES))
    rows = [4, 2, 1, 0, 2, 3]
    for seed in range(50):
        seeds = row_seeds(seed, 0, np.arange(len(rows)))
        places, owners = lists.draw(rows, count, seeds)
        assert owners.tolist() == sorted(owners)
        for place, row in enumerate(rows):
            mine = places[owners == place].tolist()
            assert len(mine) == len(set(mine)) == min(count, len(NEGATIVES[row] or []))
            assert all(lists.starts[row] <= value < lists.starts[row + 1] for value in mine)


def test_a_draw_depends_on_the_rows_seed_alone_and_is_fair() -> None:
    lists = Lists(pa.array(NEGATIVES))
    alone, _ = lists.draw([2], 2, np.array([77]))
    places, owners = lists.draw([0, 4, 2], 2, np.array([5, 6, 77]))
    assert places[owners == 2].tolist() == alone.tolist()
    seeds = row_seeds(0, 0, np.arange(6000))
    drawn, _ = lists.draw([2] * 6000, 2, seeds)
    counts = Counter(drawn.tolist())
    assert sorted(counts) == [3, 4, 5, 6]
    assert max(abs(count - 3000) for count in counts.values()) < 200  # 5 sigma
    pairs = Counter(map(tuple, drawn.reshape(-1, 2).tolist()))
    assert len(pairs) == 12
    assert max(abs(count - 500) for count in pairs.values()) < 110


def test_nothing_to_draw_from() -> None:
    places, owners = Lists(pa.array(NEGATIVES)).draw([1, 3], 2, np.array([1, 2]))
    assert len(places) == len(owners) == 0
    assert HardNegativeChoice(data(), NegativesSection(captions_per_row=2)).captions([1, 3], [1, 2]) is None
    assert HardNegativeChoice(data(), NegativesSection()).captions([0], [1]) is None
    assert HardNegativeChoice(data(), NegativesSection()).images([0], [1]) is None


# -- groups --------------------------------------------------------------------------------------------------------


def naive_groups(texts: list[list[str]], negatives: list[list[str] | None], groups: list[int]) -> list[int]:
    found = []
    for row, cell in enumerate(negatives):
        for caption in cell or []:
            having = [group for group, theirs in zip(groups, texts) if caption in theirs]
            found.append(groups[row] if groups[row] in having else having[0] if having else -1)
    return found


def test_groups_are_those_that_a_loop_finds() -> None:
    groups = data().group_ids().numpy()
    found = true_groups(Lists(pa.array(TEXTS)), Lists(pa.array(NEGATIVES)), groups)
    # c is y's; nobody's; b is x's own and y's. d is x's, a is x's and z's own, c is y's; nobody's. b is y's own.
    assert found.tolist() == [1, -1, 0, 0, 2, 1, -1, 1]
    draw = np.random.default_rng(0)
    for _ in range(20):
        words = [f"w{number}" for number in range(12)]
        texts = [draw.choice(words, draw.integers(1, 4)).tolist() for _ in range(9)]
        negatives = [draw.choice([*words, "none"], draw.integers(0, 5)).tolist() for _ in range(9)]
        ids = draw.integers(0, 4, 9)
        column = pa.array(negatives, pa.list_(pa.string()))
        found = true_groups(Lists(pa.array(texts)), Lists(column), ids)
        assert found.tolist() == naive_groups(texts, negatives, ids.tolist())


# -- batches -------------------------------------------------------------------------------------------------------


def test_a_batch_brings_the_captions_of_its_rows() -> None:
    batch = reader(data(), captions_per_row=9).__getitems__([2, 1, 0])
    negatives = batch.negative_text
    assert len(negatives) == 7
    assert negatives.owners.tolist() == [0, 0, 0, 0, 2, 2, 2]
    got = {(owner, chr(letter), group) for owner, (letter, _), group in _entries(negatives)}
    assert got == {(0, "d", 0), (0, "a", 2), (0, "c", 1), (0, "z", -1), (2, "c", 1), (2, "n", -1), (2, "b", 0)}
    assert batch.negative_image is None
    assert reader(data()).__getitems__([2, 1, 0]).negative_text is None


def _entries(negatives):
    return zip(negatives.owners.tolist(), negatives.inputs["input_ids"].tolist(), negatives.group_ids.tolist())


def test_a_batch_brings_the_images_of_its_rows() -> None:
    dataset = data()
    batch = reader(dataset, images_per_row=9).__getitems__([3, 2, 0])
    negatives = batch.negative_image
    assert negatives.owners.tolist() == [0, 0, 0, 0, 2, 2, 2]
    shown = (negatives.inputs["pixel_values"][:, 0, 0, 0] * 255 / 10).round().int().tolist()
    assert sorted(shown[:4]) == [0, 3, 4, 4]
    assert sorted(shown[4:]) == [1, 2, 3]
    assert negatives.group_ids.tolist() == dataset.group_ids()[shown].tolist()
    assert batch.negative_text is None


def test_negatives_change_nothing_else_and_follow_seed_and_epoch() -> None:
    dataset = load_shapes("train", size=30, image_size=32)
    rows = list(range(30))

    def batch(seed: int = 0, epoch: int = 0, count: int = 2):
        own = reader(dataset, seed, captions_per_row=count)
        own.epoch = epoch
        return own.__getitems__(rows)

    first, again, without = batch(), batch(), batch(count=0)
    assert len(first.negative_text) == 60
    assert torch.equal(first.negative_text.inputs["input_ids"], again.negative_text.inputs["input_ids"])
    assert torch.equal(first.text["input_ids"], without.text["input_ids"])
    assert torch.equal(first.image["pixel_values"], without.image["pixel_values"])
    for other in (batch(seed=1), batch(epoch=1)):
        assert other.negative_text.inputs["input_ids"].tolist() != first.negative_text.inputs["input_ids"].tolist()
    # A part of the batch, as another process would read it, brings its own part.
    part = reader(dataset, captions_per_row=2).__getitems__(rows[10:20])
    assert torch.equal(part.negative_text.inputs["input_ids"], first.negative_text.inputs["input_ids"][20:40])
    assert torch.equal(part.negative_text.owners, first.negative_text.owners[20:40] - 10)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_bring_the_same(workers: int) -> None:
    own = reader(load_shapes("train", size=20, image_size=32), captions_per_row=3)
    parts = [[3, 1, 4], [15, 9], [2, 6, 5]]
    for rows, batch in zip(
        parts, ReaderProcesses(own, workers=workers, device=torch.device("cpu")).read(own.epoch, parts)
    ):
        wanted = own.__getitems__(rows).negative_text
        assert torch.equal(batch.negative_text.inputs["input_ids"], wanted.inputs["input_ids"])
        assert torch.equal(batch.negative_text.owners, wanted.owners)
        assert torch.equal(batch.negative_text.group_ids, wanted.group_ids)


def test_an_unreadable_hard_image_is_left_out_and_named_and_its_row_stays() -> None:
    own = reader(data(), images_per_row=9)
    store = own.image.images

    class Torn:
        def read(self, row: int) -> torch.Tensor:
            if row in (1, 4):
                raise DataError(f"file {row}: cut short")
            return store.read(row)

        def describe(self, row: int) -> str:
            return f"file {row}"

    own.image.images = Torn()
    batch = own.__getitems__([0, 3, 4])
    assert batch.rows.tolist() == [0, 3]
    assert batch.skipped == [SkippedRow(4, "file 4", "cut short"), SkippedRow(1, "file 1", "cut short")]
    assert batch.negative_image.owners.tolist() == [0, 0, 1, 1]
    assert len(batch.negative_image.inputs["pixel_values"]) == len(batch.negative_image.group_ids) == 4
    batch = own.__getitems__([1])
    assert len(batch) == 0
    assert batch.negative_image is None


def test_possible_captions_are_all_that_can_come() -> None:
    choice = HardNegativeChoice(data(), NegativesSection(captions_per_row=1))
    assert sorted(choice.possible_captions()) == ["a", "b", "c", "d", "nobody", "zz"]
    assert HardNegativeChoice(data(), NegativesSection()).possible_captions() == []


def test_what_the_data_lack_is_told() -> None:
    with pytest.raises(ConfigError, match=r"captions_per_row is above 0, but five has no column 'negatives'.*mine"):
        HardNegativeChoice(data(negatives=None), NegativesSection(captions_per_row=1))
    with pytest.raises(ConfigError, match=r"images_per_row is above 0, but five has no column 'negative_rows'.*mine"):
        HardNegativeChoice(data(negative_rows=None), NegativesSection(images_per_row=1))
    with pytest.raises(DataError, match="negative_rows of row 3 names row 5; the data set has rows 0 to 4"):
        HardNegativeChoice(data(negative_rows=[[1], [], [], [0, 5], []]), NegativesSection(images_per_row=1))
