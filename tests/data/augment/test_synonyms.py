"""Synonyms from a user's table: what is found in a caption, and what is wrong with a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import pytest

from mmcl.data.augment.synonyms import Synonyms, read_synonyms
from mmcl.errors import ConfigError, DataError

TABLE = Synonyms(
    {"dog": ["hound"], "hot dog": ["sausage"], "t-shirt": ["jersey"], "NYC": ["big apple"], "don't": ["do not"]}
)


@pytest.mark.parametrize(
    ("caption", "replaced"),
    [
        ("a dog", "a hound"),
        ("A Dog, a DOG; dogs and adog!", "A Hound, a HOUND; dogs and adog!"),
        ("a hot dog.", "a sausage."),
        ("Hot  Dog (dog)", "Sausage (hound)"),
        ("hot, dog", "hot, hound"),  # no phrase across a comma
        ("a hot t-shirt in nyc", "a hot jersey in big apple"),
        ("I don't", "I do not"),
        ("nothing here", "nothing here"),
        ("", ""),
        ("dog", "hound"),
        ("dog\tdog", "hound\thound"),
    ],
)
def test_words_and_phrases_are_replaced(caption: str, replaced: str) -> None:
    assert TABLE.replace(caption, 1.0, Random(0)) == replaced
    assert TABLE.replace(caption, 0.0, Random(0)) == caption


def test_each_word_has_its_own_lot_and_alternatives_are_even() -> None:
    table, number = Synonyms({"dog": ["hound", "pup", "puppy"]}), 6000
    drawn = [table.replace("dog", 0.6, Random(seed)) for seed in range(number)]
    for word, chance in {"dog": 0.4, "hound": 0.2, "pup": 0.2, "puppy": 0.2}.items():
        assert abs(drawn.count(word) / number - chance) < 5 * math.sqrt(chance * (1 - chance) / number)
    pairs = [TABLE.replace("dog dog", 0.5, Random(seed)) for seed in range(number)]
    both = pairs.count("hound hound") / number
    assert abs(both - 0.25) < 5 * math.sqrt(0.25 * 0.75 / number)
    assert TABLE.replace("dog dog", 0.5, Random(4)) == TABLE.replace("dog dog", 0.5, Random(4))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_files_say_the_same(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"table{suffix}"
    if suffix == ".jsonl":
        entries = [
            {"word": "dog", "alternatives": ["hound", "pup"]},
            {"word": "hot dog", "alternatives": "sausage"},
            {"word": "Dog", "alternatives": ["puppy", "pup"]},
        ]
        file.write_text("\n\n".join(map(json.dumps, entries)) + "\n")
    else:
        comma = "," if suffix == ".csv" else "\t"
        lines = ["word,alternatives", "dog,hound|pup", "", '"hot dog",sausage', "Dog,puppy,pup"]
        file.write_text("\ufeff" + "\r\n".join(line.replace(",", comma) for line in lines), encoding="utf-8")
    table = read_synonyms(file)
    assert len(table) == 2
    assert table.alternatives("DOG") == ["hound", "pup", "puppy"]
    assert table.alternatives("hot  dog") == ["sausage"]
    assert table.alternatives("cat") == []


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "dog,hound\ncat\n", r"a.csv, line 2: 'cat' has no alternative"),
        ("a.csv", "dog,hound\n,cat\n", r"a.csv, line 2: '' is no word"),
        ("a.csv", 'dog,"hound\npup"\n!!!,x\n', r"a.csv, line 3: '!!!' is no word"),
        ("a.csv", "dog,|\n", r"a.csv, line 1: 'dog' has no alternative"),
        ("a.csv", "", "a.csv holds no synonyms"),
        ("a.tsv", "word\tsynonyms\n", "a.tsv holds no synonyms"),
        ("a.csv", b"dog,hound\ncaf\xe9,bar\n", r"a.csv, line 2: not UTF-8"),
        ("a.jsonl", '{"word": "dog", "alternatives": ["x"]}\n{"word": 3}\n', r"a.jsonl, line 2: found .*; want"),
        ("a.jsonl", '{"word": "dog", "alternatives": ["x"]}\n\n{oops\n', r"a.jsonl, line 3: not JSON"),
        ("a.jsonl", '["dog"]\n', r"a.jsonl, line 1: found"),
        ("a.jsonl", '{"word": "dog", "alternatives": [1]}\n', r"a.jsonl, line 1: found"),
        ("a.jsonl", '{"word": "dog", "alternatives": []}\n', r"a.jsonl, line 1: 'dog' has no alternative"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(name: str, text: str | bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=told):
        read_synonyms(file)


def test_missing_files_and_other_endings_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.captions.synonyms: .*none.csv cannot be read \(No such file"):
        read_synonyms(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match=r"table.txt is none of .csv, .tsv, .jsonl"):
        read_synonyms(tmp_path / "table.txt")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_synonyms(tmp_path / "folder.csv")


@pytest.mark.parametrize("table", [{"": ["a"]}, {"dog": []}, {"dog": [" "]}])
def test_bad_tables_are_told(table: dict[str, list[str]]) -> None:
    with pytest.raises(DataError, match="want a word and what may stand for it"):
        Synonyms(table)
