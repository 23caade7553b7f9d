"""`recipe: auto` on drawn scenes: looked at, chosen, trained, gone on with, and run again without it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmcl import auto_recipe
from mmcl.auto_recipe import probe as probing
from mmcl.auto_recipe import resolve_recipe, resolving
from mmcl.auto_recipe.data_facts import open_training_rows, read_data_facts
from mmcl.auto_recipe.probe import fitted_recall, probe, probe_rows
from mmcl.auto_recipe.resolving import said_keys
from mmcl.auto_recipe.settings import Setting
from mmcl.auto_recipe.starting_points import StartingPoint
from mmcl.build import train
from mmcl.config import Recipe, load_recipe, recipe_from_tree
from mmcl.data import load
from mmcl.errors import ConfigError, DataError

DATA = "shapes?train=96&validation=24&test=24&image_size=32"
TOWER = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}"
SMALL = [
    *("model.image.image_size=32", "train.max_steps=2", "model.embedding_dim=16", "evaluate.tasks=[retrieval]"),
    *(f"model.image.options={TOWER}", f"model.text.options={TOWER}", "train.batch_size=16"),
]


def asked(*overrides: str) -> Recipe:
    return load_recipe("auto", [f"data.path={DATA}", *overrides])


@pytest.fixture
def nothing_pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "at_hand", lambda languages: [])


# -- what the data are -------------------------------------------------------------------------------------------


def test_built_in_data_are_drawn_in_part_and_counted_in_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcl.auto_recipe.data_facts.SCENES_LOOKED_AT", 40)
    recipe = load_recipe("auto", ["data.path=shapes?train=5000&image_size=32"])
    dataset, rows, splits = open_training_rows(recipe)
    assert (len(dataset), rows) == (40, 5_000)
    assert {"train", "validation", "test"} <= set(splits)
    assert dataset.column("texts") == load("shapes?train=40&image_size=32:train").column("texts")
    limited = load_recipe("auto", ["data.path=shapes?train=5000&image_size=32", "data.max_rows=300"])
    assert open_training_rows(limited)[1] == 300


def test_facts_are_what_a_loop_counts(tmp_path: Path) -> None:
    from PIL import Image

    rows = []
    for number in range(12):
        Image.new("RGB", (40, 40) if number % 2 else (80, 40), (number * 20, 0, 0)).save(tmp_path / f"{number}.png")
        words = "a red cat" if number < 6 else "a dog"
        rows.append({"file_name": f"{number}.png", "text": words, "label": words[-3:], "tags": ["cat", "furry"]})
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    recipe = load_recipe("auto", [f"data.path={tmp_path}"])
    dataset, number, splits = open_training_rows(recipe)
    facts = read_data_facts(dataset, rows=number, splits=splits, recipe=recipe)
    assert (facts.rows, facts.groups, facts.images_per_group) == (12, 2, 6.0)
    assert (facts.classes, facts.largest_class, facts.words) == (2, 0.5, 2)
    assert facts.distinct_words == 4  # a red cat dog
    assert facts.tags == 1.0
    assert facts.new_tags == pytest.approx((6 * 1 + 6 * 2) / 24)  # cat is said of six rows, furry of none
    assert (facts.validation, facts.test, facts.shorter_side) == (False, False, 40)
    assert not facts.square


def test_data_of_one_group_are_refused(tmp_path: Path, nothing_pretrained) -> None:
    from PIL import Image

    (tmp_path / "thing").mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(tmp_path / "thing" / f"{number}.png")
    with pytest.raises(DataError, match="all 3 training image.s. are of one group .* nothing to tell apart"):
        resolve_recipe(load_recipe("auto", [f"data.path={tmp_path}"]))


def test_embeddings_are_no_data_for_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", image=np.eye(4, dtype=np.float32), text=np.eye(4, dtype=np.float32))
    with pytest.raises(DataError, match="recipe: auto trains on images and captions; these data are embeddings"):
        resolve_recipe(load_recipe("auto", [f"data.path=vectors:{tmp_path / 'v.npz'}"]))


# -- the probe ---------------------------------------------------------------------------------------------------


def test_the_fit_finds_a_planted_relation_and_none_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(300, 6))
    images, texts = hidden @ rng.normal(size=(6, 20)), hidden @ rng.normal(size=(6, 15)) + 3.0
    fit, held = np.arange(200), np.arange(200, 300)
    groups = np.arange(300)
    assert fitted_recall(images, texts, groups, fit=fit, held=held) > 0.95
    assert fitted_recall(images, rng.permutation(texts), groups, fit=fit, held=held) < 0.1


def test_ties_count_against_the_fit() -> None:
    same = np.ones((30, 4))
    assert fitted_recall(same, same, np.arange(30), fit=np.arange(20), held=np.arange(20, 30)) == 0.0


def test_of_too_few_rows_only_the_speed_is_measured() -> None:
    rows = probe_rows(load(DATA + ":train"), most=10)
    section = asked().model.image
    point = StartingPoint("tiny", image="tiny", text="tiny")
    found = probe(point, rows, device="cpu", sections=(section, section))
    assert (found.rows, found.judged, found.recall) == (10, 0, 0.0)
    assert found.images_per_second > 0


def test_the_probe_is_the_same_each_time_and_stops_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = probe_rows(load(DATA + ":train"))
    section, point = asked().model.image, StartingPoint("tiny", image="tiny", text="tiny")
    one, other = (probe(point, rows, device="cpu", sections=(section, section)) for _ in range(2))
    assert (one.rows, one.judged) == (96, 32)
    assert (one.recall, one.raw, one.chance) == (other.recall, other.raw, other.chance)
    monkeypatch.setattr(probing, "BATCH", 8)
    assert probe(point, rows, device="cpu", sections=(section, section), seconds=0.0).rows == 32


# -- the choice --------------------------------------------------------------------------------------------------


def test_what_the_user_says_is_never_changed(nothing_pretrained) -> None:
    given = asked("optimizer.learning_rate=3e-4", "train.epochs=10.0", "model.image.head.name=mlp", "loss.name=sigmoid")
    recipe, choice = resolve_recipe(given)
    resolved = dict(said_keys(recipe))
    for key, value in said_keys(given):
        assert resolved[key] == value, key
    assert recipe.recipe is None
    assert not {one.key for one in choice.settings} & set(choice.said)
    assert "optimizer.learning_rate" in choice.paragraph
    assert choice.paragraph.count("\n") == 0
    free, _ = resolve_recipe(asked())
    assert (free.optimizer.learning_rate, free.train.epochs) != (3e-4, 10.0)  # what would have been chosen


def test_several_heads_give_way_to_what_the_user_says_of_them() -> None:
    chosen = [Setting(key, 1, "why") for key in resolving._OF_MEMBERS]
    for said, kept in (
        ({}, 4), ({"loss.positives": "pair"}, 4), ({"model.embedding_dim": 128}, 0), ({"loss.name": "sigmoid"}, 3),
        ({"model.text.head.name": "mlp"}, 0), ({"negatives.queue_size": 8}, 3),
    ):  # fmt: skip
        assert sum(resolving._is_free(one, said) for one in chosen) == kept, said


def test_the_written_recipe_is_the_chosen_one(nothing_pretrained) -> None:
    recipe, choice = resolve_recipe(asked())
    again = recipe_from_tree(yaml.safe_load(choice.recipe_text()), source="written")
    assert again.model_dump() == recipe.model_dump()
    assert resolve_recipe(again) == (again, None)  # nothing is chosen twice
    assert all(f"`{one.key}`" in choice.markdown() for one in choice.settings)


def test_lists_of_sections_are_written_as_they_were_said(nothing_pretrained) -> None:
    before = [{"data": "shapes:validation", "tasks": ["retrieval"]}, {"data": "shapes:test"}]
    recipe, choice = resolve_recipe(asked(f"evaluate.before={json.dumps(before)}"))
    assert choice.tree["evaluate"]["before"] == before
    again = recipe_from_tree(yaml.safe_load(choice.recipe_text()), source="written")
    assert again.evaluate.before == recipe.evaluate.before
    assert json.loads(json.dumps(choice.as_dict()))["said"]


def test_a_model_that_the_user_names_is_measured_and_kept(tmp_path: Path) -> None:
    run = train(asked("run.dir=" + str(tmp_path / "run"), "recipe=null", *SMALL, "evaluate.at_end=false"))
    recipe, choice = resolve_recipe(asked(f"model.init_from={run.model}"))
    assert recipe.model.init_from == str(run.model)
    assert choice.probes[0].judged == 32
    assert choice.route.name == "frozen"
    assert recipe.model.image.freeze is True
    assert "model.embedding_dim" not in {one.key for one in choice.settings}


def test_a_recipe_of_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="recipe is 'quickstart'; want auto .* mmcl train quickstart"):
        asked("recipe=quickstart")
    with pytest.raises(ConfigError, match="recipe"):
        asked("recipe=3")


# -- the run -----------------------------------------------------------------------------------------------------


def test_a_run_holds_its_choice_goes_on_with_it_and_runs_again_without_auto(
    nothing_pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    folder = tmp_path / "run"
    run = train(asked(f"run.dir={folder}", *SMALL), announce=told.append)
    assert len(told) == 1
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written["recipe"] is None
    assert written["optimizer"]["learning_rate"] == run.recipe.optimizer.learning_rate == 1.5e-3
    assert " ".join(told[0].split()) in " ".join((folder / "choices.md").read_text().split())

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a run that goes on chooses nothing")

    monkeypatch.setattr("mmcl.builders.automatic.resolve_recipe", never)
    before = (folder / "choices.md").read_text()
    resumed = train(asked(f"run.dir={folder}", *SMALL), resume=True)
    assert resumed.recipe.model_dump() == run.recipe.model_dump()
    assert (folder / "choices.md").read_text() == before
    with pytest.raises(ConfigError, match=r"begun with another recipe \(optimizer.learning_rate: 0.0015 -> 0.1"):
        train(asked(f"run.dir={folder}", *SMALL, "optimizer.learning_rate=0.1"), resume=True)
    with pytest.raises(ConfigError, match="already holds a run"):
        train(asked(f"run.dir={folder}", *SMALL))  # told before anything is looked at
    with pytest.raises(ConfigError, match="--resume: .*none holds no run"):
        train(asked(f"run.dir={tmp_path / 'none'}", *SMALL), resume=True)
    again = load_recipe(folder / "config.yaml", [f"run.dir={tmp_path / 'again'}"])
    assert again.recipe is None
    assert {**again.model_dump(), "run": None} == {**run.recipe.model_dump(), "run": None}


def test_the_command_prints_a_recipe_that_runs(
    nothing_pretrained, invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("train", "auto", f"data.path={DATA}", "--dry-run", "--json", "choice.json")
    assert done.code == 0, done.err
    assert recipe_from_tree(yaml.safe_load(done.out), source="printed").data.path == DATA
    assert "# " + DATA + " has 96 training images" in done.out
    choice = json.loads((tmp_path / "choice.json").read_text())
    assert choice["route"]["name"] == "scratch"
    assert [path.name for path in tmp_path.iterdir()] == ["choice.json"]


def test_public_names_are_there() -> None:
    assert {"Choice", "resolve_recipe", "resumed_recipe", "early_precision"} == set(auto_recipe.__all__)
