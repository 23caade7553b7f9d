"""`mmcl data mine` with a model of a few steps, and with embeddings from a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmcl import data
from mmcl.data.mining.mined import join_mined, read_mined

SCENES = "shapes?train=40:train"


def test_it_writes_negatives_that_a_recipe_takes(tiny_run: Path, invoke, tmp_path: Path) -> None:
    out, told = tmp_path / "hard.parquet", tmp_path / "told.json"
    options = ["--captions-per-row", "3", "--images-per-row", "2", "--positive-margin", "0", "--near-duplicate", "0"]
    done = invoke("data", "mine", str(tiny_run), SCENES, "-o", str(out), *options, "--json", str(told))
    assert done.code == 0, done.err
    table, about = read_mined(out)
    assert table["negatives"].combine_chunks().value_lengths().to_pylist() == [3] * 40
    assert table["negative_rows"].combine_chunks().value_lengths().to_pylist() == [2] * 40
    assert {"layout": 1, **json.loads(told.read_text())} == about
    assert about["parameters"]["positive_margin"] is None
    assert "captions mined" in done.out
    assert "120" in done.out
    scenes = data.load(SCENES)
    joined = join_mined(scenes, out)
    groups = scenes.column("group")
    for row in range(40):
        right = {text for other in range(40) if groups[other] == groups[row] for text in scenes.texts(other)}
        assert not right & set(table["negatives"][row].as_py())
        assert groups[row] not in [groups[other] for other in joined.value("negative_rows", row)]
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".json"] == ["hard.parquet"]
    again = invoke("data", "mine", str(tiny_run), SCENES, "-o", str(tmp_path / "again.parquet"), *options)
    assert again.code == 0, again.err
    assert read_mined(tmp_path / "again.parquet")[0].equals(table)


def test_vectors_are_mined_by_what_they_are(invoke, tmp_path: Path) -> None:
    angles = np.array([0.0, 0.1, 1.0, 1.3])
    image = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.savez(tmp_path / "v.npz", image=image, text=image)
    vectors, out = f"vectors:{tmp_path / 'v.npz'}", tmp_path / "hard.parquet"
    # 0 and 1 are nearer than the near-duplicate's cosine, cos 0.1 = 0.995; 2 and 3 are not, cos 0.3 = 0.955.
    done = invoke("data", "mine", vectors, vectors, "-o", str(out), "--captions-per-row", "1", "--positive-margin", "0")
    assert done.code == 0, done.err
    table, about = read_mined(out)
    assert table["negatives"].to_pylist() == [["2"], ["2"], ["3"], ["2"]]
    assert about["counts"]["captions_near_duplicates_left_out"] == 2
    # The positive-aware limit, 0.95, leaves 3 out for 2.
    assert invoke("data", "mine", vectors, vectors, "-o", str(out), "--captions-per-row", "1").code == 0
    assert read_mined(out)[0]["negatives"].to_pylist() == [["2"], ["2"], ["1"], ["1"]]
    further = ["--captions-per-row", "1", "--positive-margin", "0", "--skip-nearest", "1"]
    assert invoke("data", "mine", vectors, vectors, "-o", str(out), *further).code == 0
    assert read_mined(out)[0]["negatives"].to_pylist() == [["3"], ["3"], ["1"], ["1"]]


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["-o", "hard.csv"], 2, "ends in .parquet"),
        (["-o", "none/hard.parquet"], 2, "there is no folder"),
        (["-o", "hard.parquet", "--captions-per-row", "0"], 2, "captions_per_row is 0 and images_per_row 0"),
        (["-o", "hard.parquet", "--near-duplicate", "3"], 2, "near-duplicate"),
        (["-o", "hard.parquet", "--column", "text"], 2, "want NAME=YOURS"),
        (["-o", "hard.parquet", "--json", "none/told.json"], 2, "--json none/told.json"),
        ([], 2, "out"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], code: int, named: str, invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("v.npz", image=np.eye(3), text=np.eye(3))
    done = invoke("data", "mine", "vectors:v.npz", "vectors:v.npz", *arguments)
    assert (done.code, list(tmp_path.glob("*.parquet*"))) == (code, [])
    assert named in done.err


def test_missing_data_and_models_are_told(invoke, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", image=np.eye(3), text=np.eye(3))
    vectors, out = f"vectors:{tmp_path / 'v.npz'}", str(tmp_path / "hard.parquet")
    done = invoke("data", "mine", vectors, str(tmp_path / "none"), "-o", out)
    assert done.code == 1
    assert "there is no" in done.err
    done = invoke("data", "mine", f"vectors:{tmp_path / 'none.npz'}", vectors, "-o", out)
    assert done.code in (1, 2)
    assert "none.npz" in done.err
