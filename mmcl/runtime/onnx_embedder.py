"""`OnnxEmbedder`: an exported model as an embedder that needs onnxruntime, and neither torch nor transformers."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmcl.errors import ConfigError, ShapeError, require
from mmcl.runtime.captions import CaptionTokenizer, TextSettings
from mmcl.runtime.image_reading import read_image
from mmcl.runtime.onnx_folder import DESCRIPTION, TOKENIZER, check_precision, fetch_onnx, read_description
from mmcl.runtime.pixels import PixelPreprocessing


class OnnxEmbedder:
    """Images and texts to unit vectors by the graphs of ``mmcl export --format onnx``, on the CPU.

    It keeps mmcl's ``Embedder`` contract. Importing and using it loads numpy, Pillow, simplejpeg, tokenizers and
    onnxruntime alone; images are decoded and resized to the very pixels that mmcl gives with torch. Texts are sorted by
    length and padded to the longest of their batch. Graphs are loaded when they are first used. An int8 graph scales
    what runs through it by the largest value of a call, so that items would change each other's embeddings: it is given
    one item a call, whatever ``batch_size`` is.

    Args:
        folder: a folder with an ``mmcl_onnx.json``, or a repository's with one in ``onnx/``.
        precision: ``"fp32"`` or ``"int8"``.
        threads: of onnxruntime; default all cores.
        tensors: true: embeddings are torch tensors; false: numpy arrays; None: tensors where the program has imported
            torch by then, arrays where it has not.

    Attributes:
        embedding_dim, modalities, logit_scale: see ``Embedder``.
        logit_bias: added to scaled scores (SigLIP); None without.

    Raises:
        ConfigError: the folder holds no graphs, not those asked for, or a file is missing or damaged.
        MissingDependencyError: onnxruntime is not installed.

    Example:
        >>> embedder = OnnxEmbedder("exports/onnx", precision="int8")          # doctest: +SKIP
        >>> scores = embedder.encode_text(["a red apple"]) @ embedder.encode_image(["apple.jpg"]).T  # doctest: +SKIP
    """

    def __init__(
        self, folder: str | Path, *, precision: str = "fp32", threads: int | None = None, tensors: bool | None = None
    ) -> None:
        check_precision(precision)
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}; want at least 1, or None for all cores")
        self._runtime = require("onnxruntime", extra="onnx")
        described = read_description(folder)
        self.folder, self.precision, self._threads, self._tensors = described.folder, precision, threads, tensors
        values = described.values
        self.embedding_dim: int = values["embedding_dim"]
        self.modalities = frozenset(values["modalities"])
        self.logit_scale: float = values["logit_scale"]
        self.logit_bias: float | None = values.get("logit_bias")
        self._files = described.files(precision)
        for name in (name for names in self._files.values() for name in names):
            if not (self.folder / name).is_file():
                raise ConfigError(f"{self.folder / name} is missing, which {DESCRIPTION} names; export the model again")
        source = described.source
        self.preprocess_pixels = PixelPreprocessing.from_dict(values["image"]["preprocessing"], source=source)
        settings = TextSettings.from_dict(values["text"]["preprocessing"], source=source)
        self._captions = CaptionTokenizer.from_file(self.folder / TOKENIZER, settings)
        self._sessions: dict[str, Any] = {}
        self._fits: dict[str, int] = {}

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, token: str | None = None, **options: Any
    ) -> OnnxEmbedder:
        """Open a folder, or fetch the graphs, and nothing else, of a repository on the Hub.

        Args:
            name: a folder or ``owner/name``.
            revision: branch, tag or commit.
            token: for private repositories; default the one that is logged in with.
            options: see the class.

        Raises:
            ConfigError: as the class, and where the graphs cannot be fetched.
        """
        if os.path.isdir(os.path.expanduser(name)):
            return cls(name, **options)
        precision = options.get("precision", "fp32")
        return cls(fetch_onnx(str(name), precision=precision, revision=revision, token=token), **options)

    def encode_image(self, images: Sequence[Any], *, batch_size: int = 64) -> Any:
        """Images to embeddings (n, d); see ``embed``."""
        return self.embed(images, "image", batch_size=batch_size)

    def encode_text(self, texts: Sequence[str], *, batch_size: int = 64) -> Any:
        """Texts to embeddings (n, d); see ``embed``."""
        return self.embed(texts, "text", batch_size=batch_size)

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Any:
        """Items to embeddings.

        Args:
            items: images (paths, bytes, PIL images, uint8 arrays (h, w, 3), torch tensors (3, h, w)) or texts.
            modality: ``"image"`` or ``"text"``.
            batch_size: items a call of the graph; one that does not fit into memory is halved.

        Returns:
            (n, d) float32, unit rows, in the items' order; an array or a tensor, see ``tensors``.

        Raises:
            DataError: an image cannot be read, or a text is no Unicode.
            ShapeError: ``items`` is no list, or holds something else.
            ConfigError: the model lacks the modality, or a graph cannot be loaded.
        """
        _check(items, modality, batch_size, self.modalities)
        rows = np.empty((len(items), self.embedding_dim), dtype=np.float32)
        if modality == "image":
            order = np.arange(len(items))

            def inputs(some: np.ndarray) -> dict[str, np.ndarray]:
                return {"pixel_values": self.preprocess_pixels([read_image(items[row]) for row in some])}
        else:
            tokens = self._captions.tokens(list(items)) if len(items) else []
            order = np.argsort([len(each) for each in tokens], kind="stable")

            def inputs(some: np.ndarray) -> dict[str, np.ndarray]:
                return self._captions.batch([tokens[row] for row in some])

        self._fill(rows, order, modality, batch_size, inputs)
        return self._given(rows)

    def embed_pixels(self, pixel_values: Any, *, batch_size: int = 64) -> Any:
        """Pixels that are prepared already to embeddings.

        Args:
            pixel_values: float32 (n, 3, H, W), an array or a tensor on the CPU.
            batch_size: images a call of the graph.

        Returns:
            (n, d) float32, as ``embed``.
        """
        pixels = np.asarray(pixel_values, dtype=np.float32)
        rows = np.empty((len(pixels), self.embedding_dim), dtype=np.float32)
        self._fill(rows, np.arange(len(pixels)), "image", batch_size, lambda some: {"pixel_values": pixels[some]})
        return self._given(rows)

    def fingerprint(self) -> str:
        """A hash of all that embeddings depend on: every file, the precision, and onnxruntime's version."""
        digest = hashlib.blake2b(json.dumps([self.precision, self._runtime.__version__]).encode())
        for name in [DESCRIPTION, TOKENIZER, *(name for names in self._files.values() for name in names)]:
            with open(self.folder / name, "rb") as file:
                while piece := file.read(1 << 22):
                    digest.update(piece)
        return digest.hexdigest()

    # -- graphs --------------------------------------------------------------------------------------------------

    def run(self, inputs: dict[str, np.ndarray], modality: str) -> np.ndarray:
        """One call of a graph: its inputs (b, ...) to embeddings (b, d), as arrays."""
        return self._session(modality).run(["embeddings"], inputs)[0]

    def _session(self, modality: str) -> Any:
        if modality not in self._sessions:
            options = self._runtime.SessionOptions()
            options.log_severity_level = 3  # its warnings are of no use to who runs a model
            if self._threads is not None:
                options.intra_op_num_threads = options.inter_op_num_threads = self._threads
            path = self.folder / self._files[modality][0]
            try:
                session = self._runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime's kinds share no base
                said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                raise ConfigError(f"{path} cannot be loaded ({said}); export the model again") from error
            self._sessions[modality] = session
        return self._sessions[modality]

    def _fill(
        self,
        rows: np.ndarray,
        order: np.ndarray,
        modality: str,
        batch_size: int,
        inputs: Callable[[np.ndarray], dict[str, np.ndarray]],
    ) -> None:
        """Embed the items ``order`` into their rows, in that order."""
        start = 0
        while start < len(order):
            size = 1 if self.precision == "int8" else min(batch_size, self._fits.get(modality, batch_size))
            some = order[start : start + size]
            try:
                rows[some] = self.run(inputs(some), modality)
            except Exception as error:
                if len(some) == 1 or not _is_out_of_memory(error):
                    raise
                self._fits[modality] = -(-len(some) // 2)
                continue
            start += len(some)

    def _given(self, rows: np.ndarray) -> Any:
        if self._tensors is False or (self._tensors is None and "torch" not in sys.modules):
            return rows
        return importlib.import_module("torch").from_numpy(rows)


def open_onnx(name: str, *, threads: int | None = None, tensors: bool | None = None) -> OnnxEmbedder:
    """Open what stands behind ``onnx:`` in a MODEL: a folder or Hub id, and ``/int8`` behind it for the int8 graphs.

    Raises:
        ConfigError: as ``OnnxEmbedder.from_pretrained``.
    """
    base, _, last = name.rpartition("/")
    is_int8 = last == "int8" and bool(base) and not os.path.isdir(os.path.expanduser(name))
    name, precision = (base, "int8") if is_int8 else (name, "fp32")
    return OnnxEmbedder.from_pretrained(name, precision=precision, threads=threads, tensors=tensors)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "failed to allocate memory" in text or "bad_alloc" in text


def _check(items: Sequence[Any], modality: str, batch_size: int, modalities: frozenset[str]) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; want at least 1")
    if modality not in modalities:
        raise ConfigError(f"modality is {modality!r}; this model embeds {', '.join(sorted(modalities))}")
    if isinstance(items, (str, bytes)) or not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
        raise ShapeError(f"items is a {type(items).__name__}; want a list of {modality}s, even of one")
    if modality == "text":
        for row, item in enumerate(items):
            if not isinstance(item, str):
                raise ShapeError(f"text {row} is a {type(item).__name__}; want a string")
