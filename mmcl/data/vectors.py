"""Embeddings computed elsewhere: ``vectors:FILE.npz`` or ``.safetensors``, as a model and as a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
from torch import Tensor

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.embedding_codes import EmbeddingCodes, decode_rows
from mmcl.errors import DataError

_PER_IMAGE = ("image_group", "image_id", "label")
_PER_TEXT = ("text_group", "text_id")


@dataclass(frozen=True)
class VectorFile:
    """The arrays of one file, checked.

    Attributes:
        path: the file.
        image: (n, d) float32.
        text: (m, d) float32.
        image_id, text_id: the ids, as text; the row numbers where the file has none.
        image_group, text_group: which belong together; by default image i and text i.
        label: (n,) class of each image, or None.
    """

    path: Path
    image: np.ndarray
    text: np.ndarray
    image_id: list[str]
    text_id: list[str]
    image_group: list[str]
    text_group: list[str]
    label: list[str] | None = None
    _image_row: dict[str, int] = field(init=False, repr=False, compare=False)
    _text_row: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, ids in (("image", self.image_id), ("text", self.text_id)):
            rows = {key: row for row, key in enumerate(ids)}
            if len(rows) < len(ids):
                repeated = next(key for row, key in enumerate(ids) if rows[key] != row)
                raise DataError(f"{self.path}: {name}_id {repeated!r} stands for several rows; ids must differ")
            object.__setattr__(self, f"_{name}_row", rows)

    def image_rows(self, ids: Sequence[str]) -> np.ndarray:
        """(k, d) float32: the image vectors of these ids. Raises DataError for an unknown id."""
        return self.image[self._rows(ids, self._image_row, "image")]

    def text_rows(self, ids: Sequence[str]) -> np.ndarray:
        """(k, d) float32: the text vectors of these ids. Raises DataError for an unknown id."""
        return self.text[self._rows(ids, self._text_row, "text")]

    def _rows(self, ids: Sequence[str], rows: dict[str, int], kind: str) -> np.ndarray:
        unknown = [key for key in ids if str(key) not in rows]
        if unknown:
            raise DataError(
                f"{self.path} has no {kind} vector for {unknown[0]!r} ({len(unknown)} of {len(ids)} unknown)"
            )
        return np.array([rows[str(key)] for key in ids], dtype=np.int64)


class VectorImages:
    """The image store of a vector file: it knows the ids, and has no pixels to read."""

    def __init__(self, path: Path, ids: Sequence[str]) -> None:
        self._path, self._ids = path, list(ids)

    def __len__(self) -> int:
        return len(self._ids)

    def read(self, row: int) -> Tensor:
        """Always raises DataError."""
        raise DataError(
            f"{self.describe(row)} is a vector without pixels; as a model for it give vectors:{self._path} too"
        )

    def describe(self, row: int) -> str:
        """The file and the image's id."""
        return f"{self._path}:{self._ids[row]}"

    def select(self, rows: np.ndarray) -> VectorImages:
        """A store of these rows alone, in this order."""
        return VectorImages(self._path, [self._ids[row] for row in rows])

    def fingerprint(self) -> str:
        """A hash of the file's path, size and time and of the ids."""
        stat = self._path.stat()
        text = "\x1f".join([str(self._path), str(stat.st_size), str(stat.st_mtime_ns), *self._ids])
        return hashlib.sha256(text.encode()).hexdigest()


def load_vectors(path: str | Path) -> VectorFile:
    """Read and check a file of vectors.

    Args:
        path: ``.npz`` or ``.safetensors`` with ``image`` (n, d) and ``text`` (m, d), and optionally ``image_group``,
            ``image_id``, ``label`` (n,), ``text_group``, ``text_id`` (m,), numbers or texts (numbers alone in
            safetensors). Beside ``image_low`` and ``image_high`` (d,) the images are int8 codes, beside ``image_bits``
            (1,), which is d, signs eight a byte, as ``embedding_codes`` makes them; texts alike. Pickled arrays are
            refused. Without groups image i belongs with text i, so n = m.

    Raises:
        DataError: the file is missing or damaged; an array is missing, of the wrong shape, or not finite.
    """
    path = Path(path).expanduser()
    arrays = _read_arrays(path)
    for name in ("image", "text"):
        if name not in arrays:
            raise DataError(f"{path}: no array {name!r} (it has {', '.join(arrays) or 'none'}); wanted image and text")
        arrays[name] = decode_arrays(arrays, name, path)
        arrays[name] = _check_vectors(arrays[name], f"{path}: {name}")
    image, text = arrays["image"], arrays["text"]
    if image.shape[1] != text.shape[1]:
        raise DataError(f"{path}: image has {image.shape[1]} dimensions and text {text.shape[1]}; they share one space")
    names = {name: _as_names(arrays[name], f"{path}: {name}", len(image)) for name in _PER_IMAGE if name in arrays}
    names |= {name: _as_names(arrays[name], f"{path}: {name}", len(text)) for name in _PER_TEXT if name in arrays}
    if ("image_group" in names) != ("text_group" in names):
        raise DataError(f"{path}: image_group and text_group come together, or not at all")
    if "image_group" not in names and len(image) != len(text):
        raise DataError(
            f"{path}: {len(image)} image and {len(text)} text vectors; without image_group and text_group row i of one "
            f"belongs with row i of the other"
        )
    images, texts = ([str(row) for row in range(len(rows))] for rows in (image, text))
    return VectorFile(
        path, image, text, names.get("image_id", images), names.get("text_id", texts), names.get("image_group", images),
        names.get("text_group", texts), names.get("label"),
    )  # fmt: skip


def vectors_dataset(path: str | Path) -> ImageTextDataset:
    """A file of vectors as a data set: ids stand for images and captions.

    An image's ``texts`` are the text ids of its group. Images whose group has no text are left out.

    Raises:
        DataError: as ``load_vectors``; or no image shares a group with a text.
    """
    vectors = load_vectors(path)
    by_group: dict[str, list[str]] = {}
    for group, identifier in zip(vectors.text_group, vectors.text_id):
        by_group.setdefault(group, []).append(identifier)
    rows = [row for row, group in enumerate(vectors.image_group) if group in by_group]
    if not rows:
        raise DataError(f"{vectors.path}: no image shares a group with a text")
    columns = {
        "id": [vectors.image_id[row] for row in rows],
        "texts": pa.array([by_group[vectors.image_group[row]] for row in rows], pa.list_(pa.string())),
        "group": [vectors.image_group[row] for row in rows],
    }
    if vectors.label is not None:
        columns["label"] = [vectors.label[row] for row in rows]
    images = VectorImages(vectors.path, columns["id"])
    return ImageTextDataset(images, pa.table(columns), name=f"vectors:{vectors.path}")


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"there is no file of vectors {path.absolute()}")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return {name: tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
                    for name, tensor in load_file(path).items()}  # fmt: skip
    except ValueError as error:  # numpy's own words advise to load the pickle, which runs code
        raise DataError(
            f"{path}: cannot be read as {path.suffix}; it is damaged, or holds objects instead of numbers: save plain "
            f"arrays with numpy.savez"
        ) from error
    except (OSError, BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix} ({error})") from error
    except Exception as error:  # safetensors' own error derives from Exception alone
        raise DataError(f"{path}: a damaged file ({error})") from error
    raise DataError(f"{path}: vectors are read from .npz or .safetensors files")


def decode_arrays(arrays: dict[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    """The embeddings of one modality as a file's arrays hold them, codes read as numbers.

    Args:
        arrays: of the file.
        name: ``"image"`` or ``"text"``.
        path: the file, for messages.

    Raises:
        DataError: codes and what they are read by do not fit.
    """
    rows = arrays[name]
    low, high, bits = (arrays.get(f"{name}_{key}") for key in ("low", "high", "bits"))
    if rows.dtype == np.int8 and low is not None and high is not None and rows.ndim == 2:
        if low.shape != rows.shape[1:] or high.shape != rows.shape[1:]:
            raise DataError(
                f"{path}: {name}_low and {name}_high have shapes {low.shape} and {high.shape}; want {rows.shape[1:]}"
            )
        return decode_rows(EmbeddingCodes("int8", rows, rows.shape[1], low, high))
    if rows.dtype == np.uint8 and bits is not None and rows.ndim == 2:
        dim = int(bits.reshape(-1)[0]) if bits.size else 0
        if not 0 <= 8 * rows.shape[1] - dim < 8:
            raise DataError(f"{path}: {name}_bits is {dim}, but {rows.shape[1]} bytes a row hold {8 * rows.shape[1]}")
        return decode_rows(EmbeddingCodes("binary", rows, dim)) / np.float32(dim**0.5)
    return rows.astype(np.float32) if rows.dtype == np.float16 else rows


def _check_vectors(array: np.ndarray, what: str) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "fiu" or 0 in array.shape:
        raise DataError(f"{what} has shape {array.shape} and type {array.dtype}; wanted numbers (rows, dimensions)")
    array = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise DataError(f"{what}: row {int(np.argmin(finite))} is not finite ({int((~finite).sum())} such rows)")
    return array


def _as_names(array: np.ndarray, what: str, length: int) -> list[str]:
    if array.shape != (length,):
        raise DataError(f"{what} has shape {array.shape}; wanted ({length},), one for each vector")
    return [str(value) for value in array.tolist()]
