"""sentence-transformers models of images and texts read as dual encoders, and those that are refused."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny_folders
import torch

from mmcl.errors import ConfigError
from mmcl.models.opening.sentence_sources import (
    dual_encoder_from_sentence_transformers,
    is_sentence_transformers_folder,
)
from mmcl.models.towers.transformers_loading import quiet_transformers

library = pytest.importorskip(
    "sentence_transformers", reason="needs sentence-transformers: pip install 'mmcl[sentence-transformers]'"
)
TEXTS = [*tiny_folders.CAPTIONS, "red " * 40]


def modules_of(folder, modality, *, pooling="mean", head=()):
    """A route as a user of the library builds one."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(folder)
    assert transformer.modalities == [modality]
    return [transformer, Pooling(transformer.get_embedding_dimension(), pooling), *head, Normalize()]


@pytest.fixture(scope="module")
def routed(folder, tmp_path_factory):
    """A Router of a BERT and a ConvNeXt, with a head each, made and written by the library alone."""
    from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Router

    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("routed")
    gelu, identity = torch.nn.GELU(), torch.nn.Identity()
    linear = Dense(32, 20, bias=False, activation_function=identity)
    with quiet_transformers():
        router = Router(
            {
                "words": modules_of(folder("bert"), "text", head=[linear]),
                "image": modules_of(
                    folder("convnext"),
                    "image",
                    pooling="max",
                    head=[
                        Dense(32, 16, activation_function=identity),
                        LayerNorm(16),
                        Dense(16, 16, bias=False, init_weight=torch.eye(16), activation_function=gelu),
                        Dense(16, 20, activation_function=identity),
                    ],
                ),
            },
            route_mappings={(None, "text"): "words"},
        )
        model = library.SentenceTransformer(modules=[router], device="cpu")
        model.max_seq_length = 12
        model.save_pretrained(str(path), create_model_card=False)
    return path, model


def far(found, wanted):
    return float((torch.as_tensor(found) - torch.as_tensor(wanted)).abs().max())


def embed(model, images, texts):
    with torch.no_grad():
        pixels = model.image.tower.preprocessing(images)
        return model.encode_image(**pixels), model.encode_text(**model.text.tower.preprocessing(texts)), pixels


def test_a_router_of_the_librarys_own(routed, images):
    path, theirs = routed
    model = dual_encoder_from_sentence_transformers(path)
    found_images, found_texts, pixels = embed(model, images, TEXTS)
    with torch.no_grad():
        wanted = theirs.forward({**pixels, "modality": "image"})["sentence_embedding"]
    assert far(found_images, wanted) < 1e-5
    assert far(found_texts, theirs.encode(TEXTS)) < 1e-5
    assert far(found_texts, theirs.encode(TEXTS[::-1])) > 1e-3
    assert (model.image.pooling, model.text.pooling, model.embedding_dim) == ("max", "mean", 20)
    assert model.image.head.settings["norm"] == "layer"
    assert model.text.tower.preprocessing.max_length == 12
    assert model.logit_scale.item() == pytest.approx(20)
    assert model.logit_bias is None
    assert not model.training
    assert is_sentence_transformers_folder(path)


def test_what_was_read_trains(routed, images):
    model = dual_encoder_from_sentence_transformers(routed[0]).train()
    inputs = model.text.tower.preprocessing(TEXTS)
    model.encode_text(**inputs)[0].sum().backward()
    assert model.text.head.projection.weight.grad.abs().max() > 0


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_models_that_are_one_module(folder, images, tmp_path, family):
    """As the library writes them today, and as CLIP models were written for years: in 0_CLIPModel."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Transformer

    with quiet_transformers():
        theirs = library.SentenceTransformer(modules=[Transformer(folder(family)), Normalize()], device="cpu")
        theirs.save_pretrained(str(tmp_path / "new"), create_model_card=False)
    texts, old = tiny_folders.CAPTIONS, tmp_path / "old"
    shutil.copytree(folder(family), old / "0_CLIPModel")
    kind = "sentence_transformers.models.CLIPModel"
    (old / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": kind}]))
    for path in (tmp_path / "new", old):
        model = dual_encoder_from_sentence_transformers(str(path))
        found_images, found_texts, pixels = embed(model, images, texts)
        with torch.no_grad():
            wanted = theirs.forward({**pixels, "modality": "image"})["sentence_embedding"]
        assert far(found_images, wanted) < 1e-5
        if family == "clip":  # for SigLIP the library pads as it does for others, which is not how they are trained
            assert far(found_texts, theirs.encode(texts)) < 1e-5
        assert far(found_images, wanted.roll(1, 0)) > 1e-4


def copied(routed, tmp_path):
    shutil.copytree(routed[0], tmp_path / "copy")
    return tmp_path / "copy"


def refused(path, says):
    with pytest.raises(ConfigError, match=says) as caught:
        dual_encoder_from_sentence_transformers(path)
    assert "\n" not in str(caught.value)


def test_models_of_texts_alone(folder, tmp_path):
    from sentence_transformers.sentence_transformer.modules import Router

    says = "model of texts alone; as the text tower of a new model, name it in model.text.name"
    with quiet_transformers():
        text = modules_of(folder("bert"), "text")
        library.SentenceTransformer(modules=text).save_pretrained(str(tmp_path / "plain"), create_model_card=False)
        asymmetric = Router.for_query_document(text, modules_of(folder("bert"), "text"))
        model = library.SentenceTransformer(modules=[asymmetric])
        model.save_pretrained(str(tmp_path / "routed"), create_model_card=False)
    refused(tmp_path / "plain", says)
    refused(tmp_path / "routed", says)


def test_nothing_of_a_repository_is_run(routed, tmp_path):
    path = copied(routed, tmp_path)
    (path / "modeling_evil.py").write_text("raise SystemExit('ran')")
    modules = json.loads((path / "modules.json").read_text())
    modules.append({"idx": 1, "name": "1", "path": "", "type": "modeling_evil.Evil"})
    (path / "modules.json").write_text(json.dumps(modules))
    refused(path, "class 'modeling_evil.Evil', which is not part of sentence-transformers: opening it would run code")
    path = copied(routed, tmp_path / "again")
    config = json.loads((path / "router_config.json").read_text())
    config["types"][next(iter(config["types"]))] = "os.system"
    (path / "router_config.json").write_text(json.dumps(config))
    refused(path, "router_config.json names the class 'os.system', which is not part of sentence-transformers")


@pytest.mark.parametrize("inside", ["../elsewhere", "/etc", "a/../../b"])
def test_folders_outside_the_model(routed, tmp_path, inside):
    path = copied(routed, tmp_path)
    (path / "modules.json").write_text(
        json.dumps([{"path": inside, "type": "sentence_transformers.models.Transformer"}])
    )
    refused(path, "which lies outside the model")


def test_pickles(routed, folder, tmp_path):
    path = copied(routed, tmp_path)
    weights = path / "image_2_Dense" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    refused(path, r"pytorch_model.bin is a pickle, which can run code .* write it anew with save_pretrained")
    weights.with_name("pytorch_model.bin").unlink()
    refused(path, r"image_2_Dense has no weights as \*.safetensors")
    old = tmp_path / "old"
    shutil.copytree(folder("clip"), old / "0_CLIPModel")
    (old / "0_CLIPModel" / "model.safetensors").rename(old / "0_CLIPModel" / "pytorch_model.bin")
    kind = "sentence_transformers.models.CLIPModel"
    (old / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": kind}]))
    refused(old, "pytorch_model.bin is a pickle")


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


CASES = {
    "tanh": ("words_2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Tanh"},
             "its activation is Tanh; mmcl's heads have GELU, ReLU, SiLU or none"),
    "ends in an activation": ("words_2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.GELU"},
                              "mmcl's heads end in one Dense without activation"),
    "residual": ("words_2_Dense/config.json", {"use_residual": True}, "a Dense with a residual"),
    "last token": ("words_1_Pooling/config.json", {"pooling_mode": "lasttoken"},
                   "pooled by 'lasttoken'; mmcl reads cls, mean and max"),
    "two poolings": ("image_1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "takes 32 values|pooled by"),
    "hidden states": ("words_0_Transformer/sentence_bert_config.json",
                      {"modality_config": {"text": {"method": "forward", "method_output_name": ["hidden_states", -2]}}},
                      "which mmcl does not"),
    "a prompt": ("config_sentence_transformers.json", {"prompts": {"q": "query: "}, "default_prompt_name": "q"},
                 "every text starts with the prompt 'query: '"),
    "no modules": ("router_config.json", {"structure": {"words": [], "image": []}}, "route starts with nothing"),
    "no types": ("router_config.json", {"types": {}}, "does not say the types and the structure of its routes"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_mmcl_has_no_counterpart_of(routed, tmp_path, case):
    file, changes, says = CASES[case]
    path = copied(routed, tmp_path)
    edit(path / file, lambda value: value.update(changes))
    refused(path, says)


def test_folders_that_are_not_complete(routed, tmp_path):
    refused(tmp_path, r"holds no sentence-transformers model \(no modules.json\)")
    refused(tmp_path / "none", "there is no folder")
    path = copied(routed, tmp_path)
    for text, says in (
        ("{", "modules.json is no list of modules"),
        ("[]", "names no module"),
        ('[{"path": ""}]', "is no list of modules, each with a type and a path"),
        (
            '[{"path": "", "type": "sentence_transformers.models.BoW"}]',
            "its first module is a BoW, not a Transformer",
        ),
    ):
        (path / "modules.json").write_text(text)
        refused(path, says)
    path = copied(routed, tmp_path / "again")
    (path / "router_config.json").unlink()
    refused(path, "there is no .*router_config.json; the model is not complete")


def test_a_mean_that_takes_the_class_token_with_it(folder, tmp_path):
    """The library's own mean over a ViT is not mmcl's, which is over the places alone: told, not quietly another."""
    from sentence_transformers.sentence_transformer.modules import Router

    with quiet_transformers():
        router = Router({"text": modules_of(folder("bert"), "text"), "image": modules_of(folder("vit"), "image")})
        library.SentenceTransformer(modules=[router]).save_pretrained(str(tmp_path), create_model_card=False)
    refused(tmp_path, "the mean is taken over the class token too, where mmcl takes it over places alone")


def test_embeddings_of_two_sizes(routed, tmp_path):
    path = copied(routed, tmp_path)
    edit(path / "router_config.json", lambda value: value["structure"]["words"].remove("words_2_Dense"))
    refused(path, "image embeddings have 20 values and text embeddings 32")


def test_without_the_library(routed, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert dual_encoder_from_sentence_transformers(routed[0]).embedding_dim == 20
