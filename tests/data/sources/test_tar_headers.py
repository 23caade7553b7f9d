"""Headers of tar archives against `tarfile`, and archives that are damaged or mean ill."""

from __future__ import annotations

import gzip
import io
import random
import subprocess
import tarfile
from pathlib import Path

import pytest
import torch
from stored_items import write_tar

from mmcl.data import load
from mmcl.data.sources.shards.tar_headers import BLOCK, Damage, Member, walk_headers
from mmcl.errors import DataError


def _walk(path: Path) -> list[Member | Damage]:
    with open(path, "rb", buffering=8192) as file:
        return list(walk_headers(file, path.stat().st_size))


def _add(tar, name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def _members(items, keys="abc"):
    members = {}
    for key, item in zip(keys, items):
        members |= {f"{key}.png": item.png, f"{key}.txt": f"caption {key}".encode()}
    return members


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(tmp_path, kind):
    draw = random.Random(kind)
    path = tmp_path / "a.tar"
    with tarfile.open(
        path, "w", format=kind, pax_headers={"comment": "of all"} if kind == tarfile.PAX_FORMAT else None
    ) as tar:
        for row in range(120):
            name = "/".join("d" * draw.randint(1, 60) for _ in range(draw.randint(1, 3))) + f"/{row}.jpg"
            if kind != tarfile.USTAR_FORMAT and row % 3 == 0:
                name = "long" * draw.randint(20, 80) + f"/é{row}.txt"
            mtime = 1.5 if kind == tarfile.PAX_FORMAT and row % 2 else row
            _add(tar, name, draw.randbytes(draw.choice([0, 1, 511, 512, 513, 5000])), mtime=mtime, uname="ü")
        _add(tar, "folder", type=tarfile.DIRTYPE)
        _add(tar, "link", type=tarfile.SYMTYPE, linkname="x" * 150 if kind != tarfile.USTAR_FORMAT else "x")
        _add(tar, "hard", type=tarfile.LNKTYPE, linkname="folder")
        _add(tar, "pipe", type=tarfile.FIFOTYPE)
        _add(tar, "device", type=tarfile.CHRTYPE)
        _add(tar, "last.txt", b"end")
    ours = _walk(path)
    with tarfile.open(path) as tar:
        theirs = [(member.name, member.offset_data, member.size) for member in tar]
        files = [member.name for member in tar if member.isfile()]
    assert [(member.name, member.offset, member.size) for member in ours] == theirs
    assert [member.name for member in ours if member.kind == "file"] == files
    kinds = [member.kind for member in ours if member.kind != "file"]
    assert kinds == ["folder", "symbolic link", "hard link", "pipe", "character device"]


def test_a_size_above_eight_gib_is_a_binary_number(tmp_path):
    path, size = tmp_path / "a.tar", 9 << 30
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("big.jpg")
        info.size = size
        with open(path, "wb") as file:
            file.write(info.tobuf(kind))
            start = file.tell()
            file.seek(start + size)  # a hole: no bytes on the disk
            file.write(tarfile.TarInfo("small.txt").tobuf(kind) + bytes(2 * BLOCK))
        big, small = _walk(path)
        assert big == ("big.jpg", "file", start, size)
        assert (small.name, small.offset) == ("small.txt", start + size + BLOCK)


def test_gnu_tar_and_its_sparse_files(tmp_path):
    with open(tmp_path / "holes.jpg", "wb") as file:
        for place in range(40):  # more holes than a header has room for
            file.seek(place * 100_000)
            file.write(b"data")
    (tmp_path / "after.txt").write_text("after")
    for kind in ("gnu", "pax"):
        command = ["tar", "--sparse", f"--format={kind}", "-cf", "a.tar", "holes.jpg", "after.txt"]
        subprocess.run(command, cwd=tmp_path, check=True)
        sparse, after = _walk(tmp_path / "a.tar")
        assert sparse.kind == "sparse file"
        with tarfile.open(tmp_path / "a.tar") as tar:
            assert (after.name, after.offset) == ("after.txt", tar.getmember("after.txt").offset_data)


def test_old_archives_without_a_magic(tmp_path):
    header = bytearray(tarfile.TarInfo("old.txt").tobuf(tarfile.USTAR_FORMAT))
    header[156:500] = bytes(344)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    assert _walk(tmp_path / "a.tar") == [("old.txt", "file", BLOCK, 0)]


@pytest.mark.parametrize("step", [1, 7])
def test_a_shard_cut_anywhere_keeps_what_is_whole(tmp_path, items, step):
    path = write_tar(tmp_path / "a.tar", _members(items))
    whole = path.read_bytes()
    starts = [member.offset for member in _walk(path)]
    ends = [member.offset + member.size for member in _walk(path)]
    for cut in range(BLOCK, ends[-1], 97 * step):
        path.write_bytes(whole[:cut])
        complete = sum(end <= cut for end in ends[1::2])  # the text is a sample's last member
        if complete == 0:
            with pytest.raises(DataError, match=r"none of its|cut short|no column for 'text'"):
                load(path)
            continue
        dataset = load(path)
        assert dataset.column("id") == list("abc"[:complete])
        begun = sum(start <= cut for start in starts[::2])
        assert len(dataset.skipped) >= begun - complete
        assert all("cut short" in row.reason or row.reason == "no caption" for row in dataset.skipped)


def test_a_damaged_header_costs_its_member_alone(tmp_path, items):
    path = write_tar(tmp_path / "a.tar", _members(items))
    data = bytearray(path.read_bytes())
    header = data.index(b"b.png")
    data[header + 124 : header + 130] = b"999999"
    path.write_bytes(data)
    dataset = load(path)
    assert dataset.column("id") == ["a", "c"]
    reasons = {row.source: row.reason for row in dataset.skipped}
    assert reasons[f"{path}:b"].startswith("no image")
    assert "a damaged header" in reasons[f"{path}:byte {header}"]
    assert "are passed over" in reasons[f"{path}:byte {header}"]
    with tarfile.open(path) as tar:
        assert len(tar.getnames()) == 2, "a control: tarfile ends there without a word"


def test_joined_archives_are_told(tmp_path, items):
    one, two = (write_tar(tmp_path / f"{key}.tar", _members(items, key)) for key in "ab")
    path = tmp_path / "joined.tar"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    dataset = load(path)
    assert dataset.column("id") == ["a"]
    assert dataset.skipped[0].source == f"{path}:byte {one.stat().st_size}"
    assert "behind the end mark" in dataset.skipped[0].reason


def test_links_devices_and_names_that_lead_out_are_listed_and_never_followed(tmp_path, items):
    (tmp_path / "secret.png").write_bytes(items[5].png)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in _members(items, "a").items():
            _add(tar, name, data)
        _add(tar, "link.png", type=tarfile.SYMTYPE, linkname="secret.png")
        _add(tar, "link.txt", b"a caption")
        _add(tar, "hard.png", type=tarfile.LNKTYPE, linkname="a.png")
        _add(tar, "null", type=tarfile.CHRTYPE)
        _add(tar, "../up.png", items[1].png)
        _add(tar, "../up.txt", b"up")
        _add(tar, "x/../../up.png", items[1].png)
        _add(tar, "/etc/root.png", items[1].png)
    before = sorted(path.name for path in tmp_path.iterdir())
    dataset = load(path)
    assert dataset.column("id") == ["a"]
    reasons = {row.source.removeprefix(f"{path}:"): row.reason for row in dataset.skipped}
    assert reasons.pop("link.png") == "a symbolic link; only files are read, links never"
    assert reasons.pop("hard.png").startswith("a hard link")
    assert reasons.pop("null").startswith("a character device")
    assert reasons.pop("link").startswith("no image")
    assert set(reasons) == {"../up.png", "../up.txt", "x/../../up.png", "/etc/root.png"}
    assert set(reasons.values()) == {"its name leads out of the archive"}
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing is written beside the data"


def test_members_that_stand_twice(tmp_path, items):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        _add(tar, "a.png", items[0].png)
        _add(tar, "a.png", items[1].png)
        _add(tar, "a.txt", b"first")
        _add(tar, "a.txt", b"second")
        _add(tar, "a.jpg", items[2].png)
    dataset = load(path)
    assert dataset.column("texts") == [["first"]]
    assert torch.equal(dataset.images.read(0), torch.from_numpy(items[0].pixels).permute(2, 0, 1))
    assert [row.source.rpartition(":")[2] for row in dataset.skipped] == ["a.png", "a.txt"]
    assert {row.reason for row in dataset.skipped} == {"stands twice in its sample; the first is read"}


def test_broken_texts_and_jsons_cost_their_sample_alone(tmp_path, items):
    members = _members(items, "abcde")
    members |= {"a.txt": "caf\u00e9".encode("latin-1"), "b.json": b"[1]", "c.json": b"{", "d.json": b"\xff{}"}
    members |= {"onlytext.txt": b"x", "onlyimage.png": items[0].png}
    dataset = load(write_tar(tmp_path / "a.tar", members))
    assert dataset.column("id") == ["e"]
    reasons = {row.source.rpartition(":")[2]: row.reason for row in dataset.skipped}
    assert set(reasons) == {"a", "b", "c", "d", "onlytext", "onlyimage"}
    assert "a.txt cannot be read ('utf-8' codec" in reasons["a"]
    assert "b.json cannot be read (a list, wanted an object)" in reasons["b"]


def test_a_name_that_is_no_utf8(tmp_path, items):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name, data in _members(items, "\u00e9").items():
            _add(tar, name, data)
    assert load(path).column("id") == ["\\xe9"]


def test_what_is_no_tar_is_one_clear_error(tmp_path, items):
    path = write_tar(tmp_path / "a.tar", _members(items))
    whole = path.read_bytes()
    for data, message in (
        (gzip.compress(whole), r"a\.tar: a compressed archive \(gzip\); only plain \.tar files"),
        (b"", r"a\.tar: no tar archive: the file is empty"),
        (b"no tar at all" * 100, r"a\.tar: no tar archive, or a damaged one"),
        (b"short", r"a\.tar: no tar archive, or a damaged one"),
        (bytes(10240), r"a\.tar has no rows"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            load(path)
    path.write_bytes(whole)
    assert len(load(path)) == 3, "a control"
