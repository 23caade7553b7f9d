"""The doctor beside a training: it changes no weight, writes down what it sees, and goes on with a resumed run."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import AtStep, differences, final_state, metric_records, small_run, step_records
from torch import nn

from mmcl.data.batches.collate import BatchReader
from mmcl.doctor.finding import Finding
from mmcl.doctor.live import rules
from mmcl.doctor.live.live_doctor import live_findings
from mmcl.errors import DataError, TrainingError
from mmcl.models.heads import LinearHead

DROPOUT = "model.image.head={name: mlp, hidden_dims: [24], dropout: 0.2}"
SIGNS = ("sign_rows", "effective_rank_image", "mean_cosine_text", "modality_gap", "batch_recall@1", "repeated_share")
SIGNS += ("false_negative_share", "distinct_captions", "grad_norm/image_tower", "grad_norm/text_head", "update_ratio")
SIGNS += ("weights_moved", "logit_scale_at_max")


def test_weights_are_the_same_with_and_without_the_doctor(tmp_path: Path) -> None:
    with_doctor = small_run(tmp_path / "with", DROPOUT).folder
    without = small_run(tmp_path / "without", DROPOUT, "train.doctor=false").folder
    other = small_run(tmp_path / "other", DROPOUT, "run.seed=1").folder
    assert differences(final_state(with_doctor), final_state(without)) == []
    assert differences(final_state(with_doctor), final_state(other)) != []
    taken = [record["step"] for record in step_records(with_doctor) if "sign_rows" in record]
    assert taken == [1, 10, 12]
    first, second = step_records(with_doctor)[:2]
    assert all(isinstance(first[name], float | int) for name in SIGNS)
    assert {"loader_seconds", "step_seconds"} < second.keys()
    assert not {*SIGNS, "step_seconds"} & set().union(*map(dict.keys, step_records(without)))


def test_signs_are_the_same_in_pieces(tmp_path: Path) -> None:
    plain = step_records(small_run(tmp_path / "plain", "train.max_steps=1").folder)[0]
    pieces = step_records(small_run(tmp_path / "pieces", "train.max_steps=1", "train.micro_batch_size=5").folder)[0]
    assert pieces["micro_batch_size"] == 5
    for name in SIGNS:
        assert pieces[name] == pytest.approx(plain[name], rel=1e-3), name
    parts = [value for name, value in plain.items() if name.startswith("grad_norm/")]
    assert math.sqrt(sum(norm**2 for norm in parts)) == pytest.approx(plain["grad_norm"], rel=1e-4)
    assert plain["grad_norm"] > 1.0  # it was clipped


def test_findings_are_logged_written_and_kept_by_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rules, "FALSE_NEGATIVES", 0.0)  # every batch is told of
    folder = tmp_path / "run"
    settings = ("checkpoint.every_steps=1", "train.max_steps=21", "train.epochs=4")
    stop = AtStep(15, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = small_run(folder, *settings, display=stop)
    assert stopped.result.stopped_by == "SIGTERM"
    assert stopped.result.findings == []  # two looks say nothing yet
    done = small_run(folder, *settings, resume=True)
    assert [finding.cause for finding in done.result.findings] == ["false_negatives"]
    lines = [json.loads(line) for line in (folder / "findings.jsonl").read_text().splitlines()]
    assert [(line["step"], Finding.from_dict(line)) for line in lines] == [(20, done.result.findings[0])]
    assert caplog.text.count("doctor: step 20: pairs that belong together are taken for negatives. 0 %") == 1
    assert live_findings(metric_records(folder), done.recipe) == done.result.findings


def test_a_module_that_makes_nan_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = LinearHead.forward, []

    def breaks(self: nn.Module, features: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return plain(self, features) * (math.nan if len(calls) > 4 else 1.0)

    monkeypatch.setattr(LinearHead, "forward", breaks)
    with pytest.raises(TrainingError, match=r"step 3: .*module model.image.head is the first.*inputs are finite"):
        small_run(tmp_path / "run", "evaluate.tasks=[]")
    listing = json.loads((tmp_path / "run" / "stopped_batch.json").read_text())
    assert listing["source"] == {"kind": "output", "name": "model.image.head", "inputs_finite": True}
    lines = (tmp_path / "run" / "findings.jsonl").read_text().splitlines()
    assert [json.loads(line)["cause"] for line in lines] == ["not_a_number"]


def test_a_killed_reader_is_told_with_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = BatchReader.__getitems__

    def dies(self: BatchReader, rows: Any) -> Any:
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, rows)

    monkeypatch.setattr(BatchReader, "__getitems__", dies)
    with pytest.raises(DataError, match=r"a reader process died.*SIGKILL: the system kills so.*data\.workers"):
        small_run(tmp_path / "run", "data.workers=1")
    lines = (tmp_path / "run" / "findings.jsonl").read_text().splitlines()
    assert [json.loads(line)["cause"] for line in lines] == ["dead_workers"]
