from __future__ import annotations

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from mmcl.config import TowerSection
from mmcl.errors import ConfigError
from mmcl.models.encoder import Encoder, build_encoder, build_tower
from mmcl.models.heads import IdentityHead
from mmcl.models.towers.tower import tower_parts

SWIN = {
    "img_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 1, 2, 2),
    "window_size": 4,
}
# name -> (options, poolings, blocks)
TOKENS = {"pooler", "mean", "max", "attention"}
MODELS = {
    "test_vit": ({}, TOKENS | {"cls"}, 6),
    "test_vit2": ({}, TOKENS, 8),  # a register token, no class token
    "test_convnext": ({}, TOKENS | {"stages"}, 4),
    "test_efficientnet": ({}, TOKENS | {"stages"}, 5),
    "test_resnet": ({}, TOKENS | {"stages"}, 4),
    "test_byobnet": ({}, TOKENS | {"stages"}, 4),
    "swin_tiny_patch4_window7_224": (SWIN, TOKENS | {"stages"}, 4),
}


def _tower(name, **values):
    return build_tower(TowerSection(name=f"timm:{name}", **({"pretrained": False} | values)), "image").eval()


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_towers(name, images):
    options, poolings, blocks = MODELS[name]
    tower = _tower(name, options=options, image_size=None if options else 64)
    pixels = tower.preprocessing(images)
    output = tower(**pixels)
    torch.testing.assert_close(output.pooled, tower.model(pixels["pixel_values"]), atol=1e-5, rtol=1e-5)
    assert set(tower.poolings) == poolings
    assert tower.default_pooling == "pooler"
    for pooling in tower.poolings:
        features = Encoder(tower, IdentityHead(), pooling=pooling).eval().features(**pixels)
        assert features.shape == (4, tower.feature_dim)
    parts = tower_parts(tower)
    assert len(parts.blocks) == blocks
    assert all(parts.blocks)
    found = [id(p) for group in (parts.stem, *parts.blocks, parts.neck) for p in group]
    assert sorted(found) == sorted(id(p) for p in tower.parameters())


@torch.no_grad()
def test_mean_is_over_patches_whatever_the_memory_order(images):
    for name, grid in (("swin_tiny_patch4_window7_224", (1, 2)), ("test_convnext", (2, 3))):
        tower = _tower(name, options=MODELS[name][0], image_size=None if MODELS[name][0] else 64)
        pixels = tower.preprocessing(images)
        found = Encoder(tower, IdentityHead(), pooling="mean").features(**pixels)
        torch.testing.assert_close(found, tower.model.forward_features(pixels["pixel_values"]).mean(grid))
    vit = _tower("test_vit", image_size=64)
    tokens = vit.model.forward_features(vit.preprocessing(images)["pixel_values"])
    found = Encoder(vit, IdentityHead(), pooling="mean").features(**vit.preprocessing(images))
    torch.testing.assert_close(found, tokens[:, 1:].mean(1))


def test_widened_features_have_their_own_pooling_alone():
    tower = _tower("mobilenetv3_small_050", image_size=32)
    assert tower.poolings == ("pooler", "stages")
    assert tower.feature_dim == 1024
    with pytest.raises(ConfigError, match="allows pooler"):
        Encoder(tower, IdentityHead(), pooling="mean")


def test_stages_of_a_resnet_are_blocks_in_order():
    parts = tower_parts(_tower("resnet18", image_size=32))
    assert len(parts.blocks) == 8, "two in each of four stages"
    widths = [block[0].shape[0] for block in parts.blocks]
    assert widths == [64, 64, 128, 128, 256, 256, 512, 512]
    assert parts.stem[0].shape[1] == 3


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "swin_tiny_patch4_window7_224"])
def test_image_size(name, images):
    options = {k: v for k, v in MODELS[name][0].items() if k != "img_size"}
    tower = _tower(name, image_size=64, options=options)
    pixels = tower.preprocessing(images)
    assert pixels["pixel_values"].shape == (4, 3, 64, 64)
    assert tower(**pixels).pooled.shape[0] == 4


def _save(path, weights):
    save_file({k: v.contiguous() for k, v in weights.items()}, path) if path.suffix == ".safetensors" else torch.save(
        weights, path
    )
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_checkpoints(tmp_path, suffix):
    full = timm.create_model("test_vit", num_classes=7)
    path = _save(tmp_path / f"w{suffix}", full.state_dict())
    tower = _tower(f"test_vit?checkpoint={path}", pretrained=True)
    assert torch.equal(tower.model.pos_embed, full.pos_embed)
    assert not torch.equal(_tower(f"test_vit?checkpoint={path}").model.pos_embed, full.pos_embed), "pretrained: false"
    # Other names, as in a wheel: matched in order, the classifier left aside.
    renamed = {f"module_{i}": value for i, value in enumerate(full.state_dict().values())}
    if suffix == ".pth":  # safetensors sorts by name, so order means nothing there
        path = _save(tmp_path / f"renamed{suffix}", {"state_dict": renamed})
        assert torch.equal(_tower(f"test_vit?checkpoint={path}", pretrained=True).model.pos_embed, full.pos_embed)


class _Runs:
    def __reduce__(self):
        return (print, ("this code ran",))


def test_pooled_stages_are_the_models_features_and_those_of_its_stages(images):
    section = TowerSection(name="timm:test_resnet", pretrained=False, pooling="stages", image_size=64)
    encoder = build_encoder(section, "image", 8).eval()
    pixels = encoder.tower.preprocessing(images)
    model, kept = encoder.tower.model, []
    hooks = [layer.register_forward_hook(lambda *call: kept.append(call[2])) for layer in (model.layer2, model.layer3)]
    with torch.no_grad():
        features = encoder.features(**pixels)
        plain = model.forward_head(model.forward_features(pixels["pixel_values"]), pre_logits=True)
        last = model.forward_features(pixels["pixel_values"])
    for hook in hooks:
        hook.remove()
    second, third = kept[:2]
    parts = [plain, last.mean((2, 3)), third.mean((2, 3)), second.mean((2, 3))]
    parts += [last.amax((2, 3)), third.amax((2, 3)), second.amax((2, 3))]
    torch.testing.assert_close(features, torch.cat(parts, dim=1))
    assert encoder.tower.feature_dim == features.shape[1] > plain.shape[1]
    with pytest.raises(ConfigError, match="pooling is 'stages'.*allows"):
        build_encoder(TowerSection(name="timm:test_vit", pretrained=False, pooling="stages"), "image", 8)


def test_checkpoint_errors(tmp_path, capfd):
    with pytest.raises(ConfigError, match="checkpoint '/no/file.pth' does not exist"):
        _tower("test_vit?checkpoint=/no/file.pth", pretrained=True)
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps({"a": _Runs()}))
    with pytest.raises(ConfigError, match="cannot be read safely.*a pickle that would run code.*safetensors"):
        _tower(f"test_vit?checkpoint={evil}", pretrained=True)
    assert "this code ran" not in capfd.readouterr().out
    for name in ("damaged.pth", "damaged.safetensors"):
        (tmp_path / name).write_bytes(b"\x08\0\0\0\0\0\0\0not json")
        with pytest.raises(ConfigError, match="cannot be read safely"):
            _tower(f"test_vit?checkpoint={tmp_path / name}", pretrained=True)
    other = _save(tmp_path / "other.pth", timm.create_model("test_resnet").state_dict())
    with pytest.raises(ConfigError, match=r"does not fit the model: \d+ of \d+ weights are missing"):
        _tower(f"test_vit?checkpoint={other}", pretrained=True)
    small = _save(tmp_path / "small.pth", timm.create_model("test_vit", img_size=32).state_dict())
    with pytest.raises(ConfigError, match=r"pos_embed has shape \(1, 5, 64\), the model wants"):
        _tower(f"test_vit?checkpoint={small}", pretrained=True)
    empty = _save(tmp_path / "empty.pth", {"epoch": 3})
    with pytest.raises(ConfigError, match="holds no state dict of tensors"):
        _tower(f"test_vit?checkpoint={empty}", pretrained=True)


def test_name_errors():
    with pytest.raises(ConfigError, match="timm has no model 'resnet1O'; it has .*resnet"):
        _tower("resnet1O")
    with pytest.raises(ConfigError, match="Invalid pretrained tag"):
        _tower("test_vit.no_such_tag")
    with pytest.raises(ConfigError, match="want timm:NAME or timm:NAME"):
        _tower("test_vit?weights=x")
    with pytest.raises(ConfigError, match="timm has image models only"):
        build_tower(TowerSection(name="timm:test_vit"), "text")
    with pytest.raises(ConfigError, match="cannot be built.*no_such_option"):
        _tower("test_vit", options={"no_such_option": 1})
    with pytest.raises(ConfigError, match="does not take images of"):
        _tower("swin_tiny_patch4_window7_224", options=SWIN | {"img_size": 32}, image_size=44)


def test_unreachable_weights(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"timm:test_vit: cannot be built .*checkpoint=FILE"):
        _tower("test_vit", pretrained=True)
