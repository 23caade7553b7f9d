"""`make_emoji`: emoji in two styles with their names, from three npm packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmcl.batch import SkippedRow
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.images.arrow_bytes import BytesImages
from mmcl.data.making.card import write_card
from mmcl.data.making.emoji_images import emoji_picture
from mmcl.data.making.emoji_rows import LANGUAGES, LICENCES, emoji_rows
from mmcl.data.making.npm_packages import Package, fetch_package, open_package
from mmcl.data.writing import write_dataset
from mmcl.errors import DataError

IMAGES_VERSION = "16.0.0"
NAMES_VERSION = "17.0.0"
SPLITS = ("train", "validation", "test")
_Progress = Callable[[str, int, int], None]
_CREDITS = """\
Images, style google: Noto Emoji, Google, Apache License 2.0.
Images, style twitter: Twemoji, Twitter, Inc. and other contributors, CC-BY 4.0: credit is required.
Index: emoji-datasource, Cal Henderson, MIT. Names, keywords, translations: emojibase-data, Miles Johnson, MIT, from
Unicode CLDR (Unicode licence). The packages' own texts follow.
"""
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("texts", pa.list_(pa.string())),
        ("label", pa.string()),
        ("group", pa.string()),
        ("domain", pa.string()),
        ("tags", pa.list_(pa.string())),
        *((name, pa.string()) for name in ("lang", "sublabel", "codepoint", "licence", "family")),
        ("i18n", pa.struct([(language, pa.string()) for language in LANGUAGES])),
    ]
)


def make_emoji(
    out: Path,
    *,
    google: Path | None = None,
    twitter: Path | None = None,
    emojibase: Path | None = None,
    images_version: str = IMAGES_VERSION,
    names_version: str = NAMES_VERSION,
    progress: _Progress | None = None,
) -> dict[str, Any]:
    """Make the data set "emoji in two styles": each emoji as Google and as Twitter draw it, with its CLDR names.

    Columns: ``text`` (the English short name), ``tags``, ``label`` (9 groups), ``sublabel``, ``domain`` (google or
    twitter), ``group`` (the emoji), ``family`` (with its gender, direction and person variants; the unit of the
    split), ``codepoint``, ``lang``, ``licence``, ``i18n`` (the name in 19 more languages). Skin tones and country and
    regional flags are left out. With the default versions it is, row for row and byte for byte, the data that the
    recipes' figures were measured on.

    Args:
        out: the folder to write (see ``write_dataset``; the same call goes on where it was broken off), with a card
            in ``README.md``.
        google, twitter, emojibase: unpacked folders of ``emoji-datasource-google``, ``emoji-datasource-twitter`` and
            ``emojibase-data``; those that are not given are fetched by npm and kept in mmcl's cache folder.
        images_version, names_version: which versions are fetched of the two first, and of the third.
        progress: told what is done, how much of it, and of how much.

    Returns:
        What ``write_dataset`` returns, ``packages``: name -> version, and the path ``card``.

    Raises:
        DataError: npm is missing or offline; a folder holds another package; files are missing.
        ConfigError: ``out`` holds something else.
    """
    datasource = ("emoji.json", "LICENSE", "img/{style}/64/*.png")
    packages = {
        style: _package(
            folder, f"emoji-datasource-{style}", images_version, option=f"--{style}",
            files=[pattern.format(style=style) for pattern in datasource],
        )
        for style, folder in (("google", google), ("twitter", twitter))
    }  # fmt: skip
    names = _package(
        emojibase, "emojibase-data", names_version, option="--emojibase",
        files=["LICENSE", *(f"{language}/data.json" for language in ("en", *LANGUAGES))],
    )  # fmt: skip
    splits = emoji_splits(packages, names, progress=progress)
    counts = write_dataset(splits, Path(out), format="folder", progress=progress)
    versions = {package.name: package.version for package in (*packages.values(), names)}
    command = (
        f"mmcl data make emoji -o OUT --images-version {packages['google'].version} --names-version {names.version}"
    )
    _write_licences(Path(counts["out"]), [*packages.values(), names])
    card = write_card(Path(counts["out"]), "emoji", versions=versions, command=command, progress=progress)
    return {**counts, "packages": versions, "card": str(card)}


def _write_licences(out: Path, packages: Sequence[Package]) -> None:
    """Keep what the licences ask to be kept: whom to credit, and the packages' own texts."""
    texts = [_CREDITS]
    for package in packages:
        path = package.folder / "LICENSE"
        if path.is_file():
            texts.append(f"{package.name} {package.version}\n\n{path.read_text(encoding='utf-8').strip()}\n")
    (out / "LICENCE.txt").write_text("\n".join(texts), encoding="utf-8")


def _package(folder: Path | None, name: str, version: str, *, option: str, files: list[str]) -> Package:
    if folder is not None:
        return open_package(folder, name, option=option)
    return fetch_package(name, version, files=files, option=option)


def emoji_splits(
    packages: Mapping[str, Package], names: Package, *, progress: _Progress | None = None
) -> dict[str | None, ImageTextDataset]:
    """The splits of the emoji data set, images in memory.

    Args:
        packages: style (google, twitter) -> its package of images.
        names: ``emojibase-data``.
        progress: told how many pictures are drawn, of how many.

    Raises:
        DataError: a file is missing or of another layout, or nothing can be used.
    """
    rows = [
        {**row, "domain": style, "licence": licence, "id": f"{row['group'].lower()}_{style}"}
        for row in emoji_rows(packages["google"], names)
        for style, licence in LICENCES.items()
        if style in row["styles"]
    ]
    rows.sort(key=lambda row: row["id"])
    images: list[bytes | None] = []
    skipped: list[SkippedRow] = []
    for number, row in enumerate(rows):
        style = row["domain"]
        path = packages[style].folder / "img" / style / "64" / f"{row['group'].lower()}.png"
        try:
            images.append(emoji_picture(path))
        except DataError as error:
            images.append(None)
            skipped.append(SkippedRow(number, str(path), str(error).removeprefix(f"{path}: ")))
        if progress is not None:
            progress("drawing", number + 1, len(rows))
    if len(skipped) == len(rows):
        raise DataError(f"no emoji has a picture; the first: {skipped[0]}" if rows else "the packages hold no emoji")
    made: dict[str | None, ImageTextDataset] = {}
    for split in SPLITS:
        kept = [n for n, row in enumerate(rows) if row["split"] == split and images[n] is not None]
        if kept:
            made[split] = _dataset([rows[n] for n in kept], [images[n] for n in kept], skipped, name=f"emoji:{split}")
    return made


def _dataset(
    rows: list[dict[str, Any]], images: list[bytes | None], skipped: list[SkippedRow], *, name: str
) -> ImageTextDataset:
    table = pa.Table.from_pylist([{**row, "texts": [row["text"]]} for row in rows], schema=_SCHEMA)
    store = BytesImages(pa.chunked_array([images], pa.binary()), source=name)
    return ImageTextDataset(store, table, name=name, skipped=skipped)
