"""`load(MODEL)`: every reference, and clear words for those that lead nowhere."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
import torch

import mmcl
from mmcl.embedder import DualEncoderEmbedder
from mmcl.errors import ConfigError, DataError, MissingDependencyError
from mmcl.models.saving import save_pretrained


def test_runs_and_models(tmp_path, images, make_model):
    model = make_model().eval()
    save_pretrained(model, tmp_path / "run" / "model")
    expected = DualEncoderEmbedder(model, device="cpu").encode_image(images)
    for reference in (tmp_path / "run", tmp_path / "run" / "model", str(tmp_path / "run")):
        loaded = mmcl.load(reference, device="cpu")
        assert torch.equal(loaded.encode_image(images), expected)
        assert loaded.modalities == {"image", "text"}
        assert loaded.logit_scale == pytest.approx(1 / 0.07)
        assert loaded.embedding_dim == 16


def test_vectors(tmp_path):
    image, text = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    np.savez(tmp_path / "v.npz", image=image, text=text, image_id=np.array(["a", "b", "c"]))
    loaded = mmcl.load(f"vectors:{tmp_path / 'v.npz'}")
    rows = loaded.encode_image(["c", "a"])
    np.testing.assert_allclose(rows.numpy(), (image / np.linalg.norm(image, axis=1, keepdims=True))[[2, 0]], atol=1e-6)
    assert loaded.encode_text(["1"]).shape == (1, 4)
    assert loaded.encode_text([]).shape == (0, 4)
    with pytest.raises(DataError, match="no image vector for 'd'"):
        loaded.encode_image(["a", "d"])
    with pytest.raises(DataError, match="there is no file of vectors"):
        mmcl.load(f"vectors:{tmp_path / 'none.npz'}")


def test_sentence_transformers_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mmcl\[sentence-transformers\]'"):
        mmcl.load("sentence-transformers:some/model")


class _SentenceTransformer:
    """As much of sentence-transformers as is called: the length of a text, or the mean colour of an image."""

    def __init__(self, name, device=None, *, trust_remote_code, local_files_only, model_kwargs):
        assert (trust_remote_code, local_files_only, model_kwargs) == (False, True, {"use_safetensors": True})
        if name.endswith("broken"):
            raise OSError("no such model\nand a second line")
        self.takes = {"image": name.endswith("with-images")}

    def supports(self, modality):
        return self.takes[modality]

    def encode(self, items, *, batch_size=32, convert_to_tensor=False, show_progress_bar=True):
        assert not show_progress_bar
        rows = [[len(x), 1.0] if isinstance(x, str) else np.asarray(x)[..., :2].mean((0, 1)) for x in items]
        return torch.tensor(np.array(rows), dtype=torch.float64)


def test_sentence_transformers(monkeypatch, images, texts, tmp_path):
    library = types.SimpleNamespace(SentenceTransformer=_SentenceTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    for name in ("text-alone", "with-images", "broken"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "modules.json").write_text("[]")
    text = mmcl.load(f"sentence-transformers:{tmp_path / 'text-alone'}")
    assert (text.modalities, text.embedding_dim) == ({"text"}, 2)
    expected = torch.nn.functional.normalize(torch.tensor([[12.0, 1.0], [3.0, 1.0]]), dim=-1)
    torch.testing.assert_close(text.encode_text(texts[:2]), expected)
    assert text.encode_text([]).shape == (0, 2)
    with pytest.raises(ConfigError, match="modality is 'image'; this model embeds text"):
        text.encode_image(images)
    both = mmcl.load(tmp_path / "with-images").encode_image(images)  # its files tell what it is
    torch.testing.assert_close(both.norm(dim=1), torch.ones(7))
    with pytest.raises(ConfigError, match=r"/broken' cannot be loaded \(no such model\)"):
        mmcl.load(f"sentence-transformers:{tmp_path / 'broken'}")


@pytest.fixture
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("runs/nothing", "there is no model folder 'runs/nothing'"),
        ("./nothing", "there is no model folder './nothing'"),
        ("/no/such/folder", "there is no model folder '/no/such/folder'"),
        (
            "nobody/nothing",
            "no folder 'nobody/nothing', and cannot open 'nobody/nothing' on the Hub: HF_HUB_OFFLINE is",
        ),
        ("nothing", "no folder 'nothing', and cannot open 'nothing' on the Hub: HF_HUB_OFFLINE is set"),
        ("tiny", "is a tower, not a model"),
        ("timm:test_vit", "is a tower, not a model"),
        ("open_clip:no-such-arch", "open_clip has no architecture"),
        ("open_clip:/no/folder", "no such folder"),
        ("package:not_installed_weights/model", "is not installed"),
        ("", "there is no model folder ''"),
    ],
)
def test_references_that_lead_nowhere(offline, reference, says):
    with pytest.raises(ConfigError, match=says) as caught:
        mmcl.load(reference)
    assert "\n" not in str(caught.value)


def test_folders_without_a_model(offline, tmp_path):
    with pytest.raises(
        ConfigError, match=r"neither an mmcl model \(mmcl.json\) nor a transformers one .* there is no file"
    ):
        mmcl.load(tmp_path)
    (tmp_path / "config.yaml").write_text("data: {}")
    with pytest.raises(ConfigError, match="holds a run that has not saved a model yet"):
        mmcl.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match="is a bert model: it has not both an image and a text tower"):
        mmcl.load(tmp_path)
    file = tmp_path / "a.txt"
    file.write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        mmcl.load(file)


def test_the_hub_is_asked_once_when_there_is_no_network(monkeypatch):
    """Not told to be offline, but unable to connect: its client would try every file for half a minute."""
    import huggingface_hub

    asked = []

    def model_info(self, name, **kwargs):
        asked.append((name, kwargs["timeout"]))
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(ConfigError, match="cannot open 'nobody/nothing' on the Hub: OSError: no route to host"):
        mmcl.load("nobody/nothing")
    assert asked == [("nobody/nothing", 10)]
