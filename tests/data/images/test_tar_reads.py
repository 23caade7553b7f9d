"""Reading members through a memory map: whole, shared by copies, and from shards that change under the reader."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from stored_items import write_tar

import mmcl.data.images.tars as tars
from mmcl.data import load
from mmcl.errors import DataError


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, bytes]:
    """Two shards of three members each: name -> content; the contents are no images."""
    contents = {f"{number}.jpg": bytes([number]) * (1000 + 7000 * number) for number in range(6)}
    for shard in range(2):
        names = [f"{number}.jpg" for number in range(3 * shard, 3 * shard + 3)]
        captions = {name.replace("jpg", "txt"): b"a caption" for name in names}
        members = {name: contents[name] for name in names} | captions
        write_tar(tmp_path / f"shards-{shard}.tar", dict(sorted(members.items())))
    return contents


@pytest.mark.parametrize("most_open", [256, 1, 0])
def test_members_are_read_whole_in_any_order(
    tmp_path: Path, shards: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, most_open: int
) -> None:
    monkeypatch.setattr(tars, "MAX_OPEN_SHARDS", most_open)
    images = load(str(tmp_path / "shards-*.tar")).images
    copy = pickle.loads(pickle.dumps(images))
    for row in (5, 0, 3, 3, 1):
        assert images.encoded(row) == copy.encoded(row) == shards[f"{row}.jpg"]
    assert images.encoded(1) != shards["2.jpg"], "control"
    assert len(images._files) == min(most_open, 2)


@pytest.mark.parametrize("size", [0, 600, 5000])
@pytest.mark.parametrize("opened", [True, False])
def test_a_shard_that_shrinks_is_an_error_that_names_the_member(
    tmp_path: Path, shards: dict[str, bytes], size: int, opened: bool
) -> None:
    images = load(str(tmp_path / "shards-*.tar")).images
    if opened:
        images.encoded(2)
    os.truncate(tmp_path / "shards-0.tar", size)
    with pytest.raises(DataError, match=r"shards-0\.tar:2\.jpg: the shard ends inside this member"):
        images.encoded(2)
    assert images.encoded(4) == shards["4.jpg"]
