"""Rows that the data put into one group, and rows with one caption."""

from __future__ import annotations

import pyarrow as pa

from mmcl.data.caption_groups import first_caption_ids, stated_group_ids
from mmcl.data.dataset import ImageTextDataset


class NoImages:
    """As many images as asked for, none of which is read."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return self._rows


def made(texts: list[list[str]], groups: list[str | None] | None = None) -> ImageTextDataset:
    columns = {"texts": pa.array(texts, pa.list_(pa.string()))}
    columns |= {} if groups is None else {"group": pa.array(groups)}
    return ImageTextDataset(NoImages(len(texts)), pa.table(columns), name="made")


def test_the_first_caption_counts() -> None:
    assert first_caption_ids(made([["cat"], ["cat", "kitten"], ["dog"], ["cat"]])).tolist() == [0, 0, 1, 0]
    assert first_caption_ids(made([])).tolist() == []


def test_stated_groups_are_not_made_of_captions() -> None:
    assert stated_group_ids(made([["cat"]] * 5, ["r1", "b", "b", None, None])).tolist() == [0, 1, 1, 2, 3]
    many = made([["cat"]] * 43, ["cat"] * 21 + ["tom"] * 20 + [None] * 2)
    assert len(stated_group_ids(many).unique()) == 21 + 1 + 2  # a kind, one thing, and two that stand alone
    without = made([["cat"]] * 4)
    assert stated_group_ids(without).tolist() == [0, 1, 2, 3]
    assert without.group_ids().tolist() == [0, 0, 0, 0]  # the control
