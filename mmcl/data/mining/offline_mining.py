"""Hard negatives of every row of a data set: embed, search, write; what a broken-off run has done is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.data.caption_groups import caption_groups
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.embedding_files import stored_embeddings
from mmcl.data.mining.mined import LAYOUT, row_fingerprint, write_mined
from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.logs import get_logger
from mmcl.negatives.mining import TILE, Mined, MiningRules, mine

log = get_logger(__name__)

CHUNK_ROWS = 4096  # rows searched for at a time: what a broken-off run loses at most
GPU_TILE = (4096, 16384)  # a GPU is busy with larger tiles: 256 MiB of scores

_REASONS = ("positives_left_out", "above_margin_left_out", "near_duplicates_left_out")

# Called with what is done, how much of it, and of how much.
ProgressCallback = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Embed:
    """What mining needs of a model.

    Attributes:
        embedding_dim: d.
        texts: k texts -> (k, d) unit rows, float32 on the CPU.
        images: a data set -> (k, d) unit rows of its readable images, float32 on the CPU, and their (k,) row numbers.
        device: where candidates are searched.
    """

    embedding_dim: int
    texts: Callable[[Sequence[str]], Tensor]
    images: Callable[[ImageTextDataset], tuple[Tensor, np.ndarray]]
    device: str | torch.device = "cpu"


@dataclasses.dataclass(frozen=True)
class MiningPlan:
    """What is mined for each row.

    Attributes:
        captions_per_row: nearest wrong captions, by the image's embedding.
        images_per_row: nearest wrong images, by the mean embedding of the row's captions.
        positive_margin, near_duplicate, skip_nearest: see ``MiningRules``.

    Raises:
        ConfigError: nothing is asked for, or a value out of range.
    """

    captions_per_row: int = 5
    images_per_row: int = 0
    positive_margin: float | None = 0.95
    near_duplicate: float | None = 0.98
    skip_nearest: int = 0

    def __post_init__(self) -> None:
        if min(self.captions_per_row, self.images_per_row) < 0 or not self.captions_per_row + self.images_per_row:
            raise ConfigError(
                f"captions_per_row is {self.captions_per_row} and images_per_row {self.images_per_row}; want at least "
                f"0, and one of them above"
            )
        self.rules(1)

    def rules(self, number: int) -> MiningRules:
        """The rules for so many negatives a row."""
        return MiningRules(number, self.positive_margin, self.near_duplicate, self.skip_nearest)


def mine_dataset(
    dataset: ImageTextDataset,
    embed: Embed,
    out: Path,
    *,
    model: str,
    plan: MiningPlan,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Find hard negatives for every row of a data set and write them to a file.

    A caption is wrong for a row where no row of its group has it; an image where its row is of another group and shares
    no caption. A row's positive scores against the limits of ``MiningRules`` as the mean of its captions. Rows without
    a readable image get no captions, and their images are no candidates. Embeddings and finished parts lie in
    ``OUT.partial``, mapped from disk, until the file is written: the same call goes on where a broken one stopped.

    Args:
        dataset: the rows.
        embed: the model.
        out: a ``.parquet`` file.
        model: the model's reference, kept with the file. Where it names files, these tell when the model changes.
        plan: what is mined.
        progress: told how far it is.

    Returns:
        What is kept with the file: ``data``, ``fingerprint``, ``rows``, ``model``, ``parameters``, ``counts``.

    Raises:
        DataError: no image can be read, or the files cannot be written.
        ShapeError: an embedding is not finite.
    """
    job = _Job(dataset, embed, out, model=model, progress=progress)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        job.embed_all()
        captions = job.search("captions", plan, plan.captions_per_row)
        images = job.search("images", plan, plan.images_per_row)
    except OSError as error:
        raise DataError(f"{job.folder} cannot be written ({error.strerror or error})") from error
    about = {
        "data": dataset.name,
        "fingerprint": row_fingerprint(dataset),
        "rows": len(dataset),
        "model": model,
        "parameters": dataclasses.asdict(plan),
        "counts": job.counts(captions, images),
    }
    for what, found in (("captions", captions), ("images", images)):
        job.warn_of_few(what, found)
    write_mined(out, job.table(captions, images), about)
    shutil.rmtree(out.with_name(f"{out.name}.partial"), ignore_errors=True)
    return about


@dataclasses.dataclass(frozen=True)
class _Found:
    """(n, k) numbers of candidates, -1 where there are fewer, with their scores, and how many were left out and why."""

    indices: np.ndarray
    scores: np.ndarray
    left_out: np.ndarray  # (3,) pairs, by _REASONS

    def lists(self, values: pa.Array) -> pa.ListArray:
        """Values of all candidates that were found, row by row, as one list a row."""
        ends = np.concatenate([[0], np.cumsum((self.indices >= 0).sum(axis=1))])
        return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), values)


class _Job:
    """One mining: its captions and groups, its embeddings on disk, its searches."""

    def __init__(
        self, dataset: ImageTextDataset, embed: Embed, out: Path, *, model: str, progress: ProgressCallback | None
    ) -> None:
        self.dataset, self.embed, self._progress = dataset, embed, progress
        self.known = caption_groups(dataset)
        parts = [str(LAYOUT), model, _files_of(model), dataset.fingerprint()]
        key = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
        self.folder = out.with_name(f"{out.name}.partial") / key

    def _tell(self, title: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(title, done, total)

    # -- embeddings ----------------------------------------------------------------------------------------------

    def embed_all(self) -> None:
        """Captions and images to (m, d) and (n, d) float32, mapped from disk; NaN where an image cannot be read."""

        def images(start: int, stop: int) -> np.ndarray:
            part = np.full((stop - start, self.embed.embedding_dim), np.nan, dtype=np.float32)
            embeddings, rows = self.embed.images(self.dataset.select(range(start, stop)))
            part[rows] = _finite("image embeddings", embeddings)
            return part

        def captions(start: int, stop: int) -> np.ndarray:
            return _finite("caption embeddings", self.embed.texts(self.known.captions[start:stop]))

        self.image = self._embedded("images", len(self.dataset), images)
        self.text = self._embedded("captions", len(self.known.captions), captions)
        unreadable = torch.cat([part[:, 0].isnan() for part in self.image.split(CHUNK_ROWS)]).numpy()
        self.readable = np.flatnonzero(~unreadable)
        if not len(self.readable):
            raise DataError(f"{self.dataset.name}: none of its {len(self.dataset)} images can be read")
        if unreadable.any():
            log.warning(
                "%s: %d of %d images cannot be read and are left out",
                self.dataset.name,
                int(unreadable.sum()),
                len(self.dataset),
            )
        # Only where some are missing are the others copied from the file.
        self.candidates = self.image[self.readable] if unreadable.any() else self.image

    def _embedded(self, what: str, total: int, compute: Callable[[int, int], np.ndarray]) -> Tensor:
        shape = (total, self.embed.embedding_dim)
        progress = partial(self._tell, f"embedding {what}")
        return stored_embeddings(self.folder / f"{what}.npy", shape, compute, progress=progress)

    # -- search --------------------------------------------------------------------------------------------------

    def search(self, what: str, plan: MiningPlan, number: int) -> _Found:
        """The nearest wrong captions, or images, of every row, chunk by chunk."""
        indices = np.full((len(self.dataset), number), -1, dtype=np.int64)
        scores = np.full((len(self.dataset), number), -np.inf, dtype=np.float32)
        left_out = np.zeros(3, dtype=np.int64)
        if not number:
            return _Found(indices, scores, left_out)
        named = json.dumps([what, dataclasses.asdict(plan)])
        name = f"wrong_{what}_{hashlib.sha256(named.encode()).hexdigest()[:12]}"
        find = self._captions_for if what == "captions" else self._images_for
        candidates = (self.text if what == "captions" else self.candidates).to(self.embed.device)
        total = len(self.readable)
        for start in range(0, total, CHUNK_ROWS):
            path, rows = self.folder / f"{name}_{start:09d}.npz", self.readable[start : start + CHUNK_ROWS]
            self._tell(f"searching wrong {what}", start, total)
            if not path.exists():
                unfinished = path.with_suffix(".partial")
                mined = find(rows, candidates, plan.rules(number))
                reasons = [mined.num_positives, mined.num_above_margin, mined.num_near_duplicates]
                with unfinished.open("wb") as file:
                    found = {"indices": mined.indices.cpu().numpy(), "scores": mined.scores.cpu().numpy()}
                    np.savez(file, **found, left_out=reasons)
                unfinished.replace(path)
            with np.load(path, allow_pickle=False) as part:
                indices[rows], scores[rows] = part["indices"], part["scores"]
                left_out += part["left_out"]
            self._tell(f"searching wrong {what}", start + len(rows), total)
        return _Found(indices, scores, left_out)

    def _captions_for(self, rows: np.ndarray, candidates: Tensor, rules: MiningRules) -> Mined:
        known, image = self.known, self.image[rows]
        groups = known.groups[rows]
        (owned, owners), positive = self._owned(rows)
        several = np.flatnonzero(np.isin(groups, known.further[:, 1]))
        return mine(
            image.to(candidates.device),
            candidates,
            rules,
            query_groups=torch.from_numpy(groups),
            candidate_groups=torch.from_numpy(known.first_group),
            shared_keys=(_pairs(several, groups[several]), torch.from_numpy(known.further)),
            positive_scores=(positive * image).sum(1),
            owned=(owned.to(candidates.device), owners),
            tile=_tile(candidates.device),
        )

    def _images_for(self, rows: np.ndarray, candidates: Tensor, rules: MiningRules) -> Mined:
        known, image = self.known, self.image[rows]
        query = F.normalize(self._owned(rows)[1], dim=1)
        row, caption = known.shared().T
        place, among = _places(rows, len(self.dataset))[row], _places(self.readable, len(self.dataset))[row]
        mined = mine(
            query.to(candidates.device),
            candidates,
            rules,
            query_groups=torch.from_numpy(known.groups[rows]),
            candidate_groups=torch.from_numpy(known.groups[self.readable]),
            shared_keys=(
                _pairs(place[place >= 0], caption[place >= 0]),
                _pairs(among[among >= 0], caption[among >= 0]),
            ),
            positive_scores=(query * image).sum(1),
            owned=(image.to(candidates.device), torch.arange(len(rows))),
            tile=_tile(candidates.device),
        )
        found = mined.indices.cpu()
        return dataclasses.replace(mined, indices=torch.from_numpy(self.readable)[found].masked_fill(found < 0, -1))

    def _owned(self, rows: np.ndarray) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The embeddings of the rows' captions with the place in ``rows`` of each, and their (b, d) means."""
        first, stop = self.known.starts[rows], self.known.starts[rows + 1]
        owners = np.repeat(np.arange(len(rows)), stop - first)
        entries = np.arange(len(owners)) - np.repeat(np.cumsum(stop - first) - (stop - first), stop - first)
        owned = self.text[self.known.caption_of[entries + first[owners]]]
        sums = torch.zeros(len(rows), owned.shape[1]).index_add_(0, torch.from_numpy(owners), owned)
        return (owned, torch.from_numpy(owners)), sums / torch.from_numpy(stop - first)[:, None]

    # -- result --------------------------------------------------------------------------------------------------

    def table(self, captions: _Found, images: _Found) -> pa.Table:
        """The columns of ``mined.COLUMNS``."""
        size = len(self.dataset)
        ids = self.dataset.column("id") if "id" in self.dataset.table.column_names else range(size)
        texts = pa.array(self.known.captions, pa.string()).take(pa.array(captions.indices[captions.indices >= 0]))
        return pa.table(
            {
                "row": pa.array(np.arange(size)),
                "id": pa.array([str(value) for value in ids]),
                "negatives": captions.lists(texts),
                "negative_scores": captions.lists(pa.array(captions.scores[captions.indices >= 0])),
                "negative_rows": images.lists(pa.array(images.indices[images.indices >= 0])),
                "negative_row_scores": images.lists(pa.array(images.scores[images.indices >= 0])),
            }
        )

    def counts(self, captions: _Found, images: _Found) -> dict[str, int]:
        """What was found, and how many pairs were left out for which reason."""
        counts = {
            "images": len(self.readable),
            "unreadable_images": len(self.dataset) - len(self.readable),
            "distinct_captions": len(self.known.captions),
        }
        for what, found in (("captions", captions), ("images", images)):
            if not found.indices.shape[1]:
                continue
            counts |= {f"{what}_mined": int((found.indices >= 0).sum()), f"{what}_rows_short": self._short(found)}
            counts |= {f"{what}_{reason}": int(number) for reason, number in zip(_REASONS, found.left_out)}
        return counts

    def _short(self, found: _Found) -> int:
        return int((found.indices[self.readable] < 0).any(axis=1).sum())

    def warn_of_few(self, what: str, found: _Found) -> None:
        """Say so where most rows get fewer than they were to get: a weak model's limits leave nothing."""
        short = self._short(found)
        if 2 * short > len(self.readable):
            log.warning(
                "%d of %d rows get fewer wrong %s than asked for (left out: %d pairs above the margin, %d "
                "near-duplicates); raise positive_margin or near_duplicate, or mine by a better model",
                short,
                len(self.readable),
                what,
                *found.left_out[1:].tolist(),
            )


def _files_of(model: str) -> str:
    """Names, sizes and times of the files that a model reference names; empty where it names none, as on the Hub."""
    path = Path(model.partition(":")[2] if model.startswith("vectors:") else model).expanduser()
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    stats = ((file, file.stat()) for file in files if file.is_file() and "checkpoints" not in file.parts)
    return json.dumps([[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats])


def _tile(device: torch.device) -> tuple[int, int]:
    return TILE if device.type == "cpu" else GPU_TILE


def _places(rows: np.ndarray, size: int) -> np.ndarray:
    """(size,) int64: where each row number stands in ``rows``, -1 for those not in it."""
    places = np.full(size, -1, dtype=np.int64)
    places[rows] = np.arange(len(rows))
    return places


def _pairs(items: np.ndarray, keys: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack([items, keys], axis=1).astype(np.int64))


def _finite(what: str, embeddings: Tensor) -> np.ndarray:
    if not embeddings.isfinite().all():
        raise ShapeError(f"{what} are not finite; nothing can be mined with them: look at the model, or its file")
    return embeddings.numpy()
