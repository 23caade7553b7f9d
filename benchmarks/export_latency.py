"""Latency of exported encoders beside torch, what bounds it, and the sizes of their files."""

from __future__ import annotations

import atexit
import io
import string
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Row, Settings, compared, say, times, unmeasured
from PIL import Image
from torch import nn

from mmcl.config import TowerSection
from mmcl.embedder import DualEncoderEmbedder
from mmcl.hub.formats import ExportOptions, find_format
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder, build_encoder
from mmcl.models.heads import LinearHead
from mmcl.models.towers.text_preprocessing import TextPreprocessing
from mmcl.models.towers.transformers_tower import TransformersTower
from mmcl.runtime.onnx_embedder import OnnxEmbedder

WANTED = 1 / 1.3  # of torch's time, at batch 1
TOKENS = 16
ROUNDS = {1: 40, 32: 8}
# (name of the row, timm's name), (name of the row, values of its config): real sizes, and those of a trial.
IMAGES = (("ViT-S/16", "vit_small_patch16_224"), ("EfficientNet-Lite0", "tf_efficientnet_lite0"))
TEXTS = (
    ("MiniLM-L6", {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}),
    ("BERT-base", {}),
)
SMALL_IMAGES = (("test_vit", "test_vit"),)
SMALL_TEXTS = (
    ("small BERT", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}),
)


@dataclass(frozen=True)
class Pair:
    """One encoder in torch and as graphs.

    Attributes:
        name: of the tower.
        modality: ``"image"`` or ``"text"``.
        encoder: mmcl's, in evaluation mode.
        fp32, int8: its graphs.
        folder: where they lie.
    """

    name: str
    modality: str
    encoder: Encoder
    fp32: OnnxEmbedder
    int8: OnnxEmbedder
    folder: Path

    def inputs(self, count: int) -> dict[str, torch.Tensor]:
        """Random inputs of ``count`` items."""
        generator = torch.Generator().manual_seed(count)
        if self.modality == "image":
            size = self.encoder.tower.preprocessing.size
            return {"pixel_values": torch.randn(count, 3, *size, generator=generator)}
        ids = torch.randint(5, 1000, (count, TOKENS), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def size(self, precision: str) -> int:
        """Bytes of the graph."""
        ending = "_int8" if precision == "int8" else ""
        return sum(path.stat().st_size for path in self.folder.glob(f"{self.modality}{ending}.onnx*"))


def _text_encoder(values: dict[str, int], dim: int) -> Encoder:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {name: number for number, name in enumerate(["[PAD]", "[UNK]", *string.ascii_lowercase])}
    letters = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="[PAD]", unk_token="[UNK]")
    model = BertModel(BertConfig(**values), add_pooling_layer=False)
    preprocessing = TextPreprocessing(tokenizer, max_length=128)
    tower = TransformersTower(model, "text", preprocessing, name="bert", default_pooling="mean")
    return Encoder(tower, LinearHead(tower.feature_dim, dim))


@lru_cache
def _pairs(quick: bool, dim: int, threads: int) -> tuple[Pair, ...]:
    """The encoders of the benchmark, exported as ``mmcl export`` exports them."""
    kind, made = find_format("onnx"), []
    sides = zip(SMALL_IMAGES, SMALL_TEXTS) if quick else zip(IMAGES, TEXTS)
    place = tempfile.TemporaryDirectory()
    atexit.register(place.cleanup)
    for number, ((image_name, timm_name), (text_name, values)) in enumerate(sides):
        say(f"exporting {image_name} and {text_name} ...")
        torch.manual_seed(number)
        image = build_encoder(TowerSection(name=f"timm:{timm_name}", pretrained=False), "image", dim)
        model = DualEncoder(image, _text_encoder(values, dim), embedding_dim=dim).eval()
        folder = Path(place.name) / str(number)
        kind.write(model, folder, ExportOptions())
        graphs = [OnnxEmbedder(folder, precision=each, threads=threads, tensors=False) for each in ("fp32", "int8")]
        made += [Pair(image_name, "image", model.image, *graphs, folder)]
        made += [Pair(text_name, "text", model.text, *graphs, folder)]
    return tuple(made)


def _all(settings: Settings) -> tuple[Pair, ...]:
    return _pairs(settings.quick, settings.dim, settings.threads)


def _rounds(settings: Settings, size: int) -> int:
    return settings.repeats or (2 if settings.quick else ROUNDS.get(size, 8))


def _by_torch(module: nn.Module, inputs: dict[str, torch.Tensor]) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return module(**inputs)

    return call


def _by_graph(embedder: OnnxEmbedder, modality: str, inputs: dict[str, torch.Tensor]) -> Callable[[], object]:
    """As the runtime calls its graphs: int8 item by item."""
    arrays = {name: value.numpy() for name, value in inputs.items()}
    if embedder.precision == "fp32":
        return partial(embedder.run, arrays, modality)
    count = len(next(iter(arrays.values())))
    each = [{name: value[row : row + 1] for name, value in arrays.items()} for row in range(count)]
    return lambda: np.concatenate([embedder.run(one, modality) for one in each])


def latency(settings: Settings) -> Iterator[Row]:
    """Both encoders at each batch size: the float32 and int8 graphs beside torch."""
    for pair in _all(settings):
        for size in settings.sizes:
            inputs = pair.inputs(size)
            calls = {
                "torch": _by_torch(pair.encoder, inputs),
                "fp32": _by_graph(pair.fp32, pair.modality, inputs),
                "int8": _by_graph(pair.int8, pair.modality, inputs),
            }
            found = {name: np.asarray(call()) for name, call in calls.items()}  # first calls do not count
            seconds = times(calls, rounds=_rounds(settings, size))
            best = {name: min(each) for name, each in seconds.items()}
            for name in ("fp32", "int8"):
                yield compared(
                    "latency", f"{pair.name}, batch {size}: onnxruntime {name}", best[name], "torch", best["torch"],
                    unit="s", at_most=WANTED if size == 1 else None, faster=best["torch"] / best[name],
                    largest_difference=float(np.abs(found[name] - found["torch"]).max()), all=seconds,
                )  # fmt: skip


def whole(settings: Settings) -> Iterator[Row]:
    """From a JPEG of 640 x 480 pixels, or a caption, to its embedding: mmcl's embedders with and without torch."""
    rows, columns = np.mgrid[0:480, 0:640]
    buffer = io.BytesIO()
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256], -1).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    items = {"image": [buffer.getvalue()], "text": ["a" * TOKENS]}
    kinds = {"image": "a JPEG to its embedding", "text": "a caption to its embedding"}
    pairs = _all(settings)
    for image, text in zip(pairs[::2], pairs[1::2]):
        source = DualEncoderEmbedder(DualEncoder(image.encoder, text.encoder, embedding_dim=settings.dim), device="cpu")
        for pair in (image, text):
            given = items[pair.modality]
            calls = {"torch": partial(source.embed, given, pair.modality)}
            calls |= {each.precision: partial(each.embed, given, pair.modality) for each in (pair.fp32, pair.int8)}
            for call in calls.values():
                call()
            best = {name: min(each) for name, each in times(calls, rounds=_rounds(settings, 1)).items()}
            for name in ("fp32", "int8"):
                what = f"{pair.name}, {kinds[pair.modality]}: OnnxEmbedder {name}"
                yield compared("whole", what, best[name], "DualEncoderEmbedder", best["torch"], unit="s")


def _given(encoder: Encoder, call: Callable[[], object]) -> list[tuple[nn.Module, torch.Tensor]]:
    """The linear layers and convolutions that a call runs, with what each was given."""
    seen: list[tuple[nn.Module, torch.Tensor]] = []

    def keep(module: nn.Module, given: tuple[torch.Tensor, ...], _: object) -> None:
        seen.append((module, given[0]))

    layers = [module for module in encoder.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    hooks = [module.register_forward_hook(keep) for module in layers]
    call()
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def _run_alone(seen: list[tuple[nn.Module, torch.Tensor]]) -> None:
    for module, given in seen:
        module(given)


def products(settings: Settings) -> Iterator[Row]:
    """What float32 can gain at most: the time of torch's matrix products and convolutions alone.

    Both libraries run these at the processor's speed; where they are nearly all of the time there is little to win.
    """
    for pair in _all(settings):
        everything = _by_torch(pair.encoder, pair.inputs(1))
        seen = _given(pair.encoder, everything)
        calls = {"all": everything, "alone": partial(_run_alone, seen)}
        _run_alone(seen)
        best = {name: min(each) for name, each in times(calls, rounds=_rounds(settings, 1)).items()}
        what = f"{pair.name}, batch 1: torch's products and convolutions alone"
        yield compared("products", what, best["alone"], "torch, all of it", best["all"], unit="s")


def files(settings: Settings) -> Iterator[Row]:
    """How large the int8 graphs are."""
    for pair in _all(settings):
        sizes = {precision: pair.size(precision) for precision in ("int8", "fp32")}
        yield compared("files", f"{pair.name}: int8 graph", sizes["int8"], "float32", sizes["fp32"], unit="bytes")


def compiled(settings: Settings) -> Iterator[Row]:
    """The float32 graphs at batch 1 beside ``torch.compile``, where it works here."""
    for pair in _all(settings):
        say(f"compiling {pair.name} ...")
        inputs: dict[str, Any] = pair.inputs(1)
        what = f"{pair.name}, batch 1: onnxruntime fp32"
        calls = {
            "fp32": _by_graph(pair.fp32, pair.modality, inputs),
            "compiled": _by_torch(torch.compile(pair.encoder), inputs),
        }
        try:
            for call in calls.values():
                call()
        except Exception as error:  # no compiler, or one that the model is too much for
            yield unmeasured("compiled", what, "torch.compile", f"fails ({type(error).__name__})")
            continue
        best = {name: min(each) for name, each in times(calls, rounds=_rounds(settings, 1)).items()}
        yield compared("compiled", what, best["fp32"], "torch.compile", best["compiled"], unit="s")
