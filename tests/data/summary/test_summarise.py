"""Figures of a split against loops over its rows, and on sets of a few rows made by hand."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from stored_items import encode, write_json_lines

from mmcl import data
from mmcl.batch import SkippedRow
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.images.arrow_bytes import BytesImages
from mmcl.data.scan.images import scan_images
from mmcl.data.shapes.images import ArrayImages
from mmcl.data.summary import summarise
from mmcl.data.summary.captions import read_captions, repeat_facts
from mmcl.data.summary.distributions import spread_of
from mmcl.data.summary.overlap import split_overlaps
from mmcl.data.summary.summarising import sample_rows

WORDS = ["dog", "a", "Straße", "犬", "naïve", "two\u3000three", "x\ty", "c-d", "1,2"]


def make(texts: list[list[str]], **columns: list) -> ImageTextDataset:
    table = pa.table({"texts": pa.array(texts, pa.list_(pa.string())), **columns})
    images = ArrayImages(np.zeros((len(texts), 2, 2, 3), np.uint8), name="made")
    return ImageTextDataset(images, table, name="made")


@pytest.fixture(scope="module")
def drawn() -> ImageTextDataset:
    """60 rows of one to three captions that often repeat, some with a group, a label, tags."""
    rng = random.Random(0)
    captions = [" ".join(rng.choices(WORDS, k=rng.randint(1, 4))) for _ in range(40)]
    texts = [rng.choices(captions, k=rng.randint(1, 3)) for _ in range(60)]
    return make(
        texts,
        label=pa.array([rng.choice(["cat", "dog", "dog", None, ""]) for _ in texts], pa.string()),
        group=pa.array([rng.choice(["1", "2", "3", None]) for _ in texts], pa.string()),
        tags=pa.array([rng.choice([None, [], ["a"], ["a", "b"]]) for _ in texts], pa.list_(pa.string())),
        year=pa.array([rng.choice([None, 1, 2]) for _ in texts], pa.int32()),
    )


def naive_spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)

    def at(level: float) -> float:
        return ordered[max(0, math.ceil(level * len(ordered) - 1e-9) - 1)]

    return {
        "count": len(ordered), "min": ordered[0], "p5": at(0.05), "median": at(0.5), "p95": at(0.95), "p99": at(0.99),
        "max": ordered[-1], "mean": round(sum(ordered) / len(ordered), 4),
    }  # fmt: skip


@pytest.mark.parametrize("number", [1, 2, 5, 100, 101])
def test_percentiles_are_observed_values(number: int) -> None:
    rng = random.Random(number)
    values = [rng.randint(0, 30) for _ in range(number)]
    assert vars(spread_of(np.array(values))) == naive_spread(values)
    if number > 5:
        assert vars(spread_of(np.array(values) + 1)) != naive_spread(values)


def test_captions_are_counted_as_a_loop_counts_them(drawn: ImageTextDataset) -> None:
    facts = summarise(drawn).captions
    texts = [drawn.texts(row) for row in range(len(drawn))]
    flat = list(itertools.chain(*texts))
    assert (facts.total, facts.distinct) == (len(flat), len(set(flat)))
    assert vars(facts.per_row) == naive_spread([len(own) for own in texts])
    assert vars(facts.characters) == naive_spread([len(text) for text in flat])
    assert vars(facts.words) == naive_spread([len(text.split()) for text in flat])
    assert facts.longest == max(dict.fromkeys(flat), key=len)


def clip_tokenizer():
    """open_clip's tokenizer without the rest of open_clip, which takes seconds to import."""
    folder = Path(importlib.util.find_spec("open_clip").origin).parent
    spec = importlib.util.spec_from_file_location("clip_tokenizer_alone", folder / "tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


def test_long_captions_are_those_the_tokenizer_cuts() -> None:
    tokenizer = clip_tokenizer()
    rng = random.Random(1)
    words = ["a", "red", "dog", "stands", "behind", "two", "wooden", "houses", "near", "the", "photographer"]
    captions = [" ".join(rng.choices(words, k=rng.choice([5, 30, 50, 90, 120]))) for _ in range(200)]
    captions += ["犬が" * 40, "кошка на столе " * 12, "кошка"]
    over = [len(tokenizer.encode(text)) + 2 > 77 for text in captions]
    estimate = summarise(make([[text] for text in captions])).captions.over_context
    assert 0.2 < np.mean(over) < 0.8
    assert abs(estimate - np.mean(over)) < 0.02


def naive_repeats(dataset: ImageTextDataset, batch: int) -> tuple[int, int, float, float]:
    groups = dataset.group_ids().tolist()
    texts = [dataset.texts(row) for row in range(len(dataset))]
    of: dict[str, set[int]] = {}
    for row, own in enumerate(texts):
        for text in own:
            of.setdefault(text, set()).add(groups[row])
    several = {text for text, found in of.items() if len(found) > 1}
    rows = sum(bool(several & set(own)) for own in texts)
    equal = negative = 0.0
    for one, other in itertools.combinations(range(len(texts)), 2):
        chance = sum(a == b for a in texts[one] for b in texts[other]) / (len(texts[one]) * len(texts[other]))
        equal += chance
        negative += chance * (groups[one] != groups[other])
    share = math.comb(batch, 2) / math.comb(len(texts), 2)
    return len(several), rows, round(equal * share, 6), round(negative * share, 6)


def test_false_negatives_are_those_of_all_pairs(drawn: ImageTextDataset) -> None:
    captions, groups = read_captions(drawn), drawn.group_ids().numpy()
    for batch in (2, 16, 60, 256):
        facts = repeat_facts(captions, groups, batch_size=batch)
        batch = min(batch, 60)
        found = (facts.captions, facts.rows, facts.equal_pairs, facts.negative_pairs)
        assert facts.batch_size == batch
        assert found == pytest.approx(naive_repeats(drawn, batch), abs=2e-6)
    assert 0 < facts.negative_pairs < facts.equal_pairs


def test_false_negatives_are_those_that_batches_meet(drawn: ImageTextDataset) -> None:
    # The same by drawing: 4,000 batches of 8, each row showing one of its captions.
    rng = random.Random(0)
    groups, texts = drawn.group_ids().tolist(), drawn.column("texts")
    met = 0
    for _ in range(4_000):
        shown = [(rng.choice(texts[row]), groups[row]) for row in rng.sample(range(60), 8)]
        met += sum(a[0] == b[0] and a[1] != b[1] for a, b in itertools.combinations(shown, 2))
    facts = repeat_facts(read_captions(drawn), drawn.group_ids().numpy(), batch_size=8)
    assert met / 4_000 == pytest.approx(facts.negative_pairs, rel=0.1)


def test_six_rows_by_hand() -> None:
    texts = [["a dog"], ["a dog"], ["a cat"], ["a cat", "a dog"], ["一匹の犬がいます"], ["a bird"]]
    made = make(texts, label=pa.array(["x", "x", "x", "y", None, ""]), domain=pa.array(["p"] * 6))
    made.skipped = [SkippedRow(3, "t.csv:4", "no image 7.png"), SkippedRow(9, "t.csv:10", "no image 8.png")]
    found = summarise(made)
    assert (found.rows, found.skipped, found.skipped_reasons) == (6, 2, {"no image ...": 2})
    assert found.skipped_examples[0] == ("t.csv:4", "no image 7.png")
    # Rows 0 and 1 are one group; row 3 shares each of its captions with another group, so 0, 1, 2 and 3 are concerned.
    assert (found.repeats.captions, found.repeats.rows, found.repeats.share) == (2, 4, 4 / 6)
    assert found.repeats.equal_pairs == 1 + 3 * 0.5  # 0-1 always; 0-3, 1-3 and 2-3 every other time
    assert found.repeats.negative_pairs == 3 * 0.5
    assert found.repeats.most_repeated == {"a dog": 3, "a cat": 2}
    assert (found.groups.count, found.groups.sizes, found.groups.from_column) == (5, {1: 4, 2: 1}, False)
    assert found.labels is not None
    assert (found.labels.filled, found.labels.top, found.labels.largest_share) == (4, {"x": 3, "y": 1}, 0.75)
    assert {column.name: (column.type, column.filled) for column in found.columns} == {
        "label": ("string", 4 / 6), "domain": ("string", 1.0),
    }  # fmt: skip
    assert found.languages.scripts == {"Latin": 6 / 7, "Kana": 1 / 7}
    assert found.languages.languages["ja"] == 1 / 7
    assert found.images is None
    json.dumps(found.as_dict())


def test_columns_are_filled_as_a_loop_finds_them(drawn: ImageTextDataset) -> None:
    found = summarise(drawn)
    for column in found.columns:
        values = drawn.column(column.name)
        assert column.filled == sum(value not in (None, "", []) for value in values) / 60, column.name
    assert {column.name for column in found.columns} == {"label", "group", "tags", "year"}
    labels = Counter(value for value in drawn.column("label") if value)
    assert found.labels is not None
    assert found.labels.top == dict(labels.most_common())
    assert found.labels.smallest == min(labels.values())
    tags = Counter(tag for own in drawn.column("tags") for tag in own or [])
    assert found.tags is not None
    assert found.tags.tags.top == dict(tags.most_common())
    assert vars(found.tags.per_row) == naive_spread([len(own or []) for own in drawn.column("tags")])
    sizes = Counter(Counter(drawn.group_ids().tolist()).values())
    assert found.groups.sizes == dict(sorted(sizes.items()))


def test_no_rows_are_no_error() -> None:
    found = summarise(make([["a"]]).select([]))
    assert (found.rows, found.captions.total, found.repeats.equal_pairs, found.groups.sizes) == (0, 0, 0.0, {})
    assert found.languages.languages == {}
    assert found.as_dict()["captions"]["longest"] == ""


def test_images_are_summed_up_as_pillow_sees_them() -> None:
    rng = np.random.default_rng(0)
    sizes = [(40, 30), (20, 90), (64, 64), (64, 64)]
    pictures = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
    pictures[1] = pictures[1].convert("L")
    files = [encode(picture, kind) for picture, kind in zip(pictures, ["PNG", "JPEG", "WEBP", "PNG"])]
    files += [files[0], encode(Image.new("RGB", (50, 50), "white")), b"no image", encode(pictures[0])[:60]]
    images = BytesImages(pa.chunked_array([pa.array(files)]), source="made", root=Path())
    dataset = ImageTextDataset(images, pa.table({"texts": [["a"]] * 8}), name="made")
    found = summarise(dataset, scan_images(dataset)).images
    assert found is not None
    assert (found.looked_at, found.unreadable, sum(found.problems.values())) == (8, 2, 2)
    assert found.formats == {"PNG": 5, "JPEG": 1, "WEBP": 1}
    assert found.modes == {"RGB": 6, "L": 1}
    known = [*sizes, sizes[0], (50, 50), sizes[0]]  # of the one cut short the header tells the size
    assert vars(found.width) == naive_spread([w for w, _ in known])
    assert vars(found.shorter_side) == naive_spread([min(size) for size in known])
    assert vars(found.aspect) == naive_spread([round(w / h, 4) for w, h in known])
    assert vars(found.bytes) == naive_spread([len(file) for file in files])
    assert (found.tiny, found.blank, found.repeated) == (sum(min(size) < 32 for size in known), 1, 1)
    assert found.tiny == 4
    assert summarise(dataset, scan_images(dataset.select([]))).images.looked_at == 0


def test_overlaps_are_those_of_sets() -> None:
    first = make([["a", "b"], ["c"]], group=pa.array(["1", None]))
    second = make([["b"], ["d", "a"], ["b"], ["e"]], group=pa.array(["1", "2", "1", "3"]))
    third = make([["E"]])
    found = {(o.first, o.second): (o.captions, o.rows, o.groups) for o in split_overlaps(
        {"train": first, "test": second, "other": third})}  # fmt: skip
    assert found == {("train", "test"): (2, 3, 1), ("train", "other"): (0, 0, None), ("test", "other"): (0, 0, None)}


def test_samples_are_drawn_by_their_seed() -> None:
    drawn = sample_rows(1_000, 50, seed=3)
    assert len(set(drawn.tolist())) == 50
    assert drawn.tolist() == sorted(drawn.tolist())
    assert drawn.tolist() == sample_rows(1_000, 50, seed=3).tolist() != sample_rows(1_000, 50, seed=4).tolist()
    assert sample_rows(4, 4, seed=0).tolist() == [0, 1, 2, 3]


def test_sources_of_every_kind_can_be_summarised(stored: dict[str, str]) -> None:
    figures = set()
    for reference in stored.values():
        found = summarise(data.load(reference))
        figures.add((found.rows, found.captions.distinct))
    assert (6, 9) in figures
    assert len(figures) <= 2  # a folder of captions beside images has no labels, but the same captions


def test_counts_equal_those_of_the_library_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"file_name": f"{i}.png", "text": f"number {i % 3}", "label": "ab"[i % 2]} for i in range(6)]
    for row in rows:
        Image.new("RGB", (40, 40), (0, 0, 9)).save(tmp_path / row["file_name"])
    write_json_lines(tmp_path / "metadata.jsonl", rows)
    theirs = datasets.Dataset.from_json(str(tmp_path / "metadata.jsonl"), cache_dir=str(tmp_path / "cache"))
    found = summarise(data.load(tmp_path))
    assert found.rows == theirs.num_rows
    assert found.captions.distinct == len(theirs.unique("text"))
    assert found.labels is not None
    assert set(found.labels.top) == set(theirs.unique("label"))
