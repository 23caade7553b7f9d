"""`model.init_from`: a training that starts from both sides of a model that exists."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from mmcl.builders.starting_models import build_starting_model
from mmcl.builders.training import train
from mmcl.config import Recipe, load_recipe, recipe_from_tree
from mmcl.errors import ConfigError
from mmcl.models.opening.opening import open_dual_encoder
from mmcl.models.saving import from_pretrained

sys.path.append(str(Path(__file__).parent / "hub"))

import six_models
from six_models import CAPTIONS

# How a recipe may start: an mmcl run, and every kind that others publish.
SOURCES = ("run", "clip", "siglip", "open_clip", "sentence-transformers")


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mmcl")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for row in range(16):
        Image.new("RGB", (40, 32), (row * 15, 90, 255 - row * 15)).save(folder / f"{row}.png")
        lines.append(json.dumps({"file_name": f"{row}.png", "text": f"{CAPTIONS[row % 4]} {row}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Path]:
    """What training may start from, as folders."""
    made = {}
    for name in ("clip", "siglip", "open_clip"):
        folder = tmp_path_factory.mktemp(name)
        six_models.build_model(name, folder)
        made[name] = folder / name
    made["sentence-transformers"] = tmp_path_factory.mktemp("sentence") / "model"
    shutil.copytree(made["clip"], made["sentence-transformers"])
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    (made["sentence-transformers"] / "modules.json").write_text(json.dumps([module]))
    tiny = {"options": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}}
    model = {"embedding_dim": 12, "image": {**tiny, "image_size": 32, "pooling": "mean"}, "text": tiny}
    made["run"] = tmp_path_factory.mktemp("runs") / "first"
    train(recipe_from_tree(_tree(data, made["run"], model), source="test"))
    return made


def _tree(data: Path, folder: Path, model: dict, **sections: dict) -> dict:
    tree = {
        "data": {"path": str(data), "workers": 0},
        "model": model,
        "train": {"batch_size": 4, "max_steps": 2, "log_every": 1},
        "optimizer": {"learning_rate": 1e-3},
        "evaluate": {"tasks": ["retrieval"]},
        "run": {"dir": str(folder)},
    }
    return {**tree, **{name: {**tree.get(name, {}), **section} for name, section in sections.items()}}


def _recipe(source: Path | str, *, data: Path | str = "unused", folder: Path | str = "unused", **sections) -> Recipe:
    model = {"init_from": str(source), **sections.pop("model", {})}
    return recipe_from_tree(_tree(data, folder, model, **sections), source="test")


@torch.no_grad()
def _embed(model) -> torch.Tensor:
    model.eval()
    pixels = model.image.tower.preprocessing(six_models.make_images())
    return torch.cat([model.encode_image(**pixels), model.encode_text(**model.text.tower.preprocessing(CAPTIONS))])


@pytest.mark.parametrize("name", SOURCES)
def test_step_0_is_the_source_and_two_steps_are_not(sources, data, tmp_path, name, caplog) -> None:
    source = open_dual_encoder(sources[name])
    start = build_starting_model(_recipe(sources[name]))
    assert start.training
    torch.testing.assert_close(_embed(start), _embed(source), atol=1e-6, rtol=0)
    assert torch.equal(start.log_logit_scale, source.log_logit_scale)
    with torch.no_grad():  # control: another seed's weights are told apart
        for parameter in source.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    assert (_embed(start) - _embed(source)).abs().max() > 1e-2
    assert "training starts from model.init_from" in caplog.text
    done = train(_recipe(sources[name], data=data, folder=tmp_path / "run"))
    assert done.result.progress.step == 2
    trained = from_pretrained(done.model)
    assert (_embed(trained) - _embed(start)).abs().max() > 1e-4


def test_what_the_model_decides_is_no_key_of_the_recipe(sources) -> None:
    for side, key, value in (
        ("image", "name", "timm:test_vit"),
        ("image", "image_size", 64),
        ("image", "resize", "squash"),
        ("text", "pretrained", False),
        ("text", "pooling", "mean"),
        ("text", "max_length", 8),
        ("text", "options", {"hidden_size": 8}),
    ):
        with pytest.raises(
            ConfigError, match=f"model.{side}.{key} is .* brings its own towers; leave model.{side}.{key}"
        ):
            _recipe(sources["clip"], model={side: {key: value}})
    _recipe(sources["clip"], model={"image": {"name": "tiny", "image_size": None}, "text": {"pooling": "auto"}})


def test_another_head_or_size_is_a_new_head_on_its_towers(sources, caplog) -> None:
    source = open_dual_encoder(sources["clip"])
    assert source.embedding_dim == 24
    kept = build_starting_model(
        _recipe(sources["clip"], model={"embedding_dim": 24, "image": {"head": {"bias": False}}})
    )
    assert torch.equal(_embed(kept), _embed(source)), "what is said and what it has are the same"
    assert "a new" not in caplog.text
    smaller = build_starting_model(_recipe(sources["clip"], model={"embedding_dim": 8}))
    assert (smaller.embedding_dim, _embed(smaller).shape[1]) == (8, 8)
    assert "the image side gets a new linear head, 32 to 8 values, in the place of its own" in caplog.text
    for each, own in ((smaller.image, source.image), (smaller.text, source.text)):
        assert torch.equal(next(each.tower.parameters()), next(own.tower.parameters()))
    again = build_starting_model(_recipe(sources["clip"], model={"embedding_dim": 8}))
    other = _recipe(sources["clip"], model={"embedding_dim": 8})
    torch.manual_seed(1)
    assert not torch.equal(_embed(build_starting_model(other)), _embed(again)), "new heads are the seed's"
    mlp = {"image": {"head": {"name": "mlp", "hidden_dims": [16]}}}
    one = build_starting_model(_recipe(sources["clip"], model=mlp))
    assert torch.equal(_embed(one)[4:], _embed(source)[4:]), "the text side keeps its own"
    assert not torch.allclose(_embed(one)[:4], _embed(source)[:4], atol=1e-2)
    # open_clip's features are its embeddings; in another size they need a head.
    assert build_starting_model(_recipe(sources["open_clip"], model={"embedding_dim": 8})).embedding_dim == 8
    with pytest.raises(ConfigError, match="set model.embedding_dim=32 or use linear"):
        build_starting_model(_recipe(sources["clip"], model={"image": {"head": {"name": "none"}}}))


def test_scale_and_bias(sources, caplog) -> None:
    def logits(source: str, **sections):
        model = build_starting_model(_recipe(sources[source], **sections))
        return round(model.logit_scale.item(), 3), None if model.logit_bias is None else model.logit_bias.item()

    sigmoid = {"loss": {"name": "sigmoid"}}
    own = round(open_dual_encoder(sources["clip"]).logit_scale.item(), 3)
    assert logits("clip") == (own, None)
    assert logits("clip", **sigmoid) == (10.0, -10.0)
    assert "the sigmoid loss starts from model.logit_scale=10, model.logit_bias=-10, as SigLIP does" in caplog.text
    assert logits("clip", model={"logit_scale": 30.0}, **sigmoid) == (30.0, -10.0)
    assert logits("clip", model={"logit_bias": -3.0}) == (own, -3.0)
    siglip = open_dual_encoder(sources["siglip"])
    assert siglip.logit_bias is not None
    assert logits("siglip", **sigmoid) == (round(siglip.logit_scale.item(), 3), siglip.logit_bias.item())
    assert logits("siglip", model={"logit_bias": None})[1] is None
    with pytest.raises(ConfigError, match="loss.name=sigmoid needs a number for model.logit_bias"):
        _recipe(sources["siglip"], model={"logit_bias": None}, **sigmoid)
    assert logits("clip", model={"logit_scale_max": 5.0})[0] == 5.0
    with pytest.raises(ConfigError, match="model.logit_scale is 500.0; want 0 < logit_scale <= 100"):
        logits("clip", model={"logit_scale": 500.0})
    fixed = build_starting_model(_recipe(sources["clip"], model={"logit_scale_learnable": False}))
    assert not fixed.log_logit_scale.requires_grad


def test_frozen_towers_are_cached_and_stay(sources, data, tmp_path) -> None:
    source = open_dual_encoder(sources["run"])
    frozen = {"image": {"freeze": True}, "text": {"freeze": True}}
    cache = {"train": {"feature_cache": {"dir": str(tmp_path / "cache")}}}
    done = train(_recipe(sources["run"], data=data, folder=tmp_path / "run", model=frozen, **cache))
    assert any((tmp_path / "cache").rglob("*"))
    trained = from_pretrained(done.model)
    for side in ("image", "text"):
        ours, theirs = trained.encoder(side).tower.state_dict(), source.encoder(side).tower.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not torch.equal(trained.image.head.projection.weight, source.image.head.projection.weight)


def test_resumed_is_uninterrupted_and_its_config_runs_again(sources, data, tmp_path) -> None:
    """The run's own config.yaml holds what was said, not what the model decided, so it means the same again."""
    sections = {"train": {"max_steps": 4}, "checkpoint": {"every_steps": 2}, "loss": {"name": "sigmoid"}}
    sections["model"] = {"image": {"freeze": 1, "layer_decay": 0.5}, "embedding_dim": 8}
    whole = train(_recipe(sources["clip"], data=data, folder=tmp_path / "whole", **sections))
    config = yaml.safe_load((tmp_path / "whole" / "config.yaml").read_text())
    assert config["model"]["init_from"] == str(sources["clip"])
    assert set(config["model"]) == {"init_from", "image", "text", "embedding_dim"}
    assert set(config["model"]["text"]) == {
        "freeze", "freeze_until_epoch", "keep_statistics", "lora", "learning_rate", "layer_decay",
    }  # fmt: skip

    again = load_recipe(tmp_path / "whole" / "config.yaml", [f"run.dir={tmp_path / 'again'}"])
    half = again.model_copy(update={"train": again.train.model_copy(update={"max_minutes": 1e-9})})
    assert train(half).result.progress.step < 4
    resumed = train(load_recipe(tmp_path / "again" / "config.yaml", ["train.max_minutes=null"]), resume=True)
    ours, theirs = from_pretrained(resumed.model).state_dict(), from_pretrained(whole.model).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    others = train(_recipe(sources["clip"], data=data, folder=tmp_path / "other", run={"seed": 1}, **sections))
    assert not all(torch.equal(ours[name], value) for name, value in from_pretrained(others.model).state_dict().items())
    assert resumed.result.progress.step == whole.result.progress.step == 4


def test_a_second_run_starts_where_the_first_ended(sources, data, tmp_path, capsys) -> None:
    """The recipe of a run, with `model={init_from: run}` in the place of its model section."""
    config = sources["run"] / "config.yaml"
    overrides = [f"model={{init_from: {sources['run']}}}", f"run.dir={tmp_path / 'second'}"]
    start = build_starting_model(load_recipe(config, overrides))
    torch.testing.assert_close(_embed(start), _embed(open_dual_encoder(sources["run"])), atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match=r"put model=\{init_from: .*\} in the place of the recipe's whole model"):
        load_recipe(config, [f"model.init_from={sources['run']}"])


def test_models_that_cannot_be_started_from(tmp_path) -> None:
    (tmp_path / "mmcl_onnx.json").write_text("{}")
    for source, says in (
        (tmp_path, "ONNX graphs, which embed and cannot be trained"),
        (tmp_path / "none", "there is no model folder"),
        ("tiny", "is a tower, not a model of images and texts"),
        ("vectors:x.npz", "holds embeddings and no model"),
    ):
        with pytest.raises(ConfigError, match=says):
            build_starting_model(_recipe(source))
