"""The recipe's loss and negatives: every option known to its loss, under the loss's own name; others are refused."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch

from mmcl.build import CHANCE_LOSSES, LOSSES, build_objective
from mmcl.config import LOSS_OPTIONS, LOSSES_WITH_NEGATIVES, LossSection, Recipe, recipe_from_tree
from mmcl.errors import ConfigError
from mmcl.losses.barlow_twins import barlow_twins
from mmcl.losses.dcl import dcl
from mmcl.losses.info_nce import info_nce
from mmcl.losses.nt_xent import nt_xent
from mmcl.losses.sigmoid import sigmoid
from mmcl.losses.triplet import triplet
from mmcl.losses.vicreg import vicreg
from mmcl.models.dual_encoder import build_dual_encoder

FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "info_nce": info_nce,
    "sigmoid": sigmoid,
    "dcl": dcl,
    "nt_xent": nt_xent,
    "triplet": triplet,
    "barlow_twins": barlow_twins,
    "vicreg": vicreg,
}


def recipe(**sections: object) -> Recipe:
    return recipe_from_tree({"data": {"path": "shapes"}, **sections}, source="here")


def test_every_loss_that_can_be_named_is_there() -> None:
    names = set(get_args(LossSection.model_fields["name"].annotation))
    assert names == LOSSES.keys() == LOSS_OPTIONS.keys() == FUNCTIONS.keys()
    assert set(LOSSES_WITH_NEGATIVES) <= names
    assert CHANCE_LOSSES.keys() <= names


@pytest.mark.parametrize("name", LOSSES)
def test_options_are_the_functions_own_with_its_defaults(name: str) -> None:
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    for option in LOSS_OPTIONS[name]:
        default = LossSection.model_fields[option].default
        off = {("mining", "none"): (None, "all")}.get((option, default), (default,))
        assert parameters[option].default in off, option
    assert ("negative_text" in parameters) == (name in LOSSES_WITH_NEGATIVES)
    # What a recipe has no key for comes from the batch, or is a detail.
    elsewhere = {"image", "text", "first", "second", "anchor", "positive", "x", "y", "logit_scale", "logit_bias"}
    elsewhere |= {"negative", "negative_text", "negative_text_groups", "negative_image", "negative_image_groups"}
    elsewhere |= {"group_ids", "positives", "exclude_ids", "weights", "gathered", "offset", "temperature", "epsilon"}
    assert set(parameters) - elsewhere == set(LOSS_OPTIONS[name])


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (
            {"name": "vicreg", "hardness": 1.0},
            "loss.hardness is not known to loss.name=vicreg; it is to info_nce, sigm",
        ),
        ({"name": "dcl", "label_smoothing": 0.1}, "loss.label_smoothing is not known to loss.name=dcl; .* info_nce"),
        ({"margin": 0.3}, "loss.margin is not known to loss.name=info_nce; it is to triplet"),
        ({"name": "triplet", "mining": "margin"}, "loss.mining=margin is not known to loss.name=triplet; want none, h"),
        ({"name": "nt_xent", "matryoshka_dims": [4]}, "loss.matryoshka_dims is not known to loss.name=nt_xent"),
        ({"hardness_schedule": "linear"}, "loss.hardness_schedule=linear needs loss.hardness"),
        (
            {"hardness": 1.0, "hardness_schedule": "loss", "mining": "hardest"},
            "value at chance.*want linear or constant",
        ),
        ({"mining": "easiest"}, "loss.mining is 'easiest'.*semi_hard"),
        ({"tau_plus": 1.0}, "loss.tau_plus is 1.0"),
        ({"name": "infonce"}, "loss.name is 'infonce'"),
    ],
)
def test_what_a_loss_does_not_know_is_refused(loss: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        recipe(loss=loss)


def test_options_that_are_off_may_stand_anywhere() -> None:
    """A recipe as a run writes it down names every key."""
    for name in LOSSES:
        written = recipe(loss={"name": name}).model_dump(mode="json")
        assert recipe_from_tree(written, source="again") == recipe(loss={"name": name})
        assert recipe(loss={"name": name}).loss.options == {}
    options = recipe(
        loss={"hardness": 0.5, "mining": "hardest", "mining_count": 3, "matryoshka_dims": [4]}
    ).loss.options
    assert options == {"hardness": 0.5, "mining": "hardest", "mining_count": 3, "matryoshka_dims": (4,)}


@pytest.mark.parametrize("key", ["captions_per_row", "images_per_row", "queue_size"])
def test_negatives_need_a_loss_that_takes_them_and_groups(key: str) -> None:
    with pytest.raises(ConfigError, match=f"negatives.{key} is not known to loss.name=triplet; it is to info_nce, sig"):
        recipe(loss={"name": "triplet"}, negatives={key: 2})
    with pytest.raises(ConfigError, match=f"negatives.{key} needs loss.positives=group"):
        recipe(loss={"positives": "pair"}, negatives={key: 2})
    assert getattr(recipe(negatives={key: 2}).negatives, key) == 2
    with pytest.raises(ConfigError, match=f"negatives.{key} is -1"):
        recipe(negatives={key: -1})


def test_a_sigmoid_loss_starts_where_siglip_does(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        model = recipe(loss={"name": "sigmoid"}).model
    assert (model.logit_scale, model.logit_bias) == (10.0, -10.0)
    assert "starts from model.logit_scale=10, model.logit_bias=-10" in caplog.text
    model = recipe(loss={"name": "sigmoid"}, model={"logit_bias": -3.0, "logit_scale": 7.0}).model
    assert (model.logit_scale, model.logit_bias) == (7.0, -3.0)
    model = recipe(loss={"name": "sigmoid"}, model={"logit_scale": 7.0}).model
    assert (model.logit_scale, model.logit_bias) == (7.0, -10.0)
    assert recipe().model.logit_bias is None
    with pytest.raises(ConfigError, match="loss.name=sigmoid needs a number for model.logit_bias"):
        recipe(loss={"name": "sigmoid"}, model={"logit_bias": None})


TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SMALL = {
    "embedding_dim": 8,
    "image": {"options": TOWER, "image_size": 32},
    "text": {"options": TOWER},
}


def test_a_recipes_options_reach_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def loss(image: torch.Tensor, *others: torch.Tensor, **options: object) -> torch.Tensor:
        seen.update(options)
        return image.sum() * 0

    monkeypatch.setitem(LOSSES, "info_nce", loss)
    asked = {"hardness": 0.5, "hardness_schedule": "linear", "tau_plus": 0.1, "false_negative_margin": 0.05}
    made = recipe(model=SMALL, loss=asked, negatives={"queue_size": 5})
    objective = build_objective(made, build_dual_encoder(made.model, captions=["a red circle"]))
    from mmcl.batch import Batch

    tokens = objective.model.text.tower.preprocessing(["a red circle", "a circle"])
    batch = Batch({"pixel_values": torch.zeros(2, 3, 32, 32)}, tokens, torch.tensor([0, 1]), torch.arange(2))
    objective.loss(objective(batch))
    assert {name: seen[name] for name in ("tau_plus", "false_negative_margin", "hardness")} == {
        "tau_plus": 0.1,
        "false_negative_margin": 0.05,
        "hardness": 0.0,
    }
    objective.after_step(loss=0.0, done=0.5)
    objective.loss(objective(batch))
    assert seen["hardness"] == 0.25
    assert len(seen["negative_text"]) == len(seen["negative_image_groups"]) == 2


# -- chance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHANCE_LOSSES)
@pytest.mark.parametrize(("captions", "images"), [(0, 0), (7, 2)])
def test_chance_is_the_loss_of_equal_embeddings(name: str, captions: int, images: int) -> None:
    if captions and name not in LOSSES_WITH_NEGATIVES:
        return
    rows = torch.nn.functional.normalize(torch.ones(6, 4), dim=1)
    negatives = {}
    if captions:
        negatives = {"negative_text": rows[:1].expand(captions, 4), "negative_image": rows[:1].expand(images, 4)}
    # With all embeddings equal a sigmoid loss is lowest at the bias that says how often pairs are right.
    decisions = 6 + captions + images
    bias = -5.0 - math.log(decisions - 1)
    value = LOSSES[name](rows, rows, torch.tensor([5.0]), logit_bias=torch.tensor([bias]), **negatives)
    assert CHANCE_LOSSES[name](6, captions, images) == pytest.approx(float(value), rel=1e-5)
    assert CHANCE_LOSSES[name](1, 0, 0) >= 0


def test_losses_without_a_chance_value_say_so() -> None:
    model = build_dual_encoder(recipe(model=SMALL).model, captions=["a red circle"])
    assert build_objective(recipe(), model).chance_loss(8) == pytest.approx(math.log(8))
    for loss in ({"name": "vicreg"}, {"name": "triplet"}, {"mining": "semi_hard"}):
        assert build_objective(recipe(loss=loss), model).chance_loss(8) is None


def test_a_loss_that_knows_no_groups_says_what_keeps_them_apart(caplog: pytest.LogCaptureFixture) -> None:
    model = build_dual_encoder(recipe(model=SMALL).model, captions=["a red circle"])
    with caplog.at_level(logging.INFO):
        build_objective(recipe(loss={"name": "dcl"}, batches={"name": "unique_groups"}), model)
        build_objective(recipe(), model)
    assert "unique_groups" not in caplog.text
    with caplog.at_level(logging.INFO):
        build_objective(recipe(loss={"name": "dcl"}), model)
    assert "batches.name=unique_groups keeps them apart" in caplog.text
