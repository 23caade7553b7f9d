from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmcl.data import load, load_vectors
from mmcl.errors import DataError


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(3, 4)).astype(np.float32),
        "text": rng.normal(size=(5, 4)).astype(np.float32),
        "image_group": np.array([7, 8, 9]),
        "text_group": np.array([7, 7, 9, 9, 11]),
        "image_id": np.array(["a", "b", "c"]),
        "text_id": np.array(["t0", "t1", "t2", "t3", "t4"]),
        "label": np.array(["x", "y", "x"]),
    }


def _save(path, arrays):
    np.savez(path, **arrays)
    return path


def test_vectors_as_data(tmp_path, arrays):
    path = _save(tmp_path / "v.npz", arrays)
    dataset = load(f"vectors:{path}")
    assert dataset.column("id") == ["a", "c"], "b has no text"
    assert dataset.column("texts") == [["t0", "t1"], ["t2", "t3"]]
    assert dataset.column("group") == ["7", "9"]
    assert dataset.column("label") == ["x", "x"]
    assert dataset.select([1]).images.describe(0).endswith("v.npz:c")
    assert dataset.fingerprint() != dataset.select([0]).fingerprint()
    with pytest.raises(DataError, match="vector without pixels"):
        dataset.images.read(0)
    with pytest.raises(DataError, match="no splits"):
        load(f"vectors:{path}", split="test")


def test_rows_by_id(tmp_path, arrays):
    vectors = load_vectors(_save(tmp_path / "v.npz", arrays))
    assert np.array_equal(vectors.image_rows(["c", "a"]), arrays["image"][[2, 0]])
    assert np.array_equal(vectors.text_rows(["t3"]), arrays["text"][[3]])
    assert not np.array_equal(vectors.text_rows(["t3"]), arrays["text"][[2]])
    assert vectors.image_rows([]).shape == (0, 4)
    with pytest.raises(DataError, match=r"no image vector for 'z' \(1 of 2 unknown\)"):
        vectors.image_rows(["a", "z"])


def test_safetensors_without_groups_pair_by_row(tmp_path):
    save_file({"image": torch.eye(3, 4).bfloat16(), "text": torch.ones(3, 4)}, tmp_path / "v.safetensors")
    dataset = load(f"vectors:{tmp_path / 'v.safetensors'}")
    assert dataset.column("texts") == [["0"], ["1"], ["2"]]
    assert load_vectors(tmp_path / "v.safetensors").image.dtype == np.float32


def _broken(arrays, **changes):
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.full((3, 4), np.nan, np.float32)}, r"image: row 0 is not finite \(3 such rows\)"),
        ({"text": np.ones((5, 3))}, "image has 4 dimensions and text 3"),
        ({"image": np.ones(4)}, r"image has shape \(4,\)"),
        ({"text": None}, "no array 'text'"),
        ({"image_id": np.array(["a", "b"])}, r"image_id has shape \(2,\)"),
        ({"image_id": np.array(["a", "a", "b"])}, "image_id 'a' stands for several rows"),
        ({"text_group": None}, "come together"),
        ({"image_group": None, "text_group": None}, "3 image and 5 text vectors"),
        ({"label": np.array([1, None, 2], dtype=object)}, "cannot be read"),
    ],
)
def test_bad_files_say_why(tmp_path, arrays, changes, message):
    path = _save(tmp_path / "v.npz", _broken(arrays, **changes))
    with pytest.raises(DataError, match=message):
        load_vectors(path)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(DataError, match="there is no file of vectors"):
        load("vectors:" + str(tmp_path / "none.npz"))
    for name in ("v.npz", "v.safetensors", "v.bin"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(DataError, match=name):
            load_vectors(tmp_path / name)


def test_a_damaged_file_gets_no_advice_to_load_a_pickle(tmp_path):
    junk, objects = tmp_path / "junk.npz", tmp_path / "objects.npz"
    junk.write_bytes(b"junk")
    np.savez(objects, image=np.array([{}], dtype=object), text=np.eye(2))
    for path in (junk, objects):
        with pytest.raises(DataError, match="save plain arrays") as raised:
            load_vectors(path)
        assert "pickle" not in str(raised.value)
