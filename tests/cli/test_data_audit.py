"""`mmcl data audit` on a few files and on built-in scenes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two splits of four images; one of training is of the test split too, another is no image."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for row in range(4):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            coarse.resize((60, 60), Image.Resampling.BICUBIC).save(tmp_path / "data" / split / f"{row}.png")
            (tmp_path / "data" / split / f"{row}.txt").write_text(f"{split} picture {row}\n")
    train, test = tmp_path / "data" / "train", tmp_path / "data" / "test"
    (train / "1.png").write_bytes((test / "2.png").read_bytes())
    (train / "3.png").write_bytes(b"no image")
    return tmp_path / "data"


def test_it_writes_all_it_is_asked_for(folder: Path, invoke, tmp_path: Path) -> None:
    page, figures, listed, clean = (tmp_path / name for name in ("page.html", "told.json", "list.jsonl", "clean"))
    options = ["--report", str(page), "--json", str(figures), "--list", str(listed), "--fix", str(clean)]
    done = invoke("data", "audit", str(folder), *options)
    assert done.code == 0, done.err
    for words in (
        "leaked_image",
        "unreadable_image",
        "25.00 %",
        "2 rows have an error or a warning",
        "would leave out 2",
    ):
        assert words in done.out, done.out
    told = json.loads(figures.read_text())
    assert told["findings"]["error"] == 2
    assert told["fixed"]["rows"] == {"train": 2, "test": 4}
    checks = [json.loads(line)["check"] for line in listed.read_text().splitlines()]
    assert checks == ["unreadable_image", "leaked_image"]
    assert "data:image/webp" in page.read_text()
    assert len(Path(f"{clean}.dropped.jsonl").read_text().splitlines()) == 2
    assert invoke("data", "audit", str(clean), "--strict").code == 0
    assert invoke("data", "audit", str(folder), "--strict").code == 1
    # One split alone knows of no leak.
    assert "leaked_image" not in invoke("data", "audit", f"{folder}:train").out


def test_checks_and_thresholds_are_chosen(folder: Path, invoke) -> None:
    def out(*options: str) -> str:
        done = invoke("data", "audit", str(folder), *options)
        assert done.code == 0, done.err
        return done.out

    assert "tiny_image" not in out()
    assert "tiny_image" in out("--threshold", "min_pixels=61")
    assert "unreadable_image" not in out("--checks", "tiny_image,leaked_image", "--threshold", "min_pixels=61")
    assert "leaked_image" not in out("--skip", "leaked_image")
    assert "nothing found" in out("--checks", "blank_image")


def test_a_model_is_asked(tiny_run: Path, invoke, tmp_path: Path) -> None:
    figures = tmp_path / "told.json"
    done = invoke("data", "audit", "shapes?test=20:test", "--model", str(tiny_run), "--json", str(figures))
    assert done.code == 0, done.err
    assert "no model given" not in done.out
    assert json.loads(figures.read_text())["rows"] == {"test": 20}


def test_vectors_have_no_pixels_but_captions(invoke, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(60, 32))
    text = image + 0.3 * rng.normal(size=image.shape)
    text[[4, 9]] = text[[9, 4]]
    unit = {
        name: part / np.linalg.norm(part, axis=1, keepdims=True) for name, part in (("image", image), ("text", text))
    }
    np.savez(tmp_path / "v.npz", **unit)
    vectors = f"vectors:{tmp_path / 'v.npz'}"
    done = invoke("data", "audit", vectors, "--model", vectors, "--json", str(tmp_path / "told.json"))
    assert done.code == 0, done.err
    assert "vectors without pixels" in done.out
    assert json.loads((tmp_path / "told.json").read_text())["checks"]["mismatched_caption"] == {"warning": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checks", "blank"], "did you mean 'blank_image'"),
        (["--checks", "blank_image", "--skip", "tiny_image"], "contradict each other"),
        (["--threshold", "min_pixel=3"], "did you mean 'min_pixels'"),
        (["--threshold", "min_pixels=0"], "min_pixels is 0; want at least 1"),
        (["--list", "x.txt"], "want a file that ends in"),
        (["--json", "nowhere/x.json"], "there is no folder"),
        (["--report", "."], "it is a folder"),
        (["--format", "zip"], "want folder, parquet or webdataset"),
    ],
)
def test_bad_options_say_what_is_wrong(options: list[str], message: str, invoke) -> None:
    done = invoke("data", "audit", "shapes?test=2:test", *options)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
def test_ctrl_c_ends_it_and_leaves_nothing_half_written(tmp_path: Path, checkout: Path) -> None:
    (tmp_path / "d").mkdir()
    Image.effect_noise((900, 700), 80).convert("RGB").save(tmp_path / "first.png")
    for row in range(1500):
        os.link(tmp_path / "first.png", tmp_path / "d" / f"{row}.png")
        (tmp_path / "d" / f"{row}.txt").write_text(f"caption {row}")
    environment = {**os.environ, "MMCL_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "mmcl", "data", "audit", str(tmp_path / "d"), "--workers", "1"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "cache" / "scans").is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert b"Traceback" not in error
    assert not list((tmp_path / "cache" / "scans").rglob("*.partial"))
