"""`evaluate.before` and `evaluate.wise_ft`: what a run did to its start, kept over a resume, and the way back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import small_runs
import torch

from mmcl import data
from mmcl.build import TrainingRun, train
from mmcl.builders.evaluation import build_evaluator
from mmcl.builders.forgetting import _needs_refresh, starts_from_scratch
from mmcl.cli.display import effect_table
from mmcl.config import Recipe, load_recipe, recipe_from_tree
from mmcl.embedder import DualEncoderEmbedder
from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.forgetting import measure_changes
from mmcl.hub.merging.wise_ft import interpolate
from mmcl.models.saving import from_pretrained

OLD = "shapes?train=96&validation=24&test=24&image_size=32"
NEW = f"{OLD}&seed=5"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to start from."""
    folder = tmp_path_factory.mktemp("first") / "run"
    small_runs.small_run(folder, "train.epochs=1")
    return folder


def recipe(folder: Path, start: Path, *overrides: str) -> Recipe:
    """A further training of ``start`` on other scenes, at a rate that changes much."""
    keys = [f"run.dir={folder}", f"model={{init_from: {start}}}", f"data.path={NEW}", "optimizer.learning_rate=1e-2"]
    return load_recipe(small_runs.RECIPE, [*keys, *overrides])


BEFORE = f"evaluate.before=['{OLD}:validation']"
SWEEP = ["evaluate.wise_ft.enabled=true", "evaluate.wise_ft.alphas=[0.5]"]


@pytest.fixture(scope="module")
def run(first: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """One with everything, which takes a place in the middle whatever it is worth."""
    folder = tmp_path_factory.mktemp("second") / "run"
    with pytest.MonkeyPatch.context() as patch:
        from mmcl.builders import forgetting

        middle = lambda found, **_: forgetting.Choice(0.5, "target", "the middle one was wanted")  # noqa: E731
        patch.setattr(forgetting, "choose", middle)
        return train(recipe(folder, first, BEFORE, *SWEEP, "evaluate.at_end=true"))


def _state(folder: Path) -> dict[str, torch.Tensor]:
    return from_pretrained(folder).state_dict()


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_chosen_model_is_the_runs_and_the_best_lies_beside(run: TrainingRun, first: Path) -> None:
    start, best, chosen = (run.folder / name for name in ("model_start", "model_finetuned", "model"))
    assert _same(_state(start), _state(first / "model"))
    assert not _same(_state(best), _state(start))
    middle = interpolate(from_pretrained(start), from_pretrained(best), 0.5)
    assert _same(_state(chosen), middle.state_dict())
    assert not _same(_state(chosen), _state(best))  # control
    merged = json.loads((chosen / "merge.json").read_text())
    assert merged["alpha"] == 0.5
    assert merged["sources"] == ["model_start", "model_finetuned"]
    # The test split is judged with the chosen model, and with no other.
    evaluator = build_evaluator("retrieval", data.load(f"{NEW}:test"))
    for folder, equal in ((chosen, True), (best, False)):
        found = evaluator(DualEncoderEmbedder(from_pretrained(folder), device="cpu"))["retrieval/i2t_mean_rank"]
        assert (run.metrics["test"]["retrieval/i2t_mean_rank"] == pytest.approx(found, abs=1e-9)) is equal


def test_the_figures_are_those_of_the_comparison(run: TrainingRun) -> None:
    start, best, chosen = (
        DualEncoderEmbedder(from_pretrained(run.folder / name), device="cpu")
        for name in ("model_start", "model_finetuned", "model")
    )
    names = list(dict.fromkeys(change.name for change in run.effect.forgetting.changes))
    sets = dict(zip(names, [data.load(f"{NEW}:validation"), data.load(f"{OLD}:validation")]))
    own = {names[0]: ["retrieval"]}  # what the recipe's evaluate.tasks names; the others' are those that they allow
    for found, after in ((run.effect.forgetting, chosen), (run.effect.finetuned, best)):
        assert found.to_metrics() == measure_changes(start, after, sets, tasks=own).to_metrics()
    assert run.effect.forgetting.to_metrics() != run.effect.finetuned.to_metrics()
    kept = json.loads((run.folder / "forgetting.json").read_text())
    assert list(kept["before"]) == names
    for name in names:
        for metric in ("i2t_recall@1", "t2i_recall@1"):
            before = kept["metrics"][f"forgetting/{name}/{metric}_before"]
            assert kept["before"][name][f"retrieval/{metric}"] == pytest.approx(before)
            low, high = kept["metrics"][f"forgetting/{name}/{metric}_change_ci95"]
            assert low <= kept["metrics"][f"forgetting/{name}/{metric}_change"] <= high
    assert [point["alpha"] for point in kept["wise_ft"]["points"]] == [0.0, 0.5, 1.0]
    lines = small_runs.metric_records(run.folder)
    assert lines[0]["step"] == 0
    assert lines[0][f"before/{names[1]}/retrieval/i2t_recall@1"] == kept["before"][names[1]]["retrieval/i2t_recall@1"]
    assert lines[-1]["step"] == 12
    assert lines[-1]["wise_ft/alpha"] == 0.5
    assert f"forgetting/{names[1]}/t2i_recall@1_change" in lines[-1]


def test_what_people_see(run: TrainingRun) -> None:
    table = effect_table(run.effect)
    assert table.row_count == len(run.effect.rows()) == 2 * (2 + 3)
    assert "WiSE-FT took alpha 0.5, the middle one was wanted" in run.effect.sentence()
    page = (run.folder / "report" / "forgetting.html").read_text()
    for words in ("Before and after training", "<svg", "WiSE-FT took alpha 0.5", "fine-tuned", "chosen"):
        assert words in page


def test_resume_measures_no_start_again_and_chooses_from_the_best(
    run: TrainingRun, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    kept = json.loads((folder / "forgetting.json").read_text())["before"]
    best = _state(folder / "model_finetuned")
    monkeypatch.setattr("mmcl.builders.judged_data.JudgedData.measure", lambda *_: pytest.fail("measured again"))
    again = train(recipe(folder, first, BEFORE, *SWEEP, "evaluate.wise_ft.rule=target"), resume=True)
    assert json.loads((folder / "forgetting.json").read_text())["before"] == kept
    alpha = again.effect.choice.alpha
    after = folder / "model_finetuned"
    assert _same(_state(after if alpha < 1 else folder / "model"), best), "the choice is made from the best model"
    assert after.exists() is (alpha < 1)
    twice = [line for line in small_runs.metric_records(folder) if "wise_ft/alpha" in line]
    assert len(twice) == 1
    assert again.result.evaluations == run.result.evaluations != []


def test_training_is_the_same_bit_for_bit(run: TrainingRun, first: Path, tmp_path: Path) -> None:
    train(recipe(tmp_path / "plain", first))
    plain, watched = small_runs.final_state(tmp_path / "plain"), small_runs.final_state(run.folder)
    assert small_runs.differences(plain, watched) == []
    assert not (tmp_path / "plain" / "model_start").exists()
    assert not (tmp_path / "plain" / "forgetting.json").exists()


def test_statistics_are_estimated_anew_only_where_they_have_moved(first: Path) -> None:
    start, best = from_pretrained(first / "model"), from_pretrained(first / "model")
    for model in (start, best):
        model.image.tower.norm = torch.nn.BatchNorm2d(2)
    assert not _needs_refresh(start, best)
    next(best.image.tower.parameters()).data.add_(1.0)
    assert not _needs_refresh(start, best), "they were kept while the tower trained"
    best.image.tower.norm.running_mean.add_(1.0)
    assert _needs_refresh(start, best)
    assert not _needs_refresh(best, best)


def test_from_scratch_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = small_runs.small_run(tmp_path / "run", BEFORE, "train.max_steps=2")
    assert "starts from random heads or towers" in caplog.text
    assert any("nothing to forget" in note for note in done.effect.notes)
    assert done.effect.choice is None
    with pytest.raises(ConfigError, match="this one starts from random heads or towers; start from a model"):
        small_runs.small_run(tmp_path / "other", BEFORE, *SWEEP)
    pair = {"name": "open_clip:ViT-B-32", "head": {"name": "none"}}
    for section, scratch in (({"image": pair, "text": pair}, False), ({"image": pair}, True)):
        tree = {"data": {"path": "shapes"}, "model": section}
        assert starts_from_scratch(recipe_from_tree(tree, source="test")) is scratch


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["evaluate.wise_ft.rule=keep", *SWEEP], "evaluate.wise_ft.rule=keep weighs validation against other data"),
        ([*SWEEP, "evaluate.mode=min", "evaluate.metric=retrieval/i2t_mean_rank"], "evaluate.mode is 'min'"),
        ([*SWEEP, "data.split.validation=null"], "give data.split.validation"),
        ([f"evaluate.before=[{{data: '{OLD}:validation', metric: knn/top1}}]"], "metric is 'knn/top1', and its tasks"),
        ([f"evaluate.before=[{{data: '{OLD}:validation', metric: retrieval/recal}}]", *SWEEP], "no metric"),
    ],
)
def test_what_is_refused_before_the_first_step(first: Path, tmp_path: Path, keys: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        train(recipe(tmp_path / "run", first, *keys))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_data_that_are_not_there(first: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(recipe(tmp_path / "run", first, f"evaluate.before=['{tmp_path / 'none'}:test']"))
    with pytest.raises(ConfigError, match=r"evaluate.wise_ft.alphas holds 2; want numbers from 0 \(start\) to 1"):
        recipe(tmp_path / "run", first, "evaluate.wise_ft.alphas=[2]")
