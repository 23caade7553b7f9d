"""The emoji data set, from a few emoji in the packages' layout; its families and splits against the real one."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmcl.data import load, load_all
from mmcl.data.cards import check_card
from mmcl.data.making import npm_packages
from mmcl.data.making.emoji import make_emoji
from mmcl.data.making.emoji_images import emoji_picture
from mmcl.data.making.emoji_rows import LANGUAGES, emoji_family
from mmcl.data.making.emoji_splits import split_of
from mmcl.data.making.npm_packages import fetch_package, open_package, unpack
from mmcl.errors import ConfigError, DataError

# code point, name, category, subcategory, styles, version
EMOJI = [
    ("1F600", "grinning face", "Smileys & Emotion", "face-smiling", "gt", "1.0"),
    ("1F3C3-200D-2640-FE0F", "woman running", "People & Body", "person-activity", "gt", "4.0"),
    ("1F469-200D-1F680", "woman astronaut", "People & Body", "person-role", "gt", "4.0"),
    ("0023-FE0F-20E3", "keycap: #", "Symbols", "keycap", "gt", "0.6"),
    ("1F34E", "red apple", "Food & Drink", "food-fruit", "g", "0.6"),
    ("1F1E9-1F1EA", "flag: Germany", "Flags", "country-flag", "gt", "0.6"),
    ("1F3FB", "light skin tone", "Component", "skin-tone", "gt", "1.0"),
    ("1FAEA", "distorted face", "Smileys & Emotion", "face-hand", "gt", "17.0"),
]
STYLES = {"g": "google", "t": "twitter"}


def picture(seed: int) -> Image.Image:
    pixels = np.zeros((64, 64, 4), dtype=np.uint8)
    pixels[10:50, 4:60] = np.random.default_rng(seed).integers(0, 256, (40, 56, 4), dtype=np.uint8)
    pixels[10:50, 4:60, 3] |= 128
    pixels[0, 0] = (9, 9, 9, 8)  # too faint to be a part of the picture
    return Image.fromarray(pixels)


def write_package(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": name, "version": version}))
    (folder / "LICENSE").write_text(f"The licence of {name}\n")
    return folder


@pytest.fixture
def packages(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for sign, style in STYLES.items():
        folder = write_package(tmp_path / style, f"emoji-datasource-{style}", "16.0.0")
        entries = [
            {
                "unified": code, "category": category, "subcategory": kind, "added_in": version,
                "has_img_google": "g" in styles, "has_img_twitter": "t" in styles,
            }
            for code, _, category, kind, styles, version in EMOJI
        ]  # fmt: skip
        (folder / "emoji.json").write_text(json.dumps(entries))
        images = folder / "img" / style / "64"
        images.mkdir(parents=True)
        for number, (code, _, _, _, styles, _) in enumerate(EMOJI):
            if sign in styles:
                picture(number).save(images / f"{code.lower()}.png")
        made[style] = folder
    made["emojibase"] = write_package(tmp_path / "emojibase", "emojibase-data", "17.0.0")
    for language in ("en", *LANGUAGES):
        entries = [
            {
                "hexcode": code if code != "0023-FE0F-20E3" else "0023-20E3",
                "label": name if language == "en" else f"{name} {language}",
                "tags": name.split(),
            }
            for code, name, *_ in EMOJI
            if (code, language) != ("1F34E", "th")
        ]
        (made["emojibase"] / language).mkdir()
        (made["emojibase"] / language / "data.json").write_text(json.dumps(entries))
    return made


def test_a_few_emoji(packages, tmp_path):
    counts = make_emoji(tmp_path / "out", **packages)
    assert sum(counts["rows"].values()) == 11
    assert counts["packages"]["emojibase-data"] == "17.0.0"
    rows = {}
    for dataset in load_all(tmp_path / "out").values():
        for row in dataset.table.to_pylist():
            rows[row["id"]] = row
    assert len(rows) == 11
    keycap = rows["0023-fe0f-20e3_twitter"]
    assert keycap["texts"] == ["keycap: #"]
    assert keycap["i18n"]["de"] == "keycap: # de"
    assert (keycap["label"], keycap["sublabel"], keycap["licence"]) == ("symbol", "keycap", "CC-BY-4.0")
    apple = rows["1f34e_google"]
    assert "1f34e_twitter" not in rows
    assert (apple["tags"], apple["domain"], apple["i18n"]["th"]) == (["red", "apple"], "google", None)
    assert rows["1f3c3-200d-2640-fe0f_google"]["family"] == "1F3C3"
    assert rows["1f469-200d-1f680_google"]["group"] == rows["1f469-200d-1f680_twitter"]["group"] == "1F469-200D-1F680"
    assert not any(row["sublabel"] in ("country-flag", "skin-tone") for row in rows.values())
    splits = {split: set(dataset.column("family")) for split, dataset in load_all(tmp_path / "out").items()}
    assert not splits["train"] & splits.get("test", set())
    assert {family: split for split, families in splits.items() for family in families}["1FAEA"] == split_of(
        "1FAEA", drawn=False
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert check_card(card, folder=tmp_path / "out") == []
    assert "emoji-datasource-google 16.0.0" in card
    assert "Credit is required" in card
    assert "The licence of emojibase-data" in (tmp_path / "out" / "LICENCE.txt").read_text()
    # The same call finds it done.
    assert make_emoji(tmp_path / "out", **packages)["rows"] == counts["rows"]


def test_pictures_are_cut_out_and_laid_on_white(tmp_path):
    pixels = np.zeros((64, 64, 4), dtype=np.uint8)
    pixels[10:50, 4:60] = (200, 40, 10, 255)
    pixels[20:40, 20:40, 3] = 128
    pixels[0, 0] = (9, 9, 9, 8)  # too faint to be a part of the picture
    Image.fromarray(pixels).save(tmp_path / "x.png")
    with Image.open(io.BytesIO(emoji_picture(tmp_path / "x.png"))) as image:
        assert (image.format, image.mode, image.size) == ("WEBP", "RGB", (56, 40))
        got = np.asarray(image).astype(float)
    assert np.abs(got[20, 26] - (227, 147, 132)).max() < 8  # half of the colour, half of white
    assert np.abs(got[5, 5] - (200, 40, 10)).max() < 8
    # What could not be seen on white stands on grey: here its rounded edge tells.
    pixels[10:50, 4:60] = (250, 250, 250, 255)
    pixels[10:14, 4:60, 3] = 20
    Image.fromarray(pixels).save(tmp_path / "white.png")
    with Image.open(io.BytesIO(emoji_picture(tmp_path / "white.png"))) as image:
        assert np.asarray(image)[1].max() < 150
        assert np.asarray(image)[20].min() > 240
    Image.new("RGBA", (64, 64), (1, 2, 3, 8)).save(tmp_path / "faint.png")
    with pytest.raises(DataError, match=r"faint\.png: nothing in the picture is visible"):
        emoji_picture(tmp_path / "faint.png")
    with pytest.raises(DataError, match=r"none\.png: No such file"):
        emoji_picture(tmp_path / "none.png")


def test_missing_pictures_are_listed(packages, tmp_path):
    (packages["twitter"] / "img/twitter/64/1f600.png").unlink()
    (packages["google"] / "img/google/64/1f600.png").write_bytes(b"no image")
    counts = make_emoji(tmp_path / "out", **packages)
    assert (sum(counts["rows"].values()), counts["dropped"]) == (9, 2)
    listed = [json.loads(line) for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    assert [Path(row["source"]).name for row in listed] == ["1f600.png", "1f600.png"]
    assert [row["reason"] for row in listed] == ["not an image that can be read", "No such file or directory"]


def test_families_and_splits_are_those_of_the_real_set(emoji):
    rows = 0
    for split, dataset in load_all(emoji).items():
        for codepoint, family in zip(dataset.column("codepoint"), dataset.column("family") or []):
            # The signs for female, male and right have no sign left: the reader takes their blank family for none.
            assert emoji_family(codepoint) == (family or "")
            assert split_of(emoji_family(codepoint)) == split
            rows += 1
    assert rows == 3288
    assert emoji_family("1F469-200D-2764-FE0F-200D-1F468") == "FAMILY-OR-COUPLE"


def test_families_that_come_later_are_shared_out_by_hash():
    shares = {"train": 0, "validation": 0, "test": 0}
    for number in range(5000):
        shares[split_of(f"F{number}", drawn=False)] += 1
    assert abs(shares["test"] / 5000 - 0.2) < 0.02
    assert abs(shares["validation"] / 5000 - 0.1) < 0.02


def test_wrong_folders_are_told(packages, tmp_path):
    with pytest.raises(
        DataError, match="--twitter .* holds the package emoji-datasource-google; wanted emoji-datasource-tw"
    ):
        make_emoji(tmp_path / "out", **{**packages, "twitter": packages["google"]})
    with pytest.raises(DataError, match="there is no package.json in it; give the unpacked folder of emojibase-data"):
        make_emoji(tmp_path / "out", **{**packages, "emojibase": tmp_path / "none"})
    (packages["emojibase"] / "da" / "data.json").unlink()
    with pytest.raises(DataError, match=r"da/data\.json: No such file or directory; the package is of another version"):
        make_emoji(tmp_path / "out", **packages)
    (packages["emojibase"] / "da" / "data.json").write_text('[{"hexcode": "1F600"}]')
    with pytest.raises(DataError, match=r"da/data\.json: an entry without 'label'"):
        make_emoji(tmp_path / "out", **packages)
    assert not (tmp_path / "out").exists()


def test_another_folder_is_not_written_over(packages, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else already"):
        make_emoji(tmp_path / "out", **packages)


def archive(path: Path, members: dict[str, str], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


def fake_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


def test_packages_are_fetched_once_and_only_in_part(tmp_path, monkeypatch):
    made = archive(
        tmp_path / "made.tgz",
        {
            "package/package.json": '{"name": "some-data", "version": "1.2.3"}',
            "package/en/data.json": "[]",
            "package/install.js": "no",
        },
    )
    fake_npm(tmp_path, monkeypatch, f'echo "$@" >> {tmp_path}/calls; cp {made} "$6"/some-data-1.2.3.tgz')
    for _ in range(2):
        package = fetch_package("some-data", "1.2.3", files=["*/data.json"], option="--data")
        assert package.version == "1.2.3"
    assert (package.folder / "en" / "data.json").read_text() == "[]"
    assert not (package.folder / "install.js").exists()
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith("pack some-data@1.2.3 --ignore-scripts")
    assert [path.name for path in package.folder.parent.iterdir()] == ["some-data-1.2.3"]
    assert open_package(package.folder, "some-data", option="--data") == package


def test_without_npm_and_offline(tmp_path, monkeypatch):
    fake_npm(tmp_path, monkeypatch, "echo 'npm error network is unreachable' >&2; exit 1")
    with pytest.raises(
        DataError, match=r"npm pack some-data@1 failed \(npm error network is unreachable\).*--data DIR"
    ):
        fetch_package("some-data", "1", files=["*"], option="--data")
    assert list((npm_packages.cache_folder() / "npm").iterdir()) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        DataError, match=r"npm, which is not installed; install Node.js, or .*give its folder: --data DIR"
    ):
        fetch_package("some-data", "1", files=["*"], option="--data")


@pytest.mark.parametrize(
    ("members", "links"),
    [
        ({"package/../../evil.json": "x"}, {}),
        ({}, {"package/link.json": "/etc/passwd"}),
        ({"package//abs.json": "x"}, {}),
    ],
)
def test_nothing_is_unpacked_outside(tmp_path, members, links):
    made = archive(tmp_path / "made.tgz", {**members, "package/fine.json": "fine"}, links)
    with contextlib.suppress(DataError):  # refused, or put below the folder
        unpack(made, tmp_path / "in" / "out", files=["*.json"])
    found = [path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()]
    assert {path.relative_to(tmp_path).parts[:2] for path in found} <= {("made.tgz",), ("in", "out")}
    assert not any(path.is_symlink() for path in found)


def test_a_damaged_archive_is_told(tmp_path):
    whole = archive(tmp_path / "whole.tgz", {"package/data.json": "x" * 5000}).read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[:40])
    with pytest.raises(DataError, match=r"cut\.tgz: the package cannot be unpacked"):
        unpack(tmp_path / "cut.tgz", tmp_path / "out", files=["*"])


def test_the_written_set_is_read_by_its_name(packages, tmp_path):
    make_emoji(tmp_path / "out", **packages)
    assert ["woman running"] in load(tmp_path / "out", split=split_of("1F3C3")).column("texts")
