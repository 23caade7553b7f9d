from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import six_models
import tiny_folders
import tiny_open_clip
import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from mmcl.config import HeadSection, ModelSection, TowerSection
from mmcl.embedder.dual_encoder_embedder import DualEncoderEmbedder
from mmcl.errors import ConfigError
from mmcl.hub.formats import ExportOptions, Opened
from mmcl.hub.formats.as_open_clip.format import FORMAT
from mmcl.hub.formats.as_open_clip.half import bias_before
from mmcl.hub.formats.as_open_clip.hub_names import PLACEHOLDER, is_hub_id
from mmcl.hub.formats.as_open_clip.text import is_clip_tokenizer
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.opening.dual_sources import dual_encoder_from_open_clip, dual_encoder_from_transformers

BOUND = FORMAT.tolerances[""]
CAPTIONS = [*six_models.CAPTIONS, "A RED Circle", "a photo of the grey field " * 9, "circle"]
Trained = Callable[[str], DualEncoder]


def exported(model: DualEncoder, folder: Path, **options: Any) -> Opened:
    assert FORMAT.obstacle(model) is None
    FORMAT.write(model, folder, ExportOptions(**options))
    return FORMAT.open(folder, ExportOptions(**options))[""]


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "open_clip_config.json").read_text())


def pixels(model: DualEncoder) -> Tensor:
    return model.image.tower.preprocessing(six_models.make_images())["pixel_values"]


def check_equal(model: DualEncoder, opened: Opened) -> None:
    source = DualEncoderEmbedder(model, device="cpu")
    images, texts = pixels(model), source.encode_text(CAPTIONS)
    wanted = source.embed_inputs({"pixel_values": images}, "image").detach()
    assert (opened.embed_pixels(images) - wanted).abs().max() < BOUND
    assert (opened.embed_texts(CAPTIONS) - texts).abs().max() < BOUND
    # Controls: another picture and another caption are further away than the bound.
    assert (opened.embed_pixels(images.flip(0)) - wanted).abs().max() > 10 * BOUND
    assert (opened.embed_texts(CAPTIONS[::-1]) - texts).abs().max() > 10 * BOUND


def dual(folder: Path, image: dict[str, Any], text: dict[str, Any] | None = None, **model: Any) -> DualEncoder:
    """A tower is the keys of its section, with ``kind`` for a tiny folder to be made; text is BERT unless given."""
    text = {"kind": "bert"} | (text or {})
    for side, make in ((image, tiny_folders.save_vision_model), (text, tiny_folders.save_text_model)):
        if kind := side.pop("kind", None):
            (folder / kind).mkdir(parents=True)
            side["name"] = str(make(folder / kind, kind))
    section = ModelSection(image=TowerSection(**image), text=TowerSection(**text), **{"embedding_dim": 24} | model)
    return shaken(build_dual_encoder(section))


def shaken(model: DualEncoder) -> DualEncoder:
    """No bias at zero, no scale at one, no batch statistics of a new layer: nothing that hides a mistake."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.05 * torch.randn(value.shape, generator=generator)
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value += 0.1 * torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value *= 1 + torch.rand(value.shape, generator=generator)
        model.clamp_logit_scale()
    return model.eval()


@pytest.fixture
def variants(tmp_path: Path) -> None:
    (tmp_path / "architectures").mkdir()
    tiny_open_clip.register(tmp_path / "architectures")


@pytest.mark.parametrize("name", ["minilm_cnn", "xlm_r_dinov2", "clip", "siglip", "open_clip"])
def test_plain_open_clip_embeds_as_the_source(name: str, trained: Trained, tmp_path: Path) -> None:
    model = trained(name)
    opened = exported(model, tmp_path / "out")
    check_equal(model, opened)
    assert opened.model.logit_scale.exp().item() == pytest.approx(float(model.logit_scale.detach()), rel=1e-6)
    assert opened.embed_texts([]).shape == opened.embed_images([]).shape == (0, model.embedding_dim)
    assert opened.embed_pixels(torch.empty(0, 3, *model.image.tower.preprocessing.size)).shape[1:] == (
        model.embedding_dim,
    )
    for file in (tmp_path / "out").iterdir():
        assert file.suffix in (".json", ".safetensors")
        if file.suffix == ".json":
            text = file.read_text()
            assert str(tmp_path.parents[2]) not in text
            assert '"/' not in text
    assert set(FORMAT.needs) <= {file.name for file in (tmp_path / "out").iterdir()}


def test_control_other_weights_embed_otherwise(trained: Trained, tmp_path: Path) -> None:
    model = trained("clip")
    exported(model, tmp_path / "out")
    weights = tmp_path / "out" / "open_clip_model.safetensors"
    from safetensors.torch import load_file, save_file

    state = load_file(weights)
    state["visual.ln_post.bias"] = state["visual.ln_post.bias"] + 0.1
    save_file(state, weights)
    opened = FORMAT.open(tmp_path / "out", ExportOptions())[""]
    wanted = DualEncoderEmbedder(model, device="cpu").embed_inputs({"pixel_values": pixels(model)}, "image")
    assert (opened.embed_pixels(pixels(model)) - wanted).abs().max() > 100 * BOUND


def test_what_open_clip_cannot_say_is_named(trained: Trained) -> None:
    found = FORMAT.obstacle(trained("bert_vit"))
    assert re.match("the image tower .ViTModel. is pooled by its own pooler, a dense layer and tanh", found)
    assert "onnx" in found
    assert not found.endswith(".")


def test_its_own_transform_is_the_sources_where_nothing_is_resized(trained: Trained, tmp_path: Path) -> None:
    vit = dual(tmp_path, {"kind": "vit", "pooling": "cls"})
    for name, model in (("open_clip", trained("open_clip")), ("vit", vit)):
        opened = exported(model, tmp_path / name)
        images = six_models.make_images(3, size=(32, 32))
        wanted = DualEncoderEmbedder(model, device="cpu").encode_image(images)
        found = opened.embed_images([to_pil_image(image) for image in images])
        assert (found - wanted).abs().max() < BOUND, name


def test_a_crop_that_open_clip_cannot_say_is_noted(trained: Trained, tmp_path: Path) -> None:
    notes = FORMAT.write(trained("clip"), tmp_path / "clip", ExportOptions(repo_id="owner/clip"))
    assert any("36 pixels" in note and "32" in note for note in notes)
    notes = FORMAT.write(trained("open_clip"), tmp_path / "own", ExportOptions())
    assert notes == []  # control: what it can say is not noted
    assert config_of(tmp_path / "own")["preprocess_cfg"] == {
        "size": [32, 32], "mode": "RGB", "mean": [0.2, 0.3, 0.4], "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic", "resize_mode": "shortest",
    }  # fmt: skip


def test_captions_that_open_clip_mends(trained: Trained, tmp_path: Path) -> None:
    model = trained("minilm_cnn")
    opened = exported(model, tmp_path)
    captions = ["a red &amp; blue circle", "one  big\tsquare ", "the “grey” field", "A Photo"]
    mended = [opened.reads_as(caption) for caption in captions]
    assert mended == ["a red & blue circle", "one big square", 'the "grey" field', "A Photo"]
    source = DualEncoderEmbedder(model, device="cpu")
    assert (opened.embed_texts(captions) - source.encode_text(mended)).abs().max() < BOUND
    # Control: the source reads the entity as it stands.
    assert (opened.embed_texts(captions) - source.encode_text(captions)).abs().max() > 100 * BOUND


@pytest.mark.parametrize(
    ("image", "text", "model"),
    [
        ({"kind": "dinov2_registers"}, {}, {}),
        ({"kind": "dinov2_registers", "pooling": "mean", "image_size": 48, "head": HeadSection(bias=True)}, {}, {}),
        ({"kind": "vit", "pooling": "cls", "head": HeadSection(bias=True)}, {}, {}),
        ({"kind": "vit", "pooling": "mean"}, {"head": HeadSection(bias=True), "pooling": "mean"}, {}),
        ({"kind": "vit", "pooling": "cls", "options": {"qkv_bias": False}, "pretrained": False}, {}, {}),
        ({"kind": "dinov2", "image_size": 48}, {"pooling": "cls"}, {"logit_bias": -3.0}),
        ({"kind": "clip_vision", "image_size": 40, "head": HeadSection(bias=True)}, {"kind": "roberta"}, {}),
        ({"name": "timm:test_vit", "pretrained": False, "pooling": "mean"}, {"max_length": 9}, {}),
        ({"name": "timm:test_vit", "pretrained": False, "options": {"drop_path_rate": 0.1}}, {}, {}),
        ({"name": "timm:test_resnet", "options": {"global_pool": "max"}, "pretrained": False}, {}, {}),
        ({"name": "timm:test_vit", "pretrained": False, "image_size": 64}, {}, {}),
        ({"name": "timm:test_vit", "pretrained": False, "options": {"global_pool": "avg"}}, {}, {}),
        ({"name": "timm:test_vit", "pretrained": False, "options": {"num_heads": 4, "qk_norm": True}}, {}, {}),
    ],
    ids=["registers", "registers, mean", "cls and bias", "mean", "no qkv bias", "other size", "CLIP's other size",
         "timm mean", "dropped", "timm max", "timm's other size", "timm avg", "timm options"],
)  # fmt: skip
def test_towers_poolings_and_heads(image: dict, text: dict, model: dict, tmp_path: Path) -> None:
    made = dual(tmp_path / "towers", dict(image), dict(text), **model)
    opened = exported(made, tmp_path / "out")
    check_equal(made, opened)
    assert (opened.model.logit_bias is None) == (made.logit_bias is None)
    if made.logit_bias is not None:
        assert opened.model.logit_bias.item() == made.logit_bias.item()
    assert open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}").context_length == text.get("max_length", 32)


@pytest.mark.parametrize(
    ("head", "obstacle"),
    [
        ({"hidden_dims": [40]}, None),
        ({"hidden_dims": [48], "norm": "batch", "dropout": 0.1}, None),
        ({"hidden_dims": [49]}, "49 units"),
        ({"hidden_dims": [40, 40]}, "hidden layers"),
        ({"hidden_dims": [40], "activation": "relu"}, "relu"),
        ({"hidden_dims": [40], "norm": "layer"}, "norm layer"),
    ],
)
def test_hidden_layers_behind_timm(head: dict, obstacle: str | None, tmp_path: Path) -> None:
    image = {"name": "timm:test_efficientnet", "pretrained": False, "image_size": 64}
    model = dual(tmp_path / "towers", image | {"head": HeadSection(name="mlp", **head)})
    if obstacle is None:
        check_equal(model, exported(model, tmp_path / "out"))
    else:
        assert obstacle in FORMAT.obstacle(model)


@pytest.mark.parametrize(
    ("image", "text", "reason"),
    [
        ({"kind": "deit"}, {}, "DeiTModel"),
        ({"kind": "dinov2_registers", "pooling": "grid"}, {}, "Dinov2WithRegistersModel.*'grid'"),
        ({"kind": "convnext"}, {}, "ConvNextModel"),
        ({"kind": "vit", "pooling": "max"}, {}, "ViTModel.*'max'"),
        ({"kind": "dinov2", "pooling": "grid"}, {}, "Dinov2Model.*'grid'"),
        ({"kind": "dinov2", "pretrained": False, "options": {"use_swiglu_ffn": True}}, {}, "SwiGLU"),
        ({"kind": "dinov2", "pretrained": False, "options": {"hidden_act": "relu"}}, {}, "activation 'relu'"),
        ({"kind": "dinov2", "head": HeadSection(name="mlp")}, {}, "image head.*hidden layers"),
        ({"kind": "clip_vision", "pooling": "cls"}, {}, "CLIPVisionModel.*'cls'"),
        ({"kind": "siglip_vision", "pooling": "mean"}, {}, "SiglipVisionModel.*'mean'"),
        ({"name": "timm:test_efficientnet", "pretrained": False, "image_size": 64, "pooling": "max"}, {}, "'max'"),
        ({"kind": "dinov2"}, {"kind": "mpnet"}, "MPNetModel"),
        ({"kind": "dinov2"}, {"pooling": "max"}, "BertModel.*'max'"),
        ({"kind": "dinov2"}, {"head": HeadSection(name="mlp")}, "text head.*hidden layers"),
        ({"kind": "dinov2"}, {"pooling": "pooler", "head": HeadSection(bias=True)}, "text head has a bias"),
        ({"kind": "dinov2", "head": HeadSection(bias=True)}, {}, "image head has a bias"),
    ],
)  # fmt: skip
def test_obstacles(image: dict, text: dict, reason: str, tmp_path: Path) -> None:
    # 48 embeddings of 32 features: a bias of the head is no shift of the features then.
    model = dual(tmp_path, dict(image), dict(text), embedding_dim=48)
    with pytest.raises(ConfigError, match=reason):
        raise ConfigError(FORMAT.obstacle(model) or "none")


def test_stems_of_mmcl_are_an_obstacle(tmp_path: Path) -> None:
    tiny = {"name": "tiny", "options": {"convolutional_stem": True}}
    assert "image tower" in FORMAT.obstacle(dual(tmp_path / "a", dict(tiny)))
    of_text = FORMAT.obstacle(dual(tmp_path / "b", {"kind": "dinov2"}, {"kind": None, **tiny}))
    assert of_text.startswith("the text tower")
    assert "convolutional stem" in of_text


def test_a_bias_becomes_a_shift_of_the_features() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(5, 8, generator=generator), torch.randn(5, generator=generator)
    shift = bias_before(weight, bias, modality="image")
    torch.testing.assert_close(weight @ shift, bias)
    with pytest.raises(ConfigError, match="image head has a bias"):
        bias_before(weight.T, torch.randn(8, generator=generator), modality="image")


def siglip(folder: Path, **vision: Any) -> DualEncoder:
    folder.mkdir()
    tiny_folders.save_dual_model(folder, "siglip")
    config = json.loads((folder / "config.json").read_text())
    tiny_folders.edit_json(folder / "config.json", vision_config=config["vision_config"] | vision)
    return shaken(dual_encoder_from_transformers(str(folder)))


def test_siglip_where_timm_has_its_sizes(tmp_path: Path) -> None:
    import timm
    from timm.models.vision_transformer import VisionTransformer

    name, plain = "vit_tiny_patch8_siglip_32", "vit_small_patch8_siglip_32"
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_ratio": 1.5}

    def make(act_layer: str) -> Callable[..., VisionTransformer]:
        def build(pretrained: bool = False, pretrained_cfg: Any = None, **given: Any) -> VisionTransformer:
            kept = {key: value for key, value in given.items() if key in ("num_classes", "global_pool")}
            made = {"class_token": False, "global_pool": "map", "act_layer": act_layer} | sizes | kept
            model = VisionTransformer(**made)
            model.default_cfg = model.pretrained_cfg = {}
            return model

        return build

    model, registered = siglip(tmp_path / "source"), timm.models._registry._model_entrypoints
    try:
        registered[plain] = make("gelu")  # its sizes, but another activation
        registered[name] = make("gelu_tanh")
        check_equal(model, exported(model, tmp_path / "out"))
    finally:
        registered.pop(name, None), registered.pop(plain, None)
    vision, text = (config_of(tmp_path / "out")["model_cfg"][side] for side in ("vision_cfg", "text_cfg"))
    assert (vision["timm_model_name"], vision["timm_pool"], vision["timm_proj"]) == (name, "map", "none")
    assert (text["no_causal_mask"], text["proj_bias"], text["pool_type"]) == (True, True, "last")
    assert not (tmp_path / "out" / "config.json").exists()


def test_siglip_of_other_sizes_is_described_in_the_repository(tmp_path: Path) -> None:
    for number, vision in enumerate([{}, {"hidden_act": "gelu"}]):
        model = siglip(tmp_path / f"source{number}", **vision)
        check_equal(model, exported(model, tmp_path / f"out{number}", repo_id="owner/model"))
        assert (
            config_of(tmp_path / f"out{number}")["model_cfg"]["vision_cfg"]["timm_model_name"] == "hf-hub:owner/model"
        )
        options = json.loads((tmp_path / f"out{number}" / "config.json").read_text())["model_args"]
        assert (options["embed_dim"], options["depth"], options["img_size"]) == (32, 3, 32)
        with pytest.raises(ConfigError, match="the image tower's config.*repository of its own"):
            FORMAT.write(model, tmp_path / "refused", ExportOptions(repo_id="owner/model", combined=True))
    image = {"kind": "siglip_vision", "image_size": 48, "head": HeadSection(bias=True)}
    model = dual(tmp_path / "towers", image, {"pooling": "mean"})
    check_equal(model, exported(model, tmp_path / "resized"))
    both = json.loads((tmp_path / "resized" / "config.json").read_text())
    assert both["model_type"] == "bert"
    assert both["architecture"].endswith("siglip_224")
    for act in ("relu", "quick_gelu"):
        found = FORMAT.obstacle(siglip(tmp_path / act, hidden_act=act))
        assert (found is None) == (act == "quick_gelu")


def clip_tokenizer() -> Any:
    """CLIP's tokenizer of transformers, from the vocabulary that open_clip carries."""
    from transformers import CLIPTokenizer

    own = open_clip.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in own.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=[*own.bpe_ranks])


def test_clips_vocabulary_needs_no_tokenizer_files(tmp_path: Path) -> None:
    import transformers

    tokenizer = clip_tokenizer()
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    vision = text | {"image_size": 32, "patch_size": 8}
    text |= {"vocab_size": 49408, "max_position_embeddings": 20, "bos_token_id": 49406, "eos_token_id": 49407}
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=12)
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tiny_folders.save_processor(tmp_path, "clip")
    model = shaken(dual_encoder_from_transformers(str(tmp_path)))
    assert is_clip_tokenizer(model.text.tower.preprocessing.tokenizer)
    check_equal(model, exported(model, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("token*"))
    assert "hf_tokenizer_name" not in config_of(tmp_path / "out")["model_cfg"]["text_cfg"]
    # Checkpoints of before transformers 4.31 say 2, and take the highest token.
    model.text.tower.model.config.eos_token_id = model.text.tower.model.eos_token_id = 2
    old = DualEncoderEmbedder(model, device="cpu").encode_text(CAPTIONS)
    FORMAT.write(model, tmp_path / "old", ExportOptions())
    assert config_of(tmp_path / "old")["model_cfg"] == config_of(tmp_path / "out")["model_cfg"]
    torch.testing.assert_close(FORMAT.open(tmp_path / "out", ExportOptions())[""].embed_texts(CAPTIONS), old)
    # Controls: another vocabulary, and CLIP's with capitals kept.
    assert not is_clip_tokenizer(tiny_folders.word_tokenizer())
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert not is_clip_tokenizer(tokenizer)


@pytest.mark.parametrize("image", ["tiny-clip", "tiny-resnet", "tiny-coca"])
@pytest.mark.parametrize("bias", [False, True])
def test_heads_fold_into_open_clips_projections(image: str, bias: bool, variants: None, tmp_path: Path) -> None:
    text = {"tiny-clip": "tiny-last", "tiny-resnet": "tiny-bidirectional", "tiny-coca": "tiny-coca"}[image]
    section = ModelSection(
        image=TowerSection(name=f"open_clip:{image}", pretrained=False, head=HeadSection(bias=bias)),
        text=TowerSection(name=f"open_clip:{text}", pretrained=False, head=HeadSection(bias=bias)),
        embedding_dim=24 if image == "tiny-coca" else 16,
    )
    model = shaken(build_dual_encoder(section))
    check_equal(model, exported(model, tmp_path / "out"))
    notes = FORMAT.write(model, tmp_path / "again", ExportOptions())
    assert any("decoder" in note for note in notes) == (image == "tiny-coca")


def test_timm_towers_and_projections_of_open_clip(variants: None, tmp_path: Path) -> None:
    for number, proj in enumerate(["linear", "mlp", "none"]):
        vision = {"timm_model_name": "test_efficientnet", "timm_proj": proj, "image_size": 64}
        config = tiny_open_clip.CONFIG | {"vision_cfg": vision, "embed_dim": 256 if proj == "none" else 24}
        (tmp_path / f"tiny-timm-{number}.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / f"tiny-timm-{number}.json")
        section = ModelSection(
            image=TowerSection(name=f"open_clip:tiny-timm-{number}", pretrained=False),
            text=TowerSection(name="open_clip:tiny-clip", pretrained=False, max_length=12),
            embedding_dim=24 if proj == "mlp" else 16,
        )
        model = shaken(build_dual_encoder(section))
        check_equal(model, exported(model, tmp_path / f"out{number}"))


def test_one_activation_for_both_halves(variants: None, tmp_path: Path) -> None:
    section = ModelSection(
        image=TowerSection(name="open_clip:tiny-quick", pretrained=False),
        text=TowerSection(name="open_clip:tiny-clip", pretrained=False),
        embedding_dim=24,
    )
    (tmp_path / "tiny-quick.json").write_text(json.dumps(tiny_open_clip.CONFIG | {"quick_gelu": True}))
    open_clip.add_model_config(tmp_path / "tiny-quick.json")
    assert "QuickGELU" in FORMAT.obstacle(build_dual_encoder(section))
    section = section.model_copy(update={"text": TowerSection(name="open_clip:tiny-quick", pretrained=False)})
    model = shaken(build_dual_encoder(section))
    check_equal(model, exported(model, tmp_path / "out"))
    assert config_of(tmp_path / "out")["model_cfg"]["quick_gelu"] is True


def test_names_of_the_text_tower(trained: Trained, tmp_path: Path) -> None:
    def names(folder: str, **options: Any) -> tuple[str, str]:
        FORMAT.write(model, tmp_path / folder, ExportOptions(**options))
        text = config_of(tmp_path / folder)["model_cfg"]["text_cfg"]
        return text["hf_model_name"], text["hf_tokenizer_name"]

    model = trained("minilm_cnn")
    assert names("repo", repo_id="owner/model") == ("owner/model", "owner/model")
    assert names("none") == (PLACEHOLDER, PLACEHOLDER)
    notes = FORMAT.write(model, tmp_path / "none", ExportOptions())
    assert any("--repo-id" in note for note in notes)
    spec = model.text.tower.spec
    local = spec["name"]
    try:
        spec["name"] = "owner/bert"
        assert names("own") == ("owner/bert", "owner/bert")
        assert names("own_repo", repo_id="owner/model") == ("owner/model", "owner/model")
        assert names("combined", repo_id="owner/model", combined=True) == ("owner/bert", "owner/model")
    finally:
        spec["name"] = local
    with pytest.raises(ConfigError, match="repository of its own"):
        names("refused", repo_id="owner/model", combined=True)
    assert not (tmp_path / "refused").exists()
    assert all(map(is_hub_id, ["bert-base-uncased", "owner/name.1"]))
    assert not any(
        map(is_hub_id, ["tiny", "/tmp/bert", "./bert", "runs/bert", "a/b/c", PLACEHOLDER, None, str(tmp_path)])
    )


def test_a_folder_with_the_model_itself_keeps_its_files(trained: Trained, tmp_path: Path) -> None:
    from mmcl.models.saving import save_pretrained

    model = trained("minilm_cnn")
    save_pretrained(model, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    spec = model.text.tower.spec
    local = spec["name"]
    try:
        spec["name"] = "owner/bert"
        opened = exported(model, tmp_path, repo_id="owner/model", combined=True)
    finally:
        spec["name"] = local
    check_equal(model, opened)
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    assert after.keys() - before.keys() == set(FORMAT.needs)
    assert {name: after[name] for name in before} == before


def test_a_damaged_folder_is_named(trained: Trained, tmp_path: Path) -> None:
    exported(trained("open_clip"), tmp_path)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=f"{tmp_path}: open_clip cannot open it"):
        FORMAT.open(tmp_path, ExportOptions())


def test_a_model_of_open_clip_comes_back_as_it_was(tmp_path: Path, variants: None) -> None:
    (tmp_path / "source").mkdir()
    tiny_open_clip.save_folder(tmp_path / "source", "tiny-clip")
    model = dual_encoder_from_open_clip(str(tmp_path / "source"), None)
    exported(model, tmp_path / "out")
    source, found = config_of(tmp_path / "source")["model_cfg"], config_of(tmp_path / "out")["model_cfg"]
    assert found == source | {"quick_gelu": False, "custom_text": True}
    assert FORMAT.reference(tmp_path) == f"open_clip:{tmp_path}"


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_what_is_masked_is_what_the_tokenizer_pads_with(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    tiny_folders.save_text_model(folder, kind)
    tiny_folders.edit_json(folder / "config.json", pad_token_id=5)
    tiny_folders.edit_json(folder / "tokenizer_config.json", padding_side="left")
    model = dual(tmp_path / "towers", {"kind": "dinov2"}, {"kind": None, "name": str(folder), "pooling": "mean"})
    if kind == "roberta":  # counts its positions from the padding token of its config
        assert "padding token 5" in FORMAT.obstacle(model)
        return
    check_equal(model, exported(model, tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "config.json").read_text()).get("pad_token_id", 0) == 0
    assert open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}").tokenizer.padding_side == "right"


def test_adapters_are_merged_first(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = dual(tmp_path, {"kind": "vit", "pooling": "cls"})
    assert FORMAT.obstacle(model) is None
    model.text.tower.model = get_peft_model(model.text.tower.model, LoraConfig(target_modules=["query"]))
    assert "LoRA" in FORMAT.obstacle(model)
