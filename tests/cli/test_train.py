"""`mmcl train`: what it prints and writes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from mmcl.build import TrainingRun
from mmcl.cli.console import make_console
from mmcl.cli.display import TrainingDisplay, closing_table
from mmcl.config import load_recipe
from mmcl.doctor.finding import Finding
from mmcl.training.progress import Progress, TrainingResult

RECORD = {"loss": 4.2, "chance_loss": 4.85, "logit_scale": 14.3, "pairs_per_second": 900.0}


def test_json_holds_the_closing_metrics(tiny_run: Path) -> None:
    result = json.loads((tiny_run.parents[1] / "result.json").read_text())
    assert result["run"] == "runs/quickstart-smoke"
    assert result["stopped_by"] == "done"
    assert result["best"]["metric"] == "retrieval/mean_recall@1"
    assert 0 <= result["best"]["validation"] <= 1
    assert result["best"]["step"] > 0
    evaluation = json.loads((tiny_run / "evaluation.json").read_text())
    assert {split: result[split] for split in evaluation} == evaluation


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch):
    """shown(width, terminal=...): a display, and the text it has written so far."""

    def make(overrides: list[str], *, terminal: bool = False):
        display = TrainingDisplay(load_recipe("quickstart", overrides))
        console = make_console()
        console.file = io.StringIO()
        console._force_terminal = terminal
        display.console = console
        return display, console.file

    return make


def test_names_are_shown_as_they_are_and_lines_are_whole(shown) -> None:
    path = "data/[bold]very/" + "long/" * 30 + "emoji:train:"
    display, out = shown([f"data.path='{path}'"])
    with display:
        display.work_progress(f"image features of {path}", 5, 5)
        display.evaluation({"retrieval/i2t_recall@1": 0.25}, step=3)
    lines = out.getvalue().splitlines()
    assert lines[0] == f"quickstart on {path} -> runs/quickstart"
    assert lines[1] == f"image features of {path}: 5/5"
    assert lines[2] == "validation at step 3: R@1 i2t 25.0 %"


def test_a_step_shows_loss_chance_scale_and_speed(shown) -> None:
    display, out = shown([])
    with display:
        display.step({"step": 1, **RECORD}, total_steps=2)
        display.step({"step": 2, **RECORD}, total_steps=2)
    lines = out.getvalue().splitlines()[1:]
    assert lines == [f"step {step}/2  loss 4.200 (chance 4.85)  scale 14.3  900 pairs/s" for step in (1, 2)]


def test_a_loss_that_has_no_chance_value_shows_none(shown) -> None:
    display, out = shown([])
    record = {name: value for name, value in RECORD.items() if name != "chance_loss"}
    with display:
        display.step({"step": 1, **record}, total_steps=1)
    assert out.getvalue().splitlines()[1:] == ["step 1/1  loss 4.200  scale 14.3  900 pairs/s"]


def test_a_terminal_gets_a_bar(shown) -> None:
    display, out = shown([], terminal=True)
    with display:
        display.step({"step": 1, **RECORD}, total_steps=2)
        display.work_progress("image features", 3, 9)
    assert "training" in out.getvalue()
    assert "1/2" in out.getvalue()
    assert "chance 4.85" in out.getvalue()


def test_the_closing_table_lists_findings_with_faults_first(shown) -> None:
    display, out = shown([])
    findings = [
        Finding("modality_gap", "note", "The means are [1.3] apart.", 1.3, 1.2, "Search one side."),
        Finding("stuck_at_chance", "fault", "The loss is chance.", 4.9, 4.8, "Have it examined."),
    ]
    result = TrainingResult(Progress(step=3), "done", findings=findings)
    closing_table(TrainingRun(Path("runs/x"), display.recipe, result, {}, 10, 10), display.console)
    text = " ".join(out.getvalue().split())
    assert text.index("doctor: fault") < text.index("doctor: note")
    assert "[1.3] apart" in text
    none = TrainingRun(Path("runs/x"), display.recipe, TrainingResult(Progress(step=3), "done"), {}, 10, 10)
    closing_table(none, display.console)
    assert out.getvalue().count("doctor:") == 2
