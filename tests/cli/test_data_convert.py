"""`mmcl data convert`, as a person types it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmcl.data import load, load_all
from mmcl.data.writing import parts


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = []
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        row = {"file_name": f"{number}.png", "title": f"picture {number}", "split": "train" if number < 5 else "val"}
        rows.append(row)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_there_and_back(invoke, tmp_path: Path, pairs: Path) -> None:
    shards, told = tmp_path / "shards", tmp_path / "told.json"
    common = ["--column", "text=title", "--json", str(told)]
    done = invoke("data", "convert", str(pairs), "-o", str(shards), "--format", "webdataset", *common)
    assert done.code == 0, done.err
    assert json.loads(told.read_text())["rows"] == {"train": 5, "validation": 3}
    assert "read back and compared" in done.out
    assert "validation" in done.out
    back = tmp_path / "back"
    done = invoke("data", "convert", str(shards), "-o", str(back), "--format", "folder", "--resize", "20")
    assert done.code == 0, done.err
    assert "PNG: 8 images made smaller" in done.out
    assert load(back, split="val").texts(2) == ["picture 7"]
    assert load(back, split="val").images.read(2).shape == (3, 20, 30)
    done = invoke("data", "convert", "--verify", str(back))
    assert (done.code, "10 files" in done.out) == (0, True), done.err
    (back / "train" / "0.png").write_bytes(b"x")
    done = invoke("data", "convert", "--verify", str(back))
    assert done.code == 1
    assert "train/0.png has changed" in done.err


def test_chosen_splits(invoke, tmp_path: Path, pairs: Path) -> None:
    common = ["--format", "parquet", "--column", "text=title"]
    assert invoke("data", "convert", f"{pairs}:val", "-o", str(tmp_path / "a"), *common).code == 0
    assert set(load_all(tmp_path / "a")) == {"validation"}
    options = ["--split", "train", "--split", "dev", "--workers", "2"]
    assert invoke("data", "convert", str(pairs), "-o", str(tmp_path / "b"), *options, *common).code == 0
    assert set(load_all(tmp_path / "b")) == {"train", "validation"}
    done = invoke("data", "convert", f"{pairs}:val", "-o", str(tmp_path / "c"), "--split", "train", *common)
    assert (done.code, "leave one of them out" in done.err) == (2, True)
    done = invoke("data", "convert", str(pairs), "-o", str(tmp_path / "c"), "--split", "tset", *common)
    assert (done.code, "has no split 'tset'" in done.err) == (1, True)


def test_rows_of_no_split_are_not_lost_in_silence(invoke, tmp_path: Path, pairs: Path) -> None:
    rows = [json.loads(line) for line in (pairs / "metadata.jsonl").read_text().splitlines()]
    rows[2]["split"], rows[6]["split"] = None, " "
    (pairs / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        "data",
        "convert",
        str(pairs),
        "-o",
        str(tmp_path / "out"),
        "--format",
        "folder",
        "--column",
        "text=title",
    ]
    done = invoke(*arguments)
    assert done.code == 1
    assert "2 rows of" in done.err
    assert "leave them out by --split train --split validation" in done.err
    assert not (tmp_path / "out").exists()
    assert invoke(*arguments, "--split", "train", "--split", "validation").code == 0


def test_skipped_rows_are_told(invoke, tmp_path: Path, pairs: Path) -> None:
    (pairs / "3.png").write_bytes(b"broken")
    done = invoke(
        "data", "convert", str(pairs), "-o", str(tmp_path / "o"), "--format", "folder", "--column", "text=title"
    )
    assert done.code == 0, done.err
    assert "1 rows could not be used, with reasons in" in done.out
    assert "3.png" in (tmp_path / "o" / "skipped.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["pairs", "--format", "folder"], 2, "--out OUT is missing"),
        (["pairs", "-o", "out"], 2, "--format webdataset, parquet or folder is missing"),
        (["-o", "out", "--format", "folder"], 2, "DATA is missing"),
        (["pairs", "-o", "out", "--format", "webdatasets"], 2, "did you mean 'webdataset'"),
        (["pairs", "-o", "out.tar", "--format", "webdataset"], 2, "name it out"),
        (["pairs", "-o", "pairs", "--format", "webdataset"], 2, "holds something else"),
        (["pairs", "-o", "out", "--format", "folder", "--resize", "0"], 2, "resize"),
        (["none", "-o", "out", "--format", "folder"], 1, "there is no"),
        (["pairs", "--verify", "out"], 2, "--verify OUT stands alone"),
        (["--verify", "pairs"], 1, "only finished folders"),
        (["pairs", "-o", "out", "--format", "folder", "--json", "none/x.json"], 2, "--json none/x.json"),
        (["vectors:v.npz", "-o", "out", "--format", "folder"], 1, "v.npz"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], code: int, named: str, invoke, tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("v.npz", image=np.eye(3), text=np.eye(3))
    done = invoke("data", "convert", *arguments, *(["--column", "text=title"] if "pairs" in arguments else []))
    assert done.code == code
    assert named in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_interrupted_it_goes_on(
    invoke, tmp_path: Path, pairs: Path, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmcl.data.writing.manifest.FOLDER_ROWS", 2)
    write_images, out = parts._write_images, tmp_path / "out"

    def slow(job, part, rows, record) -> None:
        write_images(job, part, rows, record)
        if part.number == 2:  # by then, one worker has finished a part at least
            os.kill(main, signal.SIGINT)
            time.sleep(30)

    main = os.getpid()
    monkeypatch.setattr(parts, "_write_images", slow)
    options = ["--format", "folder", "--column", "text=title", "--workers", workers]
    began = time.monotonic()
    done = invoke("data", "convert", str(pairs), "-o", str(out), *options)
    assert (done.code, "Traceback" in done.err) == (130, False)
    assert time.monotonic() - began < 20  # nobody waited for the worker
    assert not (out / "checksums.sha256").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "train").glob("*.png")}
    monkeypatch.setattr(parts, "_write_images", write_images)
    done = invoke("data", "convert", str(pairs), "-o", str(out), *options)
    assert done.code == 0, done.err
    assert len(load(out, split="train")) == 5
    assert not [path for path in out.rglob("*") if "part" in path.name]
    again = {path.name: path.stat().st_mtime_ns for path in (out / "train").glob("*.png")}
    assert {name for name in kept if again[name] == kept[name]} >= {"0.png", "1.png"}
