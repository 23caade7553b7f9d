"""A finding goes to JSON and back, and refuses what nobody could look up."""

from __future__ import annotations

import json
import math

import pytest

from mmcl.doctor.finding import CAUSES, SEVERITIES, Finding, by_severity
from mmcl.errors import ConfigError

SLOW = Finding("slow_loader", "warning", "62 % of the time went into waiting.", 0.62, 0.5, "Set data.workers=2.")


def test_a_finding_comes_back_from_json() -> None:
    record = json.loads(json.dumps({"step": 7, **SLOW.to_dict()}))
    assert Finding.from_dict(record) == SLOW
    assert Finding.from_dict({**record, "value": 0.7}) != SLOW


def test_what_json_cannot_hold_is_nan() -> None:
    assert math.isnan(Finding.from_dict({**SLOW.to_dict(), "value": None}).value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cause": "bad_luck"}, "cause is 'bad_luck'; want one of nothing_trains"),
        ({"severity": "error"}, "severity is 'error'; want one of fault, warning, note"),
        ({"evidence": " "}, "'slow_loader' has an empty evidence"),
        ({"next_step": ""}, "'slow_loader' has an empty next_step"),
    ],
)
def test_what_cannot_be_told_is_refused(change: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Finding(**{**SLOW.to_dict(), **change})


def test_a_record_without_a_field_is_refused() -> None:
    record = {name: value for name, value in SLOW.to_dict().items() if name not in ("evidence", "next_step")}
    with pytest.raises(ConfigError, match="lacks evidence, next_step"):
        Finding.from_dict(record)


def test_faults_stand_first_and_alarms_are_told_from_notes() -> None:
    made = [
        Finding("slow_loader", severity, severity, 0, 0, "Do.") for severity in ("note", "warning", "fault", "note")
    ]
    assert [finding.severity for finding in by_severity(made)] == ["fault", "warning", "note", "note"]
    assert [finding.is_alarm for finding in made] == [False, True, True, False]
    assert by_severity([]) == []


def test_every_cause_has_words() -> None:
    assert all(words and words[0].islower() and not words.endswith(".") for words in CAUSES.values())
    assert SLOW.title == CAUSES["slow_loader"]
    assert SEVERITIES == ("fault", "warning", "note")
