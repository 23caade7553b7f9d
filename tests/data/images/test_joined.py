"""Several stores as one: every row leads to the image that it had."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmcl.data import load
from mmcl.data.dataset import ImageStore
from mmcl.data.images.encoded import EncodedImages, encoded_image
from mmcl.data.images.files import FileImages
from mmcl.data.images.joined import JoinedImages, image_files, join_images
from mmcl.data.shapes.images import ArrayImages
from mmcl.errors import DataError


def arrays(number: int, size: int = 4, seed: int = 0) -> ArrayImages:
    pixels = np.random.default_rng(seed).integers(0, 256, (number, size, size, 3), dtype=np.uint8)
    return ArrayImages(pixels, name=f"array {seed}")


@pytest.fixture
def stores(stored: dict[str, str]) -> list[ImageStore]:
    return [load(stored["shards"]).images, arrays(3), load(stored["metadata"]).images]


def test_every_row_leads_to_its_image(stores: list[ImageStore]) -> None:
    joined = join_images(stores)
    pairs = [(store, row) for store in stores for row in range(len(store))]
    assert len(joined) == len(pairs) == 15
    order = np.random.default_rng(0).permutation(15)
    mixed = joined.select(order)
    for chosen, rows in ((joined, range(15)), (mixed, order), (mixed.select([2, 2]), order[[2, 2]])):
        for place, row in enumerate(rows):
            store, inner = pairs[row]
            assert torch.equal(chosen.read(place), store.read(inner))
            assert chosen.describe(place) == store.describe(inner)
            assert chosen.encoded(place) == encoded_image(store, inner)
            reduced, size = chosen.read_reduced(place, lambda height, width: 1)
            assert torch.equal(reduced, store.read(inner))
            assert size == tuple(store.read(inner).shape[1:])
            other = pairs[(row + 1) % 15]
            assert chosen.describe(place) != other[0].describe(other[1])
    assert isinstance(joined, EncodedImages)
    again = pickle.loads(pickle.dumps(joined.select(order)))
    assert torch.equal(again.read(4), joined.read(int(order[4])))
    assert join_images(stores[:1]) is stores[0]


def test_the_fingerprint_follows_the_rows(stores: list[ImageStore]) -> None:
    joined = join_images(stores)
    assert joined.fingerprint() == join_images(stores).fingerprint()
    prints = [joined.select(rows).fingerprint() for rows in ([0, 7], [7, 0], [0, 8], [1, 7], [0])]
    assert len({joined.fingerprint(), *prints}) == 6


def test_many_are_read_at_once_where_all_stores_can() -> None:
    one, other = arrays(5), arrays(4, seed=1)
    joined = join_images([one, other])
    rows = np.array([8, 0, 5, 4, 8, 2])
    assert torch.equal(joined.read_many(rows), torch.stack([joined.read(int(row)) for row in rows]))
    assert joined.read_many([]).shape == (0, 3, 4, 4)
    assert joined.select(rows).read_many([1]).equal(one.read_many([0]))
    assert not hasattr(join_images([one, arrays(4, size=5)]), "read_many"), "of one size alone"


def test_a_store_that_reads_one_by_one_stops_it(stores: list[ImageStore]) -> None:
    assert isinstance(join_images(stores), JoinedImages)
    assert not hasattr(join_images(stores), "read_many")


def test_the_files_of_images(tmp_path) -> None:
    files = FileImages(tmp_path, pa.array(["a.png", "sub/../b.png", "/elsewhere/c.png"]))
    expected = [str(tmp_path / "a.png"), str(tmp_path / "b.png"), "/elsewhere/c.png"]
    assert image_files(files) == expected
    joined = join_images([files, arrays(2), files])
    assert image_files(joined) == [*expected, None, None, *expected]
    assert image_files(joined.select([7, 3, 0])) == [expected[2], None, expected[0]]
    with pytest.raises(DataError, match="a.png: no such image file"):
        joined.read(0)


class Blocks(ArrayImages):
    """Images in blocks of three, fetched whole."""

    reads_whole_blocks = True

    def select(self, rows: np.ndarray) -> Blocks:
        return Blocks(self.pixels, name=self.name, rows=self.rows[np.asarray(rows, dtype=np.int64)])

    def blocks(self) -> np.ndarray:
        return self.rows // 3

    def blocks_in_memory(self) -> int:
        return 7


def test_blocks_of_stores_stay_apart(stores: list[ImageStore]) -> None:
    pixels = np.zeros((9, 4, 4, 3), dtype=np.uint8)
    streamed = Blocks(pixels, name="streamed")
    joined = join_images([arrays(4), streamed, streamed])
    assert joined.reads_whole_blocks
    assert joined.blocks_in_memory() == 7
    assert joined.blocks().tolist() == [0, 0, 0, 1, *np.repeat([2, 3, 4, 5, 6, 7], 3)]
    chosen = joined.select([21, 0, 5, 20])
    assert chosen.reads_whole_blocks
    assert len(set(chosen.blocks().tolist())) == 3
    assert joined.select([4, 5, 13]).blocks().tolist()[:2] == [0, 0]
    assert not hasattr(join_images([arrays(4), arrays(4, size=5)]), "blocks")
    shards = join_images([stores[0], stores[2]])
    assert not shards.reads_whole_blocks, "tars are read anywhere"
    assert len(set(shards.blocks()[:6].tolist()) & set(shards.blocks()[6:].tolist())) == 0
