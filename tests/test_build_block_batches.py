"""Batches of data that lie in row groups or shards, from the recipe to a training run."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import mmcl
from mmcl.builders.batches import build_batches
from mmcl.config import CaptionsSection, Recipe, recipe_from_tree
from mmcl.data import BatchReader, ImagePixels, load
from mmcl.data.batches.reader_processes import ReaderProcesses
from mmcl.data.images.encoded import encoded_image
from mmcl.data.shapes import load_shapes
from mmcl.errors import ConfigError
from mmcl.negatives.blocks import BlockBatches

TOWER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def recipe(path: object, folder: Path | str = "unused", **sections: dict) -> Recipe:
    tree = {
        "data": {"path": str(path), "split": {"validation": None, "test": None}},
        "model": {"embedding_dim": 16, "image": {"options": TOWER, "image_size": 32}, "text": {"options": TOWER}},
        "train": {"batch_size": 16, "epochs": 2, "log_every": 1},
        "run": {"dir": str(folder)},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return recipe_from_tree(tree, source="test")


def batches_of(data: object, path: object, **section: object) -> object:
    return build_batches(recipe(path, batches=section), data, None)


@pytest.fixture(scope="module")
def shapes() -> list[tuple[bytes, str]]:
    data = load_shapes("train", size=60, image_size=32)
    return [(encoded_image(data.images, row), data.texts(row)[0]) for row in range(60)]


@pytest.fixture
def parquet(tmp_path, shapes) -> Path:
    images, texts = zip(*shapes)
    table = pa.table({"image": list(images), "text": list(texts)})
    pq.write_table(table, tmp_path / "train-0.parquet", row_group_size=10)
    return tmp_path


def test_streamed_data_get_blocks_whatever_is_asked_for_and_it_is_said(parquet, caplog):
    streamed = load(f"{parquet}?streaming=true:train")
    with caplog.at_level("WARNING", logger="mmcl"):
        batches = batches_of(streamed, parquet)
    assert isinstance(batches, BlockBatches)
    assert "is streamed: batches are made as with batches.name=blocks" in caplog.text
    asked = batches_of(streamed, parquet, name="blocks", blocks_at_once=2)
    assert asked.lanes * asked.window == 2
    assert (batches.lanes * batches.window, len(batches.sizes)) == (6, 6)
    assert not isinstance(batches_of(load(f"{parquet}:train"), parquet), BlockBatches), "a control"
    streamed.images.reader.max_bytes = int(streamed.images.reader.groups.num_bytes.max()) * 3
    fitting = batches_of(streamed, parquet, name="blocks")
    assert fitting.lanes * fitting.window == 3, "as many as the buffer holds"


def test_shards_are_blocks_too(tmp_path, shapes):
    for shard in range(3):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
            for row, (image, text) in enumerate(shapes[shard * 20 : shard * 20 + 20]):
                for suffix, data in (("png", image), ("txt", text.encode())):
                    info = tarfile.TarInfo(f"{row}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    data = load(f"{tmp_path}:train")
    batches = batches_of(data, tmp_path, name="blocks", blocks_at_once=1)
    assert [len(set(data.images.blocks()[rows])) for rows in batches.epoch(0)] == [1, 2, 2, 1]
    assert not isinstance(batches_of(data, tmp_path), BlockBatches), "random reads of shards are as quick"


def test_data_without_blocks(shapes):
    with pytest.raises(ConfigError, match=r"batches\.name=blocks needs data that lie in blocks: Parquet .* tar shards"):
        batches_of(load_shapes("train", size=20), "shapes", name="blocks")
    with pytest.raises(ConfigError, match=r"batches\.blocks_at_once goes with batches\.name=blocks"):
        recipe("shapes", batches={"blocks_at_once": 3})


class Numbers:
    """Stands in for the towers' inputs."""

    size, resize_to = (32, 32), 32

    def resize_pixels(self, images):
        return images

    def normalize(self, images):
        return images.float()

    def __call__(self, texts):
        return {"input_ids": torch.tensor([[len(text)] for text in texts])}


def test_two_workers_and_two_processes_read_every_row_once_and_each_group_about_once(parquet):
    streamed, whole = load(f"{parquet}?streaming=true:train"), load(f"{parquet}:train")
    sampler = BlockBatches(streamed.images.blocks(), 8, seed=0, blocks_at_once=6)
    plan = sampler.epoch(1)
    seen = []
    for rank in range(2):
        shares = [sampler.share(rows, rank=rank, world_size=2).tolist() for rows in plan]
        reader = BatchReader(streamed, ImagePixels(streamed, Numbers()), Numbers(), captions=CaptionsSection(), seed=0)
        processes = ReaderProcesses(reader, workers=2)
        part = list(processes.read(1, shares))
        processes.close()
        assert [batch.rows.tolist() for batch in part] == shares
        rest = list(ReaderProcesses(reader).read(1, shares[3:]))
        assert [batch.rows.tolist() for batch in rest] == shares[3:], "from the middle on, as a resumed run"
        for batch in part:
            for row, pixels in zip(batch.rows.tolist(), batch.image["pixel_values"]):
                assert torch.equal(pixels, whole.images.read(row).float())
        seen += [row for batch in part for row in batch.rows.tolist()]
    assert sorted(seen) == list(range(60))


def test_a_run_on_streamed_data_and_its_resumption(parquet, tmp_path):
    data = f"{parquet}?streaming=true"
    whole = mmcl.train(recipe(data, tmp_path / "whole", train={"max_steps": 3}))
    made = recipe(data, tmp_path / "parts", train={"max_steps": 3}, checkpoint={"every_steps": 1})
    stopper = Stopper(step=2)
    with pytest.raises(KeyboardInterrupt):
        mmcl.train(made, display=stopper)
    parts = mmcl.train(made, resume=True)
    assert whole.result.progress.step == parts.result.progress.step == 3
    first, second = (mmcl.load(run.model).model.state_dict() for run in (whole, parts))
    assert all(torch.equal(first[key], second[key]) for key in first)


class Stopper:
    """Ends a run from within its display, as a kill would."""

    def __init__(self, *, step: int) -> None:
        self.stop_at = step

    def step(self, record, *, total_steps):
        if record["step"] >= self.stop_at:
            raise KeyboardInterrupt

    def evaluation(self, metrics, *, step):
        pass
