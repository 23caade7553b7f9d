"""`open_dual_encoder` and `locate`: what a folder or a repository of the Hub is, its files tell."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import tiny_open_clip
import torch
from huggingface_hub import HfApi
from tiny_folders import CAPTIONS

from mmcl.config import ModelSection, TowerSection
from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import build_dual_encoder
from mmcl.models.encoder import build_tower
from mmcl.models.opening.locating import locate
from mmcl.models.opening.opening import open_dual_encoder
from mmcl.models.saving import save_pretrained

sys.path.append(str(Path(__file__).parents[1] / "repos"))

from push_server import hub

__all__ = ["hub"]


@pytest.fixture(scope="module")
def sources(folder, tmp_path_factory):
    """One folder of every kind that opens as a dual encoder."""
    made = {family: Path(folder(family)) for family in ("clip", "siglip", "vtde")}
    path = tmp_path_factory.mktemp("sources")
    for name in ("architectures", "open_clip"):
        (path / name).mkdir()
    tiny_open_clip.register(path / "architectures")
    tiny_open_clip.save_folder(path / "open_clip", "tiny-clip")
    made["open_clip"] = path / "open_clip"
    torch.manual_seed(7)
    section = ModelSection(image=TowerSection(pooling="mean"), embedding_dim=12)
    made["mmcl"] = save_pretrained(build_dual_encoder(section, captions=CAPTIONS), path / "run" / "model")
    made["sentence-transformers"] = _as_sentence_transformers(made["clip"], path / "sentence")
    return made


def _as_sentence_transformers(clip: Path, path: Path) -> Path:
    """What sentence-transformers 6 writes for a CLIP of transformers."""
    shutil.copytree(clip, path)
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    (path / "modules.json").write_text(json.dumps([module]))
    return path


@torch.no_grad()
def _embed(model, images):
    pixels, tokens = model.image.tower.preprocessing(images), model.text.tower.preprocessing(CAPTIONS)
    return torch.cat([model.encode_image(**pixels), model.encode_text(**tokens)])


KINDS = {
    "mmcl": "mmcl",
    "clip": "transformers",
    "siglip": "transformers",
    "vtde": "transformers",
    "open_clip": "open_clip",
}


@pytest.mark.parametrize("name", KINDS)
def test_a_repository_opens_as_the_folder_it_was_uploaded_from(hub, sources, images, name):
    extra = {"README.md": b"---\nlicense: mit\n---\n", "pytorch_model.bin": b"no", "assets/a.png": b"picture",
             "tf_model.h5": b"no", "modeling_x.py": b"raise SystemExit"}  # fmt: skip
    api = HfApi()
    api.create_repo("owner/name")
    api.upload_folder(repo_id="owner/name", folder_path=sources[name])
    for path, content in extra.items():
        api.upload_file(repo_id="owner/name", path_in_repo=path, path_or_fileobj=content)
    located = locate("owner/name")
    assert (located.kind, located.repo_id) == (KINDS[name], "owner/name")
    assert located.revision == hub.repos["owner/name"].at("main").sha
    there = {path.relative_to(located.folder).as_posix() for path in located.folder.rglob("*") if path.is_file()}
    assert not there & set(extra), "nothing more is fetched than opening it needs"
    model, local = open_dual_encoder("owner/name"), open_dual_encoder(sources[name])
    assert torch.equal(_embed(model, images), _embed(local, images))
    assert torch.equal(model.log_logit_scale, local.log_logit_scale)
    if name != "mmcl":  # not where this machine keeps what it fetched
        assert model.image.tower.spec["name"] == model.text.tower.spec["name"] == "owner/name"


def test_kinds_that_lie_in_one_repository(sources, tmp_path):
    """mmcl's own first, then ONNX, transformers, open_clip, sentence-transformers; ONNX in a folder of its own last."""
    shutil.copytree(sources["mmcl"], tmp_path / "all")
    every = tmp_path / "all"
    for name in ("clip", "open_clip", "sentence-transformers"):
        for file in sources[name].iterdir():
            if not (every / file.name).exists():
                shutil.copy(file, every)
    (every / "mmcl_onnx.json").write_text("{}")
    (every / "onnx").mkdir()
    (every / "onnx" / "mmcl_onnx.json").write_text("{}")
    for mark, kind in (
        ("mmcl.json", "mmcl"),
        ("mmcl_onnx.json", "onnx"),
        ("config.json", "transformers"),
        ("open_clip_config.json", "open_clip"),
        ("modules.json", "sentence-transformers"),
        ("onnx/mmcl_onnx.json", "onnx"),
    ):
        located = locate(every)
        assert located.kind == kind
        assert located.folder == (every / "onnx" if mark.startswith("onnx/") else every)
        (every / mark).unlink()
    with pytest.raises(ConfigError, match="neither an mmcl model"):
        locate(every)


def test_explicit_prefixes_choose_another_kind(sources, tmp_path, hub):
    both = tmp_path / "both"
    shutil.copytree(sources["clip"], both)
    for file in sources["open_clip"].iterdir():
        shutil.copy(file, both)
    (both / "onnx").mkdir()
    (both / "onnx" / "mmcl_onnx.json").write_text("{}")
    (both / "modules.json").write_text("[]")
    hub.add("owner/both", both)
    for prefix in (f"{both}", "owner/both"):
        assert locate(prefix).kind == "transformers"
        assert locate(f"sentence-transformers:{prefix}").kind == "sentence-transformers"
        onnx = locate(f"onnx:{prefix}/int8")
        assert (onnx.kind, onnx.precision, onnx.folder.name) == ("onnx", "int8", "onnx")
        assert locate(f"onnx:{prefix}").precision == "fp32"
    assert locate(f"open_clip:{both}").kind == locate("open_clip:hf-hub:owner/both").kind == "open_clip"
    named = locate("open_clip:owner/both")
    assert (named.folder, named.architecture, named.checkpoint) == (None, "owner", "both"), "ARCH/PRETRAINED, as ever"
    with pytest.raises(ConfigError, match=r"onnx:.*there is no mmcl_onnx.json; there is config.json"):
        locate(f"onnx:{sources['clip']}")
    with pytest.raises(ConfigError, match="ONNX graphs, which embed and cannot be trained, merged or exported"):
        open_dual_encoder(f"onnx:{both}")
    with pytest.raises(ConfigError, match="holds embeddings and no model"):
        open_dual_encoder("vectors:x.npz")


def test_revisions_and_private_repositories(hub, sources, images, monkeypatch):
    first = hub.add("owner/name", sources["siglip"])
    hub.add("owner/name", sources["clip"])
    now, before = _embed(open_dual_encoder("owner/name"), images), open_dual_encoder("owner/name", revision=first)
    assert torch.equal(_embed(before, images), _embed(open_dual_encoder(f"owner/name@{first}"), images))
    assert before.logit_bias is not None
    assert now.shape != _embed(before, images).shape or not torch.equal(now, _embed(before, images))
    with pytest.raises(ConfigError, match="no such branch, tag or commit; check the revision"):
        open_dual_encoder("owner/name@nowhere")
    with pytest.raises(ConfigError, match="names the revision 'a', and revision='b' another"):
        open_dual_encoder("owner/name@a", revision="b")
    with pytest.raises(ConfigError, match="is a folder, which has no revisions"):
        open_dual_encoder(sources["clip"], revision="main")
    hub.add("owner/secret", sources["clip"], private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="there is none of this name that you may see") as refused:
        open_dual_encoder("owner/secret")
    assert hub.token not in str(refused.value)
    assert torch.equal(_embed(open_dual_encoder("owner/secret", token=hub.token), images), now)


def test_what_was_fetched_is_found_without_the_hub(hub, sources, images, monkeypatch, caplog):
    import huggingface_hub

    for name in ("clip", "mmcl"):
        hub.add(f"owner/{name}", sources[name])
        expected = _embed(open_dual_encoder(f"owner/{name}"), images)
        for method in ("GET", "HEAD"):
            hub.fail(method, "/", status="cut", times=1000)
        assert torch.equal(_embed(open_dual_encoder(f"owner/{name}"), images), expected)
        assert f"the Hub cannot be reached; owner/{name} is taken as it was fetched before" in caplog.text
        hub.faults.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert torch.equal(_embed(open_dual_encoder("owner/mmcl"), images), expected)
    assert len(hub.requests) == asked
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set, and it is not among what was fetched before"):
        open_dual_encoder("owner/other")


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (403, "GatedRepo", "its owner gives access on request"),
        (401, None, "it is not known who you are; log in|none of this name that you may see"),
        (404, "RepoNotFound", "there is none of this name that you may see"),
        (500, None, "an error of its own .500."),
    ],
)
def test_what_the_hub_refuses_is_told_in_one_sentence(hub, status, code, says):
    hub.fail("GET", "/api/models/", status=status, times=1000)
    before = len(hub.requests)
    with pytest.raises(ConfigError, match="cannot open 'owner/name' on the Hub") as told:
        open_dual_encoder("owner/name")
    assert "\n" not in str(told.value)
    assert hub.token not in str(told.value)
    assert len(hub.requests) - before <= 2, "asked once, a busy Hub once more"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"adapter_config.json": {"base_model_name_or_path": "a/b"}}, "peft adapter of 'a/b': .*mmcl merge lora"),
        ({"model_index.json": {}}, "a diffusers pipeline"),
        ({"model.Q4.gguf": {}}, "a GGUF model"),
        (
            {"config.json": {"model_type": "vit"}, "preprocessor_config.json": {}},
            "a vit model.*model.image.name=owner/x",
        ),
        ({"config.json": {"model_type": "bert"}}, "a bert model.*model.text.name=owner/x"),
        (
            {
                "config.json": {
                    "model_type": "llava",
                    "architectures": ["LlavaForConditionalGeneration"],
                    "vision_config": {},
                    "text_config": {},
                }
            },
            "a llava model, which writes text",
        ),
        ({"config.json": {"architecture": "resnet18"}}, "model.image.name=timm:resnet18"),
        ({"README.md": {}}, "there is README.md$"),
        ({}, "there is no file$"),
        ({"a/b.txt": {}}, "there is no file; folders a$"),
    ],
)
def test_repositories_of_something_else_are_named(hub, files, says):
    hub.add("owner/x", {name: json.dumps(value).encode() for name, value in files.items()})
    with pytest.raises(ConfigError, match=r"owner/x: neither an mmcl model \(mmcl.json\).*" + says):
        open_dual_encoder("owner/x")
    assert not [path for _, path, _ in hub.requests if "gguf" in path]


def test_a_tower_may_be_that_of_an_mmcl_model(hub, sources, images):
    source = open_dual_encoder(sources["mmcl"])
    hub.add("owner/name", sources["mmcl"])
    other = build_dual_encoder(ModelSection(image=TowerSection(pooling="mean"), embedding_dim=12), captions=CAPTIONS)
    for name in (str(sources["mmcl"]), str(sources["mmcl"].parent), "owner/name"):
        section = ModelSection(image=TowerSection(name=name), text=TowerSection(name=name), embedding_dim=12)
        model = build_dual_encoder(section).eval()
        assert model.image.pooling == "mean"
        assert torch.equal(_embed(model, images), _embed(source, images)), "its towers, and heads of the same size"
        assert not torch.allclose(_embed(other.eval(), images), _embed(source, images), atol=1e-3)
        smaller = build_dual_encoder(ModelSection(image=TowerSection(name=name), embedding_dim=8), captions=CAPTIONS)
        assert torch.equal(*(next(each.image.tower.model.parameters()) for each in (smaller, source)))
    for key, value in (("image_size", 64), ("pretrained", False), ("options", {"hidden_size": 8})):
        with pytest.raises(ConfigError, match=f"model.image.{key} is .* is an mmcl model, whose towers come as they"):
            build_tower(TowerSection(name=name, **{key: value}), "image")


def test_an_open_clip_tower_may_lie_on_the_hub(hub, sources, images):
    hub.add("owner/name", sources["open_clip"])
    tower = build_tower(TowerSection(name="open_clip:hf-hub:owner/name"), "image")
    assert tower.spec["name"] == "hf-hub:owner/name"
    local = build_tower(TowerSection(name=f"open_clip:{sources['open_clip']}"), "image")
    pixels = local.preprocessing(images)
    assert torch.equal(tower.eval()(**pixels).pooled, local.eval()(**pixels).pooled)
