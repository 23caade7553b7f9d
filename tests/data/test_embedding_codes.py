"""Embeddings in fewer bits equal those of a package that does nothing else, and are read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmcl.data.embedding_codes import decode_rows, encode_rows, value_ranges
from mmcl.data.vectors import load_vectors
from mmcl.errors import ConfigError, DataError, ShapeError


@pytest.fixture
def rows() -> np.ndarray:
    made = np.random.default_rng(0).normal(size=(40, 20)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def test_int8_and_binary_equal_sentence_transformers(rows: np.ndarray) -> None:
    quantization = pytest.importorskip("sentence_transformers.util.quantization")
    binary = quantization.quantize_embeddings(rows, precision="ubinary")
    assert np.array_equal(encode_rows(rows, "binary").values, binary)
    assert not np.array_equal(encode_rows(-rows, "binary").values, binary)
    ranges = np.stack(value_ranges(rows))
    theirs = quantization.quantize_embeddings(rows, precision="int8", ranges=ranges)
    ours = encode_rows(rows, "int8").values
    # They cut the step's fraction off where these codes round: never more than one apart, and closer to the rows.
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    assert np.abs(decode_rows(encode_rows(rows, "int8")) - rows).max() <= (ranges[1] - ranges[0]).max() / 510 + 1e-6


def test_a_naive_loop_gives_the_same_codes(rows: np.ndarray) -> None:
    low, high = value_ranges(rows)
    codes = encode_rows(rows, "int8").values
    signs = encode_rows(rows, "binary").values
    for i, row in enumerate(rows.astype(np.float64)):
        for j, value in enumerate(row):
            wanted = (value - float(low[j])) / ((float(high[j]) - float(low[j])) / 255) - 128
            assert abs(codes[i, j] - wanted) <= 0.5 + 1e-4
            assert bool(signs[i, j // 8] >> (7 - j % 8) & 1) == (value > 0)


def test_sizes_and_decoding(rows: np.ndarray) -> None:
    sizes = {kind: encode_rows(rows, kind).bytes_per_row for kind in ("float32", "float16", "int8", "binary")}
    assert sizes == {"float32": 80, "float16": 40, "int8": 20, "binary": 3}
    assert np.array_equal(decode_rows(encode_rows(rows, "float32")), rows)
    assert np.array_equal(decode_rows(encode_rows(rows, "binary")), np.where(rows > 0, 1, -1))
    assert 0 < np.abs(decode_rows(encode_rows(rows, "float16")) - rows).max() < 3e-4


def test_values_outside_the_ranges_are_its_ends_and_constants_have_one_code() -> None:
    ranges = (np.zeros(2, np.float32), np.ones(2, np.float32))
    codes = encode_rows(np.array([[-3.0, 7.0]]), "int8", ranges=ranges)
    assert codes.values.tolist() == [[-128, 127]]
    same = encode_rows(np.full((3, 2), 0.25), "int8")
    assert np.allclose(decode_rows(same), 0.25)
    assert len(encode_rows(np.empty((0, 4)), "binary")) == 0


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="kind is 'int4'"):
        encode_rows(np.eye(2), "int4")
    with pytest.raises(ShapeError, match="finite numbers"):
        encode_rows(np.array([[np.nan]]), "int8")
    with pytest.raises(ShapeError, match="no embeddings"):
        encode_rows(np.empty((0, 4)), "int8")


@pytest.mark.parametrize("kind", ["int8", "binary"])
def test_files_of_vectors_hold_codes(rows: np.ndarray, tmp_path: Path, kind: str) -> None:
    codes = encode_rows(rows, kind)
    about = {"bits": np.array([20])} if kind == "binary" else {"low": codes.low, "high": codes.high}
    arrays = {f"{side}_{name}": value for side in ("image", "text") for name, value in about.items()}
    np.savez(tmp_path / "v.npz", image=codes.values, text=codes.values, **arrays)
    found = load_vectors(tmp_path / "v.npz").image
    wanted = decode_rows(codes) / (20**0.5 if kind == "binary" else 1)
    assert np.allclose(found, wanted, atol=1e-6)
    assert not np.allclose(found, codes.values[:, : found.shape[1]] if kind == "int8" else -wanted)


def test_codes_that_do_not_fit_their_file(rows: np.ndarray, tmp_path: Path) -> None:
    codes = encode_rows(rows, "binary").values
    np.savez(tmp_path / "bits.npz", image=codes, text=codes, image_bits=[9], text_bits=[9])
    with pytest.raises(DataError, match="image_bits is 9, but 3 bytes a row hold 24"):
        load_vectors(tmp_path / "bits.npz")
    codes = encode_rows(rows, "int8").values
    np.savez(tmp_path / "low.npz", image=codes, text=codes, image_low=[0.0], image_high=[1.0])
    with pytest.raises(DataError, match=r"image_low and image_high have shapes \(1,\)"):
        load_vectors(tmp_path / "low.npz")
