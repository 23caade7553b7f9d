"""Each check on a few rows made for it, with rows beside them that it must leave alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from planting import bomb, cropped, encoded

from mmcl.batch import SkippedRow
from mmcl.data import load
from mmcl.data.audit.auditing import audit
from mmcl.data.audit.checks import CHECKS
from mmcl.data.audit.limits import Limits, limits_from
from mmcl.data.audit.report import AuditReport
from mmcl.data.dataset import SCHEMA, ImageTextDataset
from mmcl.data.images.files import FileImages
from mmcl.data.mining.offline_mining import Embed
from mmcl.data.shapes.images import ArrayImages
from mmcl.errors import ConfigError, ShapeError


def pixels(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize((96, 88), Image.Resampling.BICUBIC)


def rows_of(texts: Sequence[Any], *, seed: int = 0, name: str = "t", **columns: list[Any]) -> ImageTextDataset:
    """Rows with images of their own and these captions."""
    images = np.stack([np.asarray(pixels(1000 * seed + row).resize((48, 48))) for row in range(len(texts))])
    lists = [text if isinstance(text, list) else [text] for text in texts]
    table = {"texts": pa.array(lists, SCHEMA["texts"])} | {
        key: pa.array(value, SCHEMA[key]) for key, value in columns.items()
    }
    return ImageTextDataset(ArrayImages(images, name=name), pa.table(table), name=name)


def files_of(folder: Path, files: dict[str, bytes], **columns: list[Any]) -> ImageTextDataset:
    """Rows with these image files and captions of their own."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    texts = [[f"the only {name}"] for name in files]
    table = {"id": list(files), "texts": texts} | {key: pa.array(value, SCHEMA[key]) for key, value in columns.items()}
    return ImageTextDataset(FileImages(folder, pa.array(list(files))), pa.table(table), name=folder.name)


def found(report: AuditReport, check: str, severity: str | None = None) -> list[tuple[str | None, int]]:
    return [(row["split"], row["row"]) for row in report.of(check, severity).to_pylist()]


def numbers(texts: Sequence[Any], check: str, limits: Limits | None = None, **columns: list[Any]) -> list[int]:
    report = audit({None: rows_of(texts, **columns)}, checks=[check], limits=limits)
    return [row for _, row in found(report, check)]


# -- images -----------------------------------------------------------------------------------------------------------


def test_pictures(tmp_path: Path) -> None:
    good = pixels(0)
    whole = encoded(good, "JPEG")
    files = {
        "good.jpg": whole,
        "cut.jpg": whole[: len(whole) // 2],
        "empty.png": b"",
        "text.png": b"<html>",
        "bomb.png": bomb(),
        "tiny.png": encoded(good.resize((31, 20)), "PNG"),
        "narrow.png": encoded(good.resize((33, 3)), "PNG"),
        "flat.png": encoded(Image.new("RGB", (50, 50), (20, 20, 20)), "PNG"),
        "dark.png": encoded(good.point(lambda level: level // 16), "PNG"),
        "print.jpg": encoded(pixels(1).convert("CMYK"), "JPEG"),
        "moving.gif": encoded(pixels(2), "GIF", save_all=True, append_images=[pixels(3)]),
        "really_jpeg.png": encoded(pixels(4), "JPEG"),
        "upper.JPG": encoded(pixels(5), "JPEG"),
    }
    names = list(files)
    report = audit({None: files_of(tmp_path / "d", files)}, limits=Limits(max_megapixels=0.004))

    def named(check: str, severity: str | None = None) -> list[str]:
        return [names[row] for _, row in found(report, check, severity)]

    assert named("truncated_image") == ["cut.jpg"]
    assert named("unreadable_image") == ["empty.png", "text.png"]
    assert named("huge_image", "error") == ["bomb.png"]
    assert "good.jpg" in named("huge_image", "warning")
    assert "flat.png" not in named("huge_image")
    assert named("tiny_image") == ["tiny.png"]
    assert named("extreme_aspect") == ["narrow.png"]
    assert named("blank_image") == ["flat.png"]
    assert named("unusual_mode") == ["print.jpg"]
    assert named("animated_image") == ["moving.gif"]
    assert named("wrong_extension") == ["really_jpeg.png"]
    assert report.to_drop()[None].tolist() == [1, 2, 3, 4]
    assert "good.jpg" not in {names[row] for row in audit({None: files_of(tmp_path / "e", files)}).flagged()[None]}


# -- captions ---------------------------------------------------------------------------------------------------------


def test_captions_by_their_characters() -> None:
    texts = [
        "a red cup",
        "...",
        "\u2764",
        "word " * 70,
        "word " * 500,
        "x" * 1_000_000,
        "a b\x00c",
        "caf\u00c3\u00a9",
        "caf\u00e9",
    ]
    assert numbers(texts, "wordless_caption") == [1]
    assert numbers(texts, "many_tokens") == [3]
    assert numbers(texts, "long_caption") == [4, 5]
    assert numbers(texts, "long_caption", Limits(max_chars=100)) == [3, 4, 5]
    assert numbers(texts, "damaged_characters") == [6, 7]


def test_captions_that_are_no_plain_text() -> None:
    wrong = ["see https://a.b/c", "a <b>red</b> cup", "cups &amp; more", "cup_12.jpg", "IMG_20190101", "DSC01234"]
    right = ["2 < 3 and 5 > 4", "a jpg of a cup", "cups & more", "the web address", "img of a cup", "a.m. and p.m."]
    assert numbers([*wrong, *right], "markup_caption") == list(range(len(wrong)))


def test_a_row_is_named_once_for_several_captions() -> None:
    assert numbers([["fine", "...", "??"], "fine too"], "wordless_caption") == [0]


def test_boilerplate_is_what_unrelated_rows_share() -> None:
    texts = ["Photo by me."] * 3 + ["photo  by ME"] * 2 + ["a cup", "a dog"]
    assert numbers(texts, "boilerplate") == [0, 1, 2, 3, 4]
    assert numbers(texts, "boilerplate", Limits(boilerplate_rows=6)) == []
    assert numbers(texts, "repeated_caption", Limits(boilerplate_rows=6)) == [0, 1, 2, 3, 4]
    # Rows of one group, or of one label where there are no groups, may say the same.
    groups = ["a", "a", "a", "b", "b", "c", "d"]
    assert numbers(texts, "boilerplate", group=groups) == []
    assert numbers(texts, "boilerplate", label=groups) == []
    assert numbers(texts, "repeated_caption", group=groups) == [0, 1, 2, 3, 4]


def test_phrases_count_where_they_are_frequent() -> None:
    stock = [f"stock photo of thing {row}" for row in range(5)]
    opening = [f"an image of animal {row}" for row in range(6)]
    texts = [*stock, *opening, "click here", "a cup"]
    assert numbers(texts, "boilerplate") == [0, 1, 2, 3, 4]
    assert numbers(texts, "template") == [5, 6, 7, 8, 9, 10]
    assert numbers(texts[1:5], "boilerplate") == []


def test_templates_by_frequency() -> None:
    texts = [f"on this very fine day number {row} was" for row in range(20)] + [
        f"word{row} and more" for row in range(9)
    ]
    assert numbers(texts, "template") == list(range(20))
    assert numbers(texts[1:], "template") == []


# -- rows -------------------------------------------------------------------------------------------------------------


def test_ids_and_groups() -> None:
    texts = [f"text {row}" for row in range(7)]
    assert numbers(texts, "duplicate_id", id=["a", "b", "a", None, None, "c", "b"]) == [2, 6]
    two = {"train": rows_of(texts[:2], id=["a", "b"]), "test": rows_of(texts[2:4], id=["a", "b"], seed=1)}
    assert found(audit(two, checks=["duplicate_id"]), "duplicate_id") == []
    groups = ["big"] * 5 + ["small", None]
    assert numbers(texts, "big_group", Limits(group_rows=4), group=groups) == []  # the median counts too
    many = [f"group {row}" for row in range(30)]
    texts = [f"text {row}" for row in range(60)]
    assert numbers(texts, "big_group", Limits(group_rows=20), group=["big"] * 30 + many) == [0]


def test_rows_that_the_reader_left_out() -> None:
    skipped = [SkippedRow(3, "t.csv:4", "no caption"), SkippedRow(5, "t.csv:6", "broken line")]
    train, test = rows_of(["a"]), rows_of(["b"], seed=1)
    train.skipped = test.skipped = skipped
    report = audit({"train": train, "test": test}, checks=["left_out", "empty_caption"])
    (empty,), (left,) = (report.of(check).to_pylist() for check in ("empty_caption", "left_out"))
    assert (empty["place"], empty["row"], empty["detail"]) == ("t.csv:4", None, "no caption")
    assert (left["place"], left["severity"]) == ("t.csv:6", "error")
    assert [len(rows) for rows in report.to_drop().values()] == [0, 0]


# -- twins and leaks --------------------------------------------------------------------------------------------------


def test_duplicates_within_a_split(tmp_path: Path) -> None:
    one = pixels(0)
    files = {
        "one.png": encoded(one, "PNG"),
        "same_bytes.png": encoded(one, "PNG"),
        "same_pixels.bmp": encoded(one, "BMP"),
        "cropped.png": encoded(cropped(one, 0.02), "PNG"),
        "jpeg.jpg": encoded(pixels(1), "JPEG", quality=90),
        "other.png": encoded(pixels(1), "PNG"),
        "third.png": encoded(pixels(2), "PNG"),
    }
    report = audit({None: files_of(tmp_path / "d", files)})
    assert found(report, "duplicate_image") == [(None, 1), (None, 2)]
    assert found(report, "near_duplicate_image") == [(None, 3), (None, 5)]
    assert [row["related"][0]["row"] for row in report.of("near_duplicate_image").to_pylist()] == [0, 4]
    assert report.to_drop()[None].tolist() == [1, 2]
    assert found(report, "leaked_image") == []


def test_one_group_may_have_an_image_twice(tmp_path: Path) -> None:
    one = encoded(pixels(0), "PNG")
    data = files_of(tmp_path / "d", {"a.png": one, "b.png": one, "c.png": one}, group=["g", "g", "h"])
    report = audit({None: data})
    assert found(report, "duplicate_image", "note") == [(None, 1)]  # it has another caption, which would be lost
    assert found(report, "duplicate_image", "warning") == [(None, 2)]
    assert found(report, "image_in_several_groups") == [(None, 2)]
    assert report.to_drop()[None].tolist() == [2]


def test_blank_images_are_no_duplicates(tmp_path: Path) -> None:
    blank = encoded(Image.new("RGB", (40, 40), "white"), "PNG")
    report = audit({None: files_of(tmp_path / "d", {"a.png": blank, "b.png": blank})})
    assert found(report, "duplicate_image") == []
    assert len(found(report, "blank_image")) == 2


def test_leaks_name_the_training_side(tmp_path: Path) -> None:
    shared, near, alone = pixels(0), pixels(1), pixels(2)
    train = files_of(
        tmp_path / "train",
        {
            "a.png": encoded(shared, "PNG"),
            "b.png": encoded(near.resize((72, 66)), "PNG"),
            "c.png": encoded(alone, "PNG"),
        },
        group=["1", "2", "both"],
    )
    test = files_of(
        tmp_path / "test",
        {"d.png": encoded(pixels(3), "PNG"), "e.png": encoded(near, "PNG"), "f.png": encoded(shared, "PNG")},
        group=["both", "3", "4"],
    )
    for splits in ({"train": train, "test": test}, {"test": test, "train": train}):
        report = audit(splits)
        assert found(report, "leaked_image") == [("train", 0), ("train", 1)]
        assert found(report, "leaked_group") == [("train", 2)]
        related = [row["related"][0] for row in report.of("leaked_image").to_pylist()]
        assert [(row["split"], row["row"]) for row in related] == [("test", 2), ("test", 1)]
        assert {key: rows.tolist() for key, rows in report.to_drop().items()} == {"train": [0, 1, 2], "test": []}
        leaks = {leak.by: (leak.held_out, leak.seen, leak.rows.tolist(), leak.share) for leak in report.leaks}
        assert leaks == {
            "image": ("test", "train", [2], 1 / 3),
            "near image": ("test", "train", [1], 1 / 3),
            "group": ("test", "train", [0], 1 / 3),
        }


def test_a_copy_of_a_near_twin_leaks_too(tmp_path: Path) -> None:
    copy = encoded(cropped(pixels(0), 0.02), "PNG")
    train = files_of(tmp_path / "train", {"a.png": copy, "b.png": copy, "c.png": encoded(pixels(1), "PNG")})
    test = files_of(tmp_path / "test", {"d.png": encoded(pixels(0), "PNG")})
    assert found(audit({"train": train, "test": test}), "leaked_image") == [("train", 0), ("train", 1)]


def test_leaked_captions() -> None:
    train = rows_of(["A  red cup.", "a blue cup", *["a thing"] * 6])
    validation, test = rows_of(["a dog"], seed=1), rows_of([["a red cup", "mine"], "a thing", "a cat"], seed=2)
    report = audit({"train": train, "validation": validation, "test": test}, checks=["leaked_caption"])
    assert found(report, "leaked_caption", "warning") == [("train", 0)]
    assert found(report, "leaked_caption", "note") == [("train", row) for row in range(2, 8)]
    assert [(leak.held_out, leak.rows.tolist()) for leak in report.leaks] == [("test", [0, 1])]


# -- a model ----------------------------------------------------------------------------------------------------------


def stand_in(concepts: Sequence[int], noise: float) -> Embed:
    """Image i shows concept i; a text ends in the concept that it names."""

    def vectors(kind: int, which: Sequence[int]) -> torch.Tensor:
        rows = [np.random.default_rng([7, c]).normal(size=64) for c in which]
        own = [np.random.default_rng([8 + kind, c]).normal(size=64) for c in which]
        made = torch.from_numpy(np.stack(rows) + noise * np.stack(own)).float()
        return made / made.norm(dim=1, keepdim=True)

    return Embed(
        64,
        texts=lambda texts: vectors(0, [int(text.split()[-1].removesuffix(".png")) for text in texts]),
        images=lambda data: (vectors(1, concepts), np.arange(len(data))),
    )


def test_mismatched_captions() -> None:
    texts = [f"thing {row}" for row in range(200)]
    texts[3], texts[150] = texts[150], texts[3]
    data = {None: rows_of(texts)}
    report = audit(data, checks=["mismatched_caption"], embed=stand_in(range(200), 0.5))
    assert found(report, "mismatched_caption") == [(None, 3), (None, 150)]
    assert [row["related"][0]["row"] for row in report.of("mismatched_caption").to_pylist()] == [150, 3]
    weak = audit(data, checks=["mismatched_caption"], embed=stand_in(range(200), 3.0))
    assert found(weak, "mismatched_caption") == []
    assert "cannot tell" in weak.not_run["mismatched_caption"]
    assert "no model" in audit(data, checks=["mismatched_caption"]).not_run["mismatched_caption"]
    few = audit({None: rows_of(texts[:5])}, checks=["mismatched_caption"], embed=stand_in(range(5), 0.5))
    assert "5 readable images" in few.not_run["mismatched_caption"]


def test_a_model_brings_further_pairs_to_compare(tmp_path: Path) -> None:
    images = [pixels(row) for row in range(9)] + [cropped(pixels(0), 0.05)]
    files = {f"{row}.png": encoded(image, "PNG") for row, image in enumerate(images)}
    data, strict = {None: files_of(tmp_path / "d", files)}, Limits(near_bits=0)
    assert found(audit(data, checks=["near_duplicate_image"], limits=strict), "near_duplicate_image") == []
    embed = stand_in([*range(9), 0], 0.0)
    report = audit(data, checks=["near_duplicate_image"], limits=strict, embed=embed)
    assert found(report, "near_duplicate_image") == [(None, 9)]


def test_images_that_a_model_embeds_alike(tmp_path: Path) -> None:
    files = {f"{row}.png": encoded(pixels(row), "PNG") for row in range(9)}
    files["8.png"] = files["0.png"]
    data = {None: files_of(tmp_path / "d", files)}
    embed = stand_in([0, 1, 2, 3, 4, 5, 1, 7, 0], 0.0)
    report = audit(data, checks=["close_embeddings"], embed=embed)
    assert found(report, "close_embeddings") == [(None, 6)]  # 8 equals 0 in all bytes
    assert report.of("close_embeddings").to_pylist()[0]["related"][0]["row"] == 1
    report = audit(data, checks=["close_embeddings"], embed=stand_in(range(9), 0.0))
    assert found(report, "close_embeddings") == []


def test_embeddings_that_are_not_finite_are_refused() -> None:
    embed = Embed(
        2, texts=lambda t: torch.full((len(t), 2), torch.nan), images=lambda d: (torch.ones(9, 2), np.arange(9))
    )
    with pytest.raises(ShapeError, match="caption embeddings hold NaN"):
        audit({None: rows_of([f"{row}" for row in range(9)])}, checks=["mismatched_caption"], embed=embed)


# -- the whole --------------------------------------------------------------------------------------------------------


def test_clean_scenes_are_not_flagged() -> None:
    report = audit({split: load(f"shapes?train=60&test=40:{split}") for split in ("train", "test")})
    assert (report.count("error"), report.count("warning")) == (0, 0)
    assert report.leaks == []


def test_without_rows() -> None:
    report = audit({None: rows_of(["a"]).select([])})
    assert report.findings.num_rows == 0
    assert report.summary()["flagged_share"] == 0


def test_every_check_is_explained() -> None:
    assert all(check.name == name and check.explanation.endswith(".") for name, check in CHECKS.items())


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="splits is empty"):
        audit({})
    with pytest.raises(ConfigError, match=r"no check 'tiny_imag' \(did you mean 'tiny_image'\?\)"):
        audit({None: rows_of(["a"])}, checks=["tiny_imag"])
    with pytest.raises(ConfigError, match="near_bits is 25; want 0 to 24"):
        Limits(near_bits=25)
    with pytest.raises(ConfigError, match=r"no threshold 'near_bit' \(did you mean 'near_bits'\?\)"):
        limits_from(["near_bit=3"])
    for wrong in ("near_bits", "near_bits=", "near_bits=2.5"):
        with pytest.raises(ConfigError, match="want near_bits=VALUE with a whole number"):
            limits_from([wrong])
    assert limits_from(["blank_std=1.5", "near_bits=4"]) == Limits(blank_std=1.5, near_bits=4)
