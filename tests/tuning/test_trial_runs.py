"""Trials are trainings: the same numbers as `mmcl train`, no test split, no files left, and ends that are told."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from mmcl.build import train
from mmcl.config import load_recipe
from mmcl.data.splits import training_splits
from mmcl.errors import ConfigError, TrainingError
from mmcl.tuning.asked import AskedRecipe
from mmcl.tuning.metric import Metric
from mmcl.tuning.request import TuneRequest
from mmcl.tuning.trial_runs import COMPLETE, CUT, FAILED, PRUNED, TrialRunner
from mmcl.tuning.tuner import tune

SMALL = Path(__file__).parents[1] / "training" / "small.yaml"
NAME = "retrieval/mean_recall@1"
QUICK = ("train.max_steps=4", "evaluate.every_steps=2", "data.path=shapes?train=48&validation=24&test=24&image_size=32")
FROZEN = ("model.image.freeze=true", "model.text.freeze=true")
SETTINGS = {
    "optimizer.learning_rate": "0.00731",
    "model.text.head.input_dropout": "0.3",
    "loss.label_smoothing": "0.05",
    "train.batch_size": "12",
}


def runner_of(folder: Path, *pairs: str, metric: str = NAME) -> TrialRunner:
    asked = AskedRecipe.copy(SMALL, [*QUICK, *pairs], folder)
    return TrialRunner(asked, Metric.parse(metric, mode="max"))


def evaluations(folder: Path, *pairs: str, settings: dict[str, str], seed: int) -> list[dict[str, float]]:
    """What ``mmcl train`` measures with these keys."""
    keys = [*QUICK, *pairs, *(f"{key}={value}" for key, value in settings.items())]
    run = train(load_recipe(SMALL, [*keys, f"run.seed={seed}", f"run.dir={folder}"]))
    return run.result.evaluations


@pytest.mark.parametrize("towers", [(), FROZEN], ids=["towers train", "kept features"])
def test_a_trial_is_the_training_of_the_same_keys(tmp_path: Path, towers: tuple[str, ...]) -> None:
    runner = runner_of(tmp_path, *towers)
    runner.run({}, seed=0)  # an earlier trial changes nothing
    trial = runner.run(SETTINGS, seed=3)
    told = evaluations(tmp_path / "run", *towers, settings=SETTINGS, seed=3)
    assert trial.state == COMPLETE
    assert (trial.steps, len(told)) == (4, 2)
    best = max(told, key=lambda metrics: metrics[NAME])
    assert trial.value == best[NAME]
    assert trial.metrics["retrieval/i2t_mrr"] == best["retrieval/i2t_mrr"]
    assert [share for share, _ in trial.curve] == [0.5, 1.0]
    # Controls: another seed, and other settings, are another training.
    assert runner.run(SETTINGS, seed=4).metrics["retrieval/i2t_mrr"] != best["retrieval/i2t_mrr"]
    changed = {**SETTINGS, "optimizer.learning_rate": "0.1"}
    assert runner.run(changed, seed=3).metrics["retrieval/i2t_mrr"] != best["retrieval/i2t_mrr"]


def test_data_are_read_once_unless_the_seed_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.tuning import trial_runs

    loads = []

    def counted(recipe, **more):
        loads.append(recipe.run.seed)
        return training_splits.load_splits(recipe, **more)

    monkeypatch.setattr(trial_runs, "load_splits", counted)
    runner = runner_of(tmp_path / "own", *FROZEN)
    same = [runner.splits(runner.recipe(SETTINGS, seed=seed)) for seed in (0, 1, 1)]
    assert loads == [0]
    assert same[0] is same[1]
    held = runner_of(tmp_path / "held", "data.max_rows=20")
    drawn = [held.splits(held.recipe({}, seed=seed)).train.column("id") for seed in (0, 1)]
    assert loads == [0, 0, 1]
    assert drawn[0] != drawn[1]


def test_the_test_split_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, split_of = [], training_splits.load_split

    def counted(opened, path, split):
        dataset = split_of(opened, path, split)
        read.append(split)
        inner = dataset.images.read

        def reading(row):
            read.append(f"image of {split}")
            return inner(row)

        monkeypatch.setattr(dataset.images, "read", reading)
        return dataset

    monkeypatch.setattr(training_splits, "load_split", counted)
    pairs = (*QUICK, *FROZEN, "evaluate.at_end=true")
    tune(TuneRequest(SMALL, pairs, tmp_path / "out", trials=1, seeds=0))
    assert {"train", "validation", "image of train", "image of validation"} == set(read)
    # A control: the training itself does open it.
    train(load_recipe(SMALL, [*pairs, f"run.dir={tmp_path / 'run'}"]))
    assert {"test", "image of test"} <= set(read)


def test_a_trial_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    made = []

    def look(share: float, value: float) -> bool:
        made.extend(path.name for path in (tmp_path / "temporary").rglob("*"))
        return False

    runner = runner_of(tmp_path / "out", *FROZEN)
    assert runner.run({}, seed=0, report=look).state == COMPLETE
    assert "metrics.jsonl" in made
    assert not {"weights.safetensors", "model.safetensors"} & {*made}
    assert list((tmp_path / "temporary").iterdir()) == []


def test_how_a_trial_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of(tmp_path, *FROZEN)
    pruned = runner.run({}, seed=0, report=lambda share, value: True)
    assert (pruned.state, pruned.steps, len(pruned.curve)) == (PRUNED, 2, 1)
    assert runner.run({}, seed=0, deadline=0.0).state == CUT
    failed = runner.run({"optimizer.learning_rate": "1e30"}, seed=0)
    assert failed.state == FAILED
    assert "learning_rate" in failed.reason
    with pytest.raises(TrainingError):
        runner.run({"optimizer.learning_rate": "1e30"}, seed=0, forgive=False)
    refused = runner.run({"loss.name": "triplet", "loss.label_smoothing": "0.1"}, seed=0)
    assert "loss.label_smoothing is not known" in refused.reason
    with pytest.raises(KeyboardInterrupt):
        runner.run({}, seed=0, report=lambda share, value: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(ConfigError, match="--metric zeroshot/nothing: evaluate.tasks measure retrieval/"):
        runner_of(tmp_path, *FROZEN, metric=f"{NAME}+zeroshot/nothing").run({}, seed=0, forgive=False)


def test_which_towers_train_is_seen_in_the_model(tmp_path: Path) -> None:
    assert runner_of(tmp_path / "a").trained_towers() == {"image": True, "text": True}
    assert runner_of(tmp_path / "b", "model.image.freeze=true").trained_towers() == {"text": True}
    assert runner_of(tmp_path / "c", *FROZEN).trained_towers() == {}


def test_towers_that_train_join_in_a_second_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrialRunner, "trained_towers", lambda self: {"image": False})  # as if it were pretrained
    search = ("optimizer.learning_rate=1e-3..1e-2:log",)
    pairs = (*QUICK, "model.text.freeze=true")
    result = tune(TuneRequest(SMALL, pairs, tmp_path / "out", trials=5, seeds=0, search=search))
    (heads, first), (towers, second) = result.stages
    assert (heads.name, towers.name) == ("heads", "towers")
    assert (len(first), len(second)) == (2, 3)
    assert heads.fixed == {"model.image.freeze": "true"}
    told = evaluations(tmp_path / "run", "model.text.freeze=true", settings={}, seed=0)
    assert second[0].value == max(metrics[NAME] for metrics in told)  # the recipe as it was asked
    assert result.choice.candidates[0].settings == {}
    if result.choice.winner.settings:
        assert "optimizer.learning_rate" in result.choice.winner.settings
    assert load_recipe(result.best).model.text.freeze is True


def test_batches_do_not_grow_where_towers_train_in_the_second_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {}
    for towers, found in (("frozen", {}), ("train", {"image": False})):
        monkeypatch.setattr(TrialRunner, "trained_towers", lambda self, found=found: found)
        pairs = (*QUICK, *FROZEN, "train.batch_size=8")
        result = tune(TuneRequest(SMALL, pairs, tmp_path / towers, trials=2, seeds=0))
        space = result.stages[0][0].space
        sizes[towers] = [setting.choices for setting in space if setting.key == "train.batch_size"]
    assert sizes == {"frozen": [("8", "16")], "train": []}
