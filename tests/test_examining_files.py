"""Damaged files of a run: each is named with what is there and what should be, and a whole run has none."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmcl.build import train
from mmcl.builders.examining import run_models
from mmcl.builders.examining.examine import examine_run
from mmcl.builders.examining.run_files import damaged_config, damaged_files
from mmcl.builders.examining.run_records import damaged_records, read_findings, read_records
from mmcl.config import recipe_from_tree
from mmcl.doctor.examination.files import damaged_files as findings_of
from mmcl.doctor.examination.subject import Damage
from mmcl.errors import ConfigError

TOWER = {"options": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}}
CHECKPOINT = "checkpoints/step_00000004"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    tree = {
        "data": {"path": "shapes?train=40&validation=20&test=4&image_size=16"},
        "model": {"embedding_dim": 8, "image": {**TOWER, "image_size": 16}, "text": TOWER},
        "train": {"batch_size": 16, "max_steps": 4, "log_every": 1},
        "evaluate": {"tasks": ["retrieval"], "every_steps": 1000, "at_end": False},
        "run": {"dir": str(folder)},
    }
    train(recipe_from_tree(tree, source="test"))
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def header_cut(path: Path) -> None:
    os.truncate(path, 100)


def strange(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n" + bytes(range(256)))


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def a_list(path: Path) -> None:
    path.write_text("[1, 2]")


def all_of(folder: Path) -> list[Damage]:
    config, records = damaged_config(folder), damaged_records(folder, log_every=1)
    return [damage for damage in (config, records, *damaged_files(folder)) if damage is not None]


def test_a_whole_run_has_no_damage(run: Path) -> None:
    assert all_of(run) == []
    assert run_models.kept_model(run)[1] is None
    assert len(read_records(run)) == 5  # four steps and an evaluation
    assert read_findings(run)[1] is None
    shutil.rmtree(run / "checkpoints")  # of a copy of what is needed alone
    shutil.rmtree(run / "model")
    assert all_of(run) == []


@pytest.mark.parametrize("damage", [cut, strange, emptied, Path.unlink])
@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "metrics.jsonl",
        "model/mmcl.json",
        "model/model.safetensors",
        "model/preprocessor_config.json",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
        f"{CHECKPOINT}/weights.safetensors",
        f"{CHECKPOINT}/states.pt",
        f"{CHECKPOINT}/random.pt",
        f"{CHECKPOINT}/progress.json",
    ],
)
def test_every_damaged_file_is_named(run: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(run / name)
    found = all_of(run)
    assert name in [one.path for one in found]
    one = next(one for one in found if one.path == name)
    assert one.is_grave
    assert one.found == "nothing" if damage is Path.unlink else "bytes" in one.found


def test_weights_say_how_long_they_were_to_be(run: Path) -> None:
    path = run / "model" / "model.safetensors"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    assert all_of(run) == [
        Damage("model/model.safetensors", f"{size - 1:,} bytes", f"{size:,} bytes, as its header says")
    ]
    header_cut(path)
    assert str(all_of(run)[0]).startswith("model/model.safetensors holds 100 bytes, not at least the ")
    save_file({"weight": torch.zeros(3)}, path)  # whole, and another model's: seen where it is opened
    assert all_of(run) == []
    damage = run_models.kept_model(run)[1]
    assert damage is not None
    assert (damage.path, "cannot be opened" in damage.found) == ("model", True)


@pytest.mark.parametrize("name", ["model/tokenizer.json", f"{CHECKPOINT}/progress.json"])
def test_json_of_another_kind(run: Path, name: str) -> None:
    a_list(run / name)
    assert [(one.path, "no named values" in one.found) for one in all_of(run)] == [(name, True)]


def test_a_tokenizer_of_another_kind_is_seen_where_it_is_opened(run: Path) -> None:
    (run / "model" / "tokenizer.json").write_text('{"version": 1}')
    assert all_of(run) == []
    model, damage = run_models.kept_model(run)
    assert model is None
    assert damage is not None
    assert damage.path == "model"


def test_a_link_to_a_checkpoint_that_is_gone_and_a_model_that_is(run: Path) -> None:
    (run / CHECKPOINT).rename(run / "checkpoints" / "moved")
    assert [one.path for one in all_of(run)] == ["checkpoints/last"]
    (run / "checkpoints" / "moved").rename(run / CHECKPOINT)
    shutil.rmtree(run / "model")
    assert all_of(run) == [Damage("model", "nothing", "the model of a finished run")]


def test_records(run: Path) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{nonsense", "7", *lines[2:]]) + "\n")
    damage = damaged_records(run, log_every=1)
    assert damage is not None
    assert "2 of 6 lines are no records (the first is line 2)" in damage.found
    assert len(read_records(run)) == 4
    path.write_text("\n".join(lines[:2]) + "\n")  # cut between two lines
    assert "end at step 2" in str(damaged_records(run, log_every=1))
    assert damaged_records(run, log_every=4) is None  # a run that writes every fourth step would have no more


def test_half_a_last_line_is_no_damage_of_a_run_that_was_killed(run: Path) -> None:
    path, progress = run / "metrics.jsonl", run / CHECKPOINT / "progress.json"
    path.write_text(path.read_text() + '{"step": 5, "los')
    assert damaged_records(run, log_every=1) is not None
    progress.write_text(json.dumps({**json.loads(progress.read_text()), "finished": False}))
    assert damaged_records(run, log_every=1) is None


def test_results_and_findings_are_a_warning(run: Path) -> None:
    strange(run / "evaluation.json")
    (run / "findings.jsonl").write_text("nonsense\n")
    damages = [*all_of(run), read_findings(run)[1]]
    assert [one.path for one in damages] == ["evaluation.json", "findings.jsonl"]
    assert findings_of(damages, run="x")[0].severity == "warning"


def test_a_config_that_was_cut_between_two_sections(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text[: text.index("environment:")])
    damage = damaged_config(run)
    assert damage is not None
    assert "without the section environment" in damage.found


def test_one_finding_for_all_files() -> None:
    assert findings_of([], run="x") == []
    damages = [Damage("evaluation.json", "a", "b", is_grave=False), *(Damage(f"model/{n}", "a", "b") for n in range(4))]
    found = findings_of(damages, run="x")
    assert len(found) == 1
    assert found[0].severity == "fault"
    assert found[0].value == 5
    assert found[0].evidence.startswith("model/0 holds a, not b; ")
    assert found[0].evidence.endswith("; and 2 further files.")
    assert "Copy model/0 again" in found[0].next_step
    checkpoint = findings_of([Damage(f"{CHECKPOINT}/states.pt", "a", "b")], run="x")[0].next_step
    assert f"remove x/{CHECKPOINT}" in checkpoint


def test_the_examination_names_the_file_first(run: Path) -> None:
    assert all(finding.cause != "damaged_file" for finding in examine_run(run, rows=100).findings)  # the control
    os.truncate(run / "model" / "model.safetensors", 1000)
    (run / CHECKPOINT / "weights.safetensors").unlink()
    found = examine_run(run, rows=100)
    assert found.first is not None
    assert (found.first.cause, found.first.severity) == ("damaged_file", "fault")
    assert found.diagnosis.startswith("A file of the run is damaged: model/model.safetensors holds 1,000 bytes")
    assert "the trained model" in [name for name, _ in found.not_made]


def test_a_run_without_a_recipe_is_judged_by_its_files(run: Path, tmp_path: Path) -> None:
    (run / "config.yaml").unlink()
    found = examine_run(run, rows=100)
    assert (found.state, found.step, [one.cause for one in found.findings]) == ("finished", 4, ["damaged_file"])
    assert found.diagnosis.startswith("A file of the run is damaged: config.yaml holds nothing")
    with pytest.raises(ConfigError, match="holds no run"):
        examine_run(tmp_path, rows=100)
