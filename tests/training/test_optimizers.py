"""Optimizers by name, which weights decay, and rates by tower and depth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import small_recipe, small_run, step_records

from mmcl import builders
from mmcl.config import OptimizerSection, Recipe
from mmcl.data.shapes import load_shapes
from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.freezing import ParameterGroup, parameter_groups
from mmcl.training.optimizers import build_optimizer

THREE_LAYERS = "{hidden_size: 32, num_hidden_layers: 3, num_attention_heads: 2, intermediate_size: 64}"


def groups() -> list[ParameterGroup]:
    draw = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(3, 3, generator=draw)) for _ in range(2)]
    return [ParameterGroup("a", weights[:1], 0.1, 0.5), ParameterGroup("b", weights[1:], 0.01, 0.0)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adamw", "AdamW"),
        ("Adam", "Adam"),
        ("SGD", "SGD"),
        ("nadam", "NAdam"),
        ("RAdam", "RAdam"),
        ("rmsprop", "RMSprop"),
    ],
)
def test_any_optimizer_of_torch_by_name(name: str, kind: str) -> None:
    optimizer = build_optimizer(groups(), OptimizerSection(name=name))
    assert type(optimizer).__name__ == kind
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
    assert [group["base_lr"] for group in optimizer.param_groups] == [0.1, 0.01]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]


def test_it_is_torchs_own_optimizer() -> None:
    section = OptimizerSection(name="adamw", betas=(0.8, 0.9), options={"eps": 1e-4})
    mine, theirs = groups(), groups()
    one = build_optimizer(mine, section)
    other = torch.optim.AdamW(
        [{"params": g.parameters, "lr": g.learning_rate, "weight_decay": g.weight_decay} for g in theirs],
        betas=(0.8, 0.9),
        eps=1e-4,
        fused=True,
    )
    for optimizer, parts in ((one, mine), (other, theirs)):
        for _ in range(3):
            optimizer.zero_grad()
            sum((p**2).sum() for g in parts for p in g.parameters).backward()
            optimizer.step()
    for a, b in zip(mine, theirs):
        assert torch.equal(a.parameters[0], b.parameters[0])
    plain = build_optimizer(groups(), OptimizerSection())
    assert plain.defaults["betas"] != one.defaults["betas"]


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"name": "adamx"}, r"optimizer.name is 'adamx'; torch.optim has .*did you mean 'adamax'"),
        ({"name": "lr_scheduler"}, "optimizer.name is 'lr_scheduler'"),
        ({"name": "optimizer"}, "optimizer.name is 'optimizer'"),
        ({"options": {"epz": 1e-3}}, "optimizer 'adamw' .*epz"),
        ({"name": "adamw", "momentum": 0.9}, "optimizer 'adamw' .*momentum"),
        ({"betas": (0.9, 1.5)}, "optimizer 'adamw' .*beta"),
        ({"options": {"lr": 1.0}}, r"optimizer.options.lr cannot be given; it is optimizer.learning_rate"),
        ({"options": {"weight_decay": 1.0}}, r"optimizer.options.weight_decay cannot be given"),
    ],
)
def test_what_an_optimizer_does_not_take(section: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build_optimizer(groups(), OptimizerSection(**section))


def test_weights_are_updated_by_one_kernel_unless_another_is_asked_for() -> None:
    assert build_optimizer(groups(), OptimizerSection()).defaults["fused"] is True
    assert build_optimizer(groups(), OptimizerSection(options={"foreach": True})).defaults["fused"] is None
    assert "fused" not in build_optimizer(groups(), OptimizerSection(name="radam")).defaults


def test_nothing_to_train_is_said() -> None:
    with pytest.raises(ConfigError, match="nothing trains"):
        build_optimizer([], OptimizerSection())


@pytest.mark.parametrize(
    "optimizer", ["{name: sgd, momentum: 0.9, betas: null}", "{name: adam}", "{name: adagrad, betas: null}"]
)
def test_others_than_adamw_train(tmp_path: Path, optimizer: str) -> None:
    run = small_run(tmp_path / "run", f"optimizer={optimizer}", "train.max_steps=2", "optimizer.learning_rate=0.01")
    assert len(step_records(run.folder)) == 2


# -- groups of a model ---------------------------------------------------------------------------------------------


def built(tmp_path: Path, *overrides: str) -> tuple[Recipe, DualEncoder, dict[str, ParameterGroup]]:
    """The recipe, its model, and the group of every parameter by name."""
    options = [f"model.{side}.options={THREE_LAYERS}" for side in ("image", "text")]
    recipe = small_recipe(tmp_path, *options, *overrides)
    model = builders.training.build_model(recipe, load_shapes("train", size=4))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: group
        for group in parameter_groups(model, recipe.model, recipe.optimizer)
        for parameter in group.parameters
    }
    return recipe, model, found


def test_matrices_decay_and_nothing_else(tmp_path: Path) -> None:
    _, model, found = built(tmp_path, "optimizer.weight_decay=0.3", "model.logit_bias=-10.0")
    assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, group in found.items():
        parameter = model.get_parameter(name)
        table = "embeddings" in name and "patch_embeddings.projection" not in name  # that one is a convolution
        spared = parameter.ndim < 2 or table
        assert group.weight_decay == (0.0 if spared else 0.3), name
    assert found["log_logit_scale"].weight_decay == found["logit_bias"].weight_decay == 0.0
    decayed = [name for name, group in found.items() if group.weight_decay]
    assert any("attention" in name for name in decayed)
    assert any(name.startswith("image.head") for name in decayed)


def test_a_tower_has_its_own_rate(tmp_path: Path) -> None:
    _, _, found = built(tmp_path, "model.text.learning_rate=1e-5", "optimizer.learning_rate=1e-3")
    for name, group in found.items():
        assert group.learning_rate == (1e-5 if name.startswith("text.tower") else 1e-3), name


def test_rates_decay_with_depth(tmp_path: Path) -> None:
    _, _, found = built(
        tmp_path, "model.text.layer_decay=0.5", "model.text.pooling=pooler", "optimizer.learning_rate=1.0"
    )
    rates = {name: group.learning_rate for name, group in found.items() if name.startswith("text.tower")}
    for name, rate in rates.items():
        if "layer." in name:
            block = int(name.partition("layer.")[2].partition(".")[0])
            assert rate == pytest.approx(0.5 ** (3 - block)), name
        elif "pooler" in name:
            assert rate == 1.0, name
        else:
            assert rate == pytest.approx(0.5**4), name
    assert {round(rate, 4) for rate in rates.values()} == {1.0, 0.5, 0.25, 0.125, 0.0625}
    assert found["image.head.projection.weight"].learning_rate == 1.0


def test_frozen_weights_are_in_no_group(tmp_path: Path) -> None:
    _, _, found = built(tmp_path, "model.image.freeze=true", "model.text.freeze=2")
    assert not any(name.startswith("image.tower") for name in found)
    layers = {name.partition("layer.")[2][:1] for name in found if name.startswith("text.tower") and "layer." in name}
    assert layers == {"2"}
    _, _, later = built(tmp_path, "model.image.freeze=true", "model.image.freeze_until_epoch=1")
    assert any(name.startswith("image.tower") for name in later)
