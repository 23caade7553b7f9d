"""Six tiny images with captions, and every way of storing them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from stored_items import Item, encode, write_csv, write_images, write_json_lines, write_tar


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def items() -> list[Item]:
    rng = np.random.default_rng(0)
    made = []
    for index in range(6):
        pixels = rng.integers(0, 256, (4 + index, 5, 3), dtype=np.uint8)
        texts = [f"picture number {index}", f"the {index}th, with a comma"][: 1 + index % 2]
        label = ("dog", "red_fox")[index % 2]
        made.append(Item(f"{index}.png", pixels, encode(Image.fromarray(pixels)), texts, label))
    return made


@pytest.fixture(scope="session")
def emoji() -> Path:
    folder = Path(__file__).parents[3] / "shared/data/emoji"
    if not folder.is_dir():
        pytest.skip("the emoji data is not at hand")
    return folder


def _metadata_folder(root: Path, items: list[Item]) -> str:
    folder = write_images(root / "metadata", items)
    rows = [{"file_name": item.name, "text": item.texts, "label": item.label} for item in items]
    write_json_lines(folder / "metadata.jsonl", rows)
    return str(folder)


def _csv_file(root: Path, items: list[Item], suffix: str) -> str:
    folder = write_images(root / suffix, items)
    rows = [{"image": item.name, "text": json.dumps(item.texts), "label": item.label} for item in items]
    return str(write_csv(folder / f"table.{suffix}", rows, "\t" if suffix == "tsv" else ","))


def _parquet(root: Path, items: list[Item], kind: str) -> str:
    folder = write_images(root / f"parquet_{kind}", items)
    images = {
        "paths": [item.name for item in items],
        "bytes": [item.png for item in items],
        "structs": [{"bytes": item.png, "path": item.name} for item in items],
    }[kind]
    texts, labels = [item.texts for item in items], [item.label for item in items]
    pq.write_table(pa.table({"image": images, "text": texts, "label": labels}), folder / "table.parquet")
    return str(folder / "table.parquet")


def _sidecars(root: Path, items: list[Item]) -> str:
    folder = write_images(root / "sidecars", items)
    for item in items:
        (folder / item.name).with_suffix(".txt").write_text("\n".join(item.texts) + "\n")
    return str(folder)


def _karpathy(root: Path, items: list[Item]) -> str:
    folder = write_images(root / "karpathy" / "images", items).parent
    images = [
        {"filename": i.name, "imgid": n, "split": "test", "sentences": [{"raw": text} for text in i.texts]}
        for n, i in enumerate(items)
    ]
    (folder / "dataset_tiny.json").write_text(json.dumps({"images": images, "dataset": "tiny"}))
    return str(folder / "dataset_tiny.json")


def _shards(root: Path, items: list[Item]) -> str:
    folder = root / "shards"
    folder.mkdir()
    for shard, part in enumerate((items[:4], items[4:])):
        members = {}
        for item in part:
            key = item.name.removesuffix(".png")
            members |= {f"{key}.png": item.png, f"{key}.json": json.dumps({"text": item.texts}).encode()}
        write_tar(folder / f"shards-{shard:03d}.tar", members)
    return str(folder / "shards-{000..001}.tar")


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory, items: list[Item]) -> dict[str, str]:
    """Kind of source -> DATA; each holds the six items in order."""
    root = tmp_path_factory.mktemp("stored")
    shards = _shards(root, items)
    return {
        "metadata": _metadata_folder(root, items),
        "csv": _csv_file(root, items, "csv"),
        "tsv": _csv_file(root, items, "tsv"),
        **{f"parquet_{kind}": _parquet(root, items, kind) for kind in ("paths", "bytes", "structs")},
        "sidecars": _sidecars(root, items),
        "karpathy": _karpathy(root, items),
        "shards": shards,
        "shards_folder": str(Path(shards).parent),
    }
