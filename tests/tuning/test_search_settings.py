"""What is searched, what counts and how long: as people write it, and as it is by default."""

from __future__ import annotations

import math

import pytest

from mmcl.config import Recipe, apply_overrides, parse_yaml, recipe_from_tree
from mmcl.errors import ConfigError
from mmcl.tuning.default_space import default_space, fitting
from mmcl.tuning.limits import Limits, parse_budget, typical_seconds, write_duration
from mmcl.tuning.metric import Metric
from mmcl.tuning.settings import Setting, as_yaml, parse_setting, parse_settings, value_at
from mmcl.tuning.stages import START, first_stage, tower_stage


def recipe(**sections) -> Recipe:
    return recipe_from_tree({"data": {"path": "shapes"}, **sections}, source="test")


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("optimizer.learning_rate=1e-4..1e-2:log", Setting("optimizer.learning_rate", 1e-4, 1e-2, log=True)),
        ("optimizer.weight_decay=0..1", Setting("optimizer.weight_decay", 0, 1)),
        ("train.batch_size=32..256:log", Setting("train.batch_size", 32, 256, log=True, whole=True)),
        ("train.max_steps=10..20", Setting("train.max_steps", 10, 20, whole=True)),
        ("loss.label_smoothing=.05..0.1", Setting("loss.label_smoothing", 0.05, 0.1)),
        ("loss.name=info_nce, sigmoid", Setting("loss.name", choices=("info_nce", "sigmoid"))),
        ("loss.matryoshka_dims=[],[32, 64]", Setting("loss.matryoshka_dims", choices=("[]", "[32, 64]"))),
    ],
)
def test_a_setting_is_read_as_it_is_written(text: str, wanted: Setting) -> None:
    assert parse_setting(text, recipe()) == wanted


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("optimizer.learning_rate", "want key=low..high"),
        ("optimizer.learning_rate=", "want key=low..high"),
        ("optimizer.learning_rate=1e-2..1e-4", "want the smaller number first"),
        ("optimizer.weight_decay=0..1:log", "want numbers above 0, or no :log"),
        ("optimizer.weight_decay=a..b", "want numbers, such as"),
        ("loss.name=sigmoid", "want two different choices"),
        ("loss.name=sigmoid,sigmoid", "want two different choices"),
        ("optimizer.lerning_rate=0..1", "did you mean 'optimizer.learning_rate'"),
        ("evaluate.max_rows=100..200", "decides where or by what is judged.*--metric"),
        ("data.split.validation=test,train", "decides where or by what is judged"),
        ("run.seed=0,1", "decides where or by what is judged.*--seeds"),
    ],
)
def test_what_is_no_setting_is_refused(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse_setting(text, recipe())


def test_a_setting_stands_once() -> None:
    with pytest.raises(ConfigError, match="train.batch_size is given twice"):
        parse_settings(["train.batch_size=8,16", "train.batch_size=8..16"], recipe())


def test_values_are_short_and_come_back() -> None:
    rate = Setting("optimizer.learning_rate", 1e-5, 1e-2, log=True)
    assert rate.write(0.00123456) == "0.00123"
    assert rate.write(1e-5) == "1e-05"
    assert rate.read("1e-05") == 1e-5
    assert rate.read("0.1") is None  # outside
    assert rate.read("null") is None
    assert Setting("train.batch_size", 8, 64, whole=True).write(16.0) == "16"
    dims = Setting("loss.matryoshka_dims", choices=("[]", "[32, 64]"))
    assert dims.read("[32,64]") == "[32, 64]"
    assert dims.read("[32]") is None


@pytest.mark.parametrize("value", [0.1, 1e-5, 14.285714285714285, 3, True, None, "sigmoid", (512,), ()])
def test_a_value_as_yaml_is_the_value(value) -> None:
    back = parse_yaml(as_yaml(value), source="test")
    assert back == ([*value] if isinstance(value, tuple) else value)
    assert "\n" not in as_yaml(value)


def test_sections_in_a_list_are_what_was_said_of_them() -> None:
    heads = {"image": {"head": {"members": 2}}, "text": {"head": {"members": 2}}}
    members = [{"label_smoothing": 0.1}, {"name": "sigmoid", "logit_scale": 10.0}]
    written = as_yaml(recipe(loss={"members": members}, model=heads).loss.members)
    assert parse_yaml(written, source="test") == members


# -- the default space ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"optimizer": {"weight_decay": 0.0, "learning_rate": 3e-5}, "train": {"max_steps": 7, "batch_size": 24}},
        {"loss": {"name": "sigmoid", "label_smoothing": 0.4}, "model": {"logit_scale": 90.0, "embedding_dim": 128}},
        {
            "loss": {"members": [{"label_smoothing": 0.1}, {"name": "sigmoid", "logit_scale": 10.0}]},
            "model": {"image": {"head": {"members": 2}}, "text": {"head": {"members": 2}}},
            "train": {"feature_mixup": 0.3},
        },
        {"loss": {"name": "triplet"}, "model": {"image": {"head": {"name": "mlp", "input_dropout": 0.9}}}},
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_the_recipe_as_asked_lies_in_its_default_space(sections: dict, whole: bool) -> None:
    asked = recipe(**sections)
    space = default_space(asked, rows=2000, has_tags=True, towers_train=whole)
    assert len({setting.key for setting in space}) == len(space)
    for setting in space:
        own = as_yaml(value_at(asked, setting.key))
        assert setting.read(own) is not None, (setting, own)


def test_the_default_space_has_what_the_recipe_has() -> None:
    def keys(asked: Recipe, **more) -> set[str]:
        given = {"rows": 2000, "has_tags": False, "towers_train": False, **more}
        return {setting.key for setting in default_space(asked, **given)}

    plain = keys(recipe())
    assert {"optimizer.learning_rate", "train.epochs", "loss.name", "model.logit_scale", "train.batch_size"} <= plain
    assert "data.captions.tags_probability" not in plain
    assert keys(recipe(), has_tags=True) - plain == {"data.captions.tags_probability"}
    mlp = recipe(model={"image": {"head": {"name": "mlp"}}, "text": {"head": {"name": "none"}}})
    assert keys(mlp) ^ plain == {"model.image.head.hidden_dims", "model.text.head.input_dropout"}
    assert not {"loss.name", "loss.label_smoothing"} & keys(recipe(loss={"name": "vicreg"}))
    steps = keys(recipe(train={"max_steps": 10}))
    assert "train.max_steps" in steps
    assert "train.epochs" not in steps


def test_a_setting_that_contradicts_the_recipe_is_left_out() -> None:
    def make(settings: dict[str, str]) -> Recipe:
        tree = {"data": {"path": "shapes"}, "loss": {"name": "vicreg"}}
        apply_overrides(tree, [f"{key}={value}" for key, value in settings.items()])
        return recipe_from_tree(tree, source="test")

    smoothing, weight = Setting("loss.label_smoothing", 0.0, 0.3), Setting("loss.variance", 1.0, 30.0)
    assert fitting((smoothing, weight), make) == (weight,)


def test_members_of_the_heads_have_their_own_losses() -> None:
    heads = {"image": {"head": {"members": 2}}, "text": {"head": {"members": 2}}}
    losses = {"members": [{"label_smoothing": 0.1}, {"name": "sigmoid", "logit_scale": 10.0}]}
    asked = recipe(loss=losses, model=heads, train={"feature_mixup": 0.3})
    keys = {one.key for one in default_space(asked, rows=2000, has_tags=False, towers_train=False)}
    assert not {"loss.name", "loss.label_smoothing", "loss.matryoshka_dims"} & keys
    assert "train.feature_mixup" in keys


def test_batches_are_no_larger_than_half_of_the_data_or_what_fits_with_towers() -> None:
    def sizes(**more) -> tuple[str, ...]:
        space = default_space(recipe(train={"batch_size": 64}), has_tags=False, **more)
        return next(setting.choices for setting in space if setting.key == "train.batch_size")

    assert sizes(rows=2000, towers_train=False) == ("16", "32", "64", "128")
    assert sizes(rows=200, towers_train=False) == ("16", "32", "64")
    assert sizes(rows=2000, towers_train=True) == ("16", "32", "64")


# -- stages --------------------------------------------------------------------------------------------------------

RATE = Setting("optimizer.learning_rate", 1e-4, 1e-2, log=True)


def test_frozen_towers_are_searched_in_one_stage_and_random_ones_as_a_whole() -> None:
    assert first_stage(recipe(), (RATE,), {}).name == "heads"
    assert first_stage(recipe(), (RATE,), {"image": True, "text": False}).name == "whole"
    assert first_stage(recipe(), (RATE,), {"image": True}).fixed == {}


def test_towers_that_train_are_frozen_first_and_join_then() -> None:
    text = {"name": "x", "freeze": True, "freeze_until_epoch": 2.0, "learning_rate": 1e-5}
    asked = recipe(model={"image": {"name": "y", "lora": {"rank": 8, "dropout": 0.1}}, "text": text})
    heads = first_stage(asked, (RATE,), {"image": False, "text": False})
    frozen = asked.model_copy()  # what the fixed keys make of it is a recipe
    assert heads.fixed == {
        "model.image.freeze": "true",
        "model.image.lora": "{}",
        "model.text.freeze": "true",
        "model.text.freeze_until_epoch": "null",
    }
    assert 0 < heads.share < 1
    best = [("heads 4", {RATE.key: "0.002", **heads.fixed}), ("heads 2", {RATE.key: "0.003", **heads.fixed})]
    towers = tower_stage(frozen, ["image", "text"], best, heads)
    keys = {setting.key for setting in towers.space}
    rates = {f"model.{side}.learning_rate" for side in ("image", "text")}
    assert keys == {START, "model.image.lora.rank", *rates}
    assert [point[START] for point in towers.tries] == ["heads 4", "heads 2", "heads 4, towers frozen"]
    first = towers.settings(towers.tries[0])
    assert first[RATE.key] == "0.002"
    assert first["model.text.learning_rate"] == "1e-05"
    assert "model.image.freeze" not in first
    last = towers.settings(towers.tries[2])
    assert last["model.image.freeze"] == "true"
    assert "model.image.lora.rank" not in last  # a whole section that is set leaves no part of it


# -- metric and limits ---------------------------------------------------------------------------------------------


def test_a_metric_is_one_or_a_weighted_sum() -> None:
    found = {"retrieval/mean_recall@1": 0.25, "zeroshot/top1": 0.5, "retrieval/i2t_median_rank": 12.0}
    one = Metric.parse("retrieval/mean_recall@1", mode="max")
    assert one.single == "retrieval/mean_recall@1"
    assert one(found) == 0.25
    both = Metric.parse("retrieval/mean_recall@1 + .5*zeroshot/top1", mode="max")
    assert both.single is None
    assert both(found) == 0.5
    assert Metric.parse(both.name, mode="max") == both
    assert (one.better(0.3, 0.2), one.better(0.2, 0.2), one.better(math.nan, 0.2)) == (True, False, False)
    rank = Metric.parse("retrieval/i2t_median_rank", mode="min")
    assert rank.better(3.0, 4.0)
    assert rank.gain(3.0, 4.0) == 1.0
    assert (rank.show(3.0), one.show(0.25), one.show(None)) == ("3", "25.00 %", "-")


@pytest.mark.parametrize("text", ["", "a/b+", "2*", "a/b-c/d e", "+"])
def test_what_is_no_metric_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no metric"):
        Metric.parse(text, mode="max")


def test_a_metric_that_is_not_measured_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="zeroshot/top5: evaluate.tasks measure retrieval/x"):
        Metric.parse("zeroshot/top5", mode="max")({"retrieval/x": 1.0})
    with pytest.raises(ConfigError, match="twice"):
        Metric.parse("a/b+a/b", mode="max")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1.5m", 90)])
def test_a_budget_is_a_time(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "0s", "-5m", "10 minutes", "5m1h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="want a time such as 90s, 10m"):
        parse_budget(text)


def test_time_is_kept_for_repeats() -> None:
    limits = Limits(100.0, None, began=1000.0)
    assert limits.search_end(1.0, repeats=0, each=5.0) == 1100.0
    assert limits.search_end(1.0, repeats=4, each=5.0) == pytest.approx(1100.0 - 23.0)
    assert limits.search_end(1.0, repeats=100, each=5.0) == 1060.0  # never more than two fifths
    assert limits.search_end(0.5, repeats=100, each=5.0) == 1030.0
    assert Limits.start(None, None).budget == 600
    assert Limits.start(None, 5).search_end(1.0, repeats=1, each=1.0) is None
    with pytest.raises(ConfigError, match="--trials is 0"):
        Limits.start(None, 0)
    assert typical_seconds([60.0, 2.0, 3.0, 4.0]) == 3.0  # the first one waited for data
    assert [write_duration(s) for s in (41.7, 200, 3900)] == ["42 s", "3 m 20 s", "1 h 05 m"]
