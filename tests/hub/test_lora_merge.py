"""LoRA merge: against peft's own adapted model, against the formula, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import six_models
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmcl.config import ModelSection
from mmcl.errors import ConfigError
from mmcl.hub.merging.lora import changed_weights, merge_lora
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder

peft = pytest.importorskip("peft")


@pytest.fixture(scope="module")
def base() -> DualEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_dual_encoder(ModelSection(embedding_dim=8), captions=six_models.CAPTIONS).eval()


def adapt(model: DualEncoder, side: str, folder: Path, targets: list[str], **options: object) -> DualEncoder:
    """A copy of the model with a drawn adapter on one tower, or on the whole, saved in ``folder``."""
    adapted = copy.deepcopy(model)
    module = adapted if side == "whole" else adapted.encoder(side).tower.model
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False, **options)
    wrapped = peft.get_peft_model(module, config)
    for name, value in wrapped.named_parameters():
        if "modules_to_save" in name:
            value.data.add_(0.1)
    wrapped.save_pretrained(folder)
    return adapted.eval()


def embed(model: DualEncoder) -> dict[str, Tensor]:
    with torch.no_grad():
        return {
            "image": model.encode_image(**model.image.tower.preprocessing(six_models.make_images())),
            "text": model.encode_text(**model.text.tower.preprocessing(six_models.CAPTIONS)),
        }


def apart(one: DualEncoder, other: DualEncoder) -> dict[str, float]:
    found = zip(embed(one).items(), embed(other).values())
    return {side: (mine - yours).abs().max().item() for (side, mine), yours in found}


@pytest.mark.parametrize("name", ["minilm_cnn", "clip", "open_clip"])
def test_merged_is_base_with_adapters(trained: Callable[[str], DualEncoder], name: str, tmp_path: Path) -> None:
    model = trained(name)
    targets = {
        "minilm_cnn": (_pointwise(model), ["query", "value"]),
        "clip": (["q_proj", "fc1"], ["v_proj"]),
        "open_clip": (["attn", "c_fc"], ["c_proj"]),  # attn is a MultiheadAttention, its factors are in one matrix
    }[name]
    image = adapt(model, "image", tmp_path / "image", targets[0])
    text = adapt(model, "text", tmp_path / "text", targets[1])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    merged = merge_lora(model, image=tmp_path / "image", text=tmp_path / "text")
    assert apart(merged, image)["image"] < 1e-5
    assert apart(merged, text)["text"] < 1e-5
    assert min(apart(merged, model).values()) > 1e-3  # a control: the base alone differs
    assert list(merged.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    one = merge_lora(model, text=tmp_path / "text")
    assert apart(one, model)["image"] == 0
    assert not one.training


def _pointwise(model: DualEncoder) -> list[str]:
    """The pointwise convolutions of a CNN."""
    modules = model.image.tower.model.named_modules()
    return [key for key, part in modules if getattr(part, "kernel_size", None) == (1, 1) and part.groups == 1]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])
def test_it_is_the_formula(base: DualEncoder, tmp_path: Path, scale: float) -> None:
    adapt(base, "text", tmp_path, ["query"])
    factors = load_file(tmp_path / "adapter_model.safetensors")
    merged = merge_lora(base, text=tmp_path, scale=scale).state_dict()
    changed = 0
    for name, value in base.state_dict().items():
        inner = name.removeprefix("text.tower.model.").removesuffix(".weight")
        a, b = (factors.get(f"base_model.model.{inner}.lora_{which}.weight") for which in "AB")
        if a is None or not name.startswith("text."):
            assert torch.equal(merged[name], value)
            continue
        wanted = value.double() + scale * (4 / 2) * b.double() @ a.double()
        assert torch.allclose(merged[name].double(), wanted, atol=1e-6)
        assert torch.equal(merged[name], value) == (scale == 0)
        changed += 1
    assert changed == len(factors) / 2 > 0


def test_biases_heads_and_dora_go_the_same_share(base: DualEncoder, tmp_path: Path) -> None:
    options = {"use_dora": True, "modules_to_save": ["text.head.projection"], "bias": "all"}
    adapted = adapt(base, "whole", tmp_path, ["query", "q_proj"], **options)
    whole, half = merge_lora(base, whole=tmp_path), merge_lora(base, whole=tmp_path, scale=0.5)
    assert max(apart(whole, adapted).values()) < 1e-5
    assert min(apart(whole, base).values()) > 1e-3
    head = "text.head.projection.weight"
    assert head in changed_weights(base, whole)
    assert torch.allclose(half.state_dict()[head], base.state_dict()[head] + 0.05, atol=1e-6)


def test_a_task_in_the_config_and_half_precision_do_not_matter(base: DualEncoder, tmp_path: Path) -> None:
    adapted = adapt(base, "text", tmp_path, ["query", "dense"], task_type="FEATURE_EXTRACTION")
    assert apart(merge_lora(base, text=tmp_path), adapted)["text"] < 1e-5
    file = tmp_path / "adapter_model.safetensors"
    save_file({name: value.half() for name, value in load_file(file).items()}, file)
    merged = merge_lora(base, text=tmp_path)
    assert 0 < apart(merged, adapted)["text"] < 1e-2
    assert {value.dtype for value in merged.state_dict().values() if value.is_floating_point()} == {torch.float32}


def test_an_untrained_adapter_changes_nothing(base: DualEncoder, tmp_path: Path) -> None:
    peft.get_peft_model(
        copy.deepcopy(base.text.tower.model), peft.LoraConfig(target_modules=["query"])
    ).save_pretrained(tmp_path)
    state = torch.get_rng_state()
    merged = merge_lora(base, text=tmp_path)
    assert changed_weights(base, merged) == []
    assert torch.equal(torch.get_rng_state(), state)


def rewrite(folder: Path, **values: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; mmcl merges LORA"),
        ({"megatron_config": {"x": 1}, "megatron_core": "antigravity"}, "megatron_config is set"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"target_modules": ["value"]}, r"has no place for \d+ of the adapter's weights"),
        ({"target_modules": ["query", "value"]}, r"misses \d+ of the adapter's weights"),
        ({"target_modules": ["nothing"]}, "cannot be merged into the text tower"),
        ({"r": 3}, "cannot be merged into the text tower .*size mismatch"),
    ],
)
def test_configs_that_are_refused(base: DualEncoder, tmp_path: Path, values: dict, said: str) -> None:
    adapt(base, "text", tmp_path, ["query"])
    rewrite(tmp_path, **values)
    with pytest.raises(ConfigError, match=said):
        merge_lora(base, text=tmp_path)


def test_adapters_of_another_side_are_named(base: DualEncoder, tmp_path: Path) -> None:
    adapt(base, "text", tmp_path / "text", ["query"])
    with pytest.raises(
        ConfigError, match=r"it adapts 'encoder.*query', and the image tower \(\w+\) has no such module"
    ):
        merge_lora(base, image=tmp_path / "text")
    with pytest.raises(
        ConfigError, match=r"and the model \(DualEncoder\) has no such module; the nearest it has is 't"
    ):
        merge_lora(base, whole=tmp_path / "text")


def test_pickles_and_what_is_no_adapter_are_refused(base: DualEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    adapt(base, "text", folder, ["query"])
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"adapter_model\.safetensors cannot be read"):
        merge_lora(base, text=folder)
    weights.unlink()
    with pytest.raises(ConfigError, match=r"holds no adapter_model\.safetensors"):
        merge_lora(base, text=folder)
    (folder / "adapter_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ConfigError, match="is a pickle, which may run code"):
        merge_lora(base, text=folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ConfigError, match="is a pickle"):
        merge_lora(base, text=folder)
    weights.write_bytes(whole)
    with pytest.raises(ConfigError, match="is not valid JSON"):
        merge_lora(base, text=folder)
    with pytest.raises(ConfigError, match=r"holds no adapter \(no adapter_config"):
        merge_lora(base, text=tmp_path)
    with pytest.raises(ConfigError, match="hf download"):
        merge_lora(base, text="owner/name")


def test_usage(base: DualEncoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no adapter is given"):
        merge_lora(base)
    with pytest.raises(ConfigError, match="beside one of a tower"):
        merge_lora(base, whole=tmp_path, text=tmp_path)
    with pytest.raises(ConfigError, match="scale is inf"):
        merge_lora(base, text=tmp_path, scale=float("inf"))
