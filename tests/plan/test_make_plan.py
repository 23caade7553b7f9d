"""A plan of a small training, its measurements made in this process: the sums are those of the run that follows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mmcl.build import train
from mmcl.config import Recipe, load_recipe
from mmcl.errors import ConfigError, DataError
from mmcl.plan import processes
from mmcl.plan.forecast import Plan
from mmcl.plan.measurement import Measurement
from mmcl.plan.planning import make_plan
from mmcl.plan.sentences import sentences
from mmcl.plan.variants import phases

SMALL = Path(__file__).parents[1] / "training" / "small.yaml"
FROZEN = ("model.image.freeze=true", "model.text.freeze=true")


class Inside(processes.Measuring):
    """The same measurements in this process, which is quicker; what they were asked for is kept."""

    asked: list[dict[str, Any]] = []  # noqa: RUF012

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        Inside.asked.append(request)
        recipe = Recipe.model_validate(request["recipe"])
        answer = Measurement(recipe, {**request, "spawned": time.time()}, progress=lambda *_: None).run()
        return json.loads(json.dumps(answer))


class FirstApart(Inside):
    """The first measurement in a process of its own, as all of them are for a person."""

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        if Inside.asked:
            return super()._run(request)
        Inside.asked.append(request)
        return processes.Measuring._run(self, request)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mmcl.plan.planning.Measuring", Inside)
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "cache"))
    Inside.asked = []


def plan_of(folder: Path, *overrides: str, **options: Any) -> Plan:
    return make_plan(SMALL, [f"run.dir={folder / 'run'}", *overrides], steps=3, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The run that is planned below."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return train(load_recipe(SMALL, [f"run.dir={folder}", "evaluate.every_steps=5"])), folder


def test_a_plan_says_what_the_run_then_has(tmp_path: Path, trained: tuple[Any, Path]) -> None:
    run, folder = trained
    plan = plan_of(tmp_path, "evaluate.every_steps=5")
    assert sum(part.total for part in plan.parameters) == run.num_parameters
    assert sum(part.trained for part in plan.parameters) == run.num_trainable
    assert plan.data.total_steps == run.result.progress.step == 12
    assert (plan.data.train, plan.data.batches_per_epoch, plan.data.rows_a_step) == (96, 6, 16)
    assert plan.data.judged == {"validation": 24}
    assert [phase.evaluations for phase in plan.time.phases] == [len(run.result.evaluations)] == [3]
    written = sum(path.stat().st_size for path in (folder / "checkpoints" / "last").resolve().iterdir())
    assert plan.disk.checkpoint == pytest.approx(written, rel=0.02)
    model = sum(path.stat().st_size for path in (folder / "model").rglob("*") if path.is_file())
    assert plan.disk.model == pytest.approx(model, rel=0.02)
    assert plan.memory.peak > 0
    assert plan.time.total >= plan.time.start + plan.time.training > 0
    text = "\n".join(plan.sentences())
    assert f"{run.num_parameters:,}, of which {run.num_trainable:,} are trained" in text
    assert "12 steps" in text
    assert json.loads(json.dumps(plan.to_dict()))["data"]["rows_a_step"] == 16


def test_nothing_is_written_and_the_recipe_is_measured_as_it_is(tmp_path: Path) -> None:
    plan_of(tmp_path, *FROZEN)
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.rglob("*.npy"))
    assert [request["full"] for request in Inside.asked].count(True) == 1
    assert all(not Path(request["folder"]).exists() for request in Inside.asked)
    whole = next(request for request in Inside.asked if request["full"])
    assert (whole["batch_size"], whole["micro_batch_size"]) == (16, None)


def test_frozen_towers_features_are_to_be_computed_until_they_are_kept(tmp_path: Path) -> None:
    fresh = plan_of(tmp_path, *FROZEN)
    image = next(one for one in fresh.features if one.title.startswith("image"))
    assert (image.missing, image.total) == (96, 96)
    assert fresh.time.features > 0
    assert fresh.disk.features >= 96 * 4 * 32
    assert [part.cached for part in fresh.parameters if "tower" in part.name] == [True, True]
    kept = plan_of(tmp_path, *FROZEN, keep_features=True)
    assert list((tmp_path / "cache" / "features").rglob("*.npy"))
    assert (kept.time.features, sum(one.missing for one in kept.features)) == (0.0, 0)
    again = plan_of(tmp_path, *FROZEN)
    assert (again.time.features, sum(one.missing for one in again.features)) == (0.0, 0)


def test_towers_that_thaw_are_measured_thawed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, *FROZEN, "model.image.freeze_until_epoch=1", "model.text.freeze_until_epoch=1")
    assert [(phase.from_epoch, phase.steps) for phase in plan.time.phases] == [(0.0, 6), (1.0, 6)]
    never = plan_of(tmp_path, *FROZEN, "model.image.freeze_until_epoch=7")
    assert [phase.steps for phase in never.time.phases] == [12]


def test_what_has_thawed_keeps_its_statistics_as_in_the_run() -> None:
    keys = (*FROZEN, "model.image.freeze_until_epoch=1", "model.text.freeze_until_epoch=1")
    _, thawed = phases(load_recipe(SMALL, [*keys, "model.text.keep_statistics=false"]))
    assert (thawed.recipe.model.image.keep_statistics, thawed.recipe.model.text.keep_statistics) == (True, False)


def test_what_judges_before_and_after_is_told(tmp_path: Path, trained: tuple[Any, Path]) -> None:
    plain = plan_of(tmp_path)
    assert not any("not in the plan" in line for line in plain.unknown)
    start = f"model={{init_from: {trained[1]}}}"
    plan = plan_of(tmp_path, start, "evaluate.wise_ft.enabled=true", "evaluate.before=[shapes:validation]")
    assert any("judges 11 models on validation and on 1 further data" in line for line in plan.unknown)
    assert plan.disk.run - plain.disk.run >= 1.9 * plan.disk.model  # the starting model and the fine-tuned one


def test_the_models_of_cross_fitting_are_counted(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "noise={method: cross_fit, folds: 3, fold_share: 0.5}", "evaluate.tasks=[]")
    assert plan.time.folds == pytest.approx(plan.time.training)  # three of two thirds of half the steps
    without = plan.time.total - plan.time.folds
    assert plan.time.start + plan.time.training <= without < plan.time.total
    assert "models of the folds" in " ".join(sentences(plan))


def test_what_auto_chose_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = load_recipe(SMALL, [f"run.dir={tmp_path / 'run'}"])

    class Chosen:
        paragraph = "Two tiny towers are trained."

    monkeypatch.setattr("mmcl.auto_recipe.resolve_recipe", lambda recipe, progress: (small, Chosen))
    plan = make_plan("auto", steps=1)
    assert plan.sentences()[0] == "chosen: Two tiny towers are trained."
    assert plan.to_dict()["chosen"] == Chosen.paragraph
    assert plan_of(tmp_path).sentences()[0].startswith("parameters: ")


def test_pieces_are_measured_as_pieces(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "train.batch_size=32", "train.micro_batch_size=8")
    whole = next(request for request in Inside.asked if request["full"])
    assert (whole["batch_size"], whole["micro_batch_size"]) == (32, 8)
    assert plan.memory.micro_batch_size == 8


def test_a_machine_with_less_memory_is_told_apart(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, memory=2**20)
    assert not plan.memory.fits
    assert (plan.memory.largest_plain, plan.advice[0].about) == (0, "memory")
    assert "train.micro_batch_size" in plan.advice[0].next_step or "gradient_checkpointing" in plan.advice[0].next_step


def test_a_wrong_recipe_says_what_the_training_would(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'train.batchsize'"):
        plan_of(tmp_path, "train.batchsize=4")
    with pytest.raises(DataError, match="nowhere"):
        plan_of(tmp_path, "data.path=/nowhere/at/all")
    with pytest.raises(ConfigError, match="steps is 0; want at least 1"):
        make_plan(SMALL, steps=0)
    with pytest.raises(ConfigError, match="memory is -1 bytes; want more than 0"):
        make_plan(SMALL, memory=-1)


def test_the_command_prints_the_plan_and_writes_it(
    monkeypatch: pytest.MonkeyPatch, invoke: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr("mmcl.plan.planning.Measuring", FirstApart)
    monkeypatch.chdir(tmp_path)
    done = invoke("plan", str(SMALL), "train.max_steps=4", "--steps", "1", "--json", "plan.json")
    assert done.code == 0, done.err
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert plan["data"]["total_steps"] == 4
    assert 0 < plan["time"]["training"] < plan["time"]["total"]
    assert plan["memory"]["peak"] > 100 * 2**20  # a process with torch
    heads = [line.partition(":")[0] for line in done.out.splitlines()]
    assert heads[:3] == ["parameters", "data", "memory"]
    assert {"memory of a step", "largest batch that fits", "time", "time of a step", "disk"} <= set(heads)
    assert {path.name for path in tmp_path.iterdir()} <= {"plan.json", "cache"}, "a plan writes nothing else"
