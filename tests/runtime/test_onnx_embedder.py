"""Graphs as a program without torch runs them: embeddings, what is refused, and from where they come."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install '.[test]'")
pytest.importorskip("onnx", reason="needs onnx: pip install '.[test]'")

from push_server import ModelHub
from small_graphs import write_folder

from mmcl.embedder import check_embedder
from mmcl.errors import ConfigError, DataError, MissingDependencyError, ShapeError
from mmcl.runtime import captions
from mmcl.runtime.onnx_embedder import OnnxEmbedder, open_onnx
from mmcl.runtime.onnx_folder import is_onnx_folder

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("graphs") / "graphs")


def plain(color: tuple[int, int, int], size: tuple[int, int] = (9, 7)) -> np.ndarray:
    return np.full((*size, 3), color, dtype=np.uint8)


def test_images_and_texts_meet(folder: Path, tmp_path: Path) -> None:
    embedder = OnnxEmbedder(folder, tensors=False)
    images = [plain((255, 0, 0)), plain((0, 255, 0), (4, 4)), plain((0, 0, 200), (3, 30))]
    texts = ["Red", "a green circle", "blue"]
    rows, words = embedder.encode_image(images), embedder.encode_text(texts)
    assert isinstance(rows, np.ndarray)
    assert rows.dtype == words.dtype == np.float32
    assert np.allclose(rows, np.eye(3), atol=1e-6)
    assert (words @ rows.T).argmax(1).tolist() == [0, 1, 2]
    assert np.allclose(embedder.embed_pixels(np.zeros((0, 3, 4, 4))), np.empty((0, 3)))
    Image.fromarray(images[0]).save(tmp_path / "red.png")
    as_held = [tmp_path / "red.png", str(tmp_path / "red.png"), (tmp_path / "red.png").read_bytes(),
               Image.fromarray(images[0]), torch.from_numpy(images[0]).permute(2, 0, 1)]  # fmt: skip
    assert np.allclose(embedder.encode_image(as_held), np.eye(3)[[0] * 5], atol=1e-6)
    assert (embedder.embedding_dim, embedder.logit_scale, embedder.logit_bias) == (3, 20.0, None)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_is_an_embedder(folder: Path, precision: str) -> None:
    images = [plain(color) for color in ((250, 3, 0), (9, 200, 80), (0, 90, 255), (60, 60, 0))]
    embedder = OnnxEmbedder(folder, precision=precision, threads=1)
    check_embedder(embedder, images=images, texts=["red", "a green circle", "white blue", "a a red blue"])
    assert isinstance(embedder.encode_text(["red"]), torch.Tensor)  # this program has imported torch


def test_without_torch(folder: Path, tmp_path: Path, run_python: Run) -> None:
    Image.fromarray(plain((255, 0, 0), (30, 40))).save(tmp_path / "red.jpg")
    script = f"""
import sys
from mmcl.runtime.onnx_embedder import OnnxEmbedder
embedder = OnnxEmbedder({str(folder)!r})
rows = [embedder.encode_image(["red.jpg"]), embedder.encode_text(["Red", "blue"])]
heavy = {{"torch", "torchvision", "transformers", "open_clip", "timm", "onnx", "mmcl.models"}} & set(sys.modules)
print(type(rows[0]).__name__, (rows[0] @ rows[1].T).argmax(), sorted(heavy))
"""
    done = run_python("-c", script, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == "ndarray 0 []\n"
    both = run_python("-c", "import torch\n" + script, cwd=tmp_path)  # a control: the list above sees it
    assert both.stdout == "Tensor tensor(0) ['torch']\n"


def test_long_texts_are_cut_and_order_is_kept(folder: Path) -> None:
    embedder = OnnxEmbedder(folder, tensors=False)
    texts = ["red " * 9 + "blue", "blue", "", "green green", "red"]
    together = embedder.encode_text(texts, batch_size=2)
    alone = np.concatenate([embedder.encode_text([text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-6)
    assert np.allclose(together[0], embedder.encode_text(["red " * 5])[0])
    assert not np.allclose(together[0], together[1], atol=0.1)


def test_batches_that_do_not_fit_are_halved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = OnnxEmbedder(folder, tensors=False)
    run, sizes = embedder.run, []

    def small(inputs: dict[str, np.ndarray], modality: str) -> np.ndarray:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 99")
        return run(inputs, modality)

    monkeypatch.setattr(embedder, "run", small)
    texts = ["red", "green", "blue", "white", "red"]
    assert np.allclose(embedder.encode_text(texts), OnnxEmbedder(folder, tensors=False).encode_text(texts))
    assert sizes == [5, 3, 2, 2, 1]
    monkeypatch.setattr(embedder, "run", lambda inputs, modality: run({}, modality))
    with pytest.raises(Exception, match="input"):  # another fault is not hidden
        embedder.encode_text(texts)


def test_what_is_no_item(folder: Path, tmp_path: Path) -> None:
    embedder = OnnxEmbedder(folder)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (tmp_path / "note.txt").write_bytes(b"a note")
    wrong = [
        ([tmp_path / "none.png"], DataError, r"none\.png: no such image file"),
        ([tmp_path / "broken.png"], DataError, r"broken\.png: not an image that Pillow can identify"),
        ([tmp_path / "note.txt"], DataError, r"note\.txt: not an image"),
        ([b""], DataError, r"image bytes: the image is empty \(0 bytes\)"),
        ([np.zeros((4, 4), np.uint8)], ShapeError, r"an image array is uint8 \(h, w, 3\), got uint8 \(4, 4\)"),
        ([torch.zeros(3, 4, 4)], ShapeError, r"an image tensor is uint8 \(3, h, w\), got torch.float32"),
        ([3], ShapeError, "no image: a int"),
        ("image.png", ShapeError, "items is a str; want a list of images"),
    ]
    for items, kind, message in wrong:
        with pytest.raises(kind, match=message):
            embedder.encode_image(items)
    with pytest.raises(DataError, match="text 1 holds half a surrogate pair"):
        embedder.encode_text(["red", "\ud83d"])
    with pytest.raises(ShapeError, match="text 1 is a int"):
        embedder.encode_text(["red", 3])
    with pytest.raises(ConfigError, match=r"modality is 'smell'; this model embeds image, text"):
        embedder.embed([], "smell")


def edit(folder: Path, out: Path, **changes: object) -> Path:
    """A copy of a folder with other values in its description."""
    shutil.copytree(folder, out)
    path = out / "mmcl_onnx.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return out


def test_damaged_and_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no mmcl_onnx\.json, nor does its onnx/"):
        OnnxEmbedder(tmp_path)
    for name in ("text.onnx", "tokenizer.json"):
        out = edit(folder, tmp_path / f"without_{name}")
        (out / name).unlink()
        with pytest.raises(ConfigError, match=rf"{name} is missing.*; export the model again"):
            OnnxEmbedder(out)
    out = edit(folder, tmp_path / "half")
    (out / "image.onnx").write_bytes((out / "image.onnx").read_bytes()[:100])
    (out / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        OnnxEmbedder(out)
    shutil.copy(folder / "tokenizer.json", out / "tokenizer.json")
    with pytest.raises(ConfigError, match=r"image\.onnx cannot be loaded \(.+\); export the model again"):
        OnnxEmbedder(out).encode_image([plain((1, 2, 3))])
    with pytest.raises(ConfigError, match="format 2, this mmcl reads 1; upgrade mmcl"):
        OnnxEmbedder(edit(folder, tmp_path / "newer", format=2))
    with pytest.raises(ConfigError, match=r"names the file '\.\./secret\.onnx'; want plain names"):
        OnnxEmbedder(edit(folder, tmp_path / "out", graphs={"fp32": {"image": ["../secret.onnx"]}}))
    for number, odd in enumerate(({"graphs": ["image.onnx"]}, {"graphs": {"fp32": {"image": 3}}}, {"text": {}})):
        with pytest.raises(ConfigError, match=r"mmcl_onnx\.json is damaged \(.+\); export the model again"):
            OnnxEmbedder(edit(folder, tmp_path / f"odd{number}", **odd))
    (tmp_path / "newer" / "mmcl_onnx.json").write_text("[")
    with pytest.raises(ConfigError, match=r"mmcl_onnx\.json cannot be read"):
        OnnxEmbedder(tmp_path / "newer")
    only = edit(folder, tmp_path / "only", graphs={"fp32": {"image": ["image.onnx"], "text": ["text.onnx"]}})
    with pytest.raises(ConfigError, match="names no int8 graphs, but fp32"):
        OnnxEmbedder(only, precision="int8")
    values = json.loads((only / "mmcl_onnx.json").read_text())
    (only / "mmcl_onnx.json").write_text(json.dumps({k: v for k, v in values.items() if k != "logit_scale"}))
    with pytest.raises(ConfigError, match=r"has no logit_scale"):
        OnnxEmbedder(only)
    for wrong in ({"precision": "fp16"}, {"threads": 0}):
        with pytest.raises(ConfigError, match=r"precision is 'fp16'; ONNX graphs come as|threads is 0; want"):
            OnnxEmbedder(folder, **wrong)


def test_which_folder_is_meant(folder: Path, tmp_path: Path) -> None:
    assert is_onnx_folder(folder)
    shutil.copytree(folder, tmp_path / "repository" / "onnx")
    repository = tmp_path / "repository"
    assert not is_onnx_folder(repository)  # by its name it is the model beside the graphs
    assert OnnxEmbedder(repository).folder == repository / "onnx"
    assert open_onnx(f"{folder}/int8").precision == "int8"
    assert open_onnx(str(folder)).precision == "fp32"
    shutil.copytree(folder, tmp_path / "int8")
    assert open_onnx(str(tmp_path / "int8")).precision == "fp32"  # a folder of that name
    first, int8 = OnnxEmbedder(folder), OnnxEmbedder(folder, precision="int8")
    assert first.fingerprint() == OnnxEmbedder(repository).fingerprint() != int8.fingerprint()
    (repository / "onnx" / "text.onnx").write_bytes((folder / "text.onnx").read_bytes() + b"\0")
    assert OnnxEmbedder(repository).fingerprint() != first.fingerprint()


def test_only_the_graphs_come_from_the_hub(folder: Path, hub: ModelHub) -> None:
    files = {f"onnx/{path.name}": path.read_bytes() for path in folder.iterdir()}
    hub.add("owner/model", files | {"model.safetensors": b"weights", "mmcl.json": b"{}"})
    fetched = OnnxEmbedder.from_pretrained("owner/model", precision="int8", tensors=False)
    assert np.allclose(fetched.encode_text(["red"]), OnnxEmbedder(folder, tensors=False).encode_text(["red"]))
    names = {path.name for path in fetched.folder.iterdir()}
    assert names == {"mmcl_onnx.json", "tokenizer.json", "image_int8.onnx", "text_int8.onnx"}
    assert not any("safetensors" in path for _, path, _ in hub.requests)
    hub.add("owner/root", {path.name: path.read_bytes() for path in folder.iterdir()})
    assert OnnxEmbedder.from_pretrained("owner/root").precision == "fp32"


def test_what_the_hub_does_not_have(folder: Path, hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("owner/empty", {"README.md": b"hello"})
    hub.add("owner/half", {"mmcl_onnx.json": (folder / "mmcl_onnx.json").read_bytes()})
    wrong = {
        "owner/none": "there is no owner/none on the Hub, or it is private",
        "owner/empty": r"owner/empty on the Hub has no mmcl_onnx\.json",
        "owner/half": r"owner/half on the Hub names image\.onnx, but has no such file",
        "a/b/c": "there is no folder 'a/b/c', and it is no name on the Hub",
    }
    for name, message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            OnnxEmbedder.from_pretrained(name)
    with pytest.raises(ConfigError, match="owner/half on the Hub has no revision 'next'"):
        OnnxEmbedder.from_pretrained("owner/half", revision="next")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"is not in the cache, and the Hub cannot be reached"):
        OnnxEmbedder.from_pretrained("owner/never")


def test_captions_are_cleaned_as_open_clip_does() -> None:
    from open_clip import tokenizer as library

    texts = ["  A &amp;amp; b ", "caf\u00c3\u00a9 \u2014 x", "under_score, now!", "Tab\tand\nline", "\u00b4quote\u2019"]
    for name in ("lower", "whitespace", "canonicalize"):
        assert [captions.CLEANINGS[name](text) for text in texts] == [
            library.get_clean_fn(name)(text) for text in texts
        ]
    assert captions.CLEANINGS["none"](texts[0]) == texts[0]


def test_cleaning_needs_ftfy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(MissingDependencyError, match="ftfy is not installed.*pip install ftfy"):
        captions.CLEANINGS["lower"]("a")
