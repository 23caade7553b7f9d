"""Mined negatives: found for the right rows, written whole, and joined to the rows they were mined for alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.build import mine_negatives
from mmcl.config import recipe_from_tree
from mmcl.data.caption_groups import caption_groups, twin_ids
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.mining.mined import check_mined_path, join_mined, read_mined, row_fingerprint
from mmcl.data.mining.offline_mining import Embed, MiningPlan, mine_dataset
from mmcl.data.splits.training_splits import load_splits
from mmcl.errors import ConfigError, DataError, ShapeError

DIM = 6


class Nowhere:
    """An image store without images; the fingerprint is its own."""

    def __init__(self, rows: Sequence[int], name: str = "a") -> None:
        self.rows, self.name = list(rows), name

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: np.ndarray) -> Nowhere:
        return Nowhere([self.rows[row] for row in rows], self.name)

    def describe(self, row: int) -> str:
        return f"image {self.rows[row]}"

    def fingerprint(self) -> str:
        return f"{self.name} {self.rows}"


def dataset(
    texts: list[list[str]], groups: list[str | None] | None = None, negatives: list[list[str]] | None = None
) -> ImageTextDataset:
    columns: dict = {"id": [f"row {row}" for row in range(len(texts))], "texts": texts}
    if groups is not None:
        columns["group"] = pa.array(groups, pa.string())
    if negatives is not None:
        columns["negatives"] = pa.array(negatives, pa.list_(pa.string()))
    return ImageTextDataset(Nowhere(range(len(texts))), pa.table(columns), name="data/some:train")


def unit(name: str) -> Tensor:
    draw = torch.Generator().manual_seed(sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 2**31)
    return F.normalize(torch.randn(DIM, generator=draw), dim=0)


class Model:
    """Unit rows by name: an image's is near its number's; counts what it embeds."""

    def __init__(self, unreadable: Sequence[int] = (), fail_after: int | None = None) -> None:
        self.unreadable, self.fail_after, self.embedded = set(unreadable), fail_after, 0

    def texts(self, texts: Sequence[str]) -> Tensor:
        self._count(len(texts))
        return torch.stack([unit(text) for text in texts])

    def images(self, part: ImageTextDataset) -> tuple[Tensor, np.ndarray]:
        rows = [place for place, row in enumerate(part.images.rows) if row not in self.unreadable]
        self._count(len(rows))
        vectors = [unit(f"image {part.images.rows[place]}") for place in rows]
        return torch.stack(vectors) if vectors else torch.empty(0, DIM), np.asarray(rows, dtype=np.int64)

    def _count(self, number: int) -> None:
        if self.fail_after is not None and self.embedded >= self.fail_after:
            raise KeyboardInterrupt
        self.embedded += number

    def embed(self) -> Embed:
        return Embed(DIM, self.texts, self.images)


TEXTS = [["red", "crimson"], ["blue"], ["green", "red"], ["blue", "navy"], ["rose"], ["teal"], ["grey", "ash", "dim"]]
GROUPS = ["a", "b", "c", "d", "a", "e", "f"]
LOOSE = MiningPlan(4, 3, positive_margin=None, near_duplicate=None)


def mined(folder: Path, data: ImageTextDataset, plan: MiningPlan = LOOSE, model: Model | None = None) -> pa.Table:
    mine_dataset(data, (model or Model()).embed(), folder / "out.parquet", model="m", plan=plan)
    return read_mined(folder / "out.parquet")[0]


# -- mining --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unreadable", [(), (3, 6)])
@pytest.mark.parametrize(
    "plan", [LOOSE, MiningPlan(3, 2, 1.5, 0.6, 1), MiningPlan(2, 0), MiningPlan(0, 2, 1.9)], ids=str
)
def test_equals_a_loop_over_rows(tmp_path: Path, plan: MiningPlan, unreadable: tuple[int, ...]) -> None:
    table = mined(tmp_path, dataset(TEXTS, GROUPS), plan, Model(unreadable)).to_pylist()
    captions = list(dict.fromkeys(text for texts in TEXTS for text in texts))

    def left(query: Tensor, p: float, own: list[Tensor], candidates: list[tuple[object, Tensor]], k: int) -> list:
        limit = np.inf if plan.positive_margin is None else p - (1 - plan.positive_margin) * abs(p)
        near = 2.0 if plan.near_duplicate is None else plan.near_duplicate
        kept = [
            (float(query @ vector), name)
            for name, vector in candidates
            if float(query @ vector) <= limit and max(float(item @ vector) for item in own) < near
        ]
        kept.sort(key=lambda found: -found[0])
        return [name for _, name in kept[plan.skip_nearest :][:k]]

    for row, found in enumerate(table):
        assert (found["row"], found["id"]) == (row, f"row {row}")
        if row in unreadable:
            assert found["negatives"] == found["negative_rows"] == []
            continue
        image, own = unit(f"image {row}"), [unit(text) for text in TEXTS[row]]
        right = {text for other, texts in enumerate(TEXTS) if GROUPS[other] == GROUPS[row] for text in texts}
        wrong = [(text, unit(text)) for text in captions if text not in right]
        mean = torch.stack(own).mean(0)
        assert found["negatives"] == left(image, float(mean @ image), own, wrong, plan.captions_per_row)
        query = F.normalize(mean, dim=0)
        others = [
            (other, unit(f"image {other}"))
            for other in range(len(TEXTS))
            if other not in unreadable and GROUPS[other] != GROUPS[row] and not set(TEXTS[other]) & set(TEXTS[row])
        ]
        assert found["negative_rows"] == left(query, float(query @ image), [image], others, plan.images_per_row)
        assert found["negative_row_scores"] == pytest.approx(
            [float(query @ unit(f"image {other}")) for other in found["negative_rows"]], abs=1e-6
        )
        assert found["negative_scores"] == pytest.approx(
            [float(image @ unit(text)) for text in found["negatives"]], abs=1e-6
        )


def test_what_is_kept_with_the_file(tmp_path: Path) -> None:
    data = dataset(TEXTS, GROUPS)
    told = mine_dataset(data, Model([3]).embed(), tmp_path / "out.parquet", model="m", plan=MiningPlan(2, 0))
    _, about = read_mined(tmp_path / "out.parquet")
    assert about == {"layout": 1, **told}
    assert about["data"] == "data/some:train"
    assert about["fingerprint"] == row_fingerprint(data)
    assert (about["rows"], about["model"]) == (7, "m")
    assert about["parameters"]["captions_per_row"] == 2
    counts = about["counts"]
    assert (counts["images"], counts["unreadable_images"], counts["distinct_captions"]) == (6, 1, 10)
    assert counts["captions_positives_left_out"] == 3 + 1 + 2 + 3 + 1 + 3  # rows 0, 1, 2, 4, 5, 6
    assert "images_mined" not in counts
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]  # nothing partial is left


def test_a_broken_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcl.data.embedding_files.CHUNK_ROWS", 2)
    monkeypatch.setattr("mmcl.data.mining.offline_mining.CHUNK_ROWS", 2)
    data, out = dataset(TEXTS, GROUPS), tmp_path / "broken" / "out.parquet"
    out.parent.mkdir()
    whole = mined(tmp_path, data)
    for stop in (4, 5, 2):
        model = Model(fail_after=stop)
        with pytest.raises(KeyboardInterrupt):
            mine_dataset(data, model.embed(), out, model="m", plan=LOOSE)
        assert not out.exists()
    last = Model()
    titles: list[tuple[str, int, int]] = []
    mine_dataset(data, last.embed(), out, model="m", plan=LOOSE, progress=lambda *told: titles.append(told))
    assert 0 < last.embedded < 17  # of 7 images and 10 captions
    assert read_mined(out)[0].equals(whole)
    assert {title for title, _, _ in titles} == {
        *("embedding images", "embedding captions", "searching wrong captions", "searching wrong images")
    }
    assert ("searching wrong images", 7, 7) in titles
    other = Model()
    mine_dataset(data, other.embed(), out, model="another", plan=LOOSE)
    assert other.embedded == 17  # nothing of another model's is taken


def test_what_a_broken_run_left_is_not_taken_for_changed_data(tmp_path: Path) -> None:
    out, model = tmp_path / "out.parquet", Model(fail_after=7)
    with pytest.raises(KeyboardInterrupt):
        mine_dataset(dataset(TEXTS, GROUPS), model.embed(), out, model="m", plan=LOOSE)
    data = dataset(TEXTS, GROUPS)
    data.images.name = "changed"
    again = Model()
    mine_dataset(data, again.embed(), out, model="m", plan=LOOSE)
    assert again.embedded == 17


def test_few_negatives_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = dataset(TEXTS, GROUPS)
    mined(tmp_path, data)
    assert caplog.text == ""
    mined(tmp_path, data, MiningPlan(2, 0, positive_margin=None, near_duplicate=-1.0))
    assert "7 of 7 rows get fewer wrong captions than asked for (left out: 0 pairs above the margin" in caplog.text


def test_what_cannot_be_mined_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    data = dataset(TEXTS, GROUPS)
    with pytest.raises(DataError, match="none of its 7 images can be read"):
        mine_dataset(data, Model(range(7)).embed(), out, model="m", plan=LOOSE)
    broken = Embed(DIM, lambda texts: torch.full((len(texts), DIM), torch.nan), Model().images)
    with pytest.raises(ShapeError, match="caption embeddings are not finite"):
        mine_dataset(data, broken, out, model="broken", plan=LOOSE)
    with pytest.raises(ConfigError, match="captions_per_row is 0 and images_per_row 0"):
        MiningPlan(0, 0)
    with pytest.raises(ConfigError, match="near_duplicate is 3"):
        MiningPlan(near_duplicate=3.0)
    for path, named in (("a.csv", "ends in .parquet"), ("none/a.parquet", "there is no folder")):
        with pytest.raises(ConfigError, match=named):
            check_mined_path(tmp_path / path)


# -- captions of several groups ------------------------------------------------------------------------------------


def test_captions_and_their_groups() -> None:
    data = dataset(TEXTS, GROUPS)
    found = caption_groups(data)
    groups = found.groups.tolist()
    pairs = {(found.captions[c], int(g)) for c, g in found.further.tolist()}
    pairs |= {(found.captions[c], int(g)) for c, g in enumerate(found.first_group)}
    assert pairs == {(text, groups[row]) for row, texts in enumerate(TEXTS) for text in texts}
    assert [[found.captions[c] for c in found.caption_of[a:b]] for a, b in zip(found.starts, found.starts[1:])] == TEXTS
    shared = [(row, found.captions[caption]) for row, caption in found.shared().tolist()]
    assert shared == [(0, "red"), (1, "blue"), (2, "red"), (3, "blue")]


@pytest.mark.parametrize(
    ("texts", "groups", "twins"),
    [
        (TEXTS, GROUPS, [0, 1, 0, 1, 0, 2, 3]),
        ([["a"], ["b"], ["a"]], None, [0, 1, 0]),
        ([["a", "b"], ["b", "c"], ["c", "d"], ["e"]], None, [0, 0, 0, 1]),  # through others
        ([["a"], ["b"], ["c"]], ["x", "y", "x"], [0, 1, 0]),
        ([[f"{n}", f"{n + 1}"] for n in range(50)], None, [0] * 50),  # a long chain
        ([[f"{n}", f"{(n * 7) % 50}"] for n in range(50)], None, None),
    ],
)
def test_twins_share_a_group_or_a_caption(texts: list, groups: list | None, twins: list | None) -> None:
    ids = twin_ids(dataset(texts, groups)).tolist()
    sets = [{("g", groups[row]) if groups else ("r", row), *texts[row]} for row in range(len(texts))]
    label = list(range(len(texts)))  # a naive union of all pairs that share something
    for _ in texts:
        for i, one in enumerate(sets):
            for j, other in enumerate(sets):
                if one & other:
                    label[i] = label[j] = min(label[i], label[j])
    for expected in (label, *([twins] if twins else ())):
        assert len(set(zip(ids, expected))) == len(set(ids)) == len(set(expected))


# -- joining -------------------------------------------------------------------------------------------------------


def test_mined_negatives_join_behind_the_datas_own(tmp_path: Path) -> None:
    plain = dataset(TEXTS, GROUPS)
    table = mined(tmp_path, plain)
    joined = join_mined(plain, tmp_path / "out.parquet")
    assert joined.column("negatives") == table["negatives"].to_pylist()
    assert joined.column("negative_rows") == table["negative_rows"].to_pylist()
    assert joined.texts(2) == TEXTS[2]
    first = table["negatives"].to_pylist()[0]
    own = dataset(TEXTS, GROUPS, [["my own", first[1]], *[None] * 6])
    both = join_mined(own, tmp_path / "out.parquet")
    assert both.column("negatives")[0] == ["my own", first[1], *(text for text in first if text != first[1])]
    assert both.column("negatives")[1:] == table["negatives"].to_pylist()[1:]
    again = join_mined(both, tmp_path / "out.parquet")
    assert again.column("negatives") == both.column("negatives")


def test_other_rows_are_refused(tmp_path: Path) -> None:
    data = dataset(TEXTS, GROUPS)
    mined(tmp_path, data)
    path = tmp_path / "out.parquet"
    others = {
        "fewer rows": data.select(range(6)),
        "another order": data.select([1, 0, *range(2, 7)]),
        "another caption": dataset([["scarlet"], *TEXTS[1:]], GROUPS),
        "another group": dataset(TEXTS, [*GROUPS[:-1], "a"]),
    }
    for other in others.values():
        with pytest.raises(
            DataError, match=r"out.parquet holds negatives for 7 rows.*mmcl data mine m data/some:train -o"
        ):
            join_mined(other, path)
    moved = dataset(TEXTS, GROUPS)
    moved.images.name = "moved"
    join_mined(moved, path)  # where the images lie does not matter


def test_other_files_are_refused(tmp_path: Path) -> None:
    data = dataset(TEXTS, GROUPS)
    with pytest.raises(DataError, match="there is no file of mined negatives"):
        join_mined(data, tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"text.parquet: cannot be read"):
        join_mined(data, tmp_path / "text.parquet")
    pq.write_table(pa.table({"negatives": [["a"]] * 7}), tmp_path / "own.parquet")
    with pytest.raises(DataError, match="did not write this file.*data.columns.negatives"):
        join_mined(data, tmp_path / "own.parquet")
    table = mined(tmp_path, data)
    about = json.dumps({**json.loads(table.schema.metadata[b"mmcl_mined"]), "layout": 99}).encode()
    pq.write_table(table.replace_schema_metadata({b"mmcl_mined": about}), tmp_path / "newer.parquet")
    with pytest.raises(DataError, match="another version"):
        join_mined(data, tmp_path / "newer.parquet")


# -- rows that are left --------------------------------------------------------------------------------------------


def test_selected_rows_are_renumbered(tmp_path: Path) -> None:
    data = dataset(TEXTS, GROUPS)
    rows = pa.array([[1, 2], [0], None, [], [6, 5, 4], [3, 3], [0, 1, 2]], pa.list_(pa.int64()))
    data.table = data.table.append_column("negative_rows", rows)
    assert data.select([6, 4, 0, 2]).column("negative_rows") == [[2, 3], [0, 1], [3], []]
    assert data.select(range(7)).column("negative_rows") == [[1, 2], [0], [], [], [6, 5, 4], [3, 3], [0, 1, 2]]
    assert data.select([5, 3, 3]).column("negative_rows") == [[1, 1], [], []]  # the first of repeated rows
    assert data.select([]).column("negative_rows") == []
    twice = data.select([6, 4, 0, 2]).select([3, 2, 1])
    assert twice.column("negative_rows") == [[], [0], [2]]


def test_the_training_split_takes_them_before_rows_are_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw = np.random.default_rng(0)
    image = draw.standard_normal((40, DIM))
    np.savez(tmp_path / "v.npz", image=image, text=image + 0.5 * draw.standard_normal((40, DIM)))
    data = f"vectors:{tmp_path / 'v.npz'}"
    plan = MiningPlan(3, 4, positive_margin=None)
    mine_negatives(data, data, tmp_path / "hard.parquet", plan=plan)
    whole = read_mined(tmp_path / "hard.parquet")[0].to_pylist()
    section = {"path": data, "negatives": str(tmp_path / "hard.parquet"), "max_rows": 30}
    splits = load_splits(recipe_from_tree({"data": {**section, "split": {"validation": None}}}, source="test"))
    assert "no step takes any of them" in caplog.text
    train = splits.train
    assert len(train) == 30
    ids, by_id = train.column("id"), {row["id"]: row for row in whole}
    dropped = 0
    for row, identifier in enumerate(ids):
        wanted = [str(other) for other in by_id[identifier]["negative_rows"]]
        assert [ids[other] for other in train.value("negative_rows", row)] == [w for w in wanted if w in ids]
        assert train.value("negatives", row) == by_id[identifier]["negatives"]
        dropped += len([w for w in wanted if w not in ids])
    assert dropped > 0
    np.savez(tmp_path / "v.npz", image=image[:30], text=image[:30])
    with pytest.raises(DataError, match="holds negatives for 40 rows"):
        load_splits(recipe_from_tree({"data": {**section, "split": {"validation": None}}}, source="test"))
