"""Rows that claim the same: one caption, for images of one group."""

from __future__ import annotations

import pyarrow as pa
import torch

from mmcl.data.caption_groups import claim_ids
from mmcl.data.dataset import ImageTextDataset


class NoImages:
    """As many images as asked for, none of which is read."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return self._rows


def claims(texts: list[list[str]], groups: list[str] | None = None) -> list[int]:
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


def test_without_groups_equal_captions_claim_the_same() -> None:
    found = claims([["cat"], ["dog"], ["cat"]])
    assert found[0] == found[2] != found[1]
