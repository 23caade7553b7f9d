"""Rows that the data put into one group, and rows that claim the same: one caption, for images of one group."""

from __future__ import annotations

import pyarrow as pa
import torch

from mmcl.data.caption_groups import claim_ids, stated_group_ids
from mmcl.data.dataset import ImageTextDataset


class NoImages:
    """As many images as asked for, none of which is read."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return self._rows


def claims(texts: list[list[str]], groups: list[str | None] | None = None) -> list[int]:
    columns = {"texts": pa.array(texts, pa.list_(pa.string()))} | (
        {} if groups is None else {"group": pa.array(groups)}
    )
    found = claim_ids(ImageTextDataset(NoImages(len(texts)), pa.table(columns), name="made"))
    assert found.dtype == torch.int64
    return found.tolist()


def test_group_and_first_caption_make_a_claim() -> None:
    texts = [["cat"], ["cat", "kitten"], ["dog"], ["cat"], ["dog"]]
    found = claims(texts, ["a", "a", "a", "b", "b"])
    assert found[0] == found[1]
    assert len(set(found)) == 4
    assert sorted(set(found)) == list(range(4))


def test_without_a_group_each_row_makes_a_claim_of_its_own() -> None:
    assert len(set(claims([["cat"], ["dog"], ["cat"]]))) == 3
    found = claims([["cat"], ["cat"], ["cat"], ["cat"]], ["a", None, "a", None])
    assert found[0] == found[2]
    assert len(set(found)) == 3


def test_stated_groups_are_not_made_of_captions() -> None:
    columns = {"texts": pa.array([["cat"]] * 4, pa.list_(pa.string())), "group": pa.array(["r1", "b", "b", None])}
    dataset = ImageTextDataset(NoImages(4), pa.table(columns), name="made")
    assert stated_group_ids(dataset).tolist() == [0, 1, 1, 2]
    without = ImageTextDataset(NoImages(4), pa.table({"texts": columns["texts"]}), name="made")
    assert stated_group_ids(without).tolist() == [0, 1, 2, 3]
    assert without.group_ids().tolist() == [0, 0, 0, 0]  # the control
