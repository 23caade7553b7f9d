"""The front matter of a card: what the Hub takes, what it does not, and where the fault stands."""

from __future__ import annotations

import pytest
import yaml

from mmcl.data.cards.front_matter import check_front_matter, dump_front_matter, read_front_matter
from mmcl.data.cards.vocabulary import LANGUAGES, LICENSES, SIZES, asks_credit, license_id, size_category

GOOD = {
    "pretty_name": "Apples",
    "license": "cc-by-4.0",
    "language": ["en", "de"],
    "task_categories": ["image-to-text"],
    "size_categories": ["n<1K"],
    "tags": ["fruit"],
    "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train/**"}]}],
}


def faults(**changed: object) -> list[str]:
    values = {key: value for key, value in {**GOOD, **changed}.items() if value is not None}
    return [str(fault) for fault in check_front_matter(read_front_matter(dump_front_matter(values) + "# x\n"))]


def test_a_good_one_has_no_fault_and_is_what_the_hub_library_reads() -> None:
    from huggingface_hub import DatasetCard

    assert faults() == []
    text = dump_front_matter(GOOD) + "# Apples\n"
    assert DatasetCard(text).data.to_dict() == GOOD
    front = read_front_matter(text)
    assert (front.values, front.body) == (GOOD, "# Apples\n")
    assert text.splitlines()[front.body_line - 1] == "# Apples"
    assert all(text.splitlines()[line - 1].startswith(f"{key}:") for key, line in front.lines.items())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"license": "cc-by-4"}, r"license: 'cc-by-4' is no licence of the Hub; did you mean 'cc-by-"),
        ({"license": "Apache 2.0"}, "did you mean 'apache-2.0'"),
        ({"license": ["mit", "mine"]}, "'mine' is no licence"),
        ({"license": "other"}, "'other' wants license_name and license_link"),
        ({"license": None}, "license: is missing"),
        ({"language": "en"}, r"language: want a list, got 'en'; write \[en\]"),
        ({"language": ["english"]}, "'english' is no ISO 639-1 code"),
        ({"language": ["EN"]}, "'EN' is no ISO 639-1 code"),
        ({"language": ["xx"]}, "'xx' is no ISO 639-1 code"),
        ({"language": ["en", False]}, r'want text, got False; put it in quotes: "no"'),
        ({"language": []}, "language: is missing"),
        ({"task_categories": ["image-text-retrieval"]}, "'image-text-retrieval' is no task of the Hub; did you mean"),
        ({"size_categories": ["1k<n<10k"]}, "'1k<n<10k' is no size category"),
        ({"pretty_name": 7}, "pretty_name: want text, got 7"),
        ({"tags": "fruit"}, "tags: want a list"),
        ({"configs": [{"data_files": "x"}]}, "no config_name"),
        ({"configs": [{"config_name": "d", "data_files": [{"split": "train"}]}]}, "wants split and path"),
        ({"configs": [{"config_name": "d", "data_files": [{"split": "a-b", "path": "x"}]}]}, "the split 'a-b'"),
        ({"configs": "all"}, "configs: want a list"),
    ],
)
def test_each_fault_is_told_by_its_key(changed: dict, told: str) -> None:
    import re

    found = faults(**changed)
    assert len(found) >= 1
    assert any(re.search(told, fault) for fault in found), found


def test_other_licences_and_three_letters_are_fine() -> None:
    assert faults(license="other", license_name="mine", license_link="LICENSE") == []
    assert faults(language=["gsw", "multilingual", "code"]) == []
    assert faults(license=["mit", "cc0-1.0"]) == []


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("# no front matter\n", 1, "there is none"),
        ("---\na: [1\n---\n# x\n", 3, "no YAML"),
        ("---\na: 1\nb: '\n---\n# x\n", 3, "no YAML"),
        ("---\n- a\n---\n# x\n", 2, "holds no keys"),
        ("---\na: 1\na: 2\n---\n# x\n", 3, "stands twice"),
        ("---\na: 1\n# x\n", 1, "there is none"),
        ("", 1, "there is none"),
    ],
)
def test_what_cannot_be_read_says_where(text: str, line: int, told: str) -> None:
    fault = check_front_matter(read_front_matter(text))[0]
    assert told in str(fault)
    assert fault.line in (line, line + 1)  # YAML's own mark may stand behind an open bracket


def test_the_line_is_that_of_the_key() -> None:
    text = "---\npretty_name: x\n# a comment\nlicense: nope\nlanguage:\n- en\n- qq\n---\n# x\n"
    found = {fault.about: fault.line for fault in check_front_matter(read_front_matter(text))}
    assert (found["license"], found["language"]) == (4, 5)


def test_sizes_follow_the_rows() -> None:
    edges = [
        (0, "n<1K"),
        (999, "n<1K"),
        (1_000, "1K<n<10K"),
        (32_000, "10K<n<100K"),
        (10**6, "1M<n<10M"),
        (10**13, "n>1T"),
    ]
    assert [size_category(rows) for rows, _ in edges] == [name for _, name in edges]
    assert set(SIZES) >= {name for _, name in edges}
    assert len(SIZES) == 11


def test_licences_as_data_write_them() -> None:
    assert [license_id(name) for name in ("Apache-2.0", "CC BY 4.0", "cc_by_4.0", "mine")] == [
        "apache-2.0", "cc-by-4.0", "cc-by-4.0", None,
    ]  # fmt: skip
    assert asks_credit("CC-BY-SA-4.0")
    assert not asks_credit("CC0-1.0")
    assert len(LANGUAGES) > 180
    assert "no" in LANGUAGES
    assert yaml.safe_load("[no]") == [False]  # why the check above looks for a boolean
    assert "mit" in LICENSES
