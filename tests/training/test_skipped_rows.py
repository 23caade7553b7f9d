"""Rows that cannot be used: left out, counted, listed once, and too many of them stop the run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from PIL import Image
from small_runs import final_weights, small_run, step_records

from mmcl.batch import SkippedRow
from mmcl.errors import DataError
from mmcl.training.runs import RunFolder
from mmcl.training.skips import SkipLedger

FROZEN = ("model.image.freeze=true", "model.text.freeze=true")


def picture_folder(folder: Path, *, corrupt: tuple[int, ...] = (), empty: tuple[int, ...] = (), rows: int = 20) -> Path:
    """Plain colours with numbered captions; some files are no pictures, some captions empty."""
    folder.mkdir()
    lines = []
    for row in range(rows):
        name = f"{row:03d}.png"
        Image.new("RGB", (32, 32), (row * 12 % 256, 255 - row * 12 % 256, 90)).save(folder / name)
        if row in corrupt:
            (folder / name).write_bytes(b"not a picture")
        lines.append(json.dumps({"file_name": name, "text": "" if row in empty else f"picture number {row}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def overrides(data: Path, *more: str) -> tuple[str, ...]:
    return (f"data.path={data}", "data.split.validation=null", "train.batch_size=8", "train.epochs=3", *more)


def skipped(run: Path) -> list[dict]:
    path = run / "skipped.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("towers", [(), FROZEN], ids=["trained", "cached"])
def test_a_corrupt_image_is_left_out_and_listed_once(tmp_path: Path, towers: tuple[str, ...]) -> None:
    data = picture_folder(tmp_path / "data", corrupt=(7,))
    run = small_run(tmp_path / "run", *overrides(data, *towers))
    assert run.result.progress.step == 9
    (row,) = skipped(run.folder)
    assert (row["row"], row["source"]) == (7, str(data / "007.png"))
    assert "not an image" in row["reason"]
    assert str(data) not in row["reason"]  # said once
    assert run.result.skipped == [SkippedRow(**row)]
    sizes = [round(2.718281828 ** record["chance_loss"]) for record in step_records(run.folder)]
    assert sum(sizes) == 3 * 19
    assert len(sizes) == 9


@pytest.mark.parametrize("towers", [(), FROZEN], ids=["trained", "cached"])
def test_more_than_the_share_stops_the_run(tmp_path: Path, towers: tuple[str, ...]) -> None:
    data = picture_folder(tmp_path / "data", corrupt=(1, 5, 9))
    with pytest.raises(DataError, match=r"3 of the 20 rows cannot be used.*max_skipped_share=0.1.*skipped.jsonl"):
        small_run(tmp_path / "run", *overrides(data, *towers))
    assert len(skipped(tmp_path / "run")) == 3
    run = small_run(tmp_path / "more", *overrides(data, *towers, "data.max_skipped_share=0.2"))
    assert run.result.progress.step == 9


def test_empty_captions_are_listed_and_count_too(tmp_path: Path) -> None:
    data = picture_folder(tmp_path / "data", corrupt=(7,), empty=(2,))
    run = small_run(tmp_path / "run", *overrides(data))
    assert sorted(row["reason"].split(" (")[0] for row in skipped(run.folder))[0] == "no caption"
    assert len(skipped(run.folder)) == len(run.result.skipped) == 2
    worse = picture_folder(tmp_path / "worse", corrupt=(7,), empty=(2, 3))
    with pytest.raises(DataError, match="3 of the 20 rows cannot be used"):
        small_run(tmp_path / "worse_run", *overrides(worse))
    unread = picture_folder(tmp_path / "unread", empty=(2, 3, 4))
    with pytest.raises(DataError, match=r"3 of the 20 rows cannot be used.*no caption"):
        small_run(tmp_path / "unread_run", *overrides(unread))
    # A start that failed takes no folder: mended, the same command runs.
    picture_folder(tmp_path / "mended")
    assert small_run(tmp_path / "unread_run", *overrides(tmp_path / "mended")).result.progress.step == 9
    assert skipped(tmp_path / "unread_run") == []


def test_a_resumed_run_lists_no_row_twice(tmp_path: Path) -> None:
    # The raw row 7 has no caption; the usable row 7 is the raw row 8.
    data = picture_folder(tmp_path / "data", corrupt=(8,), empty=(7,), rows=24)
    stop = ("train.max_minutes=0.0000001",)
    small_run(tmp_path / "run", *overrides(data, *stop))
    small_run(tmp_path / "run", *overrides(data), resume=True)
    assert sorted(row["source"].rpartition("/")[2] for row in skipped(tmp_path / "run")) == [
        "008.png",
        "metadata.jsonl:8",
    ]


def test_only_unreadable_rows_are_an_error(tmp_path: Path) -> None:
    data = picture_folder(tmp_path / "data", corrupt=tuple(range(20)))
    with pytest.raises(DataError, match="7 of the 20 rows"):
        small_run(tmp_path / "run", *overrides(data))
    with pytest.raises(DataError, match="no batch of epoch 0 can be read"):
        small_run(tmp_path / "all", *overrides(data, "data.max_skipped_share=1.0"))


def test_cached_and_running_towers_train_on_the_same_rows(tmp_path: Path) -> None:
    data = picture_folder(tmp_path / "data", corrupt=(7,))
    small_run(tmp_path / "cached", *overrides(data, *FROZEN))
    small_run(tmp_path / "running", *overrides(data, *FROZEN, "train.feature_cache.enabled=false"))
    one, other = final_weights(tmp_path / "cached"), final_weights(tmp_path / "running")
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-5


def test_the_share_is_of_what_was_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunFolder(tmp_path)
    ledger = SkipLedger(run, dropped=[], usable=10_000, share=0.1)
    rows = [SkippedRow(row, f"{row}.png", "broken") for row in range(200)]
    with caplog.at_level(logging.WARNING):
        ledger.note(rows[:10], seen=16)  # 10 of the first 16 may be chance: of the first 100
        ledger.note(rows[:10], seen=16)
    assert caplog.text.count("skipped 0.png: broken") == 1
    assert "and 7 more" in caplog.text
    ledger.note(rows[:100], seen=1024)
    assert len(ledger.rows) == len(skipped(tmp_path)) == 100
    with pytest.raises(DataError, match="103 of the first 1024 rows"):
        ledger.note(rows[:103], seen=1024)
    again = SkipLedger(run, dropped=[], usable=10_000, share=0.1)
    assert again.rows == ledger.rows


def test_half_a_line_of_a_killed_run_is_no_obstacle(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.append_skipped([SkippedRow(0, "a", "b")])
    with run.skipped.open("a") as file:
        file.write('{"row": 1, "sou')
    run.append_skipped([SkippedRow(2, "c", "d")])
    assert [row.row for row in run.read_skipped()] == [0, 2]
