"""What is written is read back: every kind of source, in every format, byte for byte and column for column."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from stored_items import Item, encode, write_images, write_json_lines

from mmcl.data import load, load_all
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.images.arrow_bytes import BytesImages
from mmcl.data.images.encoded import encoded_image
from mmcl.data.writing import write_dataset
from mmcl.data.writing.checking import verify_folder
from mmcl.errors import ConfigError, DataError

FORMATS = ("webdataset", "parquet", "folder")
KINDS = (
    "metadata", "csv", "tsv", "parquet_paths", "parquet_bytes", "parquet_structs", "sidecars", "karpathy", "shards",
    "shards_folder",
)  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def in_memory(images: list[bytes], **columns: list | pa.Array) -> ImageTextDataset:
    made = {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()}
    table = pa.table({"texts": pa.array([[f"text {row}"] for row in range(len(images))]), **made})
    return ImageTextDataset(BytesImages(pa.chunked_array([images]), source="memory"), table, name="memory")


def png(seed: int = 0, size: tuple[int, int] = (5, 4)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_source_in_every_format(tmp_path, stored, items, kind, format):
    source = load_all(stored[kind])
    counts = write_dataset(source, tmp_path / "out", format=format)
    (split,) = source
    written = load(tmp_path / "out")
    assert counts["rows"] == {split or "all": 6}
    assert counts["skipped"] == {split or "all": 0}
    assert [written.texts(row) for row in range(6)] == [item.texts for item in items]
    assert [encoded_image(written.images, row) for row in range(6)] == [item.png for item in items]
    for column in source[split].table.column_names:
        assert written.column(column) == source[split].column(column)
    assert encoded_image(written.images, 0) != items[1].png


@pytest.mark.parametrize("format", FORMATS)
def test_pixels_become_png_in_all_splits(tmp_path, format):
    source = load_all("shapes?train=4&validation=2&test=3&test_seen=2")
    write_dataset(source, tmp_path / "out", format=format)
    written = load_all(tmp_path / "out")
    assert set(written) == {"train", "validation", "test", "test_seen"}
    for split, dataset in source.items():
        for row in range(len(dataset)):
            assert written[split].images.read(row).equal(dataset.images.read(row))
        for column in dataset.table.column_names:
            assert written[split].column(column) == dataset.column(column), column


@pytest.mark.parametrize("format", FORMATS)
def test_real_columns_of_all_kinds(tmp_path, emoji, format):
    source = {split: dataset.select(range(12)) for split, dataset in load_all(emoji).items()}
    write_dataset(source, tmp_path / "out", format=format)
    for split, dataset in source.items():
        written = load(tmp_path / "out", split=split)
        assert written.column("i18n") == dataset.column("i18n")
        assert written.column("tags") == dataset.column("tags")
        assert encoded_image(written.images, 11) == encoded_image(dataset.images, 11)


@pytest.mark.parametrize("format", FORMATS)
def test_any_number_of_workers_gives_the_same_files(tmp_path, format, monkeypatch):
    monkeypatch.setattr("mmcl.data.writing.manifest.FOLDER_ROWS", 5)
    noise = [encode(Image.fromarray(np.random.default_rng(row).integers(0, 256, (200, 300, 3), dtype=np.uint8)))
             for row in range(14)]  # fmt: skip
    source = {"train": in_memory(noise), "test": in_memory(noise[:3])}
    told: list[tuple[str, int, int]] = []
    for workers in (0, 2):
        tell = None if workers == 0 else lambda *state: told.append(state)
        write_dataset(source, tmp_path / str(workers), format=format, shard_mb=1, workers=workers, progress=tell)
    assert digests(tmp_path / "0") == digests(tmp_path / "2")
    assert len([name for name in digests(tmp_path / "0") if name.endswith((".tar", ".parquet"))]) in (0, 4)
    assert told[-1] == ("checking", 17, 17)
    assert ("writing", 17, 17) in told
    write_dataset({"train": in_memory(noise[::-1]), "test": in_memory(noise[:3])}, tmp_path / "c", format=format)
    assert digests(tmp_path / "0") != digests(tmp_path / "c")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_call_goes_on(tmp_path, format, workers, monkeypatch):
    monkeypatch.setattr("mmcl.data.writing.manifest.FOLDER_ROWS", 2)
    monkeypatch.setattr("mmcl.data.writing.manifest.mean_row_bytes", lambda job: 5e5)
    source = {"test": in_memory([png(row) for row in range(9)], id=[f"row {row}" for row in range(9)])}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    write_dataset(source, whole, format=format, shard_mb=1)

    def stop(what: str, done: int, total: int) -> None:
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(source, broken, format=format, shard_mb=1, workers=workers, progress=stop)
    assert not (broken / "checksums.sha256").exists()
    kept = {path: path.stat().st_mtime_ns for path in broken.rglob("part-*.json")}
    assert workers or len(kept) == 2
    told: list[int] = []
    write_dataset(source, broken, format=format, shard_mb=1, progress=lambda what, done, total: told.append(done))
    assert told[0] > 2 or workers
    assert digests(broken) == digests(whole)
    # Finished, the same call reads back nothing and writes nothing.
    before = {path: path.stat().st_mtime_ns for path in broken.rglob("*")}
    again = write_dataset(source, broken, format=format, shard_mb=1, progress=stop)
    assert again["rows"] == {"test": 9}
    assert {path: path.stat().st_mtime_ns for path in broken.rglob("*")} == before


def test_a_folder_of_other_work_is_refused(tmp_path, stored):
    source = load_all(stored["metadata"])
    write_dataset(source, tmp_path / "out", format="folder")
    with pytest.raises(ConfigError, match="was begun with format=folder, now it is parquet"):
        write_dataset(source, tmp_path / "out", format="parquet")
    with pytest.raises(ConfigError, match="was begun with resize=None, now it is 3"):
        write_dataset(source, tmp_path / "out", format="folder", resize=3)
    other = {None: source[None].select([0, 1, 2])}
    with pytest.raises(ConfigError, match="was begun from other data, or they have changed"):
        write_dataset(other, tmp_path / "out", format="folder")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="mine holds something else already"):
        write_dataset(source, tmp_path / "mine", format="folder")
    with pytest.raises(ConfigError, match="thesis.txt holds something else"):
        write_dataset(source, tmp_path / "mine" / "thesis.txt", format="folder")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match=r"out\.parquet looks like a file; .*: name it out"):
        write_dataset(source, tmp_path / "out.parquet", format="parquet")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"format": "parket"}, "did you mean 'parquet'"),
        ({"format": "folder", "resize": 0}, "resize=0 is too small"),
        ({"format": "folder", "shard_mb": 0}, "shard_mb=0 is too small"),
        ({"format": "folder", "workers": -1}, "workers=-1 is too small"),
    ],
)
def test_options_that_cannot_be(tmp_path, stored, options, named):
    with pytest.raises(ConfigError, match=named):
        write_dataset(load_all(stored["metadata"]), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_unreadable_rows_are_listed_and_nothing_else_is_lost(tmp_path, items: list[Item], format):
    folder = write_images(tmp_path / "in", items)
    (folder / "1.png").write_bytes(items[1].png[:-30])
    (folder / "2.png").unlink()
    (folder / "4.png").write_bytes(b"")
    jpeg = encode(Image.fromarray(items[5].pixels), "JPEG")
    (folder / "5.png").write_bytes(jpeg)  # a wrong extension is no fault
    rows = [{"file_name": item.name, "text": item.texts, "number": n} for n, item in enumerate(items)]
    write_json_lines(folder / "metadata.jsonl", [*rows, {"file_name": "0.png", "text": "", "number": 7}, "{broken"])
    counts = write_dataset(load_all(folder), tmp_path / "out", format=format)
    assert (counts["rows"], counts["skipped"], counts["dropped"]) == ({"all": 3}, {"all": 3}, 2)
    listed = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert counts["skipped_list"] == str(tmp_path / "out" / "skipped.jsonl")
    assert [row["row"] for row in listed] == [7, 6, 1, 2, 4]
    assert "malformed JSON" in listed[0]["reason"]
    assert listed[1]["reason"] == "no caption"
    assert "cannot be decoded" in listed[2]["reason"]
    assert listed[3] == {"split": None, "row": 2, "source": f"{folder}/2.png", "reason": "no such image file"}
    written = load(tmp_path / "out")
    assert written.column("number") == [0, 3, 5]
    assert [encoded_image(written.images, row) for row in range(3)] == [items[0].png, items[3].png, jpeg]
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    assert ("5.jpg" in names) == (format == "folder")
    assert "5.png" not in names


def test_nothing_that_can_be_read_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no image can be read; the first: memory:row 0: .*not an image"):
        write_dataset({None: in_memory([b"x", b"y"])}, tmp_path / "out", format="folder")
    with pytest.raises(DataError, match="there are no rows to write"):
        write_dataset({None: in_memory([png()]).select([])}, tmp_path / "out", format="folder")
    both = {"val": in_memory([png()]), "validation": in_memory([png()])}
    with pytest.raises(DataError, match="the splits val, validation cannot stand together"):
        write_dataset(both, tmp_path / "out", format="folder")
    with pytest.raises(DataError, match="negative_rows are numbers of rows"):
        write_dataset({None: in_memory([png()], negative_rows=[[0]])}, tmp_path / "out", format="folder")
    assert list(tmp_path.iterdir()) == []


def test_vectors_have_no_images_to_write(tmp_path):
    np.savez(tmp_path / "v.npz", image=np.eye(3), text=np.eye(3))
    with pytest.raises(DataError, match="v.npz holds vectors and no images"):
        write_dataset(load_all(f"vectors:{tmp_path / 'v.npz'}"), tmp_path / "out", format="folder")


@pytest.mark.parametrize("format", FORMATS)
def test_ids_of_all_sorts_become_safe_names(tmp_path, format):
    ids = ["../../../evil", "/etc/passwd", "a/b.png", "A_b", "..", None, "con", "日本/語.png", "x" * 300, "a.b.c", ""]
    source = {"train": in_memory([png(row) for row in range(len(ids))], id=pa.array(ids, pa.string()))}
    write_dataset(source, tmp_path / "deep" / "out", format=format)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    written = load(tmp_path / "deep" / "out")
    assert written.column("id")[:5] == ids[:5]  # behind them is a row without an id, and one with a blank one
    assert written.column("id")[6:10] == ids[6:10]
    assert [encoded_image(written.images, row) for row in range(len(ids))] == [png(row) for row in range(len(ids))]
    if format == "folder":
        names = [path.name for path in (tmp_path / "deep" / "out" / "train").glob("*.png")]
        assert len({name.lower() for name in names}) == len(ids)
        assert {"evil.png", "etc_passwd.png", "a_b.png", "A_b-2.png", "_con.png", "a_b_c.png"} <= set(names)
        assert max(map(len, names)) <= 100


def test_columns_whose_names_a_format_needs(tmp_path):
    columns = {"text": [1, 2], "image": ["here", "there"], "file_name": ["a", "b"], "caption": ["c", "d"]}
    for format, renamed in (("parquet", {"text", "image"}), ("folder", {"text", "image", "file_name"})):
        out = tmp_path / format
        counts = write_dataset({"test": in_memory([png(0), png(1)], **columns)}, out, format=format)
        assert set(counts["renamed_columns"]) == renamed
        written = load(out)
        for name, values in columns.items():
            assert written.column(counts["renamed_columns"].get(name, name)) == values
        assert written.texts(1) == ["text 1"]


def test_types_that_json_does_not_know(tmp_path):
    day = pa.array([1_700_000_000, None], pa.timestamp("s"))
    large = pa.array([2**64 - 1, 1], pa.uint64())
    columns = {"day": day, "raw": [b"\x00\xff", b""], "score": [float("nan"), 1.5], "large": large}
    source = {"test": in_memory([png(0), png(1)], **columns)}
    for format in ("parquet", "folder"):
        counts = write_dataset(source, tmp_path / format, format=format)
        assert counts["changed_columns"] == {}
        written = load(tmp_path / format)
        assert written.column("day") == day.to_pylist()
        assert written.column("raw") == [b"\x00\xff", b""]
        assert np.isnan(written.column("score")[0])
    assert (tmp_path / "folder" / "test" / "metadata.parquet").is_file()
    counts = write_dataset(source, tmp_path / "shards", format="webdataset")
    assert set(counts["changed_columns"]) == {"day", "raw", "score", "large"}
    written = load(tmp_path / "shards")
    assert written.column("day") == ["2023-11-14 22:13:20", None]
    assert written.column("raw") == ["AP8=", ""]
    assert written.column("score") == [None, 1.5]
    assert written.column("large") == [str(2**64 - 1), "1"]


def test_captions_that_look_like_lists(tmp_path):
    dataset = in_memory([png(0), png(1)])
    table = dataset.table.set_column(0, "texts", pa.array([['["a", "b"]'], ["plain"]]))
    for format in FORMATS:
        write_dataset({"test": ImageTextDataset(dataset.images, table, name="x")}, tmp_path / format, format=format)
        assert load(tmp_path / format).texts(0) == ['["a", "b"]']


def test_checksums_are_those_of_sha256sum(tmp_path, stored, items):
    out = tmp_path / "out"
    write_dataset(load_all(stored["metadata"]), out, format="folder")
    done = subprocess.run(["sha256sum", "-c", "checksums.sha256"], cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert verify_folder(out)["files"] == 7
    (out / "3.png").write_bytes(items[2].png)
    (out / "4.png").unlink()
    with pytest.raises(DataError, match=r"2 of 7 files are not as they were written: 3\.png has changed, 4\.png is mi"):
        verify_folder(out)
    with pytest.raises(DataError, match="only finished folders of mmcl data convert"):
        verify_folder(tmp_path)


def test_a_wrong_result_is_an_error(tmp_path, stored, monkeypatch):
    from mmcl.data.writing import parts

    source = load_all(stored["metadata"])
    monkeypatch.setattr(parts, "_json", lambda values: json.dumps({**values, "label": "cat"}))
    with pytest.raises(DataError, match="row 0: 'label' is read back as 'cat', the source has 'dog'"):
        write_dataset(source, tmp_path / "a", format="folder")
    monkeypatch.undo()
    swap = {"0.png": "1.png", "1.png": "0.png"}

    def swapped(values: dict) -> str:
        return json.dumps({**values, "file_name": swap.get(values["file_name"], values["file_name"])})

    monkeypatch.setattr(parts, "_json", swapped)
    with pytest.raises(DataError, match=r"row 0: the image in .*1\.png is not what was written"):
        write_dataset(source, tmp_path / "b", format="folder")
    assert not (tmp_path / "b" / ".conversion" / "manifest.json").read_text().count("counts")


def test_a_full_disk_is_said_before(tmp_path, stored, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("mmcl.data.writing.manifest.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match="MB are needed and 0 MB are free"):
        write_dataset(load_all(stored["metadata"]), tmp_path / "out", format="folder")
    assert not (tmp_path / "out").exists()


def test_shards_open_in_webdataset(tmp_path, stored, items):
    import webdataset

    write_dataset(load_all(stored["karpathy"]), tmp_path / "many", format="webdataset")
    read = list(webdataset.WebDataset(str(tmp_path / "many" / "test-000000.tar"), shardshuffle=False))
    assert [sample["png"] for sample in read] == [item.png for item in items]
    assert [json.loads(sample["json"])["text"] for sample in read] == [item.texts for item in items]
    assert read[0]["txt"].decode() == items[0].texts[0]
    assert "txt" not in read[1]
    write_dataset({None: in_memory([png(0), png(1)])}, tmp_path / "one", format="webdataset")
    read = list(webdataset.WebDataset(str(tmp_path / "one" / "data-000000.tar"), shardshuffle=False).decode("pil"))
    assert [sample["txt"] for sample in read] == ["text 0", "text 1"]
    assert np.array_equal(np.asarray(read[1]["png"]), np.asarray(Image.open(io.BytesIO(png(1)))))
    with tarfile.open(tmp_path / "one" / "data-000000.tar") as tar:
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}


def test_parquet_and_folders_open_in_datasets(tmp_path, stored, items):
    import datasets

    source = load_all(stored["karpathy"])
    write_dataset(source, tmp_path / "parquet", format="parquet")
    files = {"test": str(tmp_path / "parquet" / "test-*.parquet")}
    read = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert isinstance(read["test"].features["image"], datasets.Image)
    assert np.array_equal(np.asarray(read["test"][2]["image"]), items[2].pixels)
    assert read["test"]["text"][1] == items[1].texts
    write_dataset(source, tmp_path / "folder", format="folder")
    read = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "folder"), cache_dir=str(tmp_path / "cache"))
    assert np.array_equal(np.asarray(read["test"][4]["image"]), items[4].pixels)
    assert read["test"]["text"][3] == items[3].texts


def test_row_groups_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("mmcl.data.writing.parts.ROW_GROUP_BYTES", 300)
    write_dataset({"test": in_memory([png(row) for row in range(7)])}, tmp_path / "out", format="parquet")
    metadata = pq.read_metadata(tmp_path / "out" / "test-00000-of-00001.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [3, 3, 1]


def test_large_folders_have_numbered_ones_inside(tmp_path, monkeypatch):
    monkeypatch.setattr("mmcl.data.writing.parts._ROWS_PER_FOLDER", 2)
    write_dataset({"test": in_memory([png(row) for row in range(5)])}, tmp_path / "out", format="folder")
    assert sorted(path.name for path in (tmp_path / "out" / "test").iterdir()) == [
        "00000",
        "00001",
        "00002",
        "metadata.jsonl",
    ]
    assert len(load(tmp_path / "out")) == 5


def test_images_of_every_format_are_named_by_what_they_are(tmp_path):
    image = Image.open(io.BytesIO(png(3, (20, 10))))
    kinds = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
    images = [encode(image, kind) for kind in kinds]
    for format in FORMATS:
        counts = write_dataset(
            {"test": in_memory(images, id=[f"{kind}.txt" for kind in kinds])}, tmp_path / format, format=format
        )
        assert counts["re_encoded"] == {}
        written = load(tmp_path / format)
        assert [encoded_image(written.images, row) for row in range(6)] == images
    names = {path.name for path in (tmp_path / "folder" / "test").iterdir()}
    assert names == {f"{kind}_txt.{ending}" for kind, ending in kinds.items()} | {"metadata.jsonl"}


def test_formats_without_an_extension_in_shards_become_png(tmp_path):
    images = [encode(Image.open(io.BytesIO(png(1))), "PPM")]
    counts = write_dataset({"test": in_memory(images)}, tmp_path / "shards", format="webdataset")
    assert counts["re_encoded"] == {"PPM": 1}
    assert load(tmp_path / "shards").images.read(0).equal(in_memory(images).images.read(0))
    assert write_dataset({"test": in_memory(images)}, tmp_path / "folder", format="folder")["re_encoded"] == {}


@pytest.mark.parametrize("format", FORMATS)
def test_mixtures(tmp_path, stored, items, format):
    sources = [{"path": stored[kind], "weight": 1} for kind in ("csv", "shards")]
    (tmp_path / "mixture.yaml").write_text(json.dumps({"sources": sources}))
    source = load_all(tmp_path / "mixture.yaml")
    write_dataset(source, tmp_path / "out", format=format)
    (split,) = source
    written = load(tmp_path / "out")
    assert [written.texts(row) for row in range(12)] == [source[split].texts(row) for row in range(12)]
    assert [encoded_image(written.images, row) for row in range(12)] == [item.png for item in items] * 2
