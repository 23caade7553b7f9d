"""What goes wrong for a person: one line that says what, where and how to mend it, and an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmcl import errors
from mmcl.cli.main import run_guarded


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError, 2),
        (errors.MissingDependencyError, 2),
        (errors.DataError, 1),
        (errors.ShapeError, 1),
        (errors.TrainingError, 1),
        (errors.MmclError, 1),
    ],
)
def test_each_error_has_its_exit_code(error: type[Exception], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error("what is wrong")

    assert run_guarded(fail) == code
    assert capsys.readouterr().err == "error: what is wrong\n"


def test_other_exceptions_keep_their_traceback_and_debug_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> None:
        raise ZeroDivisionError

    def config() -> None:
        raise errors.ConfigError("x")

    with pytest.raises(ZeroDivisionError):
        run_guarded(bug)
    monkeypatch.setenv("MMCL_DEBUG", "1")
    with pytest.raises(errors.ConfigError):
        run_guarded(config)


def test_ctrl_c_is_no_error_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert run_guarded(interrupt) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_within_a_command_is_said(invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmcl.data.load", interrupt)
    done = invoke("eval", "retrieval", "runs/x", "shapes")
    assert (done.code, done.err) == (130, "interrupted\n")
    assert "interrupted" not in invoke("--version").err


def test_success_is_0() -> None:
    assert run_guarded(lambda: None) == 0


# -- mmcl train --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.batchsize=8", ["unknown key 'train.batchsize'", "did you mean 'train.batch_size'"]),
        ("trian.epochs=8", ["unknown key 'trian'", "did you mean 'train'"]),
        ("train.batch_size=many", ["train.batch_size is 'many' (str)", "integer"]),
        ("train.batch_size=1", ["train.batch_size is 1", "greater than or equal to 2"]),
        ("loss.name=info_nse", ["loss.name is 'info_nse'", "info_nce"]),
        ("train.epochs", ["override 'train.epochs'", "key=value"]),
        ("data.split=[", ["override 'data.split=['", "not valid YAML"]),
    ],
)
def test_a_wrong_override(override: str, said: list[str], invoke) -> None:
    done = invoke("train", "quickstart", override)
    assert done.code == 2
    line = one_line(done.err)
    assert all(part in line for part in said), line


def test_no_such_recipe_names_the_nearest(invoke) -> None:
    done = invoke("train", "quickstrat")
    assert done.code == 2
    assert "did you mean 'quickstart'" in one_line(done.err)


def test_a_recipe_that_is_no_yaml_names_the_line(invoke, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("data:\n  path: [1, 2\ntrain: {}\n")
    done = invoke("train", str(tmp_path / "broken.yaml"))
    assert done.code == 2
    assert "broken.yaml, line 3" in one_line(done.err)


def test_a_run_folder_that_cannot_be_written(invoke, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = invoke("train", "quickstart", "--smoke", f"run.dir={tmp_path}/file/run")
    assert done.code == 2
    line = one_line(done.err)
    assert f"{tmp_path}/file/run cannot be written" in line
    assert "run.dir" in line


def test_a_run_folder_that_holds_another_run(invoke, tmp_path: Path, tiny_run: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in tiny_run.rglob("*"))
    done = invoke("train", "quickstart", "--smoke", f"run.dir={tiny_run}")
    assert done.code == 2
    line = one_line(done.err)
    assert str(tiny_run) in line
    assert "--resume" in line
    assert sorted(path.stat().st_mtime_ns for path in tiny_run.rglob("*")) == before


def test_nothing_to_resume(invoke, tmp_path: Path) -> None:
    done = invoke("train", "quickstart", "--smoke", "--resume", f"run.dir={tmp_path}/none")
    assert done.code == 2
    assert "holds no run" in one_line(done.err)


def test_more_processes_asked_for_than_run(invoke, tmp_path: Path) -> None:
    done = invoke("train", "quickstart", "--smoke", "run.num_processes=2", f"run.dir={tmp_path}/run")
    assert done.code == 2
    assert "1 process(es) run" in one_line(done.err)


# -- data and models ---------------------------------------------------------------------------------------------


def test_a_missing_file_names_its_neighbour(invoke, tmp_path: Path, tiny_run: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}")
    done = invoke("eval", "retrieval", str(tiny_run), str(tmp_path / "pair.jsonl"))
    assert done.code == 1
    line = one_line(done.err)
    assert str(tmp_path / "pair.jsonl") in line
    assert str(tmp_path / "pairs.jsonl") in line


def test_a_missing_column_lists_those_there_are(invoke, tmp_path: Path, tiny_run: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"file_name": "a.png", "titel": "a cat"}) + "\n")
    done = invoke("eval", "retrieval", str(tiny_run), str(tmp_path / "pairs.jsonl"))
    assert done.code == 1
    line = one_line(done.err)
    assert "has file_name, titel" in line
    done = invoke("eval", "retrieval", str(tiny_run), str(tmp_path / "pairs.jsonl"), "--column", "text=title")
    assert done.code == 1
    assert "the nearest is 'titel'" in one_line(done.err)


@pytest.mark.parametrize("column", ["text", "texd=title"])
def test_a_wrong_column_option(column: str, invoke) -> None:
    done = invoke("eval", "retrieval", "runs/x", "shapes?test=4:test", "--column", column)
    assert done.code == 2
    assert "text" in one_line(done.err)


def test_no_such_split_lists_those_there_are(invoke) -> None:
    done = invoke("eval", "retrieval", "runs/x", "shapes:tset")
    assert done.code == 1
    assert "train, validation, test, test_seen" in one_line(done.err)


@pytest.mark.parametrize("model", ["runs/none", "./none", "some/where/else"])
def test_a_missing_model_folder(model: str, invoke) -> None:
    done = invoke("eval", "retrieval", model, "shapes?test=4:test")
    assert done.code == 2
    assert repr(model) in one_line(done.err)


def test_a_model_id_that_cannot_be_reached(run_mmcl, tmp_path: Path) -> None:
    done = run_mmcl("eval", "retrieval", "some-owner/some-model", "shapes?test=4:test", cwd=tmp_path)
    assert done.returncode == 2
    line = one_line(done.stderr)
    assert "'some-owner/some-model'" in line
    assert "HF_HUB_OFFLINE" in line
    assert "hf download some-owner/some-model" in line


def test_a_tower_id_that_cannot_be_reached(invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("train", "quickstart", "--smoke", "model.text.name=some-owner/some-model")
    assert done.code == 2
    assert "'some-owner/some-model'" in one_line(done.err)


@pytest.mark.parametrize("target", ["missing/out.json", "."])
def test_a_json_file_that_cannot_be_written_is_told_before_the_work(target: str, invoke, tmp_path: Path) -> None:
    # The model does not exist either: what is told first is what would be lost last.
    for command in (
        ["eval", "retrieval", "runs/x", "shapes"],
        ["eval", "zeroshot", "runs/x", "shapes"],
        ["train", "x"],
    ):
        done = invoke(*command, "--json", str(tmp_path / target))
        assert done.code == 2
        assert "--json" in one_line(done.err)
