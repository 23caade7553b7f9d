"""Encoded images in random order: from shards with an index, plain files, `datasets` and webdataset's stream."""

from __future__ import annotations

import importlib.util
import io
import os
import random
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from measuring import Row, Settings, compared, say, times_and_results, unmeasured

LEAST_BYTES, MOST_BYTES = 30_000, 60_000
PER_SHARD = 5000


def write_files(folder: Path, count: int) -> list[str]:
    """Files of random bytes, 1,000 a folder."""
    draw, files = np.random.default_rng(0), []
    for number in range(count):
        path = folder / "files" / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw.bytes(int(draw.integers(LEAST_BYTES, MOST_BYTES))))
        files.append(str(path))
    return files


def write_shards(folder: Path, files: list[str]) -> list[str]:
    """The same bytes as webdataset keeps them, a caption with each."""
    shards = []
    for first in range(0, len(files), PER_SHARD):
        shards.append(str(folder / f"shards-{first // PER_SHARD:03d}.tar"))
        with tarfile.open(shards[-1], "w") as tar:
            for number in range(first, min(first + PER_SHARD, len(files))):
                for suffix, data in (("jpg", Path(files[number]).read_bytes()), ("txt", b"a caption")):
                    member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return shards


def of_files(files: list[str]) -> Callable[[], int]:
    """One `open` each, in random order."""
    order = random.Random(0).sample(range(len(files)), len(files))

    def read() -> int:
        total = 0
        for row in order:
            with open(files[row], "rb") as file:
                total += len(file.read())
        return total

    return read


def of_mmcl(data: str, count: int) -> Callable[[], int]:
    """mmcl's own store of a data set's images, in random order."""
    from mmcl.data import load

    images = load(data).images
    order = random.Random(0).sample(range(count), count)
    return lambda: sum(len(images.encoded(row)) for row in order)


def of_datasets(folder: Path, files: list[str]) -> Callable[[], int]:
    """`datasets`, map-style, in random order."""
    import datasets

    features = datasets.Features({"image": datasets.Image(decode=False)})

    def rows() -> Iterator[dict[str, object]]:
        for file in files:
            yield {"image": {"bytes": Path(file).read_bytes(), "path": None}}

    datasets.disable_progress_bars()
    cache = str(folder / "datasets_cache")
    saved = datasets.Dataset.from_generator(rows, features=features, cache_dir=cache, keep_in_memory=False)
    order = random.Random(0).sample(range(len(files)), len(files))
    return lambda: sum(len(saved[row]["image"]["bytes"]) for row in order)


def of_webdataset(shards: list[str]) -> Callable[[], int]:
    """webdataset's stream, in the order of the shards: it has no other way to a member than past all before it."""
    import webdataset

    def read() -> int:
        return sum(len(sample["jpg"]) for sample in webdataset.WebDataset(shards, shardshuffle=False))

    return read


def storage(settings: Settings) -> Iterator[Row]:
    """Time to read every image once."""
    count = settings.sizes[-1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say(f"storing {count} files ...")
        os.environ["MMCL_CACHE"] = str(folder / "cache")
        files = write_files(folder, count)
        shards = write_shards(folder, files)
        pattern = str(folder / "shards-*.tar")
        calls = {"plain files": of_files(files), "mmcl, shards": of_mmcl(pattern, count)}
        for peer, package, make in (
            ("datasets, map-style", "datasets", lambda: of_datasets(folder, files)),
            ("webdataset, in order", "webdataset", lambda: of_webdataset(shards)),
        ):
            if not settings.wants(package):
                continue
            if importlib.util.find_spec(package) is None:
                yield unmeasured("storage", "shuffled reads: time", peer, "not installed")
                continue
            calls[peer] = make()
        for call in calls.values():
            call()
        seconds, found = times_and_results(calls, rounds=settings.repeats or (2 if settings.quick else 3))
        if len(set(found.values())) != 1:
            raise SystemExit(f"not all read the same number of bytes: {found}")
        best = {way: min(values) for way, values in seconds.items()}
        for peer in [way for way in calls if way != "mmcl, shards"]:
            what = (
                f"{count} images of {LEAST_BYTES // 1000}-{MOST_BYTES // 1000} kB, shuffled, from tar with index: time"
            )
            at_most = 0.5 if peer == "plain files" else None
            details = {"seconds": seconds, "bytes": found["plain files"], "page_cache": "warm"}
            yield compared(
                "storage", what, best["mmcl, shards"], peer, best[peer], unit="s", at_most=at_most, **details
            )
