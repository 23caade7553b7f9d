"""Recipes: strict, typed, and helpful about what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mmcl.config import (
    Recipe,
    apply_overrides,
    describe_keys,
    find_recipe,
    known_keys,
    load_recipe,
    nearest_key,
    parse_yaml,
    recipe_from_tree,
    shipped_recipes,
)
from mmcl.errors import ConfigError


def recipe(**sections: object) -> Recipe:
    return recipe_from_tree({"data": {"path": "shapes"}, **sections}, source="here")


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"trian": {}}, "unknown key 'trian'; did you mean 'train'"),
        ({"train": {"batchsize": 4}}, "unknown key 'train.batchsize'; did you mean 'train.batch_size'"),
        ({"train": {"learning_rate": 1.0}}, "unknown key 'train.learning_rate'; did you mean '.*learning_rate'"),
        ({"model": {"image": {"frieze": True}}}, "unknown key 'model.image.frieze'; did you mean 'model.image.freeze'"),
        ({"zzzzqqqq": 1}, "unknown key 'zzzzqqqq'$"),
        ({"train": {"batch_size": "many"}}, r"train.batch_size is 'many' \(str\)"),
        ({"train": {"batch_size": 8.5}}, r"train.batch_size is 8.5 \(float\)"),
        ({"train": {"batch_size": True}}, r"train.batch_size is True \(bool\)"),
        ({"train": {"batch_size": 1}}, "train.batch_size is 1 .*greater than or equal to 2"),
        ({"train": {"precision": "fp8"}}, "train.precision is 'fp8'.*fp32"),
        ({"train": 3}, "train is 3"),
        ({"model": {"image": {"freeze": "yes"}}}, "model.image.freeze is 'yes'"),
        ({"model": {"text": {"freeze_until_epoch": 1.0}}}, "model.text.freeze_until_epoch needs model.text.freeze"),
        ({"loss": {"name": "clip"}}, "loss.name is 'clip'.*info_nce"),
        ({"optimizer": {"learning_rate": 0}}, "optimizer.learning_rate is 0 .*greater than 0"),
    ],
)
def test_what_is_wrong_is_named(tree: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as told:
        recipe(**tree)
    assert str(told.value).startswith("here: ")


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match="batchsize") as told:
        recipe(train={"batchsize": 4, "epochs": "ten"})
    assert "train.epochs is 'ten'" in str(told.value)


def test_a_missing_data_path_is_named() -> None:
    with pytest.raises(ConfigError, match="missing key 'data"):
        recipe_from_tree({"train": {}}, source="here")
    with pytest.raises(ConfigError, match=r"missing key 'data.path'"):
        recipe_from_tree({"data": {"workers": 1}}, source="here")
    with pytest.raises(ConfigError, match="mapping of sections, found list"):
        recipe_from_tree([1], source="here")


def test_a_starting_model_decides_its_towers() -> None:
    with pytest.raises(ConfigError, match=r"here: model.image.name is 'bert', but model.init_from=runs/a"):
        recipe(model={"init_from": "runs/a", "image": {"name": "bert"}})
    with pytest.raises(ConfigError, match="model.init_from is empty; want a MODEL"):
        recipe(model={"init_from": ""})
    with pytest.raises(ConfigError, match="unknown key 'model.init_form'; did you mean 'model.init_from'"):
        recipe(model={"init_form": "runs/a"})
    full = recipe().model.model_dump(mode="json")
    assert recipe(model={**full, "init_from": "runs/a"}).model.init_from == "runs/a", "defaults ask for nothing"
    assert full["init_from"] is None
    assert full["embedding_dim"] == 256


def test_a_starting_model_leaves_out_what_it_decides() -> None:
    section = recipe(model={"init_from": "runs/a", "logit_scale": 20.0, "text": {"freeze": True}}).model
    written = section.model_dump(mode="json")
    assert set(written) == {"init_from", "image", "text", "logit_scale"}
    assert set(written["text"]) == {
        "freeze", "freeze_until_epoch", "keep_statistics", "lora", "learning_rate", "layer_decay",
    }  # fmt: skip
    assert section.says("logit_scale")
    assert section.says("text.freeze")
    assert not section.says("image.head")
    again = recipe(model=yaml.safe_load(yaml.safe_dump(written))).model
    assert again == section
    assert [again.says(key) for key in ("logit_scale", "logit_bias", "embedding_dim")] == [True, False, False]


def test_sigmoid_leaves_its_start_to_a_starting_model() -> None:
    section = recipe(model={"init_from": "runs/a"}, loss={"name": "sigmoid"}).model
    assert not section.says("logit_scale")
    assert not section.says("logit_bias")
    assert recipe(loss={"name": "sigmoid"}).model.logit_bias == -10.0
    with pytest.raises(ConfigError, match="loss.name=sigmoid needs a number for model.logit_bias"):
        recipe(model={"init_from": "runs/a", "logit_bias": None}, loss={"name": "sigmoid"})


def test_a_run_s_own_config_is_a_recipe(tmp_path: Path) -> None:
    """It also says where it ran, which is no part of what is to be run."""
    loaded = load_recipe("quickstart")
    text = yaml.safe_dump({**loaded.model_dump(mode="json"), "environment": {"git_commit": None}})
    (tmp_path / "config.yaml").write_text(text)
    assert load_recipe(tmp_path / "config.yaml") == loaded


def test_values_cannot_change_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        recipe().train.epochs = 3


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("2.5e4", 2.5e4), ("-1e-5", -1e-5), (".5e1", 5.0), ("1e5", 1e5), ("3", 3)],
)
def test_numbers_as_people_write_them(text: str, value: float) -> None:
    parsed = parse_yaml(text, source="x")
    assert parsed == value
    assert type(parsed) is type(value)
    assert yaml.safe_load("1e-3") == "1e-3"  # YAML 1.1 reads a string


@pytest.mark.parametrize("text", ["e5", "1e", "tiny", "3e-x", "'1e-3'"])
def test_what_is_no_number_stays_text(text: str) -> None:
    assert isinstance(parse_yaml(text, source="x"), str)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: 1\nb: [1, 2\n", "x, line 3: not valid YAML"),
        ("a: 1\na: 2\n", "x, line 2: not valid YAML: the key 'a' stands twice"),
        ("a: {b: 1, b: 2}\n", "the key 'b' stands twice"),
        ("? [1, 2]\n: 3\n", "x, line 1: not valid YAML"),
        ("a: !!python/object:os.system x", "not valid YAML"),
    ],
)
def test_bad_yaml_is_told_with_its_line(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_yaml(text, source="x")


def test_anchors_and_merges_are_no_duplicates() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}", source="x") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}


# -- overrides -----------------------------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_overrides_reach_any_depth_and_the_last_wins(tmp_path: Path) -> None:
    path = written(tmp_path, "data: {path: shapes}\ntrain: {batch_size: 8}\nmodel:\n")
    loaded = load_recipe(
        path,
        [
            "train.batch_size=32",
            "optimizer.learning_rate=1e-4",
            "model.image.options.hidden_size=64",
            "model.text.head={name: mlp, hidden_dims: [8, 4]}",
            "model.text.head.dropout=0.5",
            "data.split.validation=null",
            "train.batch_size=64",
            "run.dir=runs/a=b",
        ],
    )
    assert loaded.name == "mine"
    assert loaded.train.batch_size == 64
    assert loaded.optimizer.learning_rate == 1e-4
    assert loaded.model.image.options == {"hidden_size": 64}
    assert loaded.model.text.head.hidden_dims == (8, 4)
    assert loaded.model.text.head.dropout == 0.5
    assert loaded.data.split.validation is None
    assert loaded.run_dir == Path("runs/a=b")
    assert load_recipe(path).run_dir == Path("runs/mine")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("train.batch_size", "override 'train.batch_size': want key=value"),
        ("=3", "want key=value"),
        ("train.batch_size=[1", "override .*not valid YAML"),
        ("train.batch_sise=3", "unknown key 'train.batch_sise'; did you mean 'train.batch_size'"),
        ("name.x=3", "name is 'mine', so name.x cannot be set in it"),
    ],
)
def test_bad_overrides_are_told(tmp_path: Path, override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_recipe(written(tmp_path, "name: mine\ndata: {path: shapes}\n"), [override])


def test_apply_overrides_changes_the_tree_in_order() -> None:
    tree: dict = {"a": None}
    apply_overrides(tree, ["a.b=1", "a.c=x", "a.b=2"])
    assert tree == {"a": {"b": 2, "c": "x"}}


def test_smoke_makes_any_recipe_short_and_overrides_still_win(tmp_path: Path) -> None:
    path = written(tmp_path, "data: {path: shapes}\nsmoke: {train.batch_size: 4, data.path: 'shapes?train=64'}\n")
    smoke = load_recipe(path, smoke=True)
    assert smoke.train.max_steps == 4
    assert smoke.train.batch_size == 4
    assert smoke.data.path == "shapes?train=64"
    assert smoke.run_dir == Path("runs/mine-smoke")
    assert load_recipe(path, ["train.max_steps=2", "run.dir=x"], smoke=True).train.max_steps == 2
    assert load_recipe(path, ["run.dir=x"], smoke=True).run_dir == Path("x")
    assert load_recipe(path).train.max_steps is None


def test_a_smoke_test_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, "data: {path: shapes}\n")
    (tmp_path / "runs/mine-smoke").mkdir(parents=True)
    assert load_recipe(path, smoke=True).run_dir == Path("runs/mine-smoke")
    (tmp_path / "runs/mine-smoke/config.yaml").touch()
    assert load_recipe(path, smoke=True).run_dir == Path("runs/mine-smoke-2")
    assert load_recipe(path).run_dir == Path("runs/mine")


def test_a_wrong_key_in_the_smoke_section_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'train.batchsize'"):
        load_recipe(written(tmp_path, "data: {path: shapes}\nsmoke: {train.batchsize: 4}\n"), smoke=True)


# -- finding recipes -----------------------------------------------------------------------------------------------


def test_a_recipe_is_a_file_or_a_shipped_name(tmp_path: Path) -> None:
    assert find_recipe("quickstart") == shipped_recipes()["quickstart"]
    path = written(tmp_path, "data: {path: shapes}")
    assert find_recipe(path) == path
    with pytest.raises(ConfigError, match=r"no recipe 'quickstrat'.*did you mean 'quickstart'"):
        find_recipe("quickstrat")
    with pytest.raises(ConfigError, match="neither a file nor one of"):
        find_recipe(str(tmp_path))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"- 1\n- 2\n", b""])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_recipe(path)


# -- the keys ------------------------------------------------------------------------------------------------------


def test_every_key_has_a_default_and_a_meaning() -> None:
    rows = list(describe_keys(Recipe))
    assert len(rows) > 80
    assert len({key for key, _, _ in rows}) == len(rows)
    # What a column is called in the data says itself.
    undocumented = [key for key, _, meaning in rows if not meaning and not key.startswith("data.columns.")]
    assert undocumented == []
    defaults = {key: default for key, default, _ in rows}
    assert defaults["optimizer.learning_rate"] == "0.001"
    assert defaults["data.path"] == ""


def test_known_keys_hold_sections_and_leaves() -> None:
    keys = set(known_keys())
    assert {"train", "train.ema.decay", "model.image.head.name", "run.dir"} <= keys
    for key in [
        "run.dir",
        "run.seed",
        "data.path",
        "data.split.train",
        "data.split.validation",
        "data.split.test",
        "data.columns.text",
        "model.image.name",
        "model.text.name",
        "model.image.freeze",
        "model.text.freeze",
        "model.embedding_dim",
        "loss.name",
        "train.batch_size",
        "train.epochs",
        "train.max_steps",
        "train.max_minutes",
        "train.precision",
        "optimizer.learning_rate",
        "schedule.name",
        "evaluate.every_steps",
        "evaluate.every_epochs",
        "checkpoint.every_steps",
        "checkpoint.every_minutes",
    ]:
        assert key in keys, key  # promised to scripts


def test_the_nearest_key() -> None:
    assert nearest_key("train.epoch") == "train.epochs"
    assert nearest_key("batch_size") in {"train.batch_size", "evaluate.batch_size", "train.feature_cache.batch_size"}
    assert nearest_key("qqqqqqqq") is None


def test_a_recipe_survives_its_own_file() -> None:
    loaded = load_recipe("quickstart", ["data.augment.crop_scale=[0.5, 1.0]", "model.image.freeze=2"])
    tree = yaml.safe_load(yaml.safe_dump(loaded.model_dump(mode="json")))
    assert recipe_from_tree(tree, source="again") == loaded
