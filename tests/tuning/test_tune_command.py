"""`mmcl tune`: its files, going on, Ctrl-C, and what it refuses before any work."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest

from mmcl.build import train
from mmcl.config import load_recipe

SMALL = str(Path(__file__).parents[1] / "training" / "small.yaml")
MRR = "retrieval/i2t_mrr"  # finer than recall on 24 rows
QUICK = (
    *("train.max_steps=4", "evaluate.every_steps=2", "model.image.freeze=true", "model.text.freeze=true"),
    "data.path=shapes?train=48&validation=24&test=24&image_size=32",
)


def test_a_search_writes_a_recipe_that_trains_to_the_same_value(invoke, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, file = tmp_path / "out", tmp_path / "tune.json"
    recipe = [SMALL, *QUICK, f"evaluate.metric={MRR}", "run.seed=1"]
    command = ["tune", *recipe, "-o", str(out), "--seeds", "1", "--json", str(file)]
    done = invoke(*command, "--trials", "4")
    assert done.code == 0, done.err
    assert f"stage heads: {MRR} on validation" in done.out
    assert "optimizer.learning_rate: 0.000188 to 0.006 (log)" in done.out
    assert "trial 0" in done.out
    assert "the recipe as asked" in done.out
    assert f"mmcl train {out / 'best.yaml'}" in done.out
    found = json.loads(file.read_text())
    records = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    search, repeats = records[:4], records[4:]
    assert [record["label"] for record in search] == [f"heads {number}" for number in range(4)]
    assert max(record["value"] for record in search) > search[0]["value"]  # else there would be nothing to repeat
    assert {record["seed"] for record in repeats} == {2}
    with (out / "trials.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [float(row["value"]) for row in rows] == [record["value"] for record in records]
    assert "<svg" in (out / "report.html").read_text()
    assert "## What mattered" in (out / "report.md").read_text()

    # The recipe that is written trains to what the search saw of it.
    best = next(record for record in search if record["label"] == found["winner"]) if found["settings"] else search[0]
    run = train(load_recipe(out / "best.yaml", [f"run.dir={tmp_path / 'run'}"]))
    assert run.result.progress.best == best["value"]
    assert (out / "best.yaml").read_text().startswith(f"# mmcl train {out / 'best.yaml'}\n")

    assert "already holds a search" in invoke(*command, "--trials", "4").err
    again = invoke(*command, "--trials", "5", "--resume")
    assert again.code == 0, again.err
    assert "trial 4" in again.out
    assert "4 trials are done; the best is" in again.out
    assert len((out / "trials.jsonl").read_text().splitlines()) >= 7
    other = invoke(*command, "--trials", "6", "--resume", "--metric", "retrieval/mean_recall@1")
    assert other.code == 2
    assert f"was begun with metric {MRR!r}, now asked is 'retrieval/mean_recall@1'" in other.err


def test_ctrl_c_keeps_what_is_there(invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.cli.tune import SearchDisplay

    shown = SearchDisplay.trial

    def interrupting(self, record) -> None:
        shown(self, record)
        if record.number == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(SearchDisplay, "trial", interrupting)
    out, file = tmp_path / "out", tmp_path / "tune.json"
    done = invoke("tune", SMALL, *QUICK, "-o", str(out), "--trials", "9", "--json", str(file))
    assert done.code == 130
    assert done.err.endswith("interrupted\n")
    assert len((out / "trials.jsonl").read_text().splitlines()) == 2
    assert json.loads(file.read_text())["interrupted"] is True
    assert "Go on with the same command and --resume." in done.out
    assert load_recipe(out / "best.yaml").name == "small-tuned"
    assert "stopped by a signal" in (out / "report.md").read_text()


def test_a_search_that_could_not_begin_is_not_in_the_way_of_the_next(invoke, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke("tune", SMALL, *QUICK, f"data.path={tmp_path / 'none'}", "-o", str(out), "--trials", "1")
    assert "there is no" in done.err
    assert not out.exists()
    again = invoke("tune", SMALL, *QUICK, "-o", str(out), "--trials", "1", "--seeds", "0")
    assert again.code == 0, again.err
    assert "Nothing was compared with the recipe as it was asked: no other trial came to its end" in again.out
    assert "No settings were better" not in again.out
    refused = invoke("tune", SMALL, *QUICK, "-o", str(out), "--trials", "1")
    assert "already holds a search" in refused.err  # a control: one with a trial is kept


def test_ctrl_c_before_the_first_trial_leaves_nothing(invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.cli.tune import SearchDisplay

    monkeypatch.setattr(SearchDisplay, "begins", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    out = tmp_path / "out"
    assert invoke("tune", SMALL, *QUICK, "-o", str(out), "--trials", "9").code == 130
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--budget", "soon"], "--budget 'soon': want a time"),
        (["--trials", "0"], "--trials is 0"),
        (["--seeds", "-1"], "--seeds is -1"),
        (["--pruner", "best"], "--pruner is 'best'; want one of median, hyperband, none"),
        (["--metric", "2*"], "is no metric"),
        (["--search", "optimizer.lr=1..2"], "--search optimizer.lr: no such recipe key"),
        (["--search", "optimizer.learning_rate=-1..1"], "optimizer.learning_rate is -1"),
        (["--resume"], "holds no search"),
        (["train.epoch=3"], "unknown key 'train.epoch'"),
        (["--metric", "retrieval/mean_recal@1"], "did you mean 'retrieval/mean_recall@1'"),
    ],
)
def test_what_cannot_be_searched_is_told(invoke, tmp_path: Path, arguments: list[str], match: str) -> None:
    done = invoke("tune", SMALL, *QUICK, "-o", str(tmp_path / "out"), *arguments)
    assert done.code == 2, done.err
    assert match in done.err
    assert "Traceback" not in done.err
