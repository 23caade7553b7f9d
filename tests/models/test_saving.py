from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import tiny_open_clip
import torch
from PIL import Image
from tiny_folders import CAPTIONS

from mmcl.config import HeadSection, ModelSection, TowerSection
from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.opening.dual_sources import dual_encoder_from_open_clip, dual_encoder_from_transformers
from mmcl.models.saving import from_pretrained, save_pretrained, transformers_obstacle
from mmcl.models.towers.transformers_loading import quiet_transformers


@pytest.fixture(scope="module", autouse=True)
def _registered(tmp_path_factory):
    tiny_open_clip.register(tmp_path_factory.mktemp("open_clip"))


def _build(folder, image="tiny", text="tiny", *, image_values=None, text_values=None, **values):
    known = "tiny", "timm:", "open_clip:"
    image, text = (name if name.startswith(known) else folder(name) for name in (image, text))
    section = ModelSection(
        image=TowerSection(name=image, **(image_values or {})),
        text=TowerSection(name=text, **(text_values or {})),
        **({"embedding_dim": 20} | values),
    )
    return build_dual_encoder(section, captions=CAPTIONS).eval()


@torch.no_grad()
def _embed(model: DualEncoder, images):
    was_training = model.training
    model.eval()
    pixels, tokens = model.image.tower.preprocessing(images), model.text.tower.preprocessing(CAPTIONS)
    found = torch.cat([model.encode_image(**pixels), model.encode_text(**tokens)])
    model.train(was_training)
    return found


@torch.no_grad()
def _embed_with_transformers(path, images):
    """Raw images and captions through plain transformers alone."""
    import transformers

    with quiet_transformers():
        model = transformers.VisionTextDualEncoderModel.from_pretrained(path).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        processor = transformers.AutoImageProcessor.from_pretrained(path)
    pictures = [Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in images]
    tokens = tokenizer(CAPTIONS, padding=True, truncation=True, return_tensors="pt")
    output = model(
        pixel_values=processor(pictures, return_tensors="pt")["pixel_values"],
        input_ids=tokens["input_ids"],
        attention_mask=tokens["attention_mask"],
    )
    return torch.cat([output.image_embeds, output.text_embeds]), float(model.logit_scale.detach())


def _description(path):
    return json.loads((path / "mmcl.json").read_text())


EXPRESSIBLE = [
    ("tiny", "tiny"),
    ("vit", "bert"),
    ("deit", "roberta"),
    ("dinov2", "roberta"),
    ("dinov2_registers", "xlm_roberta"),
    ("siglip_vision", "bert"),
    ("clip_vision", "mpnet"),
    ("convnext", "bert"),
    ("swin", "bert"),
    ("beit", "bert"),
]


@pytest.mark.parametrize(("image", "text"), EXPRESSIBLE)
def test_plain_transformers_gives_the_same_embeddings(folder, images, tmp_path, image, text):
    model = _build(folder, image, text, logit_scale=17.0, image_values={"head": HeadSection(input_dropout=0.2)})
    save_pretrained(model, tmp_path)
    assert _description(tmp_path)["layout"] == "vision_text_dual_encoder"
    own = _embed(model, images)
    other, log_scale = _embed_with_transformers(tmp_path, images)
    torch.testing.assert_close(other, own, atol=1e-5, rtol=0)
    assert log_scale == pytest.approx(math.log(17.0), abs=1e-6)
    again = from_pretrained(tmp_path)
    assert torch.equal(_embed(again, images), own)
    assert torch.equal(again.log_logit_scale, model.log_logit_scale)
    with torch.no_grad():
        model.image.head.projection.weight.mul_(torch.rand(20, 1) + 0.5)
    save_pretrained(model, tmp_path)
    changed, _ = _embed_with_transformers(tmp_path, images)
    assert (changed - own)[: len(images)].abs().max() > 1e-3, "another head gives other embeddings"


MLP = HeadSection(name="mlp", hidden_dims=(12,), norm="batch", dropout=0.1, activation="silu")
FREE_SIZE = {"pretrained": False, "image_size": 64}
NOT_EXPRESSIBLE = {
    "mean": ({"image_values": {"pooling": "mean"}}, "image tower is pooled by 'mean'"),
    "max": ({"text_values": {"pooling": "max"}}, "text tower is pooled by 'max'"),
    "cls": ({"text_values": {"pooling": "cls"}}, "text tower is pooled by 'cls'"),
    "attention": ({"image_values": {"pooling": "attention"}}, "pooled by 'attention'"),
    "mlp": ({"image_values": {"head": MLP}}, "image head is not linear without bias"),
    "bias": ({"text_values": {"head": HeadSection(bias=True)}}, "text head is not linear without bias"),
    "none": ({"text_values": {"head": HeadSection(name="none")}, "embedding_dim": 128}, "text head is not linear"),
    "distilbert": ({"text": "distilbert"}, "pooled by 'mean'"),
    "modernbert": ({"text": "modernbert"}, "pooled by 'mean'"),
    "t5": ({"text": "t5"}, "pooled by 'mean'"),
    "resnet": ({"image": "resnet"}, "pooler output is no vector"),
    "SigLIP text": ({"text": "siglip"}, "from their configs alone"),
    "convolutional stem": ({"image_values": {"options": {"convolutional_stem": True}}}, "from their configs alone"),
    "another size": ({"image": "vit", "image_values": {"image_size": 48}}, "another size than its config"),
    "timm vit": ({"image": "timm:test_vit", "image_values": FREE_SIZE}, "image tower is not transformers'"),
    "timm convnext": ({"image": "timm:test_convnext", "image_values": FREE_SIZE}, "image tower is not transformers'"),
    "open_clip": ({"image": "open_clip:tiny-clip", "image_values": FREE_SIZE, "text": "open_clip:tiny-clip",
                   "text_values": {"pretrained": False, "max_length": 12}}, "image tower is not transformers'"),
    "open_clip text": ({"text": "open_clip:tiny-last", "text_values": {"pretrained": False}}, "text tower is not"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_EXPRESSIBLE)
def test_every_other_model_says_why_and_comes_back(folder, images, tmp_path, case):
    values, why = NOT_EXPRESSIBLE[case]
    model = _build(folder, **values, logit_bias=-3.0)
    own = _embed(model, images)
    save_pretrained(model, tmp_path)
    description = _description(tmp_path)
    assert description["layout"] == "mmcl"
    assert why in description["not_transformers_because"]
    assert not (tmp_path / "config.json").exists()
    again = from_pretrained(tmp_path)
    assert torch.equal(_embed(again, images), own)
    assert (again.logit_scale.item(), again.logit_bias.item()) == (model.logit_scale.item(), -3.0)
    assert again.image.tower.preprocessing == model.image.tower.preprocessing
    assert again.text.tower.preprocessing.to_dict() == model.text.tower.preprocessing.to_dict()
    with torch.no_grad():
        next(again.image.head.parameters(), next(again.image.tower.parameters())).add_(torch.randn(()))
    assert not torch.equal(_embed(again, images), own)
    save_pretrained(again, tmp_path / "second")
    assert torch.equal(_embed(from_pretrained(tmp_path / "second"), images), _embed(again, images))


@pytest.mark.parametrize("family", ["clip", "siglip", "vtde"])
def test_models_of_others_come_back(folder, images, tmp_path, family):
    model = dual_encoder_from_transformers(folder(family))
    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path)
    assert torch.equal(_embed(again, images), _embed(model, images))
    assert _description(tmp_path)["layout"] == ("mmcl" if family == "siglip" else "vision_text_dual_encoder")
    if family != "siglip":
        torch.testing.assert_close(
            _embed_with_transformers(tmp_path, images)[0], _embed(model, images), atol=1e-5, rtol=0
        )


def test_open_clip_models_come_back_without_open_clips_registry(images, tmp_path):
    """The folder holds the architecture; a name that only this machine knows is not needed."""
    source = tmp_path / "source"
    source.mkdir()
    tiny_open_clip.save_folder(source, "tiny-coca")
    model = dual_encoder_from_open_clip(str(source), None)
    own = _embed(model, images)
    save_pretrained(model, tmp_path / "saved")
    shutil.rmtree(source)
    assert torch.equal(_embed(from_pretrained(tmp_path / "saved"), images), own)


@pytest.mark.parametrize("names", [("tiny", "tiny"), ("vit", "bert"), ("convnext", "roberta"), ("resnet", "t5")])
def test_saving_leaves_the_model_as_it_was(folder, images, tmp_path, names):
    """Saved several times in one training: weights, modes, configs, gradients, generator and outputs stay."""
    model = _build(folder, *names).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    sizes = []
    for _ in range(3):
        embeddings = model.encode_image(**model.image.tower.preprocessing(images))
        (embeddings - model.encode_text(**model.text.tower.preprocessing(CAPTIONS))).square().sum().backward()
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        parameters = {name: id(p) for name, p in model.named_parameters()}
        gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
        configs = [encoder.tower.model.config for encoder in (model.image, model.text)]
        contents = [config.to_json_string() for config in configs]
        state, own = torch.get_rng_state(), _embed(model, images)
        save_pretrained(model, tmp_path)
        assert torch.equal(torch.get_rng_state(), state)
        assert model.training
        assert [id(encoder.tower.model.config) for encoder in (model.image, model.text)] == [id(c) for c in configs]
        assert [config.to_json_string() for config in configs] == contents
        assert {name: id(p) for name, p in model.named_parameters()} == parameters
        for name, value in model.state_dict().items():
            assert torch.equal(value, weights[name]), name
        for name, p in model.named_parameters():
            assert (p.grad is None) == (gradients[name] is None)
        assert torch.equal(_embed(model, images), own)
        assert torch.equal(_embed(from_pretrained(tmp_path), images), own)
        sizes.append(sorted(path.name for path in tmp_path.iterdir()))
        optimizer.step()
        assert not torch.equal(_embed(model, images), own), "training goes on"
    assert sizes[0] == sizes[2]


def test_loading_does_not_draw_from_the_generator(folder, tmp_path):
    save_pretrained(_build(folder, text="distilbert"), tmp_path)
    state = torch.get_rng_state()
    from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_layout_replaces_the_other(folder, images, tmp_path):
    linear, mlp = _build(folder), _build(folder, image_values={"head": MLP})
    for model in (linear, mlp, linear):
        save_pretrained(model, tmp_path)
        assert torch.equal(_embed(from_pretrained(tmp_path), images), _embed(model, images))
        assert (tmp_path / "config.json").exists() == (model is linear)


def test_nothing_is_printed(folder, tmp_path, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    for name in ("bert", "distilbert"):
        model = _build(folder, "vit", name)
        save_pretrained(model, tmp_path)
        from_pretrained(tmp_path)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_scale_settings_come_back(folder, tmp_path):
    model = _build(folder, logit_scale=50.0, logit_scale_max=60.0, logit_scale_learnable=False)
    again = from_pretrained(save_pretrained(model, tmp_path))
    assert again.logit_scale_max == 60.0
    assert not again.log_logit_scale.requires_grad
    assert again.logit_scale.item() == pytest.approx(50.0)
    with torch.no_grad():
        again.log_logit_scale.fill_(9.0)
    again.clamp_logit_scale()
    assert again.logit_scale.item() == pytest.approx(60.0)


def test_no_pickle_is_written(folder, tmp_path):
    save_pretrained(_build(folder, "vit", "bert"), tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".txt"}


def test_obstacles_are_found_without_saving(folder):
    assert transformers_obstacle(_build(folder)) is None
    assert "mean" in transformers_obstacle(_build(folder, image_values={"pooling": "mean"}))


def test_damaged_folders(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no mmcl model \(no mmcl.json\)"):
        from_pretrained(tmp_path)
    own, dual = tmp_path / "own", tmp_path / "dual"
    save_pretrained(_build(folder, image_values={"head": MLP}), own)
    save_pretrained(_build(folder), dual)
    for path in (own, dual):
        weights = (path / "model.safetensors").read_bytes()
        (path / "model.safetensors").write_bytes(weights[:1000])
        with pytest.raises(ConfigError, match=str(path)):
            from_pretrained(path)
        (path / "model.safetensors").unlink()
        with pytest.raises(ConfigError, match=str(path)):
            from_pretrained(path)
        (path / "model.safetensors").write_bytes(weights)
    for change, says in (
        ({"format": 99}, "format 99, this mmcl reads 1; upgrade"),
        ({"embedding_dim": 21}, "cannot be read into the model"),
    ):
        text = (own / "mmcl.json").read_text()
        (own / "mmcl.json").write_text(json.dumps(json.loads(text) | change))
        with pytest.raises(ConfigError, match=says):
            from_pretrained(own)
        (own / "mmcl.json").write_text(text)
    (own / "mmcl.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        from_pretrained(own)
