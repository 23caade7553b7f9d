"""A suite's YAML: its short forms written out, and every mistake named with what was probably meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmcl.config import shipped_recipes
from mmcl.config.suite import (
    Suite,
    SuiteData,
    SuiteTask,
    load_suite,
    shipped_suites,
    suite_from_tree,
    suite_to_tree,
)
from mmcl.errors import ConfigError

TEXT = """
models: {mine: runs/emoji, clip: "open_clip:ViT-B-32/laion2b_s34b_b79k"}
data:
  emoji: path/to/emoji:test
  products: {path: products.csv, columns: {text: title}, images: photos/}
tasks:
  - retrieval
  - zeroshot: {templates: photo}
  - zeroshot
  - probe: {train: path/to/emoji:train}
batch_size: 32
output: results/
"""


def read(text: str) -> Suite:
    return suite_from_tree(yaml.safe_load(text), source="s.yaml")


def test_short_forms_are_written_out(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(TEXT)
    suite = load_suite(tmp_path / "s.yaml")
    assert suite.models == {"mine": "runs/emoji", "clip": "open_clip:ViT-B-32/laion2b_s34b_b79k"}
    assert suite.data["emoji"] == SuiteData(path="path/to/emoji:test")
    assert suite.data["emoji"].renamed() == {}
    assert suite.data["products"].renamed() == {"text": "title"}
    assert suite.data["products"].images == "photos/"
    assert suite.tasks[1] == SuiteTask(name="zeroshot", options={"templates": "photo"})
    assert suite.labels() == ["retrieval", "zeroshot (templates=photo)", "zeroshot", "probe"]
    assert (suite.batch_size, suite.precision, suite.device, suite.output) == (32, "fp32", None, "results/")


def test_lists_name_things_by_themselves() -> None:
    suite = read("{models: [runs/a, runs/b], data: [shapes:test, {path: x.csv, images: y}], tasks: {knn: {k: 3}}}")
    assert suite.models == {"runs/a": "runs/a", "runs/b": "runs/b"}
    assert list(suite.data) == ["shapes:test", "x.csv"]
    assert suite.data["x.csv"].images == "y"
    assert suite.tasks == (SuiteTask(name="knn", options={"k": 3}),)
    assert [task.name for task in read("{}").tasks] == ["retrieval", "zeroshot", "foils"]


def test_its_tree_gives_it_again() -> None:
    suite = read(TEXT)
    assert suite_from_tree(suite_to_tree(suite), source="again") == suite
    assert suite_from_tree(yaml.safe_load(yaml.safe_dump(suite_to_tree(suite))), source="again") == suite


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{model: [a]}", "unknown key 'model'; did you mean 'models'?"),
        ("{batchsize: 3}", "unknown key 'batchsize'; did you mean 'batch_size'?"),
        ("{data: {d: {path: x, colums: {}}}}", "unknown key 'data.d.colums'; did you mean 'data.d.columns'?"),
        ("{data: {d: {path: x, columns: {txt: y}}}}", "'data.d.columns.txt'; did you mean 'data.d.columns.text'?"),
        ("{data: {d: {images: x}}}", "missing key 'data.d.path'; every suite needs it"),
        ("{models: {a: 3}}", "models.a is 3 (int)"),
        ("{models: [a, a]}", "models holds 'a' twice"),
        ("{models: [3]}", "models holds 3; want references"),
        ("{models: runs/a}", "models is 'runs/a' (str)"),
        ("{tasks: []}", "tasks"),
        ("{tasks: retrieval}", "tasks is 'retrieval'; want a list"),
        ("{tasks: [{a: {}, b: {}}]}", "want a name such as retrieval"),
        ("{tasks: [{a: [1]}]}", "want a name such as retrieval"),
        ("{tasks: [knn, knn]}", "the task 'knn' stands twice"),
        ("{tasks: [{knn: {k: 1}}, {knn: {k: 1}}]}", "the task 'knn (k=1)' stands twice"),
        ("{batch_size: 0}", "batch_size is 0"),
        ("{precision: fp64}", "precision is 'fp64'"),
        ("[a]", "a suite is a mapping"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^s\.yaml: .*{re.escape(message)}"):
        read(text)


def test_a_suite_cannot_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read("{}").batch_size = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "message"), [("a: [", "not valid YAML"), ("- a", "is a mapping"), (b"\xff\xfe\x00", "can be read")]
)
def test_files_that_are_no_suite(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        load_suite(path)


def test_shipped_suites_are_found_by_name_and_are_no_recipes(checkout: Path) -> None:
    files = sorted((checkout / "recipes" / "suites").rglob("*.y*ml"))
    assert len(files) == 1
    assert sorted(shipped_suites()) == [path.stem for path in files]
    for name in shipped_suites():
        assert load_suite(name).output == "results"
        assert name not in shipped_recipes()
    with pytest.raises(ConfigError, match=r"no suite 'standart'.*did you mean 'standard'"):
        load_suite("standart")
