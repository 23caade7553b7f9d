"""Damaged and odd tables: what can be read is read, the rest is counted and listed, or one clear error is raised."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored_items import write_csv, write_images, write_json_lines

from mmcl.data import load
from mmcl.errors import ConfigError, DataError

BOM = b"\xef\xbb\xbf"


@pytest.fixture
def folder(tmp_path, items):
    return write_images(tmp_path, items)


def _row(index: int, text: object = "a caption", **more: object) -> dict[str, object]:
    return {"file_name": f"{index}.png", "text": text, **more}


def _reasons(dataset) -> list[tuple[str, str]]:
    return [(row.source.rpartition("/")[2], row.reason) for row in dataset.skipped]


# -- CSV ---------------------------------------------------------------------------------------------------------


def test_a_csv_with_a_mark_quotes_and_newlines_is_as_the_standard_reader_has_it(folder):
    rows = [_row(0, 'say "hi", twice'), _row(1, "two\nlines\r\nthree"), _row(2, "ends in ''"), _row(3, " ü ,;|\t")]
    path = write_csv(folder / "t.csv", rows)
    path.write_bytes(BOM + path.read_bytes())
    with open(path, newline="", encoding="utf-8-sig") as file:
        expected = [row["text"].strip() for row in csv.DictReader(file)]
    dataset = load(path)
    assert [texts[0] for texts in dataset.column("texts")] == expected
    assert expected[1].count("\n") == 2
    assert dataset.skipped == []
    assert dataset.column("id") == [f"{n}.png" for n in range(4)]


@pytest.mark.parametrize(
    "text",
    [
        'file_name,text\n0.png,a\n1.png,"never closed\n2.png,b\n',
        'file_name,text\n0.png,a\n1.png,"opens here\n2.png,"and here"\n3.png,b\n',
        'file_name,text\n0.png,a\n1.png,"opens\n2.png,b\n3.png,"c, d"\n4.png,e\n',
    ],
)
def test_a_quote_that_swallows_rows_is_an_error_with_its_line(folder, text):
    (folder / "t.csv").write_text(text)
    with pytest.raises(DataError, match=r"t\.csv:3: a quote opens in this row and is not closed.*twice"):
        load(folder / "t.csv")


def test_a_quote_that_swallows_more_than_a_block_is_an_error(folder, monkeypatch):
    monkeypatch.setattr("mmcl.data.sources.tables.csv_lines._BLOCK_BYTES", 1 << 10)
    path = folder / "t.csv"
    path.write_text('file_name,text\n0.png,a\n1.png,"never closed\n' + "2.png,b\n" * 1000)
    with pytest.raises(DataError, match=r"t\.csv:3: a quote opens"):
        load(path)
    long = "x" * 5000
    path.write_text(f'file_name,text\n0.png,a\n1.png,"{long}"\n2.png,b\n')
    assert load(path).column("texts") == [["a"], [long], ["b"]], "control: a long field is no fault"


def test_quotes_inside_plain_fields_are_text(folder):
    (folder / "t.csv").write_text('file_name,text\n0.png,a 5" nail\n1.png,the "green" door\n')
    assert load(folder / "t.csv").column("texts") == [['a 5" nail'], ['the "green" door']]


def test_missing_fields_and_columns(folder):
    path = folder / "t.csv"
    path.write_text("file_name,text,label\n0.png,a,x\n1.png,b\n2.png\n3.png,c,y,z\n4.png,d,\n")
    dataset = load(path)
    assert dataset.column("id") == ["0.png", "4.png"]
    assert dataset.column("label") == ["x", None]
    assert _reasons(dataset) == [
        ("t.csv:3", "2 fields, wanted 3"),
        ("t.csv:4", "1 fields, wanted 3"),
        ("t.csv:5", "4 fields, wanted 3"),
    ]
    path.write_text("file_name,tags\n0.png,a\n")
    with pytest.raises(DataError, match=r"t\.csv has no column for 'text'.*it has file_name, tags"):
        load(path)


FRENCH = ["un café", "a dog", "le garçon", "two cats", "déjà vu", "a bus"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_file_in_another_encoding_loses_no_rows(folder, encoding, suffix):
    path = folder / f"t.{suffix}"
    if suffix == "csv":
        lines = ["file_name,text", *(f"{n}.png,{text}" for n, text in enumerate(FRENCH))]
    else:
        lines = [json.dumps(_row(n, text), ensure_ascii=False) for n, text in enumerate(FRENCH)]
    path.write_bytes("\n".join(lines).encode(encoding))
    with pytest.raises(
        DataError, match=rf"t\.{suffix} is not UTF-8: 3 of 6 .*:{1 + (suffix == 'csv')} .*café.*\?encoding=cp1252"
    ):
        load(path)
    dataset = load(f"{path}?encoding={encoding}")
    assert [texts[0] for texts in dataset.column("texts")] == FRENCH
    assert dataset.skipped == []
    assert load(f"{path}?encoding=cp437").column("texts") != dataset.column("texts"), "control"
    with pytest.raises(ConfigError, match="encoding=nonsense: no such encoding"):
        load(f"{path}?encoding=nonsense")
    with pytest.raises(DataError, match=r"is not .*name its encoding"):
        load(f"{path}?encoding=ascii")


def test_a_few_damaged_rows_of_a_utf8_file_are_listed(folder):
    path = folder / "t.csv"
    path.write_bytes("file_name,text\n0.png,café\n1.png,".encode() + b"\xe9t\xe9\n2.png,b\xe9,x\n3.png,c\n")
    dataset = load(path)
    assert dataset.column("texts") == [["café"], ["c"]]
    assert _reasons(dataset) == [("t.csv:4", "3 fields, wanted 2"), ("t.csv:3", "not UTF-8")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_mark_names_the_encoding(folder, encoding, suffix):
    path = folder / f"t.{suffix}"
    if suffix == "jsonl":
        write_json_lines(path, [_row(0, "café"), _row(1, "b")])
    else:
        write_csv(path, [_row(0, "café"), _row(1, "b")], "\t" if suffix == "tsv" else ",")
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    assert load(path).column("texts") == [["café"], ["b"]]


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_is_found_and_told(folder, mark, caplog):
    path = write_csv(folder / "t.csv", [_row(0, "a, b"), _row(1, "c")], mark)
    assert load(path).column("texts") == [["a, b"], ["c"]]
    assert f"separated by {mark!r}, not by ','" in caplog.text


def test_a_separator_may_be_named(folder):
    (folder / "t.csv").write_text("file_name~text\n0.png~a;b,c\n")
    with pytest.raises(DataError, match="2 fields, wanted 1"):
        load(folder / "t.csv")
    assert load(f"{folder}/t.csv?separator=~").texts(0) == ["a;b,c"]
    (folder / "t.csv").write_text("file_name,x\ttext\n0.png,x\ta\n")
    assert load(f"{folder}/t.csv?separator=tab", columns={"image": "file_name,x"}).texts(0) == ["a"]
    with pytest.raises(ConfigError, match="separator=::: wanted one character"):
        load(f"{folder}/t.csv?separator=::")


def test_nul_bytes_are_listed(folder):
    path = folder / "t.csv"
    path.write_bytes(b"file_name,text\n0.png,a\n1.png,b\0c\n\0\0\0\0,\0\n3.png,d\n")
    dataset = load(path)
    assert dataset.column("texts") == [["a"], ["d"]]
    assert _reasons(dataset) == [(f"t.csv:{n}", "holds NUL bytes: the file is damaged here") for n in (3, 4)]
    path = folder / "t.jsonl"
    lines = [json.dumps(_row(n)).encode() for n in range(3)]
    path.write_bytes(lines[0] + b"\n" + lines[1].replace(b"cap", b"c\0p") + b"\n\0\0\0\n" + lines[2])
    dataset = load(path)
    assert dataset.column("id") == ["0.png", "2.png"]
    assert [place for place, _ in _reasons(dataset)] == ["t.jsonl:2", "t.jsonl:3"]


# -- JSON lines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1 << 24, 300])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", BOM])
def test_one_bad_line_of_many(folder, monkeypatch, blocks, newline, mark):
    monkeypatch.setattr("mmcl.data.sources.tables.json_lines._BLOCK_BYTES", blocks)
    monkeypatch.setattr("mmcl.data.sources.tables.json_lines._PEEK", 100)
    lines = [json.dumps(_row(n, f"ü {n}", label=f"l{n}")).encode() for n in range(100)]
    lines[37] = lines[37][:15]
    lines[70:70] = [b"", b"  ", b'["a", {"b": 1}]']
    path = folder / "t.jsonl"
    path.write_bytes(mark + newline.join(lines))
    dataset = load(path)
    assert dataset.column("id") == [f"{n}.png" for n in range(100) if n != 37]
    assert dataset.column("label") == [f"l{n}" for n in range(100) if n != 37]
    assert [row.source for row in dataset.skipped] == [f"{path}:38", f"{path}:73"]
    assert dataset.skipped[1].reason == "a list, wanted an object"


def test_places_are_right_in_every_block(folder, monkeypatch):
    monkeypatch.setattr("mmcl.data.sources.tables.json_lines._BLOCK_BYTES", 200)
    monkeypatch.setattr("mmcl.data.sources.tables.json_lines._PEEK", 10)
    rows = [_row(n, "" if n % 10 == 3 else "x" * (n * 7 % 150)) for n in range(1, 60)]
    rows[20:20] = ["", ""]
    path = write_json_lines(folder / "t.jsonl", rows)
    expected = [
        number
        for number, line in enumerate(path.read_text().split("\n"), start=1)
        if line and not json.loads(line)["text"]
    ]
    assert [row.source for row in load(path).skipped] == [f"{path}:{number}" for number in expected]


def test_a_first_line_that_is_a_list(folder):
    path = write_json_lines(folder / "t.jsonl", [[1, 2], _row(0), _row(1)])
    dataset = load(path)
    assert dataset.column("id") == ["0.png", "1.png"]
    assert _reasons(dataset) == [("t.jsonl:1", "a list, wanted an object")]


def test_types_that_differ_between_blocks(folder, monkeypatch):
    monkeypatch.setattr("mmcl.data.sources.tables.json_lines._BLOCK_BYTES", 120)
    monkeypatch.setattr("mmcl.data.sources.tables.json_lines._PEEK", 10)
    rows = [
        *(_row(n, f"t{n}", label=n, extra={"a": n}, score=1) for n in range(9)),
        *(_row(n, [f"t{n}", "u"], label=f"x{n}", extra={"b": "y"}, score=0.5) for n in range(9, 18)),
        *(_row(n, None, group=2**60 + n) for n in range(18, 20)),
    ]
    dataset = load(write_json_lines(folder / "t.jsonl", rows))
    assert dataset.column("texts") == [[f"t{n}"] for n in range(9)] + [[f"t{n}", "u"] for n in range(9, 18)]
    assert dataset.column("label") == [str(n) for n in range(9)] + [f"x{n}" for n in range(9, 18)]
    assert dataset.column("extra")[0]["a"] == 0
    assert dataset.column("extra")[17]["b"] == "y"
    assert dataset.column("score") == [1.0] * 9 + [0.5] * 9
    assert [row.reason for row in dataset.skipped] == ["no caption"] * 2
    monkeypatch.undo()
    assert load(folder / "t.jsonl").table.select(["id", "texts", "label"]) == dataset.table.select(
        ["id", "texts", "label"]
    )


@pytest.mark.parametrize("as_list", [False, True])
def test_values_that_are_no_text(folder, as_list):
    lines = [
        json.dumps(_row(0)),
        '{"file_name": "1.png", "text": "\\ud800 half"}',
        '{"file_name": "2.png", "text": NaN}',
    ]
    lines += [json.dumps(_row(3, "\\ud83d\\ude00")), '{"file_name": "4.png", "text": "whole \\ud83d\\ude00"}']
    path = folder / ("t.json" if as_list else "t.jsonl")
    path.write_text(f"[{', '.join(lines)}]" if as_list else "\n".join(lines))
    dataset = load(path)
    assert dataset.column("id") == ["0.png", "3.png", "4.png"]
    assert dataset.texts(2) == ["whole \U0001f600"]
    places = ["item 1", "item 2"] if as_list else ["2", "3"]
    assert [(row.source.rpartition(":")[2], row.reason) for row in dataset.skipped] == [
        (places[0], "no Unicode text: half of a character ('\\ud800')"),
        (places[1], "no caption"),
    ]


def test_deep_nesting_is_one_bad_line(folder):
    dataset = load(write_json_lines(folder / "t.jsonl", [_row(0), '{"text": ' + "[" * 100_000, _row(1)]))
    assert dataset.column("id") == ["0.png", "1.png"]
    assert [row.source.rpartition(":")[2] for row in dataset.skipped] == ["2"]


# -- Parquet -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        (["0.png"], [3], r"t\.parquet: column 'text' holds int64 \(3, \.\.\.\); wanted captions.*columns\.text"),
        (["0.png"], [True], "column 'text' holds bool"),
        (["0.png"], [[3]], "column 'text' holds list<.*int64>"),
        (["0.png"], [{"en": "a"}], "column 'text' holds struct"),
        (["0.png"], [[["a"]]], "column 'text' holds list<.*list"),
        ([0.5], ["a"], r"t\.parquet: the image column holds double"),
        ([["0.png"]], ["a"], "the image column holds list"),
        ([{"name": "0.png"}], ["a"], "the image column holds struct"),
    ],
)
def test_parquet_of_wrong_types(folder, image, text, message):
    pq.write_table(pa.table({"image": image, "text": text}), folder / "t.parquet")
    with pytest.raises(DataError, match=message):
        load(folder / "t.parquet")


def test_damaged_parquet(folder):
    path = folder / "t.parquet"
    table = pa.table({"file_name": [f"{n % 6}.png" for n in range(1000)], "text": [f"text {n}" for n in range(1000)]})
    pq.write_table(table, path)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], whole[:-3], b"", whole[:4] + bytes(200) + whole[204:]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"t\.parquet: no Parquet file, or a damaged one"):
            load(path)
    path.write_bytes(whole)
    assert len(load(path)) == 6, "control"


def test_parquet_text_that_is_not_utf8(folder):
    cells = pa.array([b"good", b"\xff", "café".encode()], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, cells.buffers())
    pq.write_table(
        pa.table({"file_name": ["0.png", "1.png", "2.png"], "n": [0, 1, 2], "text": text}), folder / "t.parquet"
    )
    dataset = load(folder / "t.parquet")
    assert dataset.column("texts") == [["good"], ["café"]]
    assert dataset.column("n") == [0, 2]
    assert _reasons(dataset) == [("t.parquet:row 1", "not UTF-8")]


def test_views_and_large_types_of_parquet(folder, items):
    table = pa.table(
        {
            "image": pa.array([item.png for item in items], pa.binary_view()),
            "text": pa.array([item.texts[0] for item in items], pa.string_view()),
            "label": pa.array([item.label for item in items], pa.large_string()),
        }
    )
    pq.write_table(table, folder / "t.parquet")
    dataset = load(folder / "t.parquet")
    assert dataset.images.read(1).shape == (3, 5, 5)
    assert dataset.column("label") == [item.label for item in items]
    assert dataset.texts(2) == [items[2].texts[0]]


# -- all ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_captions_of_a_megabyte(folder, suffix):
    texts = ["x" * (1 << 20), "a", "y z " * (1 << 18)]
    path, rows = folder / f"t.{suffix}", [_row(n, text) for n, text in enumerate(texts)]
    if suffix == "csv":
        write_csv(path, rows)
    elif suffix == "jsonl":
        write_json_lines(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert [found[0] for found in load(path).column("texts")] == [text.strip() for text in texts]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_empty_files(folder, suffix):
    path = folder / f"t.{suffix}"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=rf"t\.{suffix}.*(empty|no rows|no Parquet file)"):
        load(path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_repeated_ids_are_kept_counted_and_named(folder, suffix, caplog):
    rows = [_row(n, id=name) for n, name in enumerate(["a", "b", "a", "c", "b", "a"])]
    path = folder / f"t.{suffix}"
    if suffix == "csv":
        write_csv(path, rows)
    elif suffix == "jsonl":
        write_json_lines(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    dataset = load(path)
    assert dataset.column("id") == ["a", "b", "a", "c", "b", "a"]
    where = {"csv": ":2, {0}:4, {0}:7", "jsonl": ":1, {0}:3, {0}:6", "parquet": ":row 0, {0}:row 2, {0}:row 5"}[suffix]
    assert "2 ids name several rows ('a' at {0}" + where in caplog.text.replace(str(path), "{0}")
    caplog.clear()
    load(write_json_lines(folder / "u.jsonl", [_row(0, id="a"), _row(1, id="b"), _row(0, id="a")]))
    assert "name several rows" not in caplog.text, "control: rows of one image are one row"


def test_the_number_of_lost_rows_is_told(folder, caplog):
    load(write_json_lines(folder / "t.jsonl", [_row(0), "{", "{", _row(1, "")]))
    assert "3 of 4 rows cannot be used and are left out" in caplog.text
    caplog.clear()
    load(write_json_lines(folder / "t.jsonl", [_row(0), "{"]))
    assert "1 of 2 rows cannot be read and are left out" in caplog.text
