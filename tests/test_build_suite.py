"""A suite's names become objects: checked before a model is loaded, and keyed by all that decides a cell's metrics."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmcl.builders import evaluation
from mmcl.builders.suite import SuitePlan, data_fingerprint, run_suite
from mmcl.builders.suite_processes import device_of, launched_share, share_of
from mmcl.builders.suite_references import check_model, model_fingerprint, named, sort_references
from mmcl.config.suite import load_suite, shipped_suites, suite_from_tree
from mmcl.data import load
from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.suite import CellResult, Share

SCENES = "shapes?train=8&test=6&image_size=16:test"


def write_vectors(path: Path, *, seed: int = 0, rows: int = 12, noise: float = 2.0, **arrays: Any) -> str:
    generator = np.random.default_rng(seed)
    image = generator.normal(size=(rows, 8)).astype(np.float32)
    text = image + noise * generator.normal(size=(rows, 8)).astype(np.float32)
    np.savez(path, image=image, text=text, **arrays)
    return f"vectors:{path}"


@pytest.fixture
def vectors(tmp_path: Path) -> str:
    return write_vectors(tmp_path / "v.npz")


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the evaluator of each task was called."""
    counts: Counter[str] = Counter()
    for name, task in list(evaluation.EVALUATORS.items()):

        class Counted(task.evaluator):  # type: ignore[name-defined, misc]
            task_name = name

            def __call__(self, embedder: Any) -> Any:
                counts[self.task_name] += 1
                return super().__call__(embedder)

        monkeypatch.setitem(evaluation.EVALUATORS, name, evaluation.Task(Counted, task.column))
    return counts


def run(tmp_path: Path, models: Any, data: Any, tasks: Any, **more: Any) -> list[CellResult]:
    tree = {"models": models, "data": data, "tasks": tasks, "output": str(tmp_path / "out"), "device": "cpu", **more}
    return run_suite(suite_from_tree(tree, source="suite"))


def statuses(results: list[CellResult]) -> list[str]:
    return [one.status for one in results]


def test_it_says_what_the_evaluator_says(tmp_path: Path, vectors: str) -> None:
    result = run(tmp_path, {"v": vectors}, {"v": vectors}, ["retrieval"])[0]
    wanted = evaluation.evaluate(vectors, vectors, tasks=["retrieval"])
    assert dict(result.metrics) == wanted
    assert 0 < wanted["retrieval/i2t_recall@1"] < 1
    assert result.primary_metric == "retrieval/mean_recall@1"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cells", "results.csv", "results.html", "results.json", "results.md", "results.yaml",
    ]  # fmt: skip


def test_only_what_has_changed_is_computed_again(tmp_path: Path, vectors: str, judged: Counter[str]) -> None:
    other = write_vectors(tmp_path / "w.npz", seed=1)
    models, data = {"v": vectors, "w": other}, {"v": vectors, "w": other}
    first = run(tmp_path, models, data, ["retrieval", {"retrieval": {"ks": [1, 2]}}])
    assert judged == {"retrieval": 8}
    assert statuses(first) == ["done"] * 8
    judged.clear()
    assert run(tmp_path, models, data, ["retrieval", {"retrieval": {"ks": [1, 2]}}]) == first
    assert judged == {}
    run(tmp_path, models, data, ["retrieval", {"retrieval": {"ks": [1, 3]}}])
    assert judged == {"retrieval": 4}
    judged.clear()
    run(tmp_path, models, data, ["retrieval"], batch_size=32)
    assert judged == {"retrieval": 4}
    judged.clear()
    write_vectors(tmp_path / "w.npz", seed=2)  # model and data both: three of the four cells
    os.utime(tmp_path / "w.npz", ns=(1, 1))
    run(tmp_path, models, data, ["retrieval"], batch_size=32)
    assert judged == {"retrieval": 3}


def test_files_that_options_name_count_by_what_they_hold(tmp_path: Path) -> None:
    def key() -> dict[str, Any]:
        tree = {"models": ["owner/name"], "data": {"s": SCENES}, "tasks": [{"zeroshot": {"templates": str(file)}}]}
        plan = SuitePlan(suite_from_tree({**tree, "output": str(tmp_path / "out")}, source="suite"), device="cpu")
        return json.loads(json.dumps(dict(plan.cells[0].key)))

    file = tmp_path / "templates.txt"
    file.write_text("a {}\n")
    first = key()
    assert first == key()
    file.write_text("the {}\n")
    assert key() != first
    assert key()["options"] == {"templates": ["the {}"]}


def test_labels_are_part_of_the_data() -> None:
    dataset = load(SCENES)
    assert data_fingerprint(dataset) == data_fingerprint(load(SCENES))
    labels = dataset.table.column_names.index("label")
    changed = dataset.select(range(len(dataset)))
    changed.table = dataset.table.set_column(labels, "label", dataset.table["label"].take(list(range(5, -1, -1))))
    assert changed.fingerprint() == dataset.fingerprint()
    assert data_fingerprint(changed) != data_fingerprint(dataset)


def test_what_the_data_lack_is_left_out_and_what_fails_says_why(tmp_path: Path, vectors: str) -> None:
    labelled = write_vectors(tmp_path / "l.npz", label=np.array(list("ab") * 6))
    results = run(tmp_path, {"l": labelled}, {"v": vectors, "l": labelled}, ["zeroshot", "retrieval"])
    assert [(one.status, one.message) for one in results][:1] == [("left out", "no label column")]
    assert statuses(results) == ["left out", "done", "failed", "done"]
    assert "no text vector for 'a" in results[2].message
    text = (tmp_path / "out" / "results.md").read_text()
    assert "| l | v | zeroshot | left out | no label column |" in text
    assert "no text vector" in text
    pixels = run(tmp_path, {"hub": "owner/name"}, {"v": vectors}, ["retrieval"])
    assert [(one.status, one.message) for one in pixels] == [
        ("left out", "vectors without pixels, which only a model of vectors: can be judged on")
    ]


def test_a_model_that_cannot_be_loaded_is_tried_once(
    tmp_path: Path, vectors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mmcl.builders.suite as module

    tried: list[str] = []

    def fail(reference: str, **options: Any) -> Any:
        tried.append(reference)
        raise ConfigError(f"{reference} is not to be had")

    monkeypatch.setattr(module, "load", fail)
    results = run(tmp_path, {"h": "owner/name"}, {"s": SCENES}, ["retrieval", "zeroshot", "foils"])
    assert {(one.status, one.message) for one in results} == {("failed", "owner/name is not to be had")}
    assert tried == ["owner/name"]


class FitEvaluator:
    """A task that fits on a split, and tells how large it was."""

    primary_metric = "fit/rows"

    def __init__(self, dataset: Any, *, train: Any, note: str = "", batch_size: int = 64) -> None:
        self.dataset, self.train = dataset, train

    def __call__(self, embedder: Any) -> dict[str, float]:
        return {"fit/rows": float(len(self.train)), "fit/texts": float(self.train.texts(0)[0].count("x"))}


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(evaluation.EVALUATORS, "fit", evaluation.Task(FitEvaluator, None))
    import mmcl.builders.suite as module

    monkeypatch.setattr(module, "load", lambda reference, **options: _Nothing())


class _Nothing:
    embedding_dim, modalities, logit_scale = 4, frozenset({"image", "text"}), 1.0


def write_table(folder: Path) -> Path:
    from PIL import Image

    folder.mkdir()
    lines = ["picture,title,other,split"]
    for row in range(5):
        Image.new("RGB", (4, 4)).save(folder / f"{row}.png")
        lines.append(f"{row}.png,xxx {row},none {row},{'train' if row < 3 else 'test'}")
    (folder / "table.csv").write_text("\n".join(lines))
    return folder / "table.csv"


@pytest.mark.usefixtures("fit")
def test_a_task_that_fits_takes_the_train_split_with_the_same_columns(tmp_path: Path) -> None:
    table = write_table(tmp_path / "photos")
    entry = {"path": f"{table}:test", "columns": {"text": "title", "image": "picture"}}
    other = {"path": f"{table}:test", "columns": {"text": "other", "image": "picture"}}
    tasks = ["fit", {"fit": {"train": f"{table}:test"}}, {"fit": {"train": other}}]
    results = run(tmp_path, ["owner/name"], {"d": entry}, tasks)
    assert [dict(one.metrics) for one in results] == [
        {"fit/rows": 3.0, "fit/texts": 3.0},
        {"fit/rows": 2.0, "fit/texts": 3.0},
        {"fit/rows": 2.0, "fit/texts": 0.0},
    ]
    assert run(tmp_path, ["owner/name"], {"s": SCENES}, ["fit"])[0].metrics["fit/rows"] == 8


@pytest.mark.usefixtures("fit")
def test_without_a_train_split_such_a_task_is_left_out(tmp_path: Path, vectors: str) -> None:
    results = run(tmp_path, [vectors], [vectors], ["fit"])
    assert (results[0].status, results[0].message) == ("left out", "no split train to fit on, and no option train")
    with pytest.raises(DataError, match="nowhere"):
        run(tmp_path, [vectors], [vectors], [{"fit": {"train": "nowhere.csv"}}])
    with pytest.raises(ConfigError, match=r"'data\.train\.colums'; did you mean 'data\.train\.columns'"):
        run(tmp_path, [vectors], [vectors], [{"fit": {"train": {"path": "x", "colums": {}}}}])


@pytest.mark.parametrize(
    ("models", "data", "tasks", "message"),
    [
        ([], [SCENES], ["retrieval"], "no model is named"),
        (["owner/name"], [], ["retrieval"], "no data are named"),
        (["owner/name"], [SCENES], ["retrieva"], "unknown task 'retrieva'; did you mean 'retrieval'"),
        (
            ["owner/name"],
            [SCENES],
            [{"zeroshot": {"template": "x"}}],
            "has no option 'template'; did you mean 'templates'",
        ),
        (["owner/name"], ["nowhere.csv:test"], ["retrieval"], "there is no .*nowhere.csv"),
        (["owner/name"], ["shapes:tset"], ["retrieval"], "did you mean 'test'"),
        (["owner/name"], [SCENES], [{"zeroshot": {"templates": "no.txt"}}], "no.txt"),
        ({"mine": "runs/none"}, [SCENES], ["retrieval"], "model 'mine': .*runs/none.* is not there"),
        (["vectors:none.npz"], [SCENES], ["retrieval"], "there is no file none.npz"),
        (["timm:resnet18"], [SCENES], ["retrieval"], "is a tower"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(
    models: Any, data: Any, tasks: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mmcl.builders.suite as module

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "load", lambda *arguments, **options: pytest.fail("a model was loaded"))
    with pytest.raises((ConfigError, DataError), match=message):
        run(tmp_path, models, data, tasks)


def test_open_clip_is_asked_for_the_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mmcl.builders.suite_references as module

    asked: list[str] = []
    monkeypatch.setattr(module, "read_open_clip_config", asked.append)
    check_model("open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert asked == ["ViT-B-32"]


def test_precision_and_device_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fp16.*needs a GPU"):
        run(tmp_path, ["owner/name"], [SCENES], ["retrieval"], precision="fp16")
    with pytest.raises(ConfigError, match="device is 'abacus'"):
        run(tmp_path, ["owner/name"], [SCENES], ["retrieval"], device="abacus")


def make_model(folder: Path) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "mmcl.json").write_text("{}")
    (folder / "config.yaml").write_text("a: 1")
    return folder


def test_a_models_fingerprint_is_that_of_its_files(tmp_path: Path, vectors: str) -> None:
    run_folder = make_model(tmp_path / "run")
    first = model_fingerprint(str(run_folder))
    assert first == model_fingerprint(str(run_folder)) == model_fingerprint(str(run_folder / "model"))
    (run_folder / "config.yaml").write_text("a: 23")  # beside the model
    assert model_fingerprint(str(run_folder)) == first
    (run_folder / "model" / "mmcl.json").write_text("{ }")
    assert model_fingerprint(str(run_folder)) != first
    before = model_fingerprint(vectors)
    os.utime(vectors.removeprefix("vectors:"), ns=(1, 1))
    assert before != model_fingerprint(vectors)
    assert model_fingerprint("owner/name") is None
    assert model_fingerprint("open_clip:ViT-B-32/laion2b") is None
    checkpoint = f"open_clip:ViT-B-32/{vectors.removeprefix('vectors:')}"
    assert model_fingerprint(checkpoint) == model_fingerprint(vectors)


@pytest.mark.parametrize("there", ["file", "empty folder", "nothing"])
def test_a_folder_that_holds_no_model(there: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if there == "file":
        path.write_text("")
    elif there == "empty folder":
        path.mkdir()
    with pytest.raises(
        ConfigError, match={"file": "a file", "empty folder": "no model", "nothing": "not there"}[there]
    ):
        check_model(str(path))
    check_model(str(make_model(tmp_path / "run")))
    check_model("openai/clip-vit-base-patch32")


@pytest.mark.parametrize(
    ("given", "models", "data"),
    [
        ("run shapes:test", "run", "shapes:test"),
        (
            "run other/model folder table.csv a.tar x-{0..9}.tar",
            "run other/model",
            "folder table.csv a.tar x-{0..9}.tar",
        ),
        ("open_clip:RN50 sentence-transformers:x data:val", "open_clip:RN50 sentence-transformers:x", "data:val"),
        ("owner/model shapes:test", "owner/model", "shapes:test"),
        ("run owner/data", "run", "owner/data"),
        ("owner/model owner/data", "owner/model", "owner/data"),
        ("owner/a run shapes:test owner/b", "owner/a run", "shapes:test owner/b"),
        ("run owner/data@main owner/data?config=x", "run", "owner/data@main owner/data?config=x"),
        ("vectors:a.npz vectors:b.npz", "vectors:a.npz vectors:b.npz", "vectors:a.npz vectors:b.npz"),
        ("vectors:a.npz", "vectors:a.npz", "vectors:a.npz"),
        ("vectors:a.npz shapes:test", "vectors:a.npz", "shapes:test"),
        ("run", "run", ""),
        ("mine=run scenes=shapes?test=3:test", "mine=run", "scenes=shapes?test=3:test"),
        ("a=vectors:a.npz b=vectors:b.npz", "a=vectors:a.npz b=vectors:b.npz", "a=vectors:a.npz b=vectors:b.npz"),
    ],
)
def test_models_and_data_are_told_apart(
    given: str, models: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_model(tmp_path / "run")
    make_model(tmp_path / "other" / "model")
    (tmp_path / "folder").mkdir()
    assert sort_references(given.split()) == (models.split(), data.split())


def test_what_may_be_either_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_model(tmp_path / "run")
    with pytest.raises(ConfigError, match="'owner/b' may be a model or data; say which: --model owner/b, or --data"):
        sort_references(["run", "owner/b", "shapes:test"])
    with pytest.raises(ConfigError, match="'owner/b' may be a model or data"):
        sort_references(["owner/b"])
    assert sort_references(["owner/b"], models=True) == ([], ["owner/b"])
    assert sort_references(["owner/b"], data=True) == (["owner/b"], [])
    with pytest.raises(ConfigError, match="'owner/b' may be a model or data"):
        sort_references(["owner/b"], models=True, data=True)
    with pytest.raises(ConfigError, match="'runs/none' is neither a model nor data"):
        sort_references(["runs/none", "shapes:test"])


def test_names_before_references() -> None:
    assert named("mine=runs/a") == ("mine", "runs/a")
    assert named("my data=shapes?test=3:test") == ("my data", "shapes?test=3:test")
    for text in ("shapes?test=3:test", "runs/a", "owner/data?config=x"):
        assert named(text) == (text, text)


def test_shipped_suites_name_tasks_that_there_are() -> None:
    for name in shipped_suites():
        for task in load_suite(name).tasks:
            options = evaluation.with_train_split(task.name, task.options, "data")
            evaluation.check_options(task.name, options)


def test_shares_of_launchers_and_of_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched_share() is None
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    assert launched_share() == Share(1, 3)
    assert share_of("2/4") == Share(1, 4)
    for text in ("2", "0/4", "5/4", "a/b", "1/", ""):
        with pytest.raises(ConfigError, match=re.escape(f"share {text}") if text == "0/4" else "share"):
            share_of(text)
    assert device_of(Share(0, 1)) is None


def test_each_share_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert [device_of(Share(index, 3)) for index in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_of(Share(2, 4)) == "cuda:1"
