"""Which way to train is chosen from what, on facts made by hand."""

from __future__ import annotations

import dataclasses

import pytest

from mmcl.auto_recipe import rules
from mmcl.auto_recipe.data_facts import DataFacts
from mmcl.auto_recipe.machine_facts import MachineFacts
from mmcl.auto_recipe.paragraph import write_paragraph
from mmcl.auto_recipe.probe import Probe
from mmcl.auto_recipe.rules import choose_route, choose_settings
from mmcl.auto_recipe.settings import power_of_two
from mmcl.auto_recipe.starting_points import STARTING_POINTS, StartingPoint, at_hand
from mmcl.config import recipe_from_tree

EMOJI = DataFacts(
    name="data/emoji", rows=2_286, looked_at=2_286, groups=1_143, images_per_group=2.0, captions_per_row=1.0,
    repeated=0.0, copies=0.0, words=2, words_p95=4, distinct_words=1_100, word_uses=2.0, languages=("en",), tags=1.0,
    new_tags=0.8, classes=9, largest_class=0.22, domains=2, foils=False, shorter_side=64, square=True, validation=True,
    test=True,
)  # fmt: skip
SCENES = dataclasses.replace(
    EMOJI, name="shapes", rows=32_000, looked_at=2_000, images_per_group=1.2, captions_per_row=3.0, words=12,
    words_p95=18, distinct_words=45, word_uses=600.0, new_tags=0.0, classes=8, foils=True,
)  # fmt: skip
DIGITS = dataclasses.replace(EMOJI, name="digits", rows=1_078, groups=10, images_per_group=108.0, classes=10, tags=0.0)
CPU = MachineFacts(cores=2, memory_gib=20, gpu=None, gpu_memory_gib=0, bf16=False)
GPU = MachineFacts(cores=16, memory_gib=120, gpu="a GPU", gpu_memory_gib=80, bf16=True)
PACKAGES = STARTING_POINTS[-1]
CLIP = STARTING_POINTS[0]


def measured(point: StartingPoint = PACKAGES, **changes: float) -> Probe:
    probe = Probe(
        point, rows=480, judged=160, recall=0.3, raw=0.2, chance=0.006, images_per_second=25, captions_per_second=200
    )
    return dataclasses.replace(probe, **changes)


FAST = {"images_per_second": 3000, "captions_per_second": 9000}


def route(facts: DataFacts, *probes: Probe, machine: MachineFacts = CPU, minutes: float = 10, **more):
    return choose_route(facts, machine, probes, minutes=minutes, tiny_pairs_per_second=400.0, **more)


def settings(facts: DataFacts, *probes: Probe, machine: MachineFacts = CPU) -> dict:
    chosen = choose_settings(facts, machine, route(facts, *probes, machine=machine), minutes=10)
    assert len({one.key for one in chosen}) == len(chosen), "a key is set twice"
    assert all(one.why for one in chosen)
    return {one.key: one.value for one in chosen}


@pytest.mark.parametrize(
    ("facts", "probes", "machine", "name"),
    [
        (EMOJI, [measured()], CPU, "frozen"),
        (DIGITS, [measured(recall=0.97, raw=0.6, chance=0.1)], CPU, "frozen"),
        (DIGITS, [measured(recall=0.97, raw=0.95, chance=0.1)], CPU, "scratch"),  # images so simple are soon learnt
        (EMOJI, [measured(recall=0.3, raw=0.29)], CPU, "frozen"),  # captions of their own, of many words, are not
        (SCENES, [measured(recall=0.5)], CPU, "scratch"),
        (SCENES, [measured(recall=0.97)], CPU, "frozen"),  # there is nothing to gain from scratch
        (SCENES, [], CPU, "scratch"),
        (EMOJI, [], CPU, "scratch"),  # nothing pretrained at hand
        (dataclasses.replace(EMOJI, rows=4_000), [measured(recall=0.1)], CPU, "scratch"),  # pixels tell more
        (dataclasses.replace(EMOJI, rows=50_000), [measured(**FAST)], GPU, "unfreeze"),
        (dataclasses.replace(EMOJI, rows=8_000), [measured(**FAST)], GPU, "lora"),
        (dataclasses.replace(EMOJI, rows=8_000), [measured()], CPU, "frozen"),  # as the last, but no time
    ],
)
def test_the_way_follows_from_what_was_seen(facts, probes, machine, name, monkeypatch) -> None:
    monkeypatch.setattr(rules.importlib.util, "find_spec", lambda name: object())
    assert route(facts, *probes, machine=machine).name == name


def test_without_peft_towers_are_trained_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules.importlib.util, "find_spec", lambda name: None)
    fast = measured(**FAST)
    assert route(dataclasses.replace(EMOJI, rows=8_000), fast, machine=GPU).name == "unfreeze"


def test_the_best_starting_point_is_taken_and_the_first_of_equals() -> None:
    assert route(EMOJI, measured(CLIP, recall=0.4), measured(recall=0.3)).point is CLIP
    assert route(EMOJI, measured(CLIP, recall=0.2), measured(recall=0.3)).point is PACKAGES
    assert route(EMOJI, measured(CLIP), measured()).point is CLIP


def test_what_the_user_names_is_not_left_for_random_weights() -> None:
    assert route(SCENES, measured(recall=0.5), named=PACKAGES).name != "scratch"
    assert route(SCENES, measured(recall=0.5)).name == "scratch"


def test_large_data_on_a_slow_machine_get_smaller_images_then_fewer_rows() -> None:
    assert (route(EMOJI, measured()).image_size, route(EMOJI, measured()).rows) == (None, None)
    more = route(dataclasses.replace(EMOJI, rows=15_000), measured())
    assert (more.image_size, more.rows) == (128, None)
    most = route(dataclasses.replace(EMOJI, rows=1_000_000), measured())
    assert most.image_size == 128
    assert 1_000 <= most.rows < 100_000
    assert "data.max_rows" in settings(dataclasses.replace(EMOJI, rows=1_000_000), measured())


@pytest.mark.parametrize("facts", [EMOJI, SCENES, DIGITS])
@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("speed", [25.0, 3000.0])
@pytest.mark.parametrize("point", [CLIP, PACKAGES])
@pytest.mark.parametrize("rows", [20, 500, 8_000, 60_000])
def test_every_choice_is_a_valid_recipe_and_one_paragraph(facts, machine, speed, point, rows) -> None:
    facts = dataclasses.replace(facts, rows=rows)
    probes = [measured(point, images_per_second=speed, captions_per_second=3 * speed)]
    way = route(facts, *probes, machine=machine)
    chosen = choose_settings(facts, machine, way, minutes=10)
    tree: dict = {"data": {"path": "x"}}
    for one in chosen:
        *parents, leaf = one.key.split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = one.value
    recipe = recipe_from_tree(tree, source="chosen")
    assert recipe.train.batch_size <= max(16, rows)
    words = write_paragraph(facts, machine, probes, way, chosen, said=["run.seed"], minutes=10)
    assert "\n" not in words
    assert f"{rows:,} training images" in words
    assert "{" not in words


def test_batches_that_go_through_towers_are_cut_where_they_do_not_fit() -> None:
    fast = measured(images_per_second=4_000.0, captions_per_second=40_000.0)
    for rows, way in ((8_000, "lora"), (50_000, "unfreeze")):
        facts = dataclasses.replace(EMOJI, rows=rows)
        assert route(facts, fast).name == way
        assert settings(facts, fast)["train.micro_batch_size"] == "auto"  # however much memory there is
    assert "train.micro_batch_size" not in settings(EMOJI, measured())


def test_class_data_are_judged_as_classification_and_others_as_retrieval() -> None:
    assert settings(DIGITS, measured(recall=0.9))["evaluate.metric"] == "zeroshot/top1"
    unlabelled = dataclasses.replace(DIGITS, classes=0)
    assert settings(unlabelled, measured(recall=0.9))["evaluate.metric"] == "retrieval/i2t_recall@1"
    assert settings(EMOJI, measured())["evaluate.metric"] == "retrieval/mean_recall@1"


def test_tags_join_captions_only_where_they_say_something_new() -> None:
    assert settings(EMOJI, measured())["data.captions.tags_probability"] == 0.5
    assert "data.captions.tags_probability" not in settings(dataclasses.replace(EMOJI, new_tags=0.0), measured())


def test_small_data_get_several_heads_and_classes_and_large_data_one() -> None:
    few = settings(EMOJI, measured())
    assert few["model.embedding_dim"] == 256 * few["model.image.head.members"]
    assert len(few["loss.members"]) == few["model.text.head.members"]
    assert few["model.image.pooling"] == "stages"
    for facts in (dataclasses.replace(EMOJI, rows=40_000), dataclasses.replace(DIGITS, rows=900)):
        other = settings(facts, measured(recall=0.9, chance=0.1))
        assert (other["model.embedding_dim"], other["loss.label_smoothing"]) == (256, 0.1)
        assert "loss.members" not in other


def test_images_that_are_not_square_are_not_squashed() -> None:
    assert settings(EMOJI, measured())["model.image.resize"] == "squash"
    assert "model.image.resize" not in settings(dataclasses.replace(EMOJI, square=False), measured())


def test_without_a_validation_split_groups_are_held_out_where_there_are_some() -> None:
    none = dataclasses.replace(EMOJI, validation=False)
    assert settings(none, measured())["data.holdout_share"] == pytest.approx(0.13)
    for groups, named, held in ((14, False, False), (15, False, True), (2, True, True)):
        facts = dataclasses.replace(none, groups=groups, class_names=named)
        chosen = settings(facts, measured())
        assert ("data.holdout_share" in chosen, "data.split.validation" in chosen) == (held, not held)
    two = settings(dataclasses.replace(none, groups=2), measured())
    assert two["data.split.validation"] is None
    assert "data.holdout_share" not in two


def test_powers_of_two() -> None:
    assert [power_of_two(n, least=16, most=256) for n in (0, 17, 100, 285, 9_999)] == [16, 16, 128, 256, 256]


def test_starting_points_are_those_that_can_be_opened() -> None:
    hub = StartingPoint("on the Hub", init_from="some-owner/some-model-that-is-nowhere")
    missing = StartingPoint("not installed", image="timm:x?checkpoint=package:no_such_package/x.pth", text="tiny")
    asked: list[str] = []

    def answers(name: str) -> bool:
        asked.append(name)
        return name == hub.init_from

    assert at_hand(points=[hub, missing], reachable=answers) == [hub]
    assert asked == [hub.init_from]
    assert at_hand(points=[hub, missing], reachable=lambda name: False) == []


def test_a_silent_hub_is_asked_once() -> None:
    asked: list[str] = []
    points = [StartingPoint(f"model {n}", init_from=f"some-owner/none-{n}") for n in range(3)]
    assert at_hand(points=points, reachable=lambda name: bool(asked.append(name))) == []
    assert len(asked) == 1


def test_captions_in_other_languages_put_english_models_last() -> None:
    english = StartingPoint("english", init_from="a/b")
    many = StartingPoint("many", init_from="c/d", languages=())
    assert at_hand(["de"], points=[english, many], reachable=lambda name: True) == [many, english]
    assert at_hand(["en"], points=[english, many], reachable=lambda name: True) == [english, many]
