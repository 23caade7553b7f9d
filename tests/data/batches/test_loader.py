"""Every row exactly once an epoch, in an order that the seed determines, from every kind of source; and what fails."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from stored_items import Item, write_images, write_json_lines

from mmcl.batch import Batch, HardNegatives
from mmcl.config import CaptionsSection
from mmcl.data import BatchLoader, BatchReader, ImagePixels, ImageTextDataset, load
from mmcl.data.batches.reader_processes import ReaderProcesses, deaths_explained
from mmcl.errors import ConfigError, DataError
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.negatives.samplers import RandomBatches

WORLD, WORKERS = 2, 2
SHAPES = "shapes?train=7&test=4&image_size=32"


def letters(texts: list[str]) -> dict[str, torch.Tensor]:
    """A tokenizer that numbers characters."""
    longest = max(map(len, texts))
    return {"input_ids": torch.tensor([[*map(ord, text), *[0] * (longest - len(text))] for text in texts])}


def reader_of(dataset: ImageTextDataset, seed: int = 0) -> BatchReader:
    pixels = ImagePixels(dataset, ImagePreprocessing((8, 8)))
    return BatchReader(dataset, pixels, letters, captions=CaptionsSection(), seed=seed)


def saved_data_set(items: list[Item]) -> datasets.Dataset:
    features = {"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))}
    columns = {"image": [{"bytes": i.png, "path": None} for i in items], "caption": [i.texts for i in items]}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def class_folders(root: Path, items: list[Item]) -> str:
    for label in ("dog", "red_fox"):
        write_images(root / label, [item for item in items if item.label == label])
    return str(root)


def of_hub(items: list[Item]) -> ImageTextDataset:
    """A Hub data set, as a stand-in for the Hub gives it."""
    whole = {"train": saved_data_set(items)}

    class Hub:
        def dataset_info(self, *arguments: Any, **options: Any) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.HfApi", Hub)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr(datasets, "load_dataset", lambda *a, split=None, **k: whole if split is None else whole[split])
        patch.setattr(datasets, "get_dataset_split_names", lambda *a, **k: list(whole))
        return load("owner/name:train")


@pytest.fixture(scope="module")
def sources(
    tmp_path_factory: pytest.TempPathFactory, stored: dict[str, str], items: list[Item]
) -> dict[str, ImageTextDataset]:
    root = tmp_path_factory.mktemp("more")
    write_images(root / "jsonl", items)
    lines = [{"image": item.name, "text": item.texts} for item in items]
    write_json_lines(root / "jsonl" / "rows.jsonl", lines)
    saved_data_set(items).save_to_disk(root / "saved")
    table = pa.table({"image": [{"bytes": i.png, "path": i.name} for i in items], "text": [i.texts for i in items]})
    pq.write_table(table, root / "pieces.parquet", row_group_size=2)
    mixture = {"sources": [{"path": stored["csv"]}, {"path": f"{SHAPES}:train", "name": "scenes"}]}
    (root / "mix.yaml").write_text(yaml.safe_dump(mixture))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMCL_CACHE", str(root / "cache"))
        opened = {kind: load(data) for kind, data in stored.items() if kind != "karpathy"}
        opened |= {
            "karpathy": load(f"{stored['karpathy']}:test"),
            "jsonl": load(root / "jsonl" / "rows.jsonl"),
            "classes": load(class_folders(root / "classes", items)),
            "saved": load(root / "saved"),
            "streamed": load(f"{root}/pieces.parquet?streaming=true"),
            "mixture": load(f"{root}/mix.yaml:train"),
            "hub": of_hub(items),
            "shapes": load(f"{SHAPES}:train"),
        }
    return opened


class AllSources:
    """Readers of several data sets as one, so that the same few workers serve every source."""

    def __init__(self, sources: dict[str, ImageTextDataset]) -> None:
        self.readers = {kind: reader_of(dataset) for kind, dataset in sources.items()}
        self.starts = dict(zip(sources, np.cumsum([0, *map(len, sources.values())]).tolist()))
        self.epoch = 0

    def __len__(self) -> int:
        return sum(map(len, self.readers.values()))

    def __getitems__(self, rows: list[int]) -> Batch:
        kind = [kind for kind, start in self.starts.items() if start <= rows[0]][-1]
        reader = self.readers[kind]
        reader.epoch = self.epoch
        return reader.__getitems__([row - self.starts[kind] for row in rows])


class BatchesFrom(RandomBatches):
    """Random batches of rows that begin at a number."""

    def __init__(self, start: int, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.start = start

    def epoch(self, epoch: int) -> list[np.ndarray]:
        return [rows + self.start for rows in super().epoch(epoch)]


@pytest.fixture(scope="module")
def loaders(sources: dict[str, ImageTextDataset]) -> Iterator[tuple[AllSources, list[BatchLoader]]]:
    """A loader of two workers for each of two processes."""
    everything = AllSources(sources)
    batches = RandomBatches(len(everything), 4, seed=0)
    loaders = [BatchLoader(everything, batches, rank=rank, world_size=WORLD, workers=WORKERS) for rank in range(WORLD)]
    yield everything, loaders
    for loader in loaders:
        loader.close()


KINDS = (
    *("metadata", "csv", "tsv", "jsonl", "parquet_paths", "parquet_bytes", "parquet_structs", "sidecars", "karpathy"),
    *("shards", "shards_folder", "classes", "saved", "streamed", "mixture", "hub", "shapes"),
)


def test_every_kind_of_source_is_here(sources: dict[str, ImageTextDataset], stored: dict[str, str]) -> None:
    assert set(KINDS) == set(sources) >= set(stored)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_comes_once_an_epoch_also_after_a_resume(
    loaders: tuple[AllSources, list[BatchLoader]], sources: dict[str, ImageTextDataset], kind: str
) -> None:
    everything, two = loaders
    dataset, reader = sources[kind], everything.readers[kind]

    def rows_of(seed: int, epoch: int, batch: int) -> list[list[list[int]]]:
        """Of each process the rows of each batch from there to the end of the epoch."""
        found = []
        for loader in two:
            loader.batches = BatchesFrom(everything.starts[kind], len(dataset), 4, seed=seed)
            loader.load_state_dict({"epoch": epoch, "batch": batch})
            read = list(loader)
            assert loader.state_dict() == {"epoch": epoch + 1, "batch": 0}
            for one in read:
                assert one.skipped == []
                reader.epoch = epoch
                expected = reader.__getitems__(one.rows.tolist())
                assert torch.equal(one.image["pixel_values"], expected.image["pixel_values"])
                assert torch.equal(one.text["input_ids"], expected.text["input_ids"])
            found.append([one.rows.tolist() for one in read])
        return found

    first = rows_of(0, 0, 0)
    whole = sorted(row for process in first for batch in process for row in batch)
    assert whole == list(range(len(dataset)))
    assert rows_of(0, 0, 0) == first
    assert rows_of(0, 0, 1) == [process[1:] for process in first]
    other_epoch, other_seed = rows_of(0, 1, 0), rows_of(1, 0, 0)
    for other in (other_epoch, other_seed):
        assert sorted(row for process in other for batch in process for row in batch) == whole
        assert other != first, "control: another epoch or seed has another order"


def test_sources_can_be_sent_to_workers(sources: dict[str, ImageTextDataset]) -> None:
    # Where processes are spawned and not forked, the reader is pickled.
    for kind, dataset in sources.items():
        reader = reader_of(dataset)
        copy = pickle.loads(pickle.dumps(reader))
        assert torch.equal(pixels_of(copy), pixels_of(reader)), kind


def pixels_of(reader: BatchReader) -> torch.Tensor:
    return reader.__getitems__([3]).image["pixel_values"]


# -- one loader ----------------------------------------------------------------------------------------------------


def test_epochs_follow_one_another_and_leaving_off_is_allowed(sources: dict[str, ImageTextDataset]) -> None:
    reader = reader_of(sources["csv"])
    expected = [rows.tolist() for epoch in range(3) for rows in RandomBatches(6, 2, seed=3).epoch(epoch)]
    loader = BatchLoader(reader, RandomBatches(6, 2, seed=3), workers=1)
    state = torch.get_rng_state()
    found = [batch.rows.tolist() for batch in loader]
    for batch in loader:  # the second epoch, left after one batch
        found.append(batch.rows.tolist())
        break
    assert loader.state_dict() == {"epoch": 1, "batch": 1}
    while loader.epoch < 3:
        found += [batch.rows.tolist() for batch in loader]
    assert found == expected
    assert torch.equal(torch.get_rng_state(), state)
    resumed = BatchLoader(reader, RandomBatches(6, 2, seed=3))
    resumed.load_state_dict({"epoch": 0, "batch": 3})  # saved behind the last batch
    assert [batch.rows.tolist() for batch in resumed] == expected[3:6]
    loader.close()
    assert [batch.rows.tolist() for batch in loader] == [r.tolist() for r in RandomBatches(6, 2, seed=3).epoch(3)]
    loader.close()


def test_what_makes_no_sense(sources: dict[str, ImageTextDataset]) -> None:
    reader, batches = reader_of(sources["csv"]), RandomBatches(6, 2, seed=0)
    with pytest.raises(ConfigError, match=r"rank is 2 of 2 process"):
        BatchLoader(reader, batches, rank=2, world_size=2)
    with pytest.raises(ConfigError, match="workers is 0 and prefetch 0"):
        BatchLoader(reader, batches, prefetch=0)
    with pytest.raises(ConfigError, match="at batch 4 of an epoch, which has 3"):
        BatchLoader(reader, batches).load_state_dict({"epoch": 0, "batch": 4})


class Odd:
    """A reader with a fault: ``fault`` is called with the rows."""

    def __init__(self, fault: Any) -> None:
        self.fault, self.epoch = fault, 0

    def __len__(self) -> int:
        return 10

    def __getitems__(self, rows: list[int]) -> Batch:
        self.fault(rows)
        return Batch({}, {}, torch.tensor(rows), torch.tensor(rows))


def _breaks(rows: list[int]) -> None:
    if 3 in rows:
        raise KeyError("no such thing")
    if 5 in rows:
        raise DataError("here/x.csv: row 5: as it was worded")


def test_faults_in_a_worker_name_the_rows_and_the_worker_goes_on() -> None:
    processes = ReaderProcesses(Odd(_breaks), workers=1)
    batches = processes.read(0, [[1, 2], [3, 4]])
    assert next(batches).rows.tolist() == [1, 2]
    with pytest.raises(DataError, match=r"the batch of rows 3, 4 cannot be read \(KeyError: .*data\.workers=0"):
        next(batches)
    with pytest.raises(DataError, match=r"^here/x\.csv: row 5: as it was worded$"):
        list(processes.read(0, [[5]]))
    assert [batch.rows.tolist() for batch in processes.read(1, [[7]])] == [[7]]
    processes.close()
    with pytest.raises(KeyError):  # without workers the fault shows where it is
        list(ReaderProcesses(Odd(_breaks)).read(0, [[3]]))


def _dies(rows: list[int]) -> None:
    if 3 in rows:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_an_error_that_says_what_to_do() -> None:
    processes = ReaderProcesses(Odd(_dies), workers=1, prefetch=1)
    started = time.monotonic()
    with pytest.raises(DataError, match=r"a reader process died while the batch of rows 3, 4 was.*fewer data\.workers"):
        list(processes.read(0, [[1, 2], [3, 4]]))
    assert time.monotonic() - started < 20
    processes.close()
    said = r"died while the batch of rows 8 was waited for \(EOFError\)"
    with pytest.raises(DataError, match=said), deaths_explained([[8], [9]]):
        raise EOFError
    for error in (RuntimeError("CUDA out of memory"), FileNotFoundError("a file of the model's")):
        with pytest.raises(type(error)), deaths_explained():
            raise error


def _checks_threads(rows: list[int]) -> None:
    if torch.get_num_threads() != 1 or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        raise DataError("the worker is not set up")


def test_workers_compute_on_one_thread_and_leave_signals_alone() -> None:
    processes = ReaderProcesses(Odd(_checks_threads), workers=1)
    assert len(list(processes.read(0, [[1]]))) == 1
    processes.close()


def test_a_batch_is_pinned_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda value: pinned.append(value) or value)
    negatives = HardNegatives({"pixel_values": torch.zeros(1)}, torch.zeros(1), torch.zeros(1))
    one = torch.zeros(2)
    batch = Batch({"pixel_values": one}, {"input_ids": one}, one, one, negative_text=negatives)
    assert torch.utils.data._utils.pin_memory.pin_memory(batch) is not batch
    assert len(pinned) == 4 + 3


def test_unreadable_images_are_listed_and_the_other_rows_kept(tmp_path: Path, items: list[Item]) -> None:
    write_images(tmp_path, items)
    (tmp_path / "2.png").write_bytes(b"")
    (tmp_path / "4.png").write_bytes(items[4].png[:-60])
    Image.new("RGB", (4, 4)).save(tmp_path / "5.png", "JPEG")  # not what its name says, and read all the same
    write_json_lines(tmp_path / "metadata.jsonl", [{"file_name": i.name, "text": i.texts} for i in items])
    with BatchLoaderOf(load(tmp_path)) as loader:
        batches = list(loader)
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == [0, 1, 3, 5]
    skipped = {row.row: row for batch in batches for row in batch.skipped}
    assert sorted(skipped) == [2, 4]
    assert skipped[2].reason == "the image is empty (0 bytes)"
    assert skipped[2].source == f"{tmp_path}/2.png"
    assert skipped[4].reason.startswith("the image cannot be decoded")


class BatchLoaderOf(BatchLoader):
    """A loader with one worker over a data set, closed at the end."""

    def __init__(self, dataset: ImageTextDataset) -> None:
        super().__init__(reader_of(dataset), RandomBatches(len(dataset), 3, seed=0), workers=1)

    def __enter__(self) -> BatchLoaderOf:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
