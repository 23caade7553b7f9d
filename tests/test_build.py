"""Recipe to objects: the names a recipe may use, the splits a run gets, and the two calls most people make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import mmcl
from mmcl import build, builders
from mmcl.builders.evaluation import Task
from mmcl.config import EvaluateSection, Recipe, recipe_from_tree
from mmcl.data.shapes import load_shapes
from mmcl.data.splits.training_splits import load_splits
from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.blind import BlindEmbedder

TOWER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def recipe(path: str, folder: Path | str = "unused", **sections: dict) -> Recipe:
    tree = {
        "data": {"path": path},
        "model": {"embedding_dim": 16, "image": {"options": TOWER, "image_size": 32}, "text": {"options": TOWER}},
        "train": {"batch_size": 16, "max_steps": 2, "log_every": 1},
        "run": {"dir": str(folder)},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return recipe_from_tree(tree, source="test")


def pictures(folder: Path, *splits: str, rows: int = 12, groups: int = 6) -> Path:
    for split in splits or ("",):
        (folder / split).mkdir(parents=True, exist_ok=True)
        lines = []
        for row in range(rows):
            Image.new("RGB", (32, 32), (row * 20, 90, 255 - row * 20)).save(folder / split / f"{row}.png")
            line = {"file_name": f"{row}.png", "text": f"{split} picture {row}", "group": f"{split} {row % groups}"}
            lines.append(json.dumps({**line, "label": "warm" if row % 2 else "cold"}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines))
    return folder


# -- splits --------------------------------------------------------------------------------------------------------


def test_named_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    splits = load_splits(recipe(str(pictures(tmp_path, "train", "validation", "test"))))
    assert (len(splits.train), len(splits.validation), len(splits.test["test"])) == (12, 12, 12)
    assert splits.train.texts(0) != splits.validation.texts(0) != splits.test["test"].texts(0)
    without = load_splits(
        recipe(str(tmp_path), data={"path": str(tmp_path), "split": {"validation": None, "test": None}})
    )
    assert without.validation is None
    assert without.test == {}


def test_whole_groups_are_held_out_where_there_is_no_validation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"path": str(pictures(tmp_path)), "holdout_share": 0.3}
    splits = load_splits(recipe(str(tmp_path), data=data))
    assert "no validation split" in caplog.text
    assert (len(splits.train), len(splits.validation)) == (8, 4)  # two of six groups, two rows each
    train, held = (set(part.column("group")) for part in (splits.train, splits.validation))
    assert not train & held
    assert sorted(splits.train.column("id") + splits.validation.column("id")) == sorted(f"{n}.png" for n in range(12))
    again = load_splits(recipe(str(tmp_path), data=data))
    assert again.validation.column("id") == splits.validation.column("id")
    others = [load_splits(recipe(str(tmp_path), data=data, run={"seed": seed})) for seed in range(1, 5)]
    assert any(other.validation.column("id") != splits.validation.column("id") for other in others)


def test_of_classes_images_are_held_out_and_no_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for label, rows in (("cat", 20), ("dog", 12)):
        (tmp_path / label).mkdir()
        for number in range(rows):
            Image.new("RGB", (8, 8), (9 * number, 0, rows)).save(tmp_path / label / f"{label}{number}.png")
    data = {"path": str(tmp_path), "holdout_share": 0.25}
    splits = load_splits(recipe(str(tmp_path), data=data))
    counted = [sorted(part.texts(row)[0] for row in range(len(part))) for part in (splits.train, splits.validation)]
    assert counted == [["cat"] * 15 + ["dog"] * 9, ["cat"] * 5 + ["dog"] * 3]
    ids = [splits.train.column("id"), splits.validation.column("id")]
    assert len({*ids[0], *ids[1]}) == 32
    again = load_splits(recipe(str(tmp_path), data=data, run={"seed": 1}))
    assert again.validation.column("id") != ids[1]
    assert "judged on too" not in caplog.text  # the name of a class is no leak
    assert "hang together" not in caplog.text


def test_large_validation_splits_are_cut_at_random(tmp_path: Path) -> None:
    pictures(tmp_path, "train", "validation")
    cut = load_splits(recipe(str(tmp_path), evaluate={"max_rows": 5})).validation
    assert len(cut) == 5
    assert cut.column("id") != [f"{row}.png" for row in range(5)]
    assert "5 of 12 rows" in cut.name


def test_missing_splits_are_errors_or_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures(tmp_path, "train", "validation")
    assert load_splits(recipe(str(tmp_path))).test == {}
    assert "no split 'test'" in caplog.text
    with pytest.raises(DataError, match=r"no split 'dev' \(data.split.validation\)"):
        load_splits(recipe(str(tmp_path), data={"path": str(tmp_path), "split": {"validation": "dev"}}))
    with pytest.raises(DataError, match="teach"):
        load_splits(recipe(str(tmp_path), data={"path": str(tmp_path), "split": {"train": "teach"}}))
    two = pictures(tmp_path / "two", rows=4, groups=2)
    with pytest.raises(DataError, match=r"2 group\(s\) are too few"):
        load_splits(recipe(str(two)))
    with pytest.raises(DataError, match="nowhere"):
        load_splits(recipe(str(tmp_path / "nowhere")))


# -- evaluators ----------------------------------------------------------------------------------------------------


def test_tasks_run_where_the_data_allow_them() -> None:
    rich = load_shapes("validation", size=24, image_size=32)
    poor = rich.select(range(24))
    poor.table = poor.table.select(["id", "texts"])
    section = EvaluateSection()

    def names(data: object, tasks: tuple[str, ...]) -> list[str]:
        built = build.build_evaluators(data, section, tasks=tasks, confidence=False)
        return [type(evaluator).__name__ for evaluator in built]

    assert names(rich, ("retrieval", "zeroshot", "foils")) == [
        "RetrievalEvaluator",
        "ZeroShotEvaluator",
        "FoilEvaluator",
    ]
    assert names(rich, ("zeroshot",)) == ["ZeroShotEvaluator"]
    assert names(poor, ("retrieval", "zeroshot", "foils")) == ["RetrievalEvaluator"]
    with pytest.raises(ConfigError, match="unknown task 'retrival'.*retrieval"):
        names(rich, ("retrival",))


def test_blind_embeddings_show_what_is_measured_and_read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_shapes("validation", size=24, image_size=32)
    monkeypatch.setattr(type(data.images), "read_many", lambda *_: pytest.fail("an image was read"))
    evaluators = build.build_evaluators(data, EvaluateSection(), tasks=("retrieval", "zeroshot", "foils"))
    metrics = build.run_evaluators(evaluators, BlindEmbedder())
    assert {"retrieval/mean_recall@1", "zeroshot/top1", "foils/mean"} <= metrics.keys()
    rows = BlindEmbedder().encode_image([None] * 3)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))


def test_options_reach_an_evaluator_and_wrong_ones_are_errors(tmp_path: Path) -> None:
    data = load_shapes("validation", size=24, image_size=32)
    built = build.build_evaluator("retrieval", data, batch_size=7, options={"ks": [3]})
    assert (built.batch_size, built.ks) == (7, (3,))
    assert build.build_evaluator("retrieval", data).ks == (1, 5, 10)
    (tmp_path / "templates.txt").write_text("one {}\n")
    built = build.build_evaluator("zeroshot", data, options={"templates": str(tmp_path / "templates.txt")})
    assert {prompt.partition(" ")[0] for prompts in built.prompts.values() for prompt in prompts} == {"one"}
    with pytest.raises(ConfigError, match="task 'retrieval' has no option 'kss'; did you mean 'ks'"):
        build.build_evaluator("retrieval", data, options={"kss": [1]})
    with pytest.raises(ConfigError, match="unknown task 'zero_shot'; did you mean 'zeroshot'"):
        build.build_evaluator("zero_shot", data)
    with pytest.raises(ConfigError, match="options are given for 'zeroshot'"):
        mmcl.evaluate(BlindEmbedder(), data, tasks=["retrieval"], options={"zeroshot": {}})


def test_a_task_that_fits_takes_the_train_split_of_the_same_data(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fitted:
        primary_metric = "fitted/rows"

        def __init__(self, dataset: object, *, train: object, batch_size: int = 64) -> None:
            self.train = train

        def __call__(self, embedder: object) -> dict[str, float]:
            return {"fitted/rows": float(len(self.train))}

    monkeypatch.setitem(build.EVALUATORS, "fitted", Task(Fitted, "texts"))
    data = "shapes?train=32&validation=24&test=24&image_size=32"
    assert mmcl.evaluate(BlindEmbedder(), f"{data}:test", tasks=["fitted"]) == {"fitted/rows": 32.0}
    given = {"fitted": {"train": f"{data}:validation"}}
    assert mmcl.evaluate(BlindEmbedder(), f"{data}:test", tasks=["fitted"], options=given) == {"fitted/rows": 24.0}
    with pytest.raises(ConfigError, match="task 'fitted' needs the option 'train'"):
        mmcl.evaluate(BlindEmbedder(), load_shapes("validation", size=24, image_size=32), tasks=["fitted"])


# -- the two calls -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> build.TrainingRun:
    folder = tmp_path_factory.mktemp("runs") / "run"
    data = "shapes?train=32&validation=24&test=24&test_seen=24&image_size=32"
    return mmcl.train(recipe(data, folder, evaluate={"extra_splits": ["test_seen"]}))


def test_train_returns_what_it_wrote(finished: build.TrainingRun) -> None:
    assert finished.metrics.keys() == {"test", "test_seen"}
    written = json.loads((finished.folder / "evaluation.json").read_text())
    assert written == json.loads(json.dumps(finished.metrics))
    assert finished.num_trainable <= finished.num_parameters
    assert {path.name for path in finished.folder.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "model",
        "evaluation.json",
    }
    assert {path.name for path in (finished.folder / "checkpoints").iterdir()} == {"last", "step_00000002"}


def test_the_closing_metrics_are_those_of_the_loaded_model(finished: build.TrainingRun) -> None:
    data = "shapes?train=32&validation=24&test=24&image_size=32:test"
    for model in (finished.folder, finished.model, mmcl.load(finished.folder)):
        metrics = mmcl.evaluate(model, data)
        assert metrics["retrieval/t2i_mrr"] == pytest.approx(finished.metrics["test"]["retrieval/t2i_mrr"], abs=1e-6)
        assert metrics["foils/mean"] == pytest.approx(finished.metrics["test"]["foils/mean"], abs=1e-6)
    only = mmcl.evaluate(finished.folder, data, tasks=["zeroshot"])
    assert all(name.startswith("zeroshot/") for name in only)


def test_train_takes_overrides_and_smoke(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "data: {path: 'shapes?train=32&validation=24&test=24&image_size=32'}\n"
        "model: {image: {image_size: 32}}\nsmoke: {train.max_steps: 1}\n"
    )
    run = mmcl.train(file, [f"run.dir={tmp_path / 'run'}", "evaluate.at_end=false"], smoke=True)
    assert run.result.progress.step == 1
    assert run.folder == tmp_path / "run"
    assert run.metrics == {}


def test_what_is_wrong_is_told_before_the_folder_is_taken(tmp_path: Path) -> None:
    data = "shapes?train=32&validation=24&test=24&image_size=32"
    wrong = (
        (recipe("nowhere/at/all", tmp_path / "run"), DataError),
        (recipe(data, tmp_path / "run", optimizer={"name": "adamx"}), ConfigError),
        (recipe(data, tmp_path / "run", evaluate={"metric": "accuracy"}), ConfigError),
        (recipe(data, tmp_path / "run", model={"image": {"name": str(tmp_path / "no-model")}}), ConfigError),
    )
    for each, kind in wrong:
        with pytest.raises(kind):
            mmcl.train(each)
    assert mmcl.train(recipe(data, tmp_path / "run", evaluate={"at_end": False})).result.progress.step == 2


def test_seeds_fix_the_start(tmp_path: Path) -> None:
    data = load_shapes("train", size=8)
    first, same = (builders.training.build_model(recipe("shapes"), data).state_dict() for _ in range(2))
    other = builders.training.build_model(recipe("shapes", run={"seed": 1}), data).state_dict()
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_bucketing_takes_lengths_of_tokens(tmp_path: Path) -> None:
    data = load_shapes("train", size=64)
    bucketed = recipe("shapes", data={"path": "shapes", "bucket_by_length": True})
    model = builders.training.build_model(bucketed, data)
    batches = builders.batches.build_batches(bucketed, data, model)
    first = [texts[0] for texts in data.column("texts")]
    assert batches.lengths.tolist() == model.text.tower.preprocessing.lengths(first)
    assert builders.batches.build_batches(recipe("shapes"), data, model).lengths is None
