"""The `sentence-transformers` format, judged by sentence-transformers itself."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import six_models
import torch
from PIL import Image

import mmcl
from mmcl.config import HeadSection, ModelSection, TowerSection
from mmcl.embedder import DualEncoderEmbedder, check_embedder
from mmcl.errors import ConfigError
from mmcl.hub.formats import ExportOptions, find_format
from mmcl.hub.formats.as_sentence_transformers.format import FORMAT
from mmcl.hub.formats.as_sentence_transformers.towers import timm_data_config
from mmcl.models.dual_encoder import build_dual_encoder
from mmcl.models.opening.sentence_sources import dual_encoder_from_sentence_transformers
from mmcl.models.saving import from_pretrained, save_pretrained
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.models.towers.transformers_loading import quiet_transformers

sys.path.append(str(Path(__file__).parents[1] / "repos"))

from push_server import hub  # noqa: F401

library = pytest.importorskip(
    "sentence_transformers", reason="needs sentence-transformers: pip install 'mmcl[sentence-transformers]'"
)

TEXTS = [*six_models.CAPTIONS, "A RED circle", "a photo of the big " * 30]
ROUTED = ("minilm_cnn", "xlm_r_dinov2")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """``exported("clip")``: its folder, written once."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "st"
            assert FORMAT.obstacle(trained(name)) is None
            FORMAT.write(trained(name), made[name], ExportOptions())
        return made[name]

    return make


@pytest.fixture(scope="module")
def opened(exported):
    """``opened("clip")``: its folder as the library opens it."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = FORMAT.open(exported(name), ExportOptions())[""]
        return made[name]

    return make


def pictures(model, count=3):
    """Pictures that no library resizes or cuts."""
    to = model.image.tower.preprocessing.resize_to
    images = six_models.make_images(count, size=(to, to) if isinstance(to, int) else to)
    return images, [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def far(found, wanted):
    return float(np.abs(np.asarray(found) - np.asarray(wanted)).max())


@pytest.mark.parametrize("name", six_models.MODELS)
def test_the_library_gives_the_models_embeddings(trained, opened, name):
    model, theirs = trained(name), opened(name).model
    assert type(theirs) is library.SentenceTransformer
    source = DualEncoderEmbedder(model, device="cpu")
    images, shown = pictures(model)
    wanted_images, wanted_texts = source.encode_image(images), source.encode_text(TEXTS)
    found_images = theirs.encode(shown, batch_size=2)
    found_texts = theirs.encode(TEXTS, batch_size=2)
    assert far(found_images, wanted_images) < TOLERANCE
    assert far(found_texts, wanted_texts) < TOLERANCE
    np.testing.assert_allclose(np.linalg.norm(found_images, axis=1), 1, atol=1e-5)
    # Controls: other pictures, other captions, and captions that are not cut where the model cuts them.
    assert far(found_images, wanted_images.roll(1, 0)) > 1e-3
    assert far(found_texts, wanted_texts.roll(1, 0)) > 1e-3
    assert theirs.max_seq_length == model.text.tower.preprocessing.max_length
    assert theirs.similarity_fn_name == "cosine"
    assert not any(theirs.prompts.values())
    assert {parameter.dtype for parameter in theirs.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", six_models.MODELS)
def test_the_same_pixels(trained, exported, opened, name):
    model = trained(name)
    source, mine = DualEncoderEmbedder(model, device="cpu"), six_models.make_images()
    theirs = opened(name)
    pixels = source.image_inputs(mine)["pixel_values"]
    assert far(theirs.embed_pixels(pixels), source.encode_image(mine)) < TOLERANCE
    assert far(theirs.embed_pixels(pixels + 0.1), source.encode_image(mine)) > 1e-4
    assert far(theirs.embed_texts(TEXTS), source.encode_text(TEXTS)) < TOLERANCE
    for nothing in (theirs.embed_pixels(pixels[:0]), theirs.embed_images([]), theirs.embed_texts([])):
        assert nothing.shape == (0, model.embedding_dim)
    assert all((exported(name) / needed).is_file() for needed in FORMAT.needs)
    assert find_format("sentence-transformers") is FORMAT


@pytest.mark.parametrize("name", six_models.MODELS)
def test_no_pickles_no_strange_classes_no_paths(exported, name):
    folder = exported(name)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".model"}
    told = [json.loads((folder / "modules.json").read_text())]
    types = [entry["type"] for entry in told[0]]
    if (folder / "router_config.json").is_file():
        types += json.loads((folder / "router_config.json").read_text())["types"].values()
    assert all(kind.startswith("sentence_transformers.") for kind in types)
    assert types[0].endswith("Router") == (name in ROUTED)
    for path in files:
        if path.suffix == ".json":
            assert str(folder.parents[1]) not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("name", six_models.MODELS)
def test_read_back_as_a_dual_encoder_and_as_an_embedder(trained, exported, name):
    model, folder = trained(name), exported(name)
    source, images = DualEncoderEmbedder(model, device="cpu"), pictures(model)[0]
    wanted = source.encode_image(images), source.encode_text(TEXTS)
    again = DualEncoderEmbedder(dual_encoder_from_sentence_transformers(folder), device="cpu")
    loaded = mmcl.load(FORMAT.reference(folder), device="cpu")
    for found in (again, loaded):
        assert far(found.encode_image(images), wanted[0]) < TOLERANCE
        assert far(found.encode_text(TEXTS), wanted[1]) < TOLERANCE
        assert found.logit_scale == pytest.approx(source.logit_scale)
        assert (found.modalities, found.embedding_dim) == ({"image", "text"}, model.embedding_dim)
    assert loaded.logit_scale != 20
    if name in ("minilm_cnn", "clip"):
        check_embedder(loaded)
    bias = None if model.logit_bias is None else model.logit_bias.item()
    assert (again.model.logit_bias is None) == (bias is None)
    if bias is not None:
        assert again.model.logit_bias.item() == pytest.approx(bias)


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["bert_vit", "minilm_cnn", "siglip"])
def test_beside_the_models_own_files(trained, tmp_path, name):
    model = trained(name)
    save_pretrained(model, tmp_path)
    before = hashes(tmp_path)
    FORMAT.write(model, tmp_path, ExportOptions(combined=True))
    after = hashes(tmp_path)
    assert {path: after[path] for path in before} == before
    assert len(after) > len(before)
    assert from_pretrained(tmp_path).embedding_dim == model.embedding_dim
    images, shown = pictures(model)
    source = DualEncoderEmbedder(model, device="cpu")
    with quiet_transformers():
        theirs = library.SentenceTransformer(str(tmp_path), device="cpu")
    assert far(theirs.encode(shown), source.encode_image(images)) < TOLERANCE
    assert far(theirs.encode(TEXTS), source.encode_text(TEXTS)) < TOLERANCE
    weights = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.safetensors")]
    if name == "bert_vit":  # a VisionTextDualEncoder as it is: nothing twice
        assert weights == [Path("model.safetensors")]
    elif name == "siglip":
        assert {str(path) for path in weights} == {"model.safetensors", "0_Transformer/model.safetensors"}


@pytest.mark.parametrize("name", ["clip", "minilm_cnn"])
def test_from_a_hub(trained, exported, hub, name):  # noqa: F811
    from huggingface_hub import HfApi

    HfApi().create_repo(f"owner/{name}")
    HfApi().upload_folder(repo_id=f"owner/{name}", folder_path=str(exported(name)))
    images, shown = pictures(trained(name))
    source = DualEncoderEmbedder(trained(name), device="cpu")
    wanted = source.encode_image(images), source.encode_text(TEXTS)
    with quiet_transformers():
        theirs = library.SentenceTransformer(f"owner/{name}", device="cpu")
        loaded = mmcl.load(f"sentence-transformers:owner/{name}", device="cpu")
        read = DualEncoderEmbedder(dual_encoder_from_sentence_transformers(f"owner/{name}"), device="cpu")
    assert far(theirs.encode(shown), wanted[0]) < TOLERANCE
    assert far(theirs.encode(TEXTS), wanted[1]) < TOLERANCE
    assert far(read.encode_text(TEXTS), wanted[1]) < TOLERANCE
    assert loaded.logit_scale == pytest.approx(source.logit_scale)


MLP = {"name": "mlp", "hidden_dims": (20, 16), "activation": "relu"}
HEADS = {
    "layer norm": MLP | {"norm": "layer"},
    "batch norm": MLP | {"norm": "batch"},
    "plain": MLP | {"norm": "none", "activation": "gelu"},
    "no hidden layer": MLP | {"hidden_dims": ()},
    "bias": {"name": "linear", "bias": True},
    "none": {"name": "none"},
}


def tiny(image=None, text=None, dim=32):
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    image = {"name": "tiny", "image_size": 32, "options": small} | (image or {})
    text = {"name": "tiny", "options": small | (text or {}).pop("options", {})} | (text or {})
    section = ModelSection(image=TowerSection(**image), text=TowerSection(**text), embedding_dim=dim)
    return build_dual_encoder(section, captions=six_models.CAPTIONS).eval()


@pytest.mark.parametrize("head", HEADS)
def test_every_head_and_the_mean_of_places(tmp_path, head):
    """A mean over an image leaves its class token out, which the library's pooling cannot."""
    section = HeadSection(**HEADS[head])
    model = tiny({"head": section, "pooling": "mean"}, {"head": section, "pooling": "max", "max_length": 9})
    with torch.no_grad():
        for module in model.modules():  # norms that do something
            if isinstance(module, (torch.nn.LayerNorm, torch.nn.BatchNorm1d)):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    FORMAT.write(model, tmp_path, ExportOptions())
    source, images = DualEncoderEmbedder(model, device="cpu"), six_models.make_images()
    pixels = source.image_inputs(images)["pixel_values"]
    theirs = FORMAT.open(tmp_path, ExportOptions())[""]
    assert far(theirs.embed_pixels(pixels), source.encode_image(images)) < TOLERANCE
    assert far(theirs.embed_texts(TEXTS), source.encode_text(TEXTS)) < TOLERANCE
    again = dual_encoder_from_sentence_transformers(tmp_path)
    read = DualEncoderEmbedder(again, device="cpu")
    assert far(read.encode_image(images), source.encode_image(images)) < TOLERANCE
    assert far(read.encode_text(TEXTS), source.encode_text(TEXTS)) < TOLERANCE
    assert (again.image.pooling, again.text.pooling) == ("mean", "max")
    if head in ("layer norm", "plain"):
        assert again.text.head.settings == model.text.head.settings
    # Control: the library's mean takes the class token with it.
    model.image.tower.num_prefix_tokens = 0
    assert far(source.encode_image(images), theirs.embed_pixels(pixels)) > 1e-4


def test_notes(trained, tmp_path):
    model = tiny({"head": HeadSection(**HEADS["batch norm"])})
    assert FORMAT.write(model, tmp_path / "a", ExportOptions()) == [
        "The head's batch norm is folded into the layer before it, and cannot be trained on by itself."
    ]
    told = FORMAT.write(trained("minilm_cnn"), tmp_path / "b", ExportOptions())
    assert len(told) == 1
    assert 'must be RGB, as timm takes no others: image.convert("RGB")' in told[0]


def test_obstacles(trained):
    stem = {"options": {"convolutional_stem": True}}
    for model, says in (
        (tiny({"pooling": "attention"}), "the image tower is pooled by 'attention', which has weights that only onnx"),
        (tiny({"pooling": "grid"}), "pooled by 'grid', which has weights that only onnx carries over"),
        (tiny({"pooling": "max"}), "pooled by 'max' without its 1 class and register tokens"),
        (tiny(stem, {"pooling": "mean"}), "the image tower starts with a convolutional stem"),
        (tiny({"pooling": "mean"}, stem), "the text tower starts with a convolutional stem"),
    ):
        found = FORMAT.obstacle(model)
        assert says in found
        assert "onnx" in found
        assert not found.endswith(".")
    swin = {"name": "timm:test_vit", "pretrained": False, "pooling": "max", "options": {}}
    assert "pooled by 'max' without its 1 class and register tokens" in FORMAT.obstacle(tiny(swin))
    model = tiny({"pooling": "mean"})
    model.image.head = torch.nn.Linear(32, 32)
    assert FORMAT.obstacle(model) == "the image head is a Linear; onnx takes it"


def test_timm_is_the_same_network(tmp_path):
    """Options, size and name reach transformers' wrapper; another option gives other embeddings."""
    sides = {"name": "timm:test_vit", "pretrained": False, "image_size": 96, "pooling": "cls"}
    model = tiny(sides | {"options": {"depth": 2}})
    FORMAT.write(model, tmp_path, ExportOptions())
    config = json.loads((tmp_path / "image_0_Transformer" / "config.json").read_text())
    assert (config["architecture"], config["model_args"]["depth"]) == ("test_vit", 2)
    source, images = DualEncoderEmbedder(model, device="cpu"), six_models.make_images(3, size=(96, 96))
    pixels = source.image_inputs(images)["pixel_values"]
    assert pixels.shape[-1] == 96
    opened = FORMAT.open(tmp_path, ExportOptions())[""]
    assert far(opened.embed_pixels(pixels), source.encode_image(images)) < TOLERANCE
    config["model_args"]["depth"] = 1
    (tmp_path / "image_0_Transformer" / "config.json").write_text(json.dumps(config))
    found = FORMAT.open(tmp_path, ExportOptions())[""].embed_pixels(pixels)
    assert far(found, source.encode_image(images)) > 1e-3
    with pytest.raises(ConfigError, match="timm cannot build 'test_vit' with these weights"):
        dual_encoder_from_sentence_transformers(tmp_path)


@pytest.mark.parametrize(("size", "to"), [(64, 67), (224, 235), (224, 256), (224, 224), (384, 439), (96, 97)])
def test_timm_resizes_to_the_same_size(size, to):
    import timm

    preprocessing = ImagePreprocessing((size, size), to, "bicubic", crop_rounding="even")
    data = timm.data.resolve_data_config(timm_data_config(preprocessing), model=None)
    resize, cut, *_ = timm.data.create_transform(**data, is_training=False).transforms
    assert (resize.size, tuple(cut.size)) == (to, (size, size))


def test_pictures_that_are_not_rgb(trained, opened):
    """Grey and see-through pictures are read, as mmcl reads them."""
    for name in ("xlm_r_dinov2", "siglip"):
        grey = pictures(trained(name))[1][0].convert("L")
        rows = opened(name).model.encode([grey, grey.convert("RGB"), grey.convert("RGBA")])
        assert far(rows[0], rows[1]) < TOLERANCE
        assert far(rows[2], rows[1]) < TOLERANCE


def test_the_scale_of_a_folder_that_tells_none(exported, tmp_path):
    """A CLIP's own scale, else the library's fixed one; and what an embedding depends on is in the fingerprint."""
    found = {}
    for name in ("clip", "minilm_cnn"):
        shutil.copytree(exported(name), tmp_path / name)
        config = tmp_path / name / "config_sentence_transformers.json"
        told = json.loads(config.read_text())
        config.write_text(json.dumps({key: value for key, value in told.items() if key != "mmcl"}))
        found[name] = mmcl.load(f"sentence-transformers:{tmp_path / name}", device="cpu")
        wanted = told["mmcl"]["logit_scale"] if name == "clip" else 20
        assert found[name].logit_scale == pytest.approx(wanted)
    before = found["minilm_cnn"].fingerprint()
    config = tmp_path / "minilm_cnn" / "image_0_Transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pretrained_cfg": {"input_size": [3, 64, 64]}}))
    assert mmcl.load(f"sentence-transformers:{tmp_path / 'minilm_cnn'}", device="cpu").fingerprint() != before


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_a_bias_that_transformers_has_no_place_for(tmp_path, pooling):
    model = tiny({}, {"pooling": pooling})
    model.logit_bias = torch.nn.Parameter(torch.tensor([-3.5]))
    FORMAT.write(model, tmp_path, ExportOptions())
    again = dual_encoder_from_sentence_transformers(tmp_path)
    assert again.logit_bias.item() == -3.5
    config = tmp_path / "config_sentence_transformers.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"mmcl": {"logit_scale": "x", "logit_bias": None}}))
    assert dual_encoder_from_sentence_transformers(tmp_path).logit_bias is None
