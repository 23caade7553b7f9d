"""A suite's tables: what Markdown, CSV, HTML and JSON say is read back and compared with what went in."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mmcl.errors import ConfigError
from mmcl.evaluation.report.suite_table import (
    CSV_HEADER,
    is_fraction,
    suite_tables,
    to_csv,
    to_json,
    to_markdown,
    to_page,
    to_terminal,
    without_metrics,
    write_tables,
)
from mmcl.evaluation.suite import Cell, CellResult

ODD = 'a|b, "c" <script>alert(1)</script>\n*d* `e` \\ [f](g)'


def done(model: str, data: str, task: str, primary: str, **metrics: Any) -> CellResult:
    named = {f"{task}/{name.replace('_at_', '@')}": value for name, value in metrics.items()}
    return CellResult(Cell(model, data, task, {"k": 1}), "done", named, f"{task}/{primary}", "", 1.5, "2026-01-01")


def retrieval(model: str, data: str, one: float, other: float) -> CellResult:
    return done(
        model,
        data,
        "retrieval",
        "mean_recall@1",
        num_images=40.0,
        i2t_chance_recall_at_1=0.025,
        i2t_recall_at_1=one,
        i2t_recall_at_1_ci95=[one - 0.125, one + 0.125],
        i2t_true_recall_at_1=one / 2,
        i2t_median_rank=3.0,
        t2i_recall_at_1=other,
    )


RESULTS = [
    retrieval("first", "emoji", 0.5, 0.25),
    done("first", "emoji", "zeroshot", "top1", top1=0.123456, ece=0.25, chance=0.125, majority=0.2, num_classes=8.0),
    retrieval(ODD, "emoji", 0.625, 0.125),
    done(ODD, "emoji", "zeroshot", "top1", top1=0.75, ece=0.03125, chance=0.125, majority=0.2, num_classes=8.0),
    CellResult(Cell("first", ODD, "retrieval"), "failed", message=f"what {ODD} says"),
    CellResult(Cell("first", ODD, "zeroshot"), "left out", message="no label column"),
]


def markdown_tables(text: str) -> dict[str, list[list[str]]]:
    """Title -> rows, by GitHub's rules for cells: a pipe behind a backslash is none."""
    tables: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
            tables[title] = []
        elif line.startswith("|"):
            cells = re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]
            tables[title].append([re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells])
    return tables


class _Tables(html.parser.HTMLParser):
    """Every table's rows of cells as text, and the cells that are bold."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.bold: list[str] = []
        self.tags: set[str] = set()
        self._cell: list[str] | None = None
        self._strong = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = []
        self._strong = tag == "strong" or (self._strong and tag != "td")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append("".join(self._cell).strip())
            self._cell = None
        self._strong = self._strong and tag != "strong"

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        if self._strong:
            self.bold.append(data)


def parsed(results: list[CellResult]) -> _Tables:
    parser = _Tables()
    parser.feed(to_page(results).html())
    return parser


def test_one_table_a_data_set_and_task_with_the_models_as_rows() -> None:
    tables = suite_tables(RESULTS)
    assert [table.title for table in tables] == ["emoji: retrieval", "emoji: zeroshot"]
    assert tables[0].header == ("model", "i2t_recall@1", "t2i_recall@1")
    assert [row[0] for row in tables[0].rows] == ["first", ODD, "chance"]
    assert [[str(cell) for cell in row[1:]] for row in tables[0].rows] == [
        ["50.0 [37.5, 62.5]", "25.0"],
        ["62.5 [50.0, 75.0]", "12.5"],
        ["2.5", ""],
    ]
    assert tables[1].header == ("model", "top1", "ece")
    assert [[str(cell) for cell in row] for row in tables[1].rows] == [
        ["first", "12.3", "0.250"],
        [ODD, "75.0", "0.031"],
        ["chance", "12.5", ""],
        ["majority", "20.0", ""],
    ]


def test_the_best_is_the_highest_or_of_errors_the_lowest() -> None:
    best = [[cell.best for cell in row[1:]] for table in suite_tables(RESULTS) for row in table.rows]
    assert (
        best == [[False, True], [True, False], [False, False]] + [[False, False], [True, True]] + [[False, False]] * 2
    )
    alone = suite_tables(RESULTS[:1])[0].rows[0]
    equal = [suite_tables([retrieval(name, "d", 0.5, 0.5) for name in "ab"])[0].rows[row] for row in (0, 1)]
    assert not any(cell.best for row in (alone, *equal) for cell in row[1:])  # nothing to be better than


def test_markdown_is_read_back() -> None:
    tables = markdown_tables(to_markdown(RESULTS, title=ODD))
    flat = " ".join(ODD.split())
    assert tables["emoji: retrieval"] == [
        ["model", "i2t_recall@1", "t2i_recall@1"],
        ["---", "---:", "---:"],
        ["first", "50.0 [37.5, 62.5]", "**25.0**"],
        [flat, "**62.5** [50.0, 75.0]", "12.5"],
        ["chance", "2.5", "–"],
    ]
    rest = tables["Cells without metrics"][2:]
    assert rest == [
        ["first", flat, "retrieval", "failed", f"what {flat} says"],
        ["first", flat, "zeroshot", "left out", "no label column"],
    ]
    assert "<script>" not in to_markdown(RESULTS, title=ODD)


def test_html_is_read_back_and_says_what_markdown_says() -> None:
    page = parsed(RESULTS)
    markdown = list(markdown_tables(to_markdown(RESULTS)).values())
    assert len(page.tables) == len(markdown) == 3
    for mine, theirs in zip(page.tables, markdown):
        plain = [[cell.replace("**", "").replace("–", "") for cell in row] for row in [theirs[0], *theirs[2:]]]
        assert [[" ".join(cell.split()) for cell in row] for row in mine] == plain
    assert page.bold == ["25.0", "62.5", "75.0", "0.031"]
    assert "script" not in page.tags


def test_csv_holds_every_number_whole() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(RESULTS), newline="")))
    assert tuple(rows[0]) == CSV_HEADER
    wanted = {
        (one.cell.model, one.cell.data, one.cell.task, name): value
        for one in RESULTS
        for name, value in one.metrics.items()
        if not name.endswith("_ci95")
    }
    assert {(r["model"], r["data"], r["task"], r["metric"]): float(r["value"]) for r in rows} == wanted
    assert len(rows) == len(wanted) == 22
    intervals = [(r["metric"], float(r["ci_low"]), float(r["ci_high"])) for r in rows if r["ci_low"]]
    assert intervals == [("retrieval/i2t_recall@1", 0.375, 0.625), ("retrieval/i2t_recall@1", 0.5, 0.75)]
    assert {row["seconds"] for row in rows} == {"1.5"}


def test_files_say_the_same(tmp_path: Path) -> None:
    files = write_tables(RESULTS, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in files)
    assert [path.suffix for path in files] == [".md", ".csv", ".html", ".json"]
    assert json.loads(files[3].read_text(encoding="utf-8")) == json.loads(json.dumps(to_json(RESULTS)))
    assert files[1].read_bytes().decode() == to_csv(RESULTS)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_tables(RESULTS, tmp_path / "none")


def test_another_tasks_columns_are_its_primary_metric_and_what_has_an_interval() -> None:
    many = {f"de_{i:02d}": 0.5 for i in range(20)} | {f"de_{i:02d}_ci95": [0.25, 0.75] for i in range(20)}
    table = suite_tables([done("m", "d", "languages", "mean", other=0.5, mean=0.25, **many)])[0]
    assert table.header == ("model", "mean", *(f"de_{i:02d}" for i in range(9)))
    table = suite_tables([done("m", "d", "plain", "none", a=0.5, b=0.25)])[0]
    assert table.header == ("model", "a", "b")


@pytest.mark.parametrize(
    ("task", "metrics", "rows"),
    [
        ("probe", {"top1": 0.5, "top1_4shot": 0.25, "chance": 0.125, "majority": 0.2}, [["12.5"] * 2, ["20.0"] * 2]),
        ("clusters", {"nmi": 0.5, "accuracy": 0.5, "chance_nmi": 0.1, "majority": 0.2}, [["10.0", ""], ["", "20.0"]]),
        ("multilabel", {"map": 0.5, "overlap@1": 0.5, "chance_map": 0.1, "chance_overlap@1": 0.2}, [["10.0", "20.0"]]),
        ("foils", {"mean": 0.5, "a": 0.5, "a_ci95": [0.25, 0.75], "chance": 0.5}, [["50.0", "50.0"]]),
        ("geometry", {"alignment": 0.5, "uniformity": -2.0, "majority": 0.5}, []),
    ],
)
def test_chance_and_majority_stand_below_what_they_are_of(task: str, metrics: dict[str, Any], rows: list) -> None:
    primary = "mean" if task == "foils" else next(iter(metrics))
    table = suite_tables([done("m", "d", task, primary, **metrics)])[0]
    names = ["chance", "majority"] if len(rows) == 2 else ["chance"][: len(rows)]
    assert [[str(cell) for cell in row] for row in table.rows[1:]] == [[n, *row] for n, row in zip(names, rows)]


def test_models_may_lack_metrics_that_others_have() -> None:
    table = suite_tables([done("m", "d", "zeroshot", "top1", top1=0.5), done("n", "d", "zeroshot", "top1", ece=0.5)])[0]
    assert [[str(cell) for cell in row] for row in table.rows] == [["m", "50.0", ""], ["n", "", "0.500"]]
    assert "| m | 50.0 | – |" in to_markdown(
        [done("m", "d", "zeroshot", "top1", top1=0.5), done("n", "d", "zeroshot", "top1", ece=0.5)]
    )


@pytest.mark.parametrize(
    ("name", "fraction"),
    [
        ("retrieval/i2t_recall@1", True),
        ("retrieval/i2t_median_rank", False),
        ("retrieval/num_images", False),
        ("foils/colour_count", False),
        ("zeroshot/ece", False),
        ("zeroshot/mean_per_class", True),
        ("geometry/uniformity", False),
        ("clusters/ari", True),
    ],
)
def test_fractions_alone_are_per_cent(name: str, fraction: bool) -> None:
    assert is_fraction(name) == fraction


def test_without_results_there_is_a_page_and_no_table() -> None:
    assert suite_tables([]) == []
    assert markdown_tables(to_markdown([])) == {}
    assert to_csv([]).strip() == ",".join(CSV_HEADER)
    assert parsed([]).tables == []
    assert without_metrics(RESULTS[:4]) == []


def test_the_terminal_shows_metrics_down_and_models_across() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(to_terminal(suite_tables(RESULTS[:1])[0]))
    shown = console.file.getvalue()
    assert re.search(r"i2t_recall@1\s*│\s*50\.0 \[37\.5, 62\.5\]\s*│\s*2\.5", shown)
