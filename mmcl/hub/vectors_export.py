"""`export_vectors`: the embeddings of a data set as one file, which serves as a model and as data by itself."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmcl.batch import SkippedRow
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.embedding_codes import encode_rows, value_ranges
from mmcl.data.vectors import decode_arrays, load_vectors
from mmcl.embedder import Embedder, embed_images
from mmcl.errors import ConfigError, DataError, ExportError
from mmcl.evaluation.checks import check_finite_rows
from mmcl.evaluation.evaluator import need_both_modalities, text_embeddings
from mmcl.evaluation.retrieval.galleries import distinct_captions

# Values read back against embedding again, whose products may be summed in another order; binary keeps signs alone.
_TOLERANCES = {"float32": 1e-4, "float16": 1e-3, "int8": 1e-2, "binary": 2.0}
_SAMPLE = 16
_CHUNK_BATCHES = 8
# Texts as ids take 4 bytes a character of the longest, for every one; above this they are numbered.
_MAX_ID_BYTES = 64 * 2**20

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Embedded:
    """What is written.

    ``images`` (n, d) of ``rows`` (n,) in groups ``image_groups`` (n,); ``texts`` (m, d) of ``captions`` in groups
    ``text_groups`` (m,).
    """

    images: Tensor
    rows: np.ndarray
    image_groups: Tensor
    texts: Tensor
    captions: list[str]
    text_groups: Tensor
    skipped: list[SkippedRow]


def export_vectors(
    embedder: Embedder,
    dataset: ImageTextDataset,
    out: str | Path,
    *,
    batch_size: int = 64,
    dtype: Literal["float32", "float16", "int8", "binary"] = "float32",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Embed a data set and write the embeddings as a file that ``vectors:FILE`` reads, as MODEL and as DATA.

    Captions that one group has several times are written once. In ``.npz`` the ids of images are the data set's own and
    those of texts the captions themselves, where they differ from each other and are short; in ``.safetensors``, which
    holds numbers alone, both are numbers, labels are numbered, and what the numbers mean stands in the file's metadata.
    The file is read back and a sample is embedded again before it is put in its place.

    Args:
        embedder: of images and texts.
        dataset: rows to embed; images that cannot be read are left out.
        out: ``.npz`` or ``.safetensors``, not there yet.
        batch_size: items a forward pass.
        dtype: of the numbers; ``"int8"`` and ``"binary"`` are codes, see ``mmcl.data.embedding_codes``, that are read
            back as numbers.
        progress: called with (what, done, total).

    Returns:
        ``images``, ``texts``, ``embedding_dim``, ``dtype``, ``bytes``, ``labels`` (names; None where an image has
        none, and none is written then), ``skipped_images``
        (how many), ``skipped`` (each with row, source and reason), ``text_ids`` (``"captions"`` or ``"numbers"``) and
        ``largest_difference`` of the sample.

    Raises:
        ConfigError: another kind of file or dtype, a file that is there already, or a model of one modality.
        DataError: no image can be read.
        ExportError: the file does not hold what the model gives; nothing is left behind.

    Example:
        >>> import mmcl
        >>> from mmcl.data import load
        >>> told = export_vectors(mmcl.load("runs/emoji"), load("data/emoji:test"), "emoji.npz")    # doctest: +SKIP
        >>> mmcl.load("vectors:emoji.npz").encode_text(["a red apple"]).shape                       # doctest: +SKIP
        torch.Size([1, 256])
    """
    out = Path(out).expanduser()
    check_vectors_file(out, dtype)
    need_both_modalities(embedder, "a file of vectors")
    embedded = _embed(embedder, dataset, batch_size, progress or (lambda what, done, total: None))
    arrays, meanings = _arrays(embedded, dataset, dtype, as_text=out.suffix == ".npz")
    partial = out.with_name(f".{out.stem}.partial{out.suffix}")
    try:
        _write(arrays, meanings, partial)
        difference = _check(partial, arrays, embedder, dataset, embedded, _TOLERANCES[dtype])
        size = partial.stat().st_size
        os.replace(partial, out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)  # Ctrl-C too: no half of a file stays behind
    return {
        "images": len(embedded.images),
        "texts": len(embedded.texts),
        "embedding_dim": embedded.images.shape[1],
        "dtype": dtype,
        "bytes": size,
        "labels": meanings.get("labels"),
        "skipped_images": len(embedded.skipped),
        "skipped": [asdict(row) for row in embedded.skipped],
        "text_ids": "captions" if arrays["text_id"].dtype.kind == "U" else "numbers",
        "largest_difference": difference,
    }


def check_vectors_file(out: Path, dtype: str) -> None:
    """Refuse a file of vectors that could not be written, before any work is done; makes its folder.

    Raises:
        ConfigError: another ending or dtype, a file that is there already, or a folder that cannot be written.
    """
    if out.suffix not in (".npz", ".safetensors"):
        raise ConfigError(f"{out}: vectors are written as .npz or .safetensors; give the file one of these endings")
    if dtype not in _TOLERANCES:
        raise ConfigError(f"dtype is {dtype!r}; want {' or '.join(_TOLERANCES)}")
    if out.exists():
        raise ConfigError(f"{out} is there already; name another file, or delete it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror or error})") from error
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"{out} cannot be written: {out.parent} is not a folder that can be")


def _embed(embedder: Embedder, dataset: ImageTextDataset, batch_size: int, progress: Progress) -> _Embedded:
    if not len(dataset):
        raise DataError(f"{dataset.name} has no rows to embed; name another split or file")
    parts, rows, skipped, chunk = [], [], [], batch_size * _CHUNK_BATCHES
    for start in range(0, len(dataset), chunk):
        progress("images", start, len(dataset))
        some = np.arange(start, min(start + chunk, len(dataset)))
        images, readable, left_out = embed_images(embedder, dataset.select(some), batch_size=batch_size)
        parts.append(images)
        rows.append(start + np.asarray(readable, dtype=np.int64))
        skipped += [SkippedRow(start + row.row, row.source, row.reason) for row in left_out]
    progress("images", len(dataset), len(dataset))
    kept = np.concatenate(rows)
    if not len(kept):
        raise DataError(f"{dataset.name}: none of its {len(dataset)} images could be read; see the first: {skipped[0]}")
    groups = dataset.group_ids()[torch.from_numpy(kept)]
    captions, text_rows = distinct_captions(dataset, kept, groups)
    distinct, index = text_embeddings(embedder, captions, batch_size=batch_size)
    progress("texts", len(captions), len(captions))
    images = check_finite_rows("image embeddings", torch.cat(parts))
    return _Embedded(images, kept, groups, distinct[torch.tensor(index)], captions, groups[text_rows], skipped)


def _arrays(
    embedded: _Embedded, dataset: ImageTextDataset, dtype: str, *, as_text: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of the file, and what its numbers mean where they stand for names."""
    arrays: dict[str, np.ndarray] = {
        **_coded(embedded, dtype),
        "image_group": embedded.image_groups.numpy(),
        "text_group": embedded.text_groups.numpy(),
        "image_id": embedded.rows,
        "text_id": np.arange(len(embedded.captions)),
    }
    meanings: dict[str, Any] = {}
    if as_text and dataset.has("id"):
        ids = dataset.column("id")
        arrays["image_id"] = _names([ids[row] for row in embedded.rows], arrays["image_id"])
    if as_text:
        arrays["text_id"] = _names(embedded.captions, arrays["text_id"])
    labels = dataset.column("label") if dataset.has("label") else []
    named = [str(labels[row]) for row in embedded.rows if labels and labels[row] is not None]
    if len(named) == len(embedded.rows):  # a file has a label for every image, or none
        meanings["labels"] = sorted(set(named))
        if as_text:
            arrays["label"] = np.array(named)
        else:
            number = {name: place for place, name in enumerate(meanings["labels"])}
            arrays["label"] = np.array([number[name] for name in named])
    return arrays, meanings


def _coded(embedded: _Embedded, dtype: str) -> dict[str, np.ndarray]:
    """The embeddings in a coding, with what is needed to read it."""
    images, texts = embedded.images.numpy(), embedded.texts.numpy()
    ranges = value_ranges(np.concatenate([images, texts]))
    arrays = {}
    for name, rows in (("image", images), ("text", texts)):
        codes = encode_rows(rows, dtype, ranges=ranges)
        arrays[name] = codes.values
        if dtype == "int8":
            arrays |= {f"{name}_low": codes.low, f"{name}_high": codes.high}
        elif dtype == "binary":
            arrays[f"{name}_bits"] = np.array([codes.dim])
    return arrays


def _names(names: Sequence[str | None], numbers: np.ndarray) -> np.ndarray:
    """Names as an array of texts, repeated ones told apart; their numbers where they would take too much memory."""
    if len(names) * 4 * max((len(str(name)) for name in names), default=0) > _MAX_ID_BYTES:
        return numbers
    counts = Counter(names)
    told = [str(number) if name is None else str(name) for name, number in zip(names, numbers.tolist())]
    repeated = [counts[name] > 1 or name is None for name in names]
    unique = [f"{name} #{number}" if twice else name for name, twice, number in zip(told, repeated, numbers.tolist())]
    # numpy strips what ends in a null character, and a name may look like another with its number.
    return np.array(unique) if len(set(np.array(unique).tolist())) == len(unique) else numbers


def _write(arrays: dict[str, np.ndarray], meanings: dict[str, Any], path: Path) -> None:
    if path.suffix == ".npz":
        with path.open("wb") as file:
            np.savez(file, **arrays)
        return
    from safetensors.numpy import save_file

    told = {name: json.dumps(value, ensure_ascii=False) for name, value in meanings.items()}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata=told or None)


def _check(
    path: Path,
    arrays: dict[str, np.ndarray],
    embedder: Embedder,
    dataset: ImageTextDataset,
    embedded: _Embedded,
    tolerance: float,
) -> float:
    """Read the file back and embed a sample of it again; the largest difference of a value."""
    read = load_vectors(path)
    for name, stored in (("image", read.image), ("text", read.text)):
        if not np.array_equal(stored, decode_arrays(arrays, name, path)):
            raise ExportError(f"{path.name}: the {name} vectors read back are not those that were written; try again")
    for name, names in (("image_id", read.image_id), ("text_id", read.text_id)):
        if names != [str(value) for value in arrays[name].tolist()]:
            raise ExportError(f"{path.name}: the ids read back as {name} are not those that were written; try again")
    places = np.unique(np.linspace(0, len(embedded.rows) - 1, _SAMPLE).astype(np.int64))
    images, _, _ = embed_images(embedder, dataset.select(embedded.rows[places]))
    text_places = np.unique(np.linspace(0, len(embedded.captions) - 1, _SAMPLE).astype(np.int64))
    texts = embedder.encode_text([embedded.captions[place] for place in text_places])
    apart = 0.0
    for again, stored in ((images, read.image[places]), (texts, read.text[text_places])):
        if tuple(again.shape) != stored.shape:
            raise ExportError(f"{path.name}: images that could be read a moment ago cannot be read again")
        apart = max(apart, float(np.abs(again.numpy() - stored).max()))
    if not apart <= tolerance:
        raise ExportError(
            f"{path.name}: a sample embedded again is {apart:.2g} away from what was stored, more than {tolerance:g}; "
            f"the model does not give the same embeddings twice"
        )
    return apart
