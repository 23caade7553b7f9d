"""What a model's files may not do: be pickles, bring code, lead out of their folder; and where tokens never are."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import tiny_open_clip
import torch
from tiny_folders import edit_json

import mmcl
from mmcl.config import TowerSection
from mmcl.errors import ConfigError
from mmcl.models.encoder import build_tower
from mmcl.models.opening.locating import locate
from mmcl.models.opening.opening import open_dual_encoder

sys.path.append(str(Path(__file__).parents[1] / "repos"))

from push_server import hub

__all__ = ["hub"]


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that planted code would write; code that can be found by its name in the working directory too."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "this_code_ran"


@pytest.fixture
def copy(folder, tmp_path):
    """copy("clip"): a small model's folder to plant something in; open_clip's too."""

    def make(name):
        path = tmp_path / f"planted_{name}"
        if name == "open_clip":
            for each in (path, tmp_path / "architectures"):
                each.mkdir()
            tiny_open_clip.register(tmp_path / "architectures")
            tiny_open_clip.save_folder(path, "tiny-clip")
        else:
            shutil.copytree(folder(name), path)
        return path

    return make


class _Writes:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def _pickle_instead(path: Path, file: str, marker: Path) -> None:
    for weights in path.glob("*.safetensors"):
        weights.unlink()
    (path / file).write_bytes(pickle.dumps({"a": _Writes(marker)}))


PICKLES = [("clip", "pytorch_model.bin"), ("vtde", "pytorch_model-00001-of-00002.bin"), ("clip", "model.pt"),
           ("open_clip", "open_clip_pytorch_model.bin"), ("open_clip", "weights.pth"),
           ("clip", "flax_model.msgpack")]  # fmt: skip


@pytest.mark.parametrize(("name", "file"), PICKLES)
def test_pickles_are_refused_and_never_fetched(hub, copy, marker, name, file):
    path = copy(name)
    _pickle_instead(path, file, marker)
    hub.add("owner/name", path)
    prefix = "open_clip:" if name == "open_clip" else ""
    for reference in (path, "owner/name", f"{prefix}{path}"):
        for opened in (open_dual_encoder, mmcl.load):
            with pytest.raises(
                ConfigError, match=rf"its weights are a pickle \({file}\).*safetensors.*refs/pr/1"
            ) as told:
                opened(reference)
            assert "\n" not in str(told.value)
    for modality in ("image", "text"):
        with pytest.raises(ConfigError, match=r"its weights are a pickle"):
            build_tower(TowerSection(name=f"{prefix}{path}"), modality)
    with pytest.raises(ConfigError, match=r"its weights are a pickle"):
        build_tower(TowerSection(name="open_clip:hf-hub:owner/name" if prefix else "owner/name"), "text")
    assert not marker.exists()
    assert not [asked for _, asked, _ in hub.requests if asked.endswith(file)]
    pickle.loads((path / file).read_bytes())
    assert marker.exists(), "control: read as a pickle, it does write"


def test_the_two_lines_that_convert_a_pickle_do(copy, images, monkeypatch):
    path = copy("clip")
    expected = open_dual_encoder(path)
    from safetensors.torch import load_file

    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="convert the file in a sandbox: python -c") as told:
        open_dual_encoder(path)
    monkeypatch.chdir(path)
    python, option, lines = shlex.split(str(told.value).partition("in a sandbox: ")[2])
    assert (python, option) == ("python", "-c")
    exec(compile(lines, "converting", "exec"), {})
    pixels = expected.image.tower.preprocessing(images)
    with torch.no_grad():
        assert torch.equal(open_dual_encoder(path).encode_image(**pixels), expected.encode_image(**pixels))


def test_the_next_kind_that_has_safetensors_is_opened(copy, marker):
    path = copy("clip")
    _pickle_instead(path, "pytorch_model.bin", marker)
    for file in copy("open_clip").iterdir():
        shutil.copy(file, path)
    assert locate(path).kind == "open_clip"
    assert not marker.exists()


def _plant_code(path: Path, marker: Path, *names: str) -> None:
    code = f"import os\nos.mkdir({str(marker)!r})\nclass Model:\n    pass\nclass Config:\n    pass\n"
    for name in names:
        (path / name).write_text(code)


CODE = {"AutoConfig": "modeling_own.Config", "AutoModel": "modeling_own.Model"}
TOKENIZER = {"AutoTokenizer": ["modeling_own.Model", None]}


def _unknown_class(path):
    edit_json(path / "config.json", model_type="own_clip", auto_map=CODE)


def _unknown_tokenizer(path):
    edit_json(path / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=TOKENIZER)


def _open_clip_kwargs(path):
    config = json.loads((path / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}}
    (path / "open_clip_config.json").write_text(json.dumps(config))


def _open_clip_tokenizer(path):
    (path / "tokenizer_config.json").write_text(json.dumps({"auto_map": TOKENIZER}))


def _own_module(path):
    module = {"idx": 0, "name": "0", "path": "", "type": "modeling_own.Model"}
    (path / "modules.json").write_text(json.dumps([module]))
    (path / "config.json").unlink()


@pytest.mark.parametrize(
    ("name", "plant", "says"),
    [
        ("clip", _unknown_class, "auto_map of config.json: modeling_own.Config"),
        ("clip", _unknown_tokenizer, "auto_map of tokenizer_config.json: modeling_own.Model"),
        ("open_clip", _open_clip_kwargs, "trust_remote_code in open_clip_config.json"),
        ("open_clip", _open_clip_tokenizer, "auto_map of tokenizer_config.json"),
        ("clip", _own_module, "module modeling_own.Model in modules.json"),
    ],
)
def test_code_of_a_model_is_never_run(hub, copy, marker, name, plant, says):
    path = copy(name)
    plant(path)
    _plant_code(path, marker, "modeling_own.py")
    _plant_code(marker.parent, marker, "modeling_own.py")  # where an import by name would find it
    hub.add("owner/name", path)
    for reference in (path, "owner/name"):
        for opened in (open_dual_encoder, mmcl.load):
            with pytest.raises(ConfigError, match=f"it needs code that it brings itself.*{says}.*vectors:FILE") as told:
                opened(reference)
            assert "\n" not in str(told.value)
    assert not marker.exists()
    assert not [asked for _, asked, _ in hub.requests if asked.endswith(".py")]


def test_nobody_is_asked_whether_code_may_run(hub, copy, marker, monkeypatch):
    """open_clip reads a text tower's config with no word of trust, and transformers would ask at the keyboard."""
    path = copy("open_clip")
    _plant_code(path, marker, "modeling_own.py")
    config = json.dumps({"model_type": "own_text", "auto_map": CODE}).encode()
    hub.add("owner/text", {"config.json": config, "modeling_own.py": (path / "modeling_own.py").read_bytes()})
    described = json.loads((path / "open_clip_config.json").read_text())
    described["model_cfg"]["text_cfg"] = {"hf_model_name": "owner/text", "hf_proj_type": "linear"}
    (path / "open_clip_config.json").write_text(json.dumps(described))
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    for build in (open_dual_encoder, lambda name: build_tower(TowerSection(name=f"open_clip:{name}"), "text")):
        with pytest.raises(ConfigError, match="open_clip:.* cannot be built or loaded"):
            build(path)
    assert asked == []
    from transformers import AutoConfig

    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoConfig.from_pretrained("owner/text")
    assert len(asked) == 1, "control: left alone, it asks"
    assert not marker.exists()


def test_the_revision_that_has_safetensors_is_opened(hub, copy, marker):
    from huggingface_hub import HfApi

    path = copy("clip")
    weights = (path / "model.safetensors").read_bytes()
    _pickle_instead(path, "pytorch_model.bin", marker)
    hub.add("owner/name", path)
    with pytest.raises(ConfigError, match="its weights are a pickle"):
        open_dual_encoder("owner/name")
    HfApi().upload_file(repo_id="owner/name", path_or_fileobj=weights, path_in_repo="model.safetensors", create_pr=True)
    assert open_dual_encoder("owner/name@refs/pr/1").embedding_dim == 24
    with pytest.raises(ConfigError, match="its weights are a pickle"):
        open_dual_encoder("owner/name")
    assert not marker.exists()


def test_towers_that_need_code_are_refused_too(folder, tmp_path, marker):
    path = tmp_path / "bert"
    shutil.copytree(folder("bert"), path)
    _plant_code(path, marker, "modeling_own.py")
    edit_json(path / "config.json", model_type="own_bert", auto_map=CODE)
    with pytest.raises(ConfigError, match="it needs code that it brings itself"):
        build_tower(TowerSection(name=str(path)), "text")
    assert not marker.exists()


def test_code_beside_a_model_that_transformers_knows_is_left_alone(copy, marker, images):
    path = copy("clip")
    plain = open_dual_encoder(path)
    _plant_code(path, marker, "modeling_own.py", "__init__.py", "setup.py")
    edit_json(path / "config.json", auto_map=CODE)
    model = open_dual_encoder(path)
    pixels = plain.image.tower.preprocessing(images)
    with torch.no_grad():
        assert torch.equal(model.encode_image(**pixels), plain.encode_image(**pixels))
    assert not marker.exists()
    exec((path / "modeling_own.py").read_text(), {})
    assert marker.exists(), "control: run, it does write"


def _mmcl(path: Path, **tower) -> Path:
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"")
    side = {"tower": {"family": "timm", "name": "test_vit", "options": {}, **tower}}
    (path / "mmcl.json").write_text(json.dumps({"format": 1, "image": side, "text": side}))
    return path


@pytest.mark.parametrize("value", ["../outside", "/etc/passwd", "~/model", "C:\\model", "inside/../../outside"])
def test_paths_in_configs_are_confined_to_the_folder(copy, tmp_path, value):
    says = "leads out of the model's folder; mmcl reads nothing outside it"
    sentence = copy("clip")
    module = {
        "idx": 0,
        "name": "0",
        "path": value,
        "type": "sentence_transformers.base.modules.transformer.Transformer",
    }
    (sentence / "modules.json").write_text(json.dumps([module]))
    (sentence / "config.json").rename(sentence / "other.json")
    with pytest.raises(ConfigError, match=f"the path of a module in modules.json is .*{says}"):
        locate(sentence)
    tokens = copy("vtde")
    edit_json(tokens / "tokenizer_config.json", fast_tokenizer_files=[value])
    with pytest.raises(ConfigError, match=f"fast_tokenizer_files in tokenizer_config.json is .*{says}"):
        locate(tokens)
    clip = copy("open_clip")
    for section, key in (("text_cfg", "hf_model_name"), ("vision_cfg", "timm_model_name")):
        config = json.loads((clip / "open_clip_config.json").read_text())
        for named in (value, f"local-dir:{value}"):
            changed = {**config, "model_cfg": {**config["model_cfg"]}}
            changed["model_cfg"][section] = {**config["model_cfg"][section], key: named}
            (clip / "open_clip_config.json").write_text(json.dumps(changed))
            with pytest.raises(ConfigError, match=f"{section}.{key} in open_clip_config.json is .*{says}"):
                locate(clip)
        (clip / "open_clip_config.json").write_text(json.dumps(config))
    assert locate(clip).kind == "open_clip"
    with pytest.raises(ConfigError, match=f"the name of the image tower in mmcl.json is .*{says}"):
        locate(_mmcl(tmp_path / "timm", name=f"local-dir:{value}"))


def test_timm_is_given_no_files_to_read(tmp_path):
    for key, value in (("checkpoint_path", "/tmp/x.pth"), ("pretrained", True), ("pretrained_cfg", {"file": "/x"})):
        with pytest.raises(ConfigError, match=rf"gives timm the option {key} .*reads weights from elsewhere"):
            locate(_mmcl(tmp_path / key, options={key: value}))
    assert locate(_mmcl(tmp_path / "plain", options={"img_size": 64})).kind == "mmcl"


def test_links_out_of_the_folder_are_refused(copy, tmp_path, hub):
    path = copy("clip")
    secret = tmp_path / "secret.json"
    secret.write_text((path / "tokenizer.json").read_text())
    (path / "tokenizer.json").unlink()
    (path / "tokenizer.json").symlink_to(secret)
    with pytest.raises(ConfigError, match=r"tokenizer.json is a link out of the model's folder \(to .*secret.json\)"):
        open_dual_encoder(path)
    (path / "tokenizer.json").unlink()
    (path / "kept.json").write_text(secret.read_text())
    (path / "tokenizer.json").symlink_to("kept.json")
    assert open_dual_encoder(path).embedding_dim == 24, "a link within it is none out of it"
    (tmp_path / "linked").symlink_to(path)
    assert open_dual_encoder(tmp_path / "linked").embedding_dim == 24, "nor is one to the whole folder"
    hub.add("owner/name", path)
    snapshot = locate("owner/name").folder
    assert (snapshot / "config.json").is_symlink()
    assert open_dual_encoder(snapshot).embedding_dim == 24, "the Hub's cache is of links to its own store"


def test_adapters_are_not_taken_for_models(copy):
    path = copy("clip")
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/somewhere/else"}))
    for opened in (open_dual_encoder, lambda name: build_tower(TowerSection(name=str(name)), "text")):
        with pytest.raises(ConfigError, match="holds a peft adapter"):
            opened(path)


def test_labels_that_name_other_places_are_ignored(copy, images):
    path = copy("clip")
    plain = open_dual_encoder(path)
    edit_json(path / "config.json", _name_or_path="/home/somebody/clip")
    edit_json(path / "tokenizer_config.json", name_or_path="../other", tokenizer_file="/else/x.json", vocab_file="/x")
    pixels = plain.text.tower.preprocessing(["a red circle"])
    with torch.no_grad():
        assert torch.equal(open_dual_encoder(path).encode_text(**pixels), plain.encode_text(**pixels))


def test_tokens_are_in_no_log_and_no_error(hub, copy, caplog, capfd):
    for name in ("", "huggingface_hub", "transformers", "httpx", "mmcl"):
        caplog.set_level(logging.DEBUG, name)
    path = copy("clip")
    hub.add("owner/name", path, private=True)
    assert open_dual_encoder("owner/name").embedding_dim == 24
    told = []
    for method, pattern, status in (
        ("GET", "/api/models/", 403),
        ("GET", "/api/models/", 500),
        ("HEAD", "resolve", 403),
    ):
        hub.fail(method, pattern, status=status, times=1000)
        for refusing in ("owner/name", "owner/other"):
            try:
                mmcl.load(refusing, token=hub.token)
            except ConfigError as error:
                told.append(str(error))
        hub.faults.clear()
    assert len(told) >= 4
    shown = "".join([*told, caplog.text, *capfd.readouterr()])
    assert hub.token not in shown
    assert hub.token[3:] not in shown
    assert any(hub.token in str(headers) for _, _, headers in hub.requests), "control: it was sent"
    saved = [file for file in path.parent.rglob("*.json") if hub.token in file.read_text(errors="replace")]
    assert saved == []
