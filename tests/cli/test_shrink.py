"""`mmcl shrink`: figures on the console and in files, smaller models and coded embeddings that load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mmcl
from mmcl.config import ModelSection, TowerSection
from mmcl.models.dual_encoder import build_dual_encoder
from mmcl.models.saving import save_pretrained

DATA = "shapes?train=0&test=30:test"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    section = ModelSection(image=TowerSection(options={"num_hidden_layers": 1}), embedding_dim=16)
    captions = ["one small red circle above two large blue squares on a plain background"]
    return save_pretrained(build_dual_encoder(section, captions=captions), tmp_path_factory.mktemp("model"))


def test_dimensions(invoke, model: Path, tmp_path: Path) -> None:
    files = ["--report", str(tmp_path / "curve.html"), "--json", str(tmp_path / "curve.json")]
    kept = ["--dims", "16,4", "--keep", "4", "-o", str(tmp_path / "small")]
    done = invoke("shrink", "dimensions", str(model), DATA, *kept, *files, "--no-cache")
    assert done.code == 0, done.err
    assert "i2t R@1" in done.out
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert list(curve) == ["16", "4"]
    assert curve["16"]["retrieval/i2t_recall@1"] == mmcl.evaluate(str(model), DATA)["retrieval/i2t_recall@1"]
    assert "<svg" in (tmp_path / "curve.html").read_text()
    smaller = mmcl.load(tmp_path / "small")
    assert smaller.encode_text(["two red circles"]).shape == (1, 4)
    assert curve["4"]["retrieval/t2i_recall@5"] == mmcl.evaluate(smaller, DATA)["retrieval/t2i_recall@5"]


@pytest.mark.parametrize(("kind", "error"), [("float16", 1e-3), ("int8", 1e-2), ("binary", None)])
def test_embeddings(invoke, model: Path, tmp_path: Path, kind: str, error: float | None) -> None:
    out = tmp_path / "codes.safetensors"
    files = ["--report", str(tmp_path / "codes.html"), "--json", str(tmp_path / "codes.json")]
    done = invoke("shrink", "embeddings", str(model), DATA, "--kind", kind, "-o", str(out), *files, "--no-cache")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "codes.json").read_text())
    assert found["float32"]["bytes_per_embedding"] == 64
    assert found["binary, rescored by int8"]["bytes_per_embedding"] == 18
    assert "binary, rescored" in done.out
    assert "<svg" in (tmp_path / "codes.html").read_text()
    whole = mmcl.evaluate(str(model), DATA)
    coded = mmcl.evaluate(f"vectors:{out}", f"vectors:{out}")
    assert coded["retrieval/num_images"] == whole["retrieval/num_images"] == 30
    if error is not None:
        exact = mmcl.load(model).encode_image([mmcl.data.load(DATA).images.read(0)])
        near = mmcl.load(f"vectors:{out}").encode_image([mmcl.data.load(f"vectors:{out}").column("id")[0]])
        assert 0 < (exact - near).abs().max() < error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dimensions", "--keep", "4"], "--keep N and -o OUT go together"),
        (["dimensions", "--dims", "4,x"], "want whole numbers"),
        (["dimensions", "--dims", "99"], "embedding_dim is 99; want 1 to 16"),
        (["embeddings", "--kind", "int4", "-o", "x.npz"], "--kind int4: want one of"),
        (["embeddings", "--kind", "int8"], "--kind and -o FILE go together"),
    ],
)
def test_wrong_arguments(invoke, model: Path, arguments: list[str], message: str) -> None:
    done = invoke("shrink", arguments[0], str(model), DATA, *arguments[1:], "--no-cache")
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
