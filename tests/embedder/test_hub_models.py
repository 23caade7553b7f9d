"""`mmcl.load("owner/name")`: repositories of the Hub as embedders, whatever library they are of."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import tiny_folders
import tiny_open_clip
import torch

import mmcl
from mmcl.embedder import DualEncoderEmbedder, SentenceTransformersEmbedder
from mmcl.errors import ConfigError
from mmcl.models.saving import save_pretrained
from mmcl.models.towers.transformers_loading import quiet_transformers

sys.path.append(str(Path(__file__).parents[1] / "repos"))

from push_server import hub

__all__ = ["hub"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_model):
    path = tmp_path_factory.mktemp("models")
    for name in ("clip", "siglip", "bert", "open_clip", "architectures"):
        (path / name).mkdir()
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        tiny_folders.save_dual_model(path / "clip", "clip")
        tiny_folders.save_dual_model(path / "siglip", "siglip")
        tiny_folders.save_text_model(path / "bert", "bert")
        save_pretrained(make_model().eval(), path / "mmcl")
    tiny_open_clip.register(path / "architectures")
    tiny_open_clip.save_folder(path / "open_clip", "tiny-clip")
    return path


@pytest.mark.parametrize("name", ["mmcl", "clip", "siglip", "open_clip"])
def test_a_repository_embeds_as_the_folder_it_came_from(hub, folders, images, texts, name):
    first = hub.add("owner/name", folders / name)
    local = mmcl.load(folders / name, device="cpu")
    other = mmcl.load(folders / ("clip" if name != "clip" else "siglip"), device="cpu")
    for loaded in (
        mmcl.load("owner/name", device="cpu"),
        mmcl.load("owner/name", device="cpu", revision=first),
        mmcl.load(f"owner/name@{first}", device="cpu", token=hub.read_token),
    ):
        assert isinstance(loaded, DualEncoderEmbedder)
        assert torch.equal(loaded.encode_image(images), local.encode_image(images))
        assert torch.equal(loaded.encode_text(texts), local.encode_text(texts))
        assert loaded.logit_scale == local.logit_scale
    rows = other.encode_image(images)
    assert rows.shape != local.encode_image(images).shape or not torch.allclose(rows, local.encode_image(images))


def test_onnx_repositories(hub, folders, monkeypatch):
    import mmcl.runtime.onnx_embedder

    opened = []

    class Recorded:
        def __init__(self, folder, *, precision, tensors):
            opened.append((sorted(path.name for path in folder.iterdir()), precision, tensors))

    monkeypatch.setattr(mmcl.runtime.onnx_embedder, "OnnxEmbedder", Recorded)
    named = {"fp32": {"image": ["image.onnx"], "text": ["text.onnx"]},
             "int8": {"image": ["image_int8.onnx"], "text": ["text.onnx"]}}  # fmt: skip
    graphs = dict.fromkeys(("image.onnx", "text.onnx", "image_int8.onnx", "tokenizer.json"), b"x")
    graphs["mmcl_onnx.json"] = json.dumps({"graphs": named}).encode()
    extra = {"README.md": b"x", "model.safetensors": b"x", "model.bin": b"x"}
    hub.add("owner/alone", {**graphs, **extra})
    hub.add("owner/inside", {**{f"onnx/{name}": content for name, content in graphs.items()}, **extra})
    inside = hub.add("owner/both", folders / "clip")
    hub.add("owner/both", {f"onnx/{name}": content for name, content in graphs.items()})
    for reference, precision, without in (
        ("owner/alone", "fp32", "image_int8.onnx"),
        ("owner/inside", "fp32", "image_int8.onnx"),
        ("onnx:owner/both/int8", "int8", "image.onnx"),
    ):
        assert isinstance(mmcl.load(reference), Recorded)
        assert opened.pop() == (sorted(set(graphs) - {without}), precision, True), "its graphs and nothing else"
    assert isinstance(mmcl.load("onnx:owner/both"), Recorded)
    assert opened.pop()[1] == "fp32"
    with pytest.raises(ConfigError, match="ONNX graphs run in what they were written in"):
        mmcl.load("owner/alone", precision="bf16")
    with pytest.raises(ConfigError, match=r"onnx:owner/both: there is no mmcl_onnx.json; there is .*config.json"):
        mmcl.load("onnx:owner/both", revision=inside)


def test_sentence_transformers_repositories(hub, folders, images, texts, tmp_path):
    """Written by the library, opened from the Hub by what its files tell, and by the library itself."""
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    with quiet_transformers():
        bert = modules.Transformer(str(folders / "bert"))
        pooling = modules.Pooling(bert.get_embedding_dimension(), pooling_mode="mean")
        library.SentenceTransformer(modules=[bert, pooling]).save(str(tmp_path / "text"))
        both = library.SentenceTransformer(modules=[modules.Transformer(str(folders / "clip"))])
        both.save(str(tmp_path / "both"))
    for name, modalities in (("text", {"text"}), ("both", {"image", "text"})):
        hub.add(f"owner/{name}", tmp_path / name)
        with quiet_transformers():
            own = library.SentenceTransformer(f"owner/{name}").encode(texts, convert_to_tensor=True)
        loaded = mmcl.load(f"sentence-transformers:owner/{name}", device="cpu")
        assert isinstance(loaded, SentenceTransformersEmbedder)
        assert loaded.modalities == modalities
        own = torch.nn.functional.normalize(own.cpu(), dim=-1)
        torch.testing.assert_close(loaded.encode_text(texts), own, atol=1e-6, rtol=0)
        assert not torch.allclose(loaded.encode_text(texts), own.flip(0), atol=1e-3)
    assert isinstance(mmcl.load("owner/text"), SentenceTransformersEmbedder), "its files tell"
    shutil.rmtree(tmp_path / "text" / "1_Pooling")
    (tmp_path / "text" / "model.safetensors").rename(tmp_path / "text" / "pytorch_model.bin")
    hub.add("owner/pickled", tmp_path / "text")
    with pytest.raises(ConfigError, match="its weights are a pickle .pytorch_model.bin."):
        mmcl.load("owner/pickled")
    (tmp_path / "text" / "modules.json").write_text(json.dumps([{"path": "", "type": "os.path"}]))
    (tmp_path / "text" / "pytorch_model.bin").unlink()
    with pytest.raises(ConfigError, match="module os.path in modules.json"):
        mmcl.load(tmp_path / "text")
    assert images


def test_commands_end_with_one_sentence_and_exit_2(hub, invoke, monkeypatch):
    """`mmcl eval` of what cannot be opened: no traceback, no token, within seconds."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    hub.add("owner/pickled", {"config.json": b'{"vision_config": {}, "text_config": {}}', "pytorch_model.bin": b"x"})
    for reference, says in (
        ("owner/none", "there is none of this name that you may see"),
        ("owner/pickled", "its weights are a pickle (pytorch_model.bin)"),
        ("owner/pickled@v9", "no such branch, tag or commit"),
    ):
        done = invoke("eval", "retrieval", reference, "shapes?test=4:test")
        assert done.code == 2
        assert says in " ".join(done.err.split())
        assert "Traceback" not in done.err
        assert hub.token not in done.err + done.out
