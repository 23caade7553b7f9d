"""ONNX: two graphs, int8 ones beside them, and all that a program without torch needs to run them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mmcl
from mmcl.errors import require
from mmcl.hub.formats.as_onnx.graphs import write_graph
from mmcl.hub.formats.as_onnx.quantising import quantise
from mmcl.hub.formats.as_onnx.tokenizer_files import export_tokenizer, tokenizer_obstacle
from mmcl.hub.formats.format import ExportOptions, Format, Opened
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.fingerprint import encoder_fingerprint
from mmcl.runtime.onnx_embedder import OnnxEmbedder
from mmcl.runtime.onnx_folder import DESCRIPTION, TOKENIZER
from mmcl.runtime.onnx_folder import FORMAT as FORMAT_NUMBER

_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "transformers", "timm", "open_clip_torch", "tokenizers")
_MIB = 2**20
# Captions and pictures that int8 graphs are tried on while they are written: of many lengths and colours.
_THINGS = ("a red circle", "two dogs on a beach", "the sea at night", "a photo of an old car", "snow", "green apples")
_PLACES = ("", " on the left of a small blue square", ", seen from above", " in black and white, with people around it")
_TRIED = 24


def _obstacle(model: DualEncoder) -> str | None:
    return tokenizer_obstacle(model.text)


def write(model: DualEncoder, folder: Path, options: ExportOptions) -> list[str]:
    """Write ``image.onnx``, ``text.onnx``, their int8 forms, ``tokenizer.json`` and ``mmcl_onnx.json``.

    Args:
        model: a model whose tokenizer has no obstacle; it is not changed.
        folder: where to; made when missing. ``mmcl_onnx.json`` is written last: a folder that holds it is complete.
        options: ``int8`` false leaves the int8 graphs out.

    Returns:
        What a user should know: sizes, and layers that stayed in float32.

    Raises:
        ConfigError: a tower or its tokenizer cannot be written.
        MissingDependencyError: onnx, onnxscript or onnxruntime is not installed.
    """
    require("onnxruntime", extra="onnx")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)
    captions = export_tokenizer(model.text)
    (folder / TOKENIZER).write_text(captions.to_json(), encoding="utf-8")
    opsets = {side: write_graph(model.encoder(side), folder / f"{side}.onnx") for side in ("image", "text")}
    graphs = {"fp32": {side: _files(folder, f"{side}.onnx") for side in opsets}}
    description: dict[str, Any] = {
        "format": FORMAT_NUMBER,
        "mmcl_version": mmcl.__version__,
        "embedding_dim": model.embedding_dim,
        "logit_scale": float(model.logit_scale.detach()),
        "logit_bias": None if model.logit_bias is None else float(model.logit_bias.detach()),
        "modalities": ["image", "text"],
        "graphs": graphs,
        "image": {"preprocessing": model.image.tower.preprocessing.to_dict()},
        "text": {"preprocessing": captions.settings.to_dict()},
        "source": {side: encoder_fingerprint(model.encoder(side)) for side in opsets},
        "opset": max(opsets.values()),
        "versions": _versions(),
    }
    notes = [f"the graphs use opset {description['opset']} and take {_sizes(folder, graphs['fp32'])}"]
    if options.int8:
        inputs = {"image": _pictures(model), "text": [captions.batch([ids]) for ids in captions.tokens(_captions())]}
        graphs["int8"] = {}
        for side in opsets:
            notes += _write_int8(folder, side, inputs[side])
            graphs["int8"][side] = _files(folder, f"{side}_int8.onnx")
        notes.insert(1, f"the int8 graphs take {_sizes(folder, graphs['int8'])}")
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return notes


def _write_int8(folder: Path, side: str, inputs: list[dict[str, np.ndarray]]) -> list[str]:
    """Quantise one graph; what there is to say of it."""
    made = quantise(folder / f"{side}.onnx", folder / f"{side}_int8.onnx", _runner(inputs))
    notes = []
    if made.in_float:
        notes.append(f"int8 {side} graph: {made.in_float} stayed in float32, as its embeddings suffered")
    if made.has_convolutions and made.layers <= 1:
        notes.append(
            f"int8 {side} graph: its convolutions stayed in float32, as int8 ones are slower on a CPU; it is hardly "
            f"smaller or faster than the float32 one"
        )
    return notes


def _runner(inputs: list[dict[str, np.ndarray]]) -> Callable[[Path], np.ndarray]:
    """Embeddings by a graph of inputs of one item each, as int8 graphs are run."""
    runtime = require("onnxruntime", extra="onnx")

    def embed(path: Path) -> np.ndarray:
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, one)[0] for one in inputs])

    return embed


def _captions() -> list[str]:
    return [thing + place for thing in _THINGS for place in _PLACES]


def _pictures(model: DualEncoder) -> list[dict[str, np.ndarray]]:
    """Smooth pictures of random colours, which are nearer to photographs than noise is."""
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for number in range(_TRIED):
        coarse = torch.rand(1, 3, 2 + number % 7, 2 + number % 5, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (96, 128), mode="bicubic", align_corners=False)[0]
        pictures.append((smooth.clamp(0, 1) * 255).to(torch.uint8))
    pixels = model.image.tower.preprocessing(pictures)["pixel_values"].numpy()
    return [{"pixel_values": pixels[row : row + 1]} for row in range(len(pixels))]


def _files(folder: Path, name: str) -> list[str]:
    """A graph's file, and that of its weights where they lie beside it."""
    return [each for each in (name, f"{name}.data") if (folder / each).is_file()]


def _sizes(folder: Path, graphs: Mapping[str, Sequence[str]]) -> str:
    told = {side: sum((folder / name).stat().st_size for name in names) / _MIB for side, names in graphs.items()}
    return " and ".join(f"{size:.1f} MiB ({side})" for side, size in told.items())


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


class _OpenedOnnx:
    """Graphs as programs run them, by onnxruntime and the runtime's own preprocessing."""

    def __init__(self, embedder: OnnxEmbedder) -> None:
        self.embedder = embedder

    def embed_pixels(self, pixel_values: Tensor) -> Tensor:
        """See ``Opened``."""
        return self.embedder.embed_pixels(pixel_values)

    def embed_images(self, images: Sequence[Any]) -> Tensor:
        """See ``Opened``."""
        return self.embedder.encode_image(images)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """See ``Opened``."""
        return self.embedder.encode_text(list(texts))


def open_folder(folder: Path, options: ExportOptions) -> dict[str, Opened]:
    """The folder's graphs: ``""`` are the float32 ones, ``"int8"`` the others where ``options.int8``."""
    precisions = {"": "fp32", "int8": "int8"} if options.int8 else {"": "fp32"}
    return {name: _OpenedOnnx(OnnxEmbedder(folder, precision=each, tensors=True)) for name, each in precisions.items()}


FORMAT = Format(
    name="onnx",
    obstacle=_obstacle,
    write=write,
    open=open_folder,
    tolerances={"": 1e-4, "int8": None},
    reference=lambda folder: f"onnx:{folder}",
    extra="onnx",
    needs=(DESCRIPTION, "image.onnx", "text.onnx", TOKENIZER),
)
