"""The built-in sets of templates, and how they are named."""

from __future__ import annotations

from pathlib import Path

import pytest

import mmcl
from mmcl.errors import DataError
from mmcl.evaluation import TEMPLATE_SETS, load_templates
from mmcl.evaluation.zero_shot.prompts import check_templates


@pytest.mark.parametrize("name", TEMPLATE_SETS)
def test_a_set_is_read_by_its_name(name: str) -> None:
    found = load_templates(name)
    assert found == list(TEMPLATE_SETS[name]) == check_templates(found)
    assert all(template.count("{}") == 1 and template == template.strip() for template in found)
    filled = {template.replace("{}", "zebra").lower() for template in found}
    assert len(filled) == len(found), "templates that make the same prompt count twice"


def test_the_sets_differ_in_size() -> None:
    assert {name: len(some) for name, some in TEMPLATE_SETS.items()} == {
        "plain": 6,
        "photo": 10,
        "photo80": 80,
        "art": 20,
    }


def test_a_misspelt_set_is_named_and_a_file_wins_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="did you mean 'photo80'"):
        load_templates("photo8")
    with pytest.raises(DataError, match="does not exist and is no built-in set.*plain, photo, photo80, art"):
        load_templates("zzz")
    monkeypatch.chdir(tmp_path)
    Path("photo").write_text("my {}\n")
    assert load_templates("./photo") == ["my {}"]
    assert load_templates(Path("photo")) == list(TEMPLATE_SETS["photo"])


def test_sets_are_options_of_evaluate() -> None:
    from mmcl.evaluation.blind import BlindEmbedder

    metrics = mmcl.evaluate(
        BlindEmbedder(), "shapes?test=20:test", tasks=["zeroshot"], options={"zeroshot": {"templates": "art"}}
    )
    assert metrics["zeroshot/num_templates"] == 20
