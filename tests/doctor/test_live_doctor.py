"""What the live doctor says of made-up courses of a run, and that it says nothing of sound ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from mmcl.config import LossSection, Recipe
from mmcl.doctor.live.live_doctor import LiveDoctor, live_findings
from mmcl.doctor.live.vital_signs import loss_counts_groups

ROWS = 64
CHANCE = math.log(ROWS)
Record = dict[str, Any]


def recipe(**sections: Any) -> Recipe:
    values: dict[str, Any] = {"data": {"path": "shapes"}, "schedule": {"warmup_steps": 10}}
    return Recipe(**{**values, "train": {"max_steps": 400}, **sections})


def sound(step: int) -> Record:
    """A line of a run that learns."""
    share = step / 400
    return {
        "step": step,
        "epoch": step / 20,
        "loss": CHANCE * (1.02 - 0.7 * share),
        "chance_loss": CHANCE,
        "logit_scale": 14.3 + 10 * share,
        "grad_norm": 2.0,
        "grad_norm/image_tower": 1.0,
        "grad_norm/image_head": 1.0,
        "grad_norm/text_tower": 1.0,
        "grad_norm/text_head": 1.0,
        "sign_rows": ROWS,
        "batch_rows": ROWS,
        "effective_rank_image": 30.0,
        "effective_rank_text": 25.0,
        "mean_cosine_image": 0.3,
        "mean_cosine_text": 0.4,
        "modality_gap": 0.8,
        "batch_recall@1": 1 / ROWS + 0.5 * share,
        "repeated_share": 0.1,
        "false_negative_share": 0.0,
        "distinct_images": 1.0,
        "distinct_captions": 0.9,
        "update_ratio": 0.01,
        "weights_moved": 1.0 * share,
        "logit_scale_at_max": 0.0,
        "loader_seconds": 0.01,
        "step_seconds": 0.1,
    }


def at_chance(step: int) -> Record:
    """A line of a run that does not learn, of which no other sign is wrong."""
    return {**sound(step), "loss": CHANCE, "batch_recall@1": 1 / ROWS, "logit_scale": 14.3}


def run(line: Callable[[int], Record], own: Recipe | None = None, *, steps: int = 400) -> list[tuple[str, str]]:
    records = [line(step) for step in (1, *range(10, steps + 1, 10))]
    return [(finding.cause, finding.severity) for finding in live_findings(records, own or recipe())]


def test_a_sound_run_is_left_in_peace() -> None:
    assert run(sound) == []
    assert run(sound, steps=20) == []
    assert live_findings([], recipe()) == []


@pytest.mark.parametrize(
    ("signs", "cause"),
    [
        ({}, "stuck_at_chance"),
        ({"distinct_captions": 0.1}, "captions_do_not_vary"),
        ({"update_ratio": 0.8}, "learning_rate_too_high"),
        ({"weights_moved": 9.0}, "learning_rate_too_high"),
        ({"weights_moved": 0.001}, "learning_rate_too_low"),
        ({"mean_cosine_image": 0.999}, "constant_embeddings"),
    ],
)
def test_a_run_at_chance_is_told_once_with_its_cause(signs: Record, cause: str) -> None:
    signs = {"weights_moved": 0.5, **signs}
    assert run(lambda step: {**at_chance(step), **signs}) == [(cause, "fault")]
    assert run(lambda step: {**sound(step), **signs}) == []  # a model that learns may have them


def test_stuck_is_not_told_in_the_warm_up_nor_soon_behind_it() -> None:
    doctor = LiveDoctor(recipe(schedule={"warmup_steps": 100}))
    told = {step: doctor.observe(at_chance(step)) for step in range(10, 400, 10)}
    assert [step for step, findings in told.items() if findings] == [300]
    finding = told[300][0]
    assert f"no better than chance ({CHANCE:.2f})" in finding.evidence
    assert "mmcl doctor runs/run" in finding.next_step
    assert run(at_chance, steps=50) == [("stuck_at_chance", "note")]  # over, and 40 steps behind the warm-up
    assert run(lambda step: {**at_chance(step), "weights_moved": 0.0}, steps=50) == [("learning_rate_too_low", "fault")]
    assert run(at_chance, steps=30) == []


def test_a_loss_without_chance_is_stuck_where_pairs_are_not_found() -> None:
    def without(line: Callable[[int], Record]) -> Callable[[int], Record]:
        return lambda step: {name: value for name, value in line(step).items() if name != "chance_loss"}

    assert run(without(at_chance)) == [("stuck_at_chance", "fault")]
    assert run(without(sound)) == []


def test_records_without_signs_still_tell_a_loss_at_chance() -> None:
    names = ("step", "epoch", "loss", "chance_loss", "logit_scale", "grad_norm")
    assert run(lambda step: {name: at_chance(step)[name] for name in names}) == [("stuck_at_chance", "fault")]
    assert run(lambda step: {name: sound(step)[name] for name in names}) == []


@pytest.mark.parametrize("side", ["image", "text"])
def test_nothing_trains_needs_both_encoders(side: str) -> None:
    dead = {f"grad_norm/{side}_{part}": 0.0 for part in ("tower", "head")}
    both = {f"grad_norm/{other}_{part}": 0.0 for other in ("image", "text") for part in ("tower", "head")}
    assert run(lambda step: {**at_chance(step), **both}, steps=20) == [("nothing_trains", "fault")]
    assert run(lambda step: {**sound(step), **dead}) == [("gradient_vanishes", "warning")]


def test_one_caption_or_image_for_all_is_told_at_once() -> None:
    for sign, cause in (("distinct_captions", "captions_do_not_vary"), ("distinct_images", "images_do_not_vary")):
        assert run(lambda step, sign=sign: {**at_chance(step), sign: 1 / ROWS}, steps=20) == [(cause, "fault")]
    assert run(lambda step: {**sound(step), "distinct_captions": 2 / ROWS}) == []  # two classes


def test_the_temperature() -> None:
    def line(step: int) -> Record:
        return {**sound(step), "logit_scale": min(100.0, 14.3 + step), "logit_scale_at_max": float(step >= 90)}

    assert run(line) == [("temperature_at_clamp", "warning")]
    assert run(lambda step: {**line(step), "logit_scale_at_max": 0.0}) == []
    clip = recipe(model={"logit_scale": 100.0})
    assert run(lambda step: {**sound(step), "logit_scale": 100.0, "logit_scale_at_max": 1.0}, clip) == []
    assert run(lambda step: {**sound(step), "logit_scale": 14.3 * 0.98**step}) == [("temperature_collapsed", "warning")]


def test_a_scale_that_large_steps_have_thrown_away() -> None:
    def line(step: int) -> Record:
        return {**sound(step), "logit_scale": 14.3 * 0.98**step}

    hot = run(lambda step: {**line(step), "update_ratio": 0.4})
    assert hot == [("learning_rate_too_high", "warning")]
    assert run(line) == [("temperature_collapsed", "warning")]


def test_which_losses_know_groups() -> None:
    assert loss_counts_groups(recipe().loss)
    assert not loss_counts_groups(recipe(loss={"positives": "pair"}).loss)
    assert not loss_counts_groups(recipe(loss={"name": "dcl"}).loss)
    assert loss_counts_groups(LossSection(members=[{"name": "info_nce"}, {"name": "sigmoid"}]))
    assert not loss_counts_groups(LossSection(members=[{"name": "info_nce"}, {"name": "dcl"}]))


def test_a_fixed_scale_that_leaves_no_room() -> None:
    for scale, wanted in ((1.0, [("temperature_fixed", "warning")]), (14.3, [])):
        own = recipe(model={"logit_scale": scale, "logit_scale_learnable": False})
        assert run(lambda step, scale=scale: {**sound(step), "logit_scale": scale}, own) == wanted


def test_false_negatives_with_the_advice_that_fits() -> None:
    def line(step: int) -> Record:
        return {**sound(step), "false_negative_share": 0.4}

    assert run(line) == [("false_negatives", "warning")]
    assert run(lambda step: {**line(step), "false_negative_share": 0.1}) == []
    advice = [
        live_findings([line(step) for step in range(10, 100, 10)], recipe(loss=loss))[0].next_step
        for loss in ({"positives": "pair"}, {"name": "dcl"}, {})
    ]
    assert "loss.positives=group" in advice[0]
    assert "batches.name=unique_groups" in advice[1]
    assert "data.columns.group" in advice[2]


def test_collapse_and_gap_of_a_model_that_learns() -> None:
    assert run(lambda step: {**sound(step), "effective_rank_text": 1.2}) == [("dimensional_collapse", "warning")]
    assert run(lambda step: {**sound(step), "modality_gap": 1.4}) == [("modality_gap", "note")]


def leaves_chance_late(step: int) -> Record:
    """A line of a small model that rests at chance, all embeddings alike, and then learns within a few steps."""
    if step < 47:
        return {**at_chance(step), "effective_rank_text": 1.3, "effective_rank_image": 1.5, "mean_cosine_text": 0.999}
    spread = {"effective_rank_text": 2.0 + 0.05 * (step - 47), "effective_rank_image": 3.0}
    return {**sound(step), "loss": 0.5 * CHANCE, **spread}


def test_a_model_that_has_just_left_chance_has_not_collapsed() -> None:
    signs = ("sign_rows", "effective_rank_image", "effective_rank_text", "batch_recall@1", "mean_cosine_text")

    def lines(line: Callable[[int], Record], steps: int) -> list[tuple[str, str]]:
        """Every step has a line, and every tenth the signs of a look."""
        records = [
            record if step % 10 == 0 else {name: value for name, value in record.items() if name not in signs}
            for step in range(1, steps + 1)
            for record in [line(step)]
        ]
        doctor = LiveDoctor(recipe(model={"embedding_dim": 32}))
        return [(f.cause, f.severity) for record in records for f in doctor.observe(record)]

    assert lines(leaves_chance_late, 120) == []
    narrow = {"effective_rank_text": 1.4}
    assert lines(lambda step: {**leaves_chance_late(step), **narrow}, 120) == [("dimensional_collapse", "warning")]
    assert lines(lambda step: {**leaves_chance_late(step), **narrow}, 60) == []  # too few looks behind chance


def test_few_dimensions_by_right() -> None:
    def line(step: int) -> Record:
        return {**sound(step), "effective_rank_text": 1.2}

    assert run(lambda step: {**line(step), "distinct_captions": 3 / ROWS}) == []  # two or three classes
    assert (
        run(lambda step: {**line(step), "effective_rank_text": 1.2 + max(0, step - 120) / 50}) == []
    )  # opening, and then wide
    assert run(line, recipe(model={"embedding_dim": 4})) == []


def test_slow_reading_is_a_share_of_the_time_behind_the_first_line() -> None:
    def line(step: int) -> Record:
        return {**sound(step), "loader_seconds": 0.3}

    assert run(line) == [("slow_loader", "warning")]
    assert run(lambda step: {**line(step), "step_seconds": 0.4}) == []
    assert run(lambda step: {**sound(step), "loader_seconds": 60.0 if step == 1 else 0.01}) == []


def test_gradients_that_explode_and_updates_left_out() -> None:
    grows = lambda step: {**sound(step), "grad_norm": 2.0 if step < 100 else 2000.0}  # noqa: E731
    assert run(grows) == [("gradient_explodes", "warning")]
    assert run(lambda step: {**sound(step), "skipped_updates": step // 4}) == [("not_a_number", "warning")]
    assert run(lambda step: {**sound(step), "skipped_updates": 3}) == []


def test_a_loss_that_comes_back_to_chance() -> None:
    def line(step: int) -> Record:
        return sound(step) if step <= 200 else {**at_chance(step), "batch_recall@1": 0.3}

    assert run(line) == [("unstable_loss", "warning")]
    assert run(lambda step: {**line(step), "update_ratio": 0.2}) == [("learning_rate_too_high", "warning")]


def evaluated(values: list[float]) -> list[tuple[str, str]]:
    doctor = LiveDoctor(recipe())
    for number, value in enumerate(values):
        for step in range(number * 40 + 10, number * 40 + 50, 10):
            doctor.observe(sound(step))
        doctor.observe({"step": number * 40 + 40, "epoch": 1.0, "retrieval/mean_recall@1": value})
    doctor.finish()
    return [(finding.cause, finding.severity) for finding in doctor.findings]


def test_overfitting_needs_a_model_that_has_learnt() -> None:
    doctor = LiveDoctor(recipe())
    for number, value in enumerate([0.06, 0.02, 0.02, 0.02, 0.02]):
        for step in range(number * 40 + 10, number * 40 + 50, 10):
            doctor.observe({**at_chance(step), "loss": (1.4 - step / 500) * CHANCE, "batch_recall@1": 0.01})
        doctor.observe({"step": number * 40 + 40, "epoch": 1.0, "retrieval/mean_recall@1": value})
    assert doctor.findings == []


def test_overfitting_needs_evaluations_that_get_worse() -> None:
    assert evaluated([0.1, 0.2, 0.3, 0.25, 0.22, 0.2, 0.19]) == [("overfitting", "warning")]
    assert evaluated([0.1, 0.2, 0.3, 0.29, 0.28, 0.29, 0.3]) == []
    assert evaluated([0.1, 0.2, 0.25, 0.28, 0.3, 0.2, 0.2]) == []  # two evaluations may be luck


def test_a_finding_is_told_once_and_replaying_says_the_same() -> None:
    records = [{**sound(step), "modality_gap": 1.4, "false_negative_share": 0.5} for step in range(10, 400, 10)]
    doctor = LiveDoctor(recipe())
    told = [finding for record in records for finding in doctor.observe(record)]
    assert [finding.cause for finding in told] == ["false_negatives", "modality_gap"]
    assert told == doctor.findings == live_findings(records, recipe())
