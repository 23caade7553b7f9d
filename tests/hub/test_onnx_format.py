"""ONNX graphs beside the models they were made of: any batch, any length, int8, the tokenizers."""

from __future__ import annotations

import copy
import json
import logging
import random
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import six_models
import torch
from torch import Tensor, nn

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install '.[test]'")

import onnx
import onnxruntime

from mmcl.embedder import CachedEmbedder, DualEncoderEmbedder, check_embedder
from mmcl.embedder.cached import fingerprint
from mmcl.errors import ConfigError
from mmcl.hub.formats import ExportOptions, find_format
from mmcl.hub.formats.as_onnx import graphs, quantising
from mmcl.hub.formats.as_onnx import tokenizer_files as tokenizers
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.pooling import GridPooling
from mmcl.models.towers.text_preprocessing import OpenClipText
from mmcl.runtime.captions import CaptionTokenizer, TextSettings

Exported = Callable[[str], SimpleNamespace]
FORMAT = find_format("onnx")
MANY = [f"{size}{color} {shape}" for size in ("", "a small ", "two big ") for color in ("red", "blue", "green")
        for shape in ("circle", "square on the grey field", "photo")]  # fmt: skip


@pytest.fixture(scope="session")
def exported(trained: Callable[[str], DualEncoder], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """``exported("bert_vit")``: its model, folder, notes, and what was logged meanwhile; written once a session."""
    made: dict[str, SimpleNamespace] = {}

    def make(name: str) -> SimpleNamespace:
        if name not in made:
            model, folder = trained(name), tmp_path_factory.mktemp(f"onnx_{name}") / "out"
            notes = FORMAT.write(model, folder, ExportOptions())
            made[name] = SimpleNamespace(
                model=model, folder=folder, notes=notes, source=DualEncoderEmbedder(model, device="cpu"),
                opened=FORMAT.open(folder, ExportOptions()),
            )  # fmt: skip
        return made[name]

    return make


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference."""
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype == torch.float32
    return (found - wanted).abs().max().item()


# BERT's mask and any length; SigLIP's fixed length, no mask; open_clip's trimmed tokens and causal mask.
@pytest.mark.parametrize("name", ["bert_vit", "siglip", "open_clip"])
def test_embeddings_are_the_models_at_any_batch_and_length(exported: Exported, name: str) -> None:
    case, images = exported(name), six_models.make_images(7)
    main = case.opened[""]
    for texts in (["two"], six_models.CAPTIONS, MANY, ["red " * 50, "", "A RED circle"]):
        assert apart(main.embed_texts(texts), case.source.encode_text(texts)) < 1e-5
    for some in (images[:1], images[1:3], images):
        pixels = case.source.image_inputs(some)["pixel_values"]
        wanted = case.source.encode_image(some)
        assert apart(main.embed_pixels(pixels), wanted) < 1e-5
        assert apart(main.embed_images(some), wanted) < 1e-5  # the same pixels, without torch
    other = main.embed_texts(["two"])
    assert apart(other, main.embed_texts(["a red circle"])) > 1e-3  # a control


def test_padding_changes_nothing(exported: Exported) -> None:
    embedder = exported("bert_vit").opened[""].embedder
    inputs = embedder._captions.batch(embedder._captions.tokens(["a red circle"]))
    wider = {name: np.pad(value, ((0, 0), (0, 9))) for name, value in inputs.items()}
    assert np.allclose(embedder.run(wider, "text"), embedder.run(inputs, "text"), rtol=0, atol=1e-6)
    seen = wider | {"attention_mask": np.ones_like(wider["attention_mask"])}
    assert not np.allclose(embedder.run(seen, "text"), embedder.run(inputs, "text"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["", "int8"])
@pytest.mark.parametrize("name", ["bert_vit", "siglip", "open_clip"])
def test_graphs_keep_the_contract_of_embedders(exported: Exported, name: str, precision: str) -> None:
    check_embedder(exported(name).opened[precision].embedder)


def recall_at_10(images: Tensor, texts: Tensor) -> float:
    """The share of images whose own text is among their ten nearest."""
    return (torch.topk(images @ texts.T, 10).indices == torch.arange(len(images))[:, None]).any(1).float().mean().item()


def test_int8_finds_what_float32_finds(exported: Exported) -> None:
    case = exported("open_clip")
    captions = [f"{caption} number {number}" for number, caption in enumerate(MANY * 4)]
    wanted, found = case.source.encode_text(captions), case.opened["int8"].embed_texts(captions)
    assert 1e-4 < apart(found, wanted) < 0.2  # it is another model, and nearly the same
    noisy = torch.nn.functional.normalize(wanted + 0.02 * torch.randn(wanted.shape), dim=1)  # queries of their own
    assert abs(recall_at_10(noisy, found) - recall_at_10(noisy, wanted)) <= 0.011
    assert recall_at_10(noisy, wanted.flip(0)) < 0.5  # a control


def test_int8_rows_do_not_depend_on_their_neighbours(exported: Exported) -> None:
    int8 = exported("bert_vit").opened["int8"]
    together = int8.embed_texts(six_models.CAPTIONS)
    assert torch.equal(together[1:2], int8.embed_texts(six_models.CAPTIONS[1:2]))
    run = int8.embedder.run  # one call of both is what would differ
    inputs = int8.embedder._captions.batch(int8.embedder._captions.tokens(six_models.CAPTIONS))
    assert not np.array_equal(run(inputs, "text"), together.numpy())


def test_files_say_what_they_are(exported: Exported) -> None:
    case = exported("siglip")
    values = json.loads((case.folder / "mmcl_onnx.json").read_text())
    assert {path.name for path in case.folder.iterdir()} == {
        "image.onnx", "text.onnx", "image_int8.onnx", "text_int8.onnx", "tokenizer.json", "mmcl_onnx.json",
    }  # fmt: skip
    assert values["logit_bias"] == pytest.approx(case.model.logit_bias.item())
    assert values["logit_scale"] == pytest.approx(case.model.logit_scale.item())
    assert values["opset"] == graphs.OPSET
    assert any(
        re.fullmatch(r"the int8 graphs take [\d.]+ MiB \(image\) and [\d.]+ MiB \(text\)", n) for n in case.notes
    )
    for side, axes in (("image", ["batch", 3, 32, 32]), ("text", ["batch", 16])):
        session = onnxruntime.InferenceSession(str(case.folder / f"{side}.onnx"))
        assert session.get_inputs()[0].shape == axes
        assert session.get_outputs()[0].shape == ["batch", case.model.embedding_dim]
    sizes = {path.name: path.stat().st_size for path in case.folder.iterdir()}
    assert sizes["image_int8.onnx"] < sizes["image.onnx"]
    everything = b"".join(path.read_bytes() for path in case.folder.iterdir())
    assert b"site-packages" not in everything
    assert str(case.folder.parent).encode() not in everything


def test_text_graphs_name_their_axes_and_mask(exported: Exported) -> None:
    inputs = onnxruntime.InferenceSession(str(exported("bert_vit").folder / "text.onnx")).get_inputs()
    assert [(each.name, each.shape) for each in inputs] == [
        ("input_ids", ["batch", "length"]), ("attention_mask", ["batch", "length"]),
    ]  # fmt: skip


def test_embeddings_are_cached_by_what_they_depend_on(exported: Exported, tmp_path: Path) -> None:
    case = exported("bert_vit")
    embedder = case.opened[""].embedder
    cached = CachedEmbedder(embedder, folder=tmp_path)
    assert torch.equal(cached.encode_text(["two"]), embedder.encode_text(["two"]))
    marks = {fingerprint(each.embedder) for each in case.opened.values()} | {
        fingerprint(exported("siglip").opened[""].embedder)
    }
    assert len(marks) == 3
    assert fingerprint(FORMAT.open(case.folder, ExportOptions())[""].embedder) in marks


def test_writing_is_quiet_and_changes_nothing(
    trained: Callable[[str], DualEncoder], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    encoder = copy.deepcopy(trained("clip").text).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    handlers = list(logging.getLogger().handlers)
    graphs.write_graph(encoder, tmp_path / "g.onnx")
    quantising.quantise(tmp_path / "g.onnx", tmp_path / "q.onnx", lambda path: np.eye(4, dtype=np.float32))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert logging.getLogger().handlers == handlers
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


class Small(nn.Module):
    """What an image encoder looks like to the exporter, with a head to choose."""

    modality, learned_pooling = "image", None

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.tower = nn.Linear(3 * 8 * 8, 6)
        self.tower.spec, self.tower.preprocessing = {"name": "small"}, SimpleNamespace(size=(8, 8))
        self.head = head

    def forward(self, pixel_values: Tensor) -> Tensor:
        return nn.functional.normalize(self.head(self.tower(pixel_values.flatten(1))), dim=-1)


def test_weights_above_two_gigabytes_lie_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.onnx._internal.exporter import _onnx_program

    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 1000)
    encoder = Small(nn.Linear(6, 4))
    graphs.write_graph(encoder, tmp_path / "image.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"image.onnx", "image.onnx.data"}
    assert (tmp_path / "image.onnx.data").stat().st_size >= 4 * 3 * 8 * 8 * 6
    pixels = torch.randn(3, 3, 8, 8)

    def run(path: Path) -> np.ndarray:
        return onnxruntime.InferenceSession(str(path)).run(None, {"pixel_values": pixels.numpy()})[0]

    with torch.no_grad():
        assert apart(torch.from_numpy(run(tmp_path / "image.onnx")), encoder(pixels)) < 1e-6
    assert quantising.quantise(tmp_path / "image.onnx", tmp_path / "int8.onnx", run).layers > 0


def test_grid_pooling_in_a_graph_is_grid_pooling() -> None:
    pooling = GridPooling(4, 3)
    nn.init.normal_(pooling.places.weight)
    tokens, mask = torch.randn(2, 5, 3), torch.tensor([[False, True, True, True, True]] * 2)
    found = graphs._GridOfOneSize(pooling)(tokens, mask)
    assert torch.equal(found, pooling(tokens, mask))
    assert not torch.equal(found, tokens[:, 1:].mean(1))
    exported = torch.export.export(graphs._GridOfOneSize(pooling), (tokens, mask))  # it branches on no value
    assert torch.allclose(exported.module()(tokens, mask), found)


# -- what int8 leaves in float32 ------------------------------------------------------------------------------------


def small_graph(path: Path) -> Path:
    """Two products; the second one's weights are of very different sizes."""
    generator = np.random.default_rng(0)
    first, last = generator.normal(size=(8, 16)).astype(np.float32), generator.normal(size=(16, 4)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "first"], ["h"], name="first_product"),
        onnx.helper.make_node("Relu", ["h"], ["r"], name="relu"),
        onnx.helper.make_node("MatMul", ["r", "last"], ["y"], name="last_product"),
    ]
    shapes = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["b", d]) for n, d in (("x", 8), ("y", 4))]
    weights = [onnx.numpy_helper.from_array(first, "first"), onnx.numpy_helper.from_array(last, "last")]
    graph = onnx.helper.make_graph(nodes, "g", shapes[:1], shapes[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(path))
    return path


def quantised_products(path: Path) -> int:
    """How many products are int8 in a graph."""
    return sum(node.op_type == "MatMulInteger" for node in onnx.load(str(path)).graph.node)


def test_layers_that_suffer_stay_in_float32(tmp_path: Path) -> None:
    source = small_graph(tmp_path / "g.onnx")
    inputs = np.random.default_rng(1).normal(size=(12, 8)).astype(np.float32)

    def run(path: Path) -> np.ndarray:
        return onnxruntime.InferenceSession(str(path)).run(None, {"x": inputs})[0]

    made = quantising.quantise(source, tmp_path / "q.onnx", run)
    assert (made.layers, made.in_float, quantised_products(tmp_path / "q.onnx")) == (2, "", 2)
    assert 0 < made.noise < quantising.NOISE

    def touchy(path: Path) -> np.ndarray:  # spoilt by an int8 last product alone
        spoilt = "last_quantized" in {w.name for w in onnx.load(str(path)).graph.initializer}
        return -run(path) if spoilt else run(path)

    made = quantising.quantise(source, tmp_path / "t.onnx", touchy)
    assert (made.layers, made.in_float, quantised_products(tmp_path / "t.onnx")) == (1, "the last layer", 1)
    # Where nothing helps, what is least bad is kept.
    spoils = iter([0.9, 0.3, 0.5, 0.6])
    wanted = run(source)
    made = quantising.quantise(
        source, tmp_path / "u.onnx", lambda path: wanted if path == source else wanted * (1 + next(spoils))
    )
    assert (made.layers, made.in_float, quantised_products(tmp_path / "u.onnx")) == (1, "the last layer", 1)


def test_a_graph_that_is_none(tmp_path: Path) -> None:
    source = small_graph(tmp_path / "g.onnx")
    model = onnx.load(str(source))
    model.graph.node[0].input[0] = "nowhere"
    onnx.save(model, str(source))
    with pytest.raises(ConfigError, match=r"g\.onnx cannot be quantised to int8 by onnxruntime \(.+--no-int8"):
        quantising.quantise(source, tmp_path / "q.onnx", lambda path: np.eye(4, dtype=np.float32))


# -- tokenizers -----------------------------------------------------------------------------------------------------


def captions_of(tokenizer: object, max_length: int, cleaning: str) -> tuple[OpenClipText, CaptionTokenizer]:
    """open_clip's tokenizer as mmcl uses it, and rebuilt."""
    settings = TextSettings(max_length, "longest", 0, False, cleaning)
    return OpenClipText(tokenizer, max_length=max_length, trim=True), CaptionTokenizer(
        tokenizers._byte_pairs(tokenizer), settings
    )


@pytest.mark.parametrize(("cleaning", "max_length"), [("lower", 77), ("whitespace", 12), ("canonicalize", 20)])
def test_open_clips_tokenizer_rebuilt_gives_its_tokens(cleaning: str, max_length: int) -> None:
    import open_clip

    own, rebuilt = captions_of(open_clip.SimpleTokenizer(clean=cleaning), max_length, cleaning)
    choose = random.Random(0)
    alphabets = [
        range(32, 127),
        range(0x20, 0x250),
        range(0x300, 0x3000),
        range(0x3000, 0xD7FF),
        range(0x1F000, 0x1FAFF),
    ]
    odd = [
        "'s",
        "'LL",
        "<start_of_text>",
        "<END_of_text>",
        "<",
        "&amp;",
        "ß",
        "ſ",
        "'ſ",
        "İ",
        "ﬁ",
        "Ã©",
        " ",
        "don't",
        "12",
    ]
    pools = [*([chr(point) for point in points] for points in alphabets), odd]
    drawn = ["".join(choose.choice(choose.choice(pools)) for _ in range(choose.randint(1, 12))) for _ in range(600)]
    texts = [*tokenizers.HARD_CAPTIONS, *drawn]
    wanted, found = own.tokens(texts), rebuilt.tokens(texts)
    assert [wanted.ids(row).tolist() for row in range(len(texts))] == [ids.tolist() for ids in found]
    assert len({tuple(ids.tolist()) for ids in found}) > 500


def test_transformers_own_clip_tokenizer_is_another() -> None:
    # A control: where the cleaning is left out, the comparison above sees it.
    import open_clip

    own, _ = captions_of(open_clip.SimpleTokenizer(), 77, "lower")
    rebuilt = CaptionTokenizer(tokenizers._byte_pairs(own.tokenizer), TextSettings(77, "longest", 0, False, "none"))
    for text, same in (("a red circle", True), ("fish &amp; chips", False), ("A RED circle", False)):
        assert (own.tokens([text]).ids(0).tolist() == rebuilt.tokens([text])[0].tolist()) is same


def test_a_tokenizer_that_comes_out_otherwise_is_refused(trained: Callable[[str], DualEncoder]) -> None:
    encoder = copy.copy(trained("bert_vit").text)
    real = encoder.tower.preprocessing

    class Odd(type(real)):
        def tokens(self, texts: list[str]) -> object:
            return super().tokens([text.replace("&", "red") for text in texts])

    preprocessing = copy.copy(real)
    preprocessing.__class__ = Odd
    tower = SimpleNamespace(preprocessing=preprocessing, spec={"name": "bert"})
    with pytest.raises(
        ConfigError, match=r"the text tower 'bert': as tokenizer.json .* other tokens of 'a!\$b'|of 'fish"
    ):
        tokenizers.export_tokenizer(SimpleNamespace(tower=tower))


def test_what_cannot_be_written_says_so(trained: Callable[[str], DualEncoder]) -> None:
    import open_clip

    slow = SimpleNamespace(is_fast=False)
    for name in six_models.MODELS:
        assert FORMAT.obstacle(trained(name)) is None
    model = copy.copy(trained("bert_vit"))
    preprocessing = copy.copy(model.text.tower.preprocessing)
    preprocessing.tokenizer = slow
    assert "has no tokenizer.json" in FORMAT.obstacle(_with_preprocessing(preprocessing))
    masking = open_clip.SimpleTokenizer(reduction_mask="random")
    preprocessing = OpenClipText(masking, max_length=20, trim=True)
    assert "at random" in FORMAT.obstacle(_with_preprocessing(preprocessing))
    odd = open_clip.SimpleTokenizer()
    odd.clean_fn = str.upper
    preprocessing = OpenClipText(odd, max_length=20, trim=True)
    assert "in a way of its own" in FORMAT.obstacle(_with_preprocessing(preprocessing))


def _with_preprocessing(preprocessing: object) -> SimpleNamespace:
    return SimpleNamespace(text=SimpleNamespace(tower=SimpleNamespace(preprocessing=preprocessing)))


# -- what torch.onnx cannot write -----------------------------------------------------------------------------------


class Unwritable(nn.Module):
    """A head that no operator of ONNX can stand for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, features: Tensor) -> Tensor:
        if self.kind == "operator":
            return torch.linalg.householder_product(features[:, :, None], features[:, :1])[..., 0]
        return features if bool((features.sum() > 0).item()) else -features


@pytest.mark.parametrize(("kind", "named"), [("operator", "householder_product"), ("branch", ".+")])
def test_a_tower_that_has_no_graph(tmp_path: Path, kind: str, named: str, capfd: pytest.CaptureFixture[str]) -> None:
    encoder = Small(Unwritable(kind))
    with pytest.raises(ConfigError, match=rf"the image tower 'small' cannot be written .*{named}.*torch\.onnx"):
        graphs.write_graph(encoder, tmp_path / "g.onnx")
    assert list(tmp_path.iterdir()) == []
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
