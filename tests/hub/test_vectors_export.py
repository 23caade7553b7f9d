"""`export_vectors`: a file of embeddings that stands for the model on its data, figures and all."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import six_models
import torch

import mmcl
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.vectors import load_vectors, vectors_dataset
from mmcl.embedder import DualEncoderEmbedder
from mmcl.errors import ConfigError, DataError, ExportError
from mmcl.evaluation import RetrievalEvaluator
from mmcl.hub.vectors_export import export_vectors

ROWS = 12


class _Images:
    """Images in memory; row 3 cannot be read where ``broken``."""

    def __init__(self, images, rows, broken):
        self.images, self.rows, self.broken = images, rows, broken

    def __len__(self):
        return len(self.rows)

    def read(self, row):
        if self.rows[row] in self.broken:
            raise DataError(f"image {self.rows[row]} is damaged")
        return self.images[self.rows[row]]

    def describe(self, row):
        return f"image {self.rows[row]}"

    def select(self, rows):
        return _Images(self.images, [self.rows[row] for row in rows], self.broken)

    def fingerprint(self):
        return str(self.rows)


def make_dataset(*, broken=(3,), **columns):
    """Rows with one caption to three, some of them shared by groups, two rows a group."""
    words = ["red", "blue", "green", "one", "two", "three"]
    texts = [[f"a {words[row % 6]} circle", *(["the big square"] if row % 3 == 0 else [])] for row in range(ROWS)]
    texts[5].append(texts[5][0])
    table = {"texts": texts, "group": [str(row // 2) for row in range(ROWS)], **columns}
    images = six_models.make_images(ROWS, size=(32, 32))
    return ImageTextDataset(_Images(images, list(range(ROWS)), broken), pa.table(table), name="made:test")


@pytest.fixture(scope="module")
def embedder(trained):
    return DualEncoderEmbedder(trained("bert_vit"), device="cpu")


def figures(embedder, dataset):
    found = RetrievalEvaluator(dataset, ks=(1, 2, 5), confidence=False)(embedder)
    return {name: value for name, value in found.items() if "skipped" not in name}


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_the_file_gives_the_figures_of_the_model(tmp_path, embedder, ending):
    dataset = make_dataset(
        id=[f"i{row}" for row in range(ROWS)], label=["cat" if row % 2 else "ant" for row in range(ROWS)]
    )
    seen = []
    told = export_vectors(
        embedder, dataset, tmp_path / f"v{ending}", batch_size=1, progress=lambda *what: seen.append(what)
    )
    path = tmp_path / f"v{ending}"
    assert figures(mmcl.load(f"vectors:{path}"), mmcl.data.load(f"vectors:{path}")) == figures(embedder, dataset)
    assert figures(embedder, make_dataset()) != figures(embedder, dataset.select(range(6)))  # figures can differ
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert told["images"] == ROWS - 1
    assert told["embedding_dim"] == 24
    assert told["bytes"] == path.stat().st_size
    assert told["skipped"] == [{"row": 3, "source": "image 3", "reason": "image 3 is damaged"}]
    assert told["skipped_images"] == 1
    assert told["labels"] == ["ant", "cat"]
    assert told["largest_difference"] < 1e-5
    assert seen[0] == ("images", 0, ROWS)
    assert seen[-1][0] == "texts"
    read = load_vectors(path)
    expected = embedder.encode_image([dataset.images.read(row) for row in range(ROWS) if row != 3])
    np.testing.assert_allclose(read.image, expected.numpy(), atol=1e-6)
    # Captions of a group stand once; those of several groups once in each.
    assert told["texts"] == len(read.text) == len({(row // 2, text) for row in range(ROWS) if row != 3
                                                   for text in dataset.texts(row)})  # fmt: skip
    assert vectors_dataset(path).has("label")


def test_names_in_npz_and_numbers_in_safetensors(tmp_path, embedder):
    columns = {"id": ["i0", "i0", *(f"i{row}" for row in range(2, ROWS))], "label": ["b", "a"] * 6}
    dataset = make_dataset(**columns)
    told = export_vectors(embedder, dataset, tmp_path / "v.npz")
    named = load_vectors(tmp_path / "v.npz")
    assert told["text_ids"] == "captions"
    assert named.image_id[:3] == ["i0 #0", "i0 #1", "i2"]
    assert named.label[:2] == ["b", "a"]
    assert "the big square #" in "".join(named.text_id)
    alone = "a red circle"
    rows = mmcl.load(f"vectors:{tmp_path / 'v.npz'}").encode_text([f"{alone} #0"])
    torch.testing.assert_close(rows, embedder.encode_text([alone]))
    told = export_vectors(embedder, dataset, tmp_path / "v.safetensors")
    numbered = load_vectors(tmp_path / "v.safetensors")
    assert told["text_ids"] == "numbers"
    assert numbered.image_id[:4] == ["0", "1", "2", "4"]
    assert numbered.label[:2] == ["1", "0"]
    from safetensors import safe_open

    with safe_open(tmp_path / "v.safetensors", "np") as file:
        assert json.loads(file.metadata()["labels"]) == ["a", "b"]


def test_half_precision_and_missing_labels(tmp_path, embedder):
    dataset = make_dataset(label=["a", None] * 6)
    told = export_vectors(embedder, dataset, tmp_path / "half.npz", dtype="float16")
    whole = export_vectors(embedder, dataset, tmp_path / "whole.npz")
    assert told["labels"] is None
    assert load_vectors(tmp_path / "half.npz").label is None
    assert 0 < told["largest_difference"] < 1e-3
    with np.load(tmp_path / "half.npz") as file:
        assert file["image"].dtype == np.float16
    np.testing.assert_allclose(
        load_vectors(tmp_path / "half.npz").image, load_vectors(tmp_path / "whole.npz").image, atol=5e-4
    )
    assert told["bytes"] < whole["bytes"]


def test_long_captions_are_numbered(tmp_path, embedder, monkeypatch):
    monkeypatch.setattr("mmcl.hub.vectors_export._MAX_ID_BYTES", 100)
    told = export_vectors(embedder, make_dataset(), tmp_path / "v.npz")
    assert told["text_ids"] == "numbers"
    assert load_vectors(tmp_path / "v.npz").text_id[:2] == ["0", "1"]


class _Changing:
    """A model that gives something else the second time."""

    def __init__(self, embedder):
        self.embedder, self.calls = embedder, 0
        self.embedding_dim, self.modalities, self.logit_scale = 24, frozenset({"image", "text"}), 1.0

    def embed(self, items, modality, *, batch_size=64):
        self.calls += 1
        return self.embedder.embed(items, modality, batch_size=batch_size).roll(self.calls - 1, 1)

    def encode_text(self, texts, *, batch_size=64):
        return self.embedder.encode_text(texts, batch_size=batch_size)


def test_nothing_is_left_of_a_file_that_failed(tmp_path, embedder):
    with pytest.raises(ExportError, match="does not give the same embeddings twice"):
        export_vectors(_Changing(embedder), make_dataset(), tmp_path / "v.npz")
    assert not list(tmp_path.iterdir())

    def stop(*what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_vectors(embedder, make_dataset(), tmp_path / "v.npz", progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_file_that_does_not_read_back(tmp_path, embedder, monkeypatch):
    real = load_vectors

    def damaged(path):
        read = real(path)
        read.text[0, 0] += 0.5
        return read

    monkeypatch.setattr("mmcl.hub.vectors_export.load_vectors", damaged)
    with pytest.raises(ExportError, match="the text vectors read back are not those that were written"):
        export_vectors(embedder, make_dataset(), tmp_path / "v.npz")
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path, embedder):
    dataset = make_dataset()
    with pytest.raises(ConfigError, match=r"written as .npz or .safetensors; give the file one of these endings"):
        export_vectors(embedder, dataset, tmp_path / "v.csv")
    with pytest.raises(ConfigError, match="dtype is 'int4'; want float32 or float16 or int8 or binary"):
        export_vectors(embedder, dataset, tmp_path / "v.npz", dtype="int4")
    (tmp_path / "there.npz").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="is there already; name another file, or delete it"):
        export_vectors(embedder, dataset, tmp_path / "there.npz")
    assert (tmp_path / "there.npz").read_bytes() == b"mine"
    with pytest.raises(ConfigError, match="cannot be written"):
        export_vectors(embedder, dataset, tmp_path / "there.npz" / "v.npz")
    with pytest.raises(DataError, match="none of its 12 images could be read"):
        export_vectors(embedder, make_dataset(broken=range(ROWS)), tmp_path / "v.npz")
    with pytest.raises(DataError, match="has no rows to embed"):
        export_vectors(embedder, dataset.select([]), tmp_path / "v.npz")
    blind = _Changing(embedder)
    blind.modalities = frozenset({"text"})
    with pytest.raises(ConfigError, match="a file of vectors compares images with texts; this model embeds"):
        export_vectors(blind, dataset, tmp_path / "v.npz")


def test_a_file_of_vectors_may_be_written_as_the_other_kind(tmp_path, embedder):
    export_vectors(embedder, make_dataset(), tmp_path / "v.npz")
    first = f"vectors:{tmp_path / 'v.npz'}"
    export_vectors(mmcl.load(first), mmcl.data.load(first), tmp_path / "v.safetensors")
    second = f"vectors:{tmp_path / 'v.safetensors'}"
    found = figures(mmcl.load(second), mmcl.data.load(second))
    assert found == pytest.approx(figures(embedder, make_dataset()))
