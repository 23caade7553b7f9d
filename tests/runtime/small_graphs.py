"""A folder of graphs made by hand: the mean colour of an image, and the mean of a caption's words, in one space."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "red", "green", "blue", "white", "a", "circle"]
DIM = 3


def write_folder(folder: Path, **changes: Any) -> Path:
    """Write float32 and int8 graphs (the int8 ones are copies) with all that lies beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for precision in ("", "_int8"):
        _save(folder / f"image{precision}.onnx", *_image())
        _save(folder / f"text{precision}.onnx", *_text())
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    preprocessing = {"size": [4, 4], "resize_to": 4, "interpolation": "bicubic", "mean": [0, 0, 0], "std": [1, 1, 1],
                     "crop_rounding": "down"}  # fmt: skip
    text = {"max_length": 6, "padding": "longest", "pad_id": 0, "use_mask": True, "cleaning": "none", "replaced": {}}
    description = {
        "format": 1, "embedding_dim": DIM, "logit_scale": 20.0, "logit_bias": None, "modalities": ["image", "text"],
        "graphs": {"fp32": {"image": ["image.onnx"], "text": ["text.onnx"]},
                   "int8": {"image": ["image_int8.onnx"], "text": ["text_int8.onnx"]}},
        "image": {"preprocessing": preprocessing}, "text": {"preprocessing": text},
    }  # fmt: skip
    (folder / "mmcl_onnx.json").write_text(json.dumps(description | changes))
    return folder


def _image() -> tuple[list[Any], list[Any], list[Any]]:
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["colors"]),
        helper.make_node("LpNormalization", ["colors"], ["embeddings"], axis=-1, p=2),
    ]
    return nodes, [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 4, 4])], []


def _text() -> tuple[list[Any], list[Any], list[Any]]:
    table = np.full((len(WORDS), DIM), 0.1, dtype=np.float32)
    table[3:6] += np.eye(3, dtype=np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Unsqueeze", ["attention_mask", "last"], ["columns"]),
        helper.make_node("Cast", ["columns"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["words", "weights"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "first"], ["sums"], keepdims=0),
        helper.make_node("LpNormalization", ["sums"], ["embeddings"], axis=-1, p=2),
    ]
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in names]
    axes = {"last": np.array([2]), "first": np.array([1])}
    return nodes, inputs, [numpy_helper.from_array(value, name) for name, value in ({"table": table} | axes).items()]


def _save(path: Path, nodes: list[Any], inputs: list[Any], weights: list[Any]) -> None:
    outputs = [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", DIM])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
