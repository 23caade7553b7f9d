"""LoRA adapters: exact at the start, merged into the same embeddings, in peft's own format."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_open_clip
import torch

pytest.importorskip("peft")

from mmcl.config import LoraSection, ModelSection, OptimizerSection, TowerSection, recipe_from_tree
from mmcl.errors import ConfigError
from mmcl.hub.merging.lora import merge_lora
from mmcl.models.adapters.lora import attach_lora, has_adapters, without_adapters
from mmcl.models.adapters.saving import save_adapters
from mmcl.models.adapters.targets import find_targets
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.encoder import build_tower
from mmcl.models.fingerprint import tower_fingerprint
from mmcl.models.freezing import apply_freezing, parameter_groups
from mmcl.models.saving import from_pretrained, save_pretrained


def adapted(
    folder, image="vit", text="bert", *, of_image=None, **lora
) -> tuple[DualEncoder, DualEncoder, ModelSection]:
    """A model before and after adapters were attached."""
    section = ModelSection(
        image=TowerSection(name=folder(image), lora=LoraSection(rank=2, **lora, **(of_image or {}))),
        text=TowerSection(name=folder(text), lora=LoraSection(rank=2, **lora)),
        embedding_dim=8,
    )
    base = build_dual_encoder(section).eval()
    model = copy.deepcopy(base)
    attach_lora(model, section)
    apply_freezing(model, section)
    return base, model.eval(), section


def fill(model: DualEncoder) -> None:
    """Values as if it had been trained."""
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=draw)


@torch.no_grad()
def embeddings(model: DualEncoder) -> list[torch.Tensor]:
    model.eval()
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, *model.image.tower.example()["pixel_values"].shape[1:], generator=draw)
    texts = model.text.tower.preprocessing(["a", "red circle", "some more words"])
    return [model.encode_image(pixel_values=pixels), model.encode_text(**texts)]


def apart(one: DualEncoder, other: DualEncoder) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(embeddings(one), embeddings(other)))


@pytest.mark.parametrize(
    ("image", "text", "of_image"),
    [
        ("vit", "bert", {}),
        ("convnext", "gpt2", {}),
        ("swin", "t5", {}),
        ("resnet", "modernbert", {"targets": ["convolution"]}),
    ],
)
def test_it_starts_at_the_base_and_merges_into_its_embeddings(folder, image, text, of_image):
    base, model, _ = adapted(folder, image, text, of_image=of_image)
    assert all(torch.equal(a, b) for a, b in zip(embeddings(model), embeddings(base)))
    assert tower_fingerprint(model.image.tower) == tower_fingerprint(base.image.tower)
    fill(model)
    assert apart(model, base) > 1e-3
    assert tower_fingerprint(model.image.tower) != tower_fingerprint(base.image.tower)
    merged = without_adapters(model)
    assert apart(model, merged) < 1e-5
    assert list(merged.state_dict()) == list(base.state_dict())
    assert has_adapters(model)
    assert not has_adapters(merged)


def test_the_weights_are_peft_s_formula(folder):
    base, model, _ = adapted(folder, alpha=6)
    fill(model)
    layer = model.text.tower.model.encoder.layer[0].attention.self.query
    wanted = layer.base_layer.weight.double() + 6 / 2 * (
        layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
    )
    found = without_adapters(model).text.tower.model.encoder.layer[0].attention.self.query.weight
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-6)
    assert torch.equal(layer.base_layer.weight, base.text.tower.model.encoder.layer[0].attention.self.query.weight)


def test_adapters_and_norms_alone_train(folder):
    _, model, section = adapted(folder, blocks=1, norms=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad and ".tower." in name}
    norms = {name for name in trained if ".lora_" not in name}
    assert trained > norms > set()
    assert all("norm" in name.lower() for name in norms)
    assert not any(".lora_" in name and "layer.0." in name for name in trained), "the last block alone is adapted"
    groups = parameter_groups(model, section, OptimizerSection())
    grouped = {id(p) for group in groups for p in group.parameters}
    assert grouped == {id(p) for p in model.parameters() if p.requires_grad}
    assert not adapted(folder)[1].image.has_fixed_features
    plain = {name for name, p in adapted(folder)[1].named_parameters() if p.requires_grad and ".tower." in name}
    assert all(".lora_" in name for name in plain)


def test_adapters_may_wait(folder):
    tower = TowerSection(name=folder("vit"), lora=LoraSection(rank=2), freeze=True, freeze_until_epoch=1.0)
    section = ModelSection(image=tower, text=TowerSection(name=folder("bert")), embedding_dim=8)
    model = build_dual_encoder(section)
    attach_lora(model, section)
    apply_freezing(model, section)
    assert model.image.has_fixed_features
    assert apply_freezing(model, section, epoch=1.0)
    trained = [name for name, p in model.image.tower.named_parameters() if p.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)
    late = {
        group.thaws_at for group in parameter_groups(model, section, OptimizerSection()) if group.name == "image tower"
    }
    assert late == {1.0}


def test_saved_models_and_adapters_open_anywhere(folder, tmp_path: Path):
    """mmcl's own reader, peft's, and `merge_lora`: all give what the trained model gives."""
    import peft

    base, model, _ = adapted(folder, norms=True)
    fill(model)
    for side in ("image", "text"):  # heads are no part of an adapter
        base.encoder(side).head.load_state_dict(model.encoder(side).head.state_dict())
    save_pretrained(model, tmp_path / "model")
    opened = from_pretrained(tmp_path / "model").eval()
    assert apart(model, opened) < 1e-5
    folders = save_adapters(model, tmp_path / "adapters")
    assert [path.name for path in folders] == ["image", "text"]
    assert apart(model, merge_lora(base, image=folders[0], text=folders[1])) < 1e-5
    assert apart(model, merge_lora(base, image=folders[0])) > 1e-3
    for side, path in zip(("image", "text"), folders):
        tower = copy.deepcopy(base).encoder(side).tower
        tower.model = peft.PeftModel.from_pretrained(tower.model, str(path)).eval()
        other = copy.deepcopy(base)
        other.encoder(side).tower.model = tower.model.merge_and_unload()
        index = 0 if side == "image" else 1
        assert float((embeddings(other)[index] - embeddings(model)[index]).abs().max()) < 1e-5
    assert save_adapters(base, tmp_path / "none") == []


def test_layers_that_are_not_called_get_no_adapter(tmp_path: Path):
    tiny_open_clip.register(tmp_path)
    section = ModelSection.model_validate(
        {
            "image": {"name": "open_clip:tiny-clip", "pretrained": False, "lora": {"rank": 2}},
            "text": {"name": "open_clip:tiny-clip", "pretrained": False, "lora": {"rank": 2}},
            "embedding_dim": 8,
        }
    )
    found = find_targets(build_tower(section.text, "text"), section.text.lora)
    assert found
    assert not any(name.endswith("out_proj") for name in found)


@pytest.mark.parametrize(
    ("image", "lora", "match"),
    [
        ("vit", {"blocks": 4}, r"model\.image\.lora\.blocks is 4; .* has 3 blocks"),
        ("vit", {"targets": ["qvery"]}, r"model\.image\.lora\.targets: .* named 'qvery' .* it has "),
    ],
)
def test_what_cannot_be_adapted_is_told(folder, image, lora, match):
    tower = build_tower(TowerSection(name=folder(image)), "image")
    with pytest.raises(ConfigError, match=match):
        find_targets(tower, LoraSection(rank=2, **lora))


def test_convolutions_of_neighbourhoods_are_adapted_when_they_are_named():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Conv2d(4, 4, 3) for _ in range(2))

    tower = SimpleNamespace(model=Net(), modality="image", spec={"name": "net"})
    match = r"model\.image\.lora: 'net' has no linear layer and no 1x1 convolution .*model\.image\.lora\.targets"
    with pytest.raises(ConfigError, match=match):
        find_targets(tower, LoraSection(rank=2))
    assert find_targets(tower, LoraSection(rank=2, targets=["layers.1"])) == ["layers.1"]


@pytest.mark.parametrize(
    ("tower", "match"),
    [
        ({"lora": {"alpha": 4}}, r"model\.text\.lora\.alpha is given without model\.text\.lora\.rank"),
        ({"lora": {"rank": 4}, "freeze": 2}, r"model\.text\.freeze is 2 beside model\.text\.lora.*lora\.blocks"),
        ({"lora": {"rank": 4}, "freeze": "biases"}, r"model\.text\.freeze is biases beside"),
        ({"lora": {"rank": 4}, "freeze": True}, r"the adapters would never train.*freeze_until_epoch"),
        ({"lora": {"rank": 4, "targets": []}}, r"model\.text\.lora\.targets is empty"),
        ({"lora": {"rang": 4}}, r"'model\.text\.lora\.rang'; did you mean 'model\.text\.lora\.rank'"),
    ],
)
def test_sections_that_contradict_themselves(tower, match):
    with pytest.raises(ConfigError, match=match):
        recipe_from_tree({"data": {"path": "x"}, "model": {"text": tower}}, source="test")
