"""`mmcl export` as a person runs it; the formats themselves are tested in tests/hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mmcl
from mmcl.config import ModelSection, TowerSection
from mmcl.models.dual_encoder import build_dual_encoder
from mmcl.models.saving import save_pretrained

DATA = "shapes?train=0&test=12:test"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    section = ModelSection(image=TowerSection(options={"num_hidden_layers": 1}), embedding_dim=16)
    captions = ["one small red circle above two large blue squares on a plain background"]
    return save_pretrained(build_dual_encoder(section, captions=captions), tmp_path_factory.mktemp("model"))


def test_all_that_fit_are_written_and_the_others_said(
    invoke, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mmcl.hub.exporting._LIBRARIES", {"onnx": "no_such_runtime", "sentence-transformers": "no_such_library"}
    )
    arguments = ["--format", "all", "-o", str(tmp_path / "out"), "--data", DATA, "--json", str(tmp_path / "out.json")]
    done = invoke("export", str(model), *arguments)
    assert done.code == 0, done.err
    assert "onnx: left out, because no_such_runtime is not installed; it comes with the extra 'onnx'" in done.out
    assert "open_clip: left out, because the image tower (ViTModel) is pooled by its own pooler" in done.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["transformers"]
    report = json.loads((tmp_path / "out.json").read_text())["transformers"]
    assert report["differences"][""]["texts"] < 1e-5
    again, source = mmcl.load(tmp_path / "out" / "transformers"), mmcl.load(model)
    texts = ["two red squares", "one"]
    assert torch.allclose(again.encode_text(texts), source.encode_text(texts), atol=1e-5)
    assert not torch.allclose(again.encode_text(texts), source.encode_text(texts[::-1]), atol=1e-3)


def test_vectors(invoke, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npz"
    done = invoke("export", str(model), "--format", "vectors", "--data", DATA, "-o", str(out))
    assert done.code == 0, done.err
    assert "12 images and" in done.out
    assert mmcl.load(f"vectors:{out}").embedding_dim == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onix"], "did you mean 'onnx'"),
        (["--format", "open_clip"], "it can be written as transformers"),
        (["--format", "vectors"], "--format vectors needs --data DATA"),
        (["--format", "vectors", "--format", "onnx", "--data", DATA], "--format vectors stands alone"),
    ],
)
def test_wrong_arguments(invoke, model: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = invoke("export", str(model), *arguments, "-o", str(tmp_path / "out"))
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
