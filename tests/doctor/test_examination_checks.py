"""Each check of the doctor's examination on hand-made runs, each with a control that must pass."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from mmcl.config import recipe_from_tree
from mmcl.doctor.examination import batches, captions, images, reading, spaces, splits, tokens, verdict, weights
from mmcl.doctor.examination.subject import Ending, Leak, Sample, Subject, Timing
from mmcl.doctor.finding import CAUSES, Finding
from mmcl.models.dual_encoder import build_dual_encoder
from mmcl.models.freezing import apply_freezing

TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXTS = [
    f"a {colour} {form} number {row}" for row in range(5) for colour in ("red", "blue") for form in ("ring", "box")
]


def recipe(**sections: Any) -> Any:
    tree = {"data": {"path": "shapes"}, "model": {}, **sections}
    tree["model"] = {
        "embedding_dim": 8,
        "image": {"image_size": 16, "options": TOWER},
        "text": {"options": TOWER},
        **tree["model"],
    }
    return recipe_from_tree(tree, source="test")


def noise(number: int, *, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, 16, 16), generator=generator, dtype=torch.uint8) for _ in range(number)]


def subject_of(texts: list[str], of: Any = None, **values: Any) -> Subject:
    pictures = values.pop("images", noise(len(texts)))
    embeddings = {name: values.pop(name) for name in ("image", "text") if name in values}
    from mmcl.doctor.examination.agreement import pixel_features

    sample = Sample(texts, np.arange(len(texts)), pictures, pixel_features(pictures), **embeddings)
    return Subject(recipe=of or recipe(), rows=len(texts), batches=1, train=sample, **values)


def model_of(of: Any, texts: list[str] = TEXTS) -> Any:
    torch.manual_seed(0)
    model = build_dual_encoder(of.model, captions=texts)
    apply_freezing(model, of.model)
    return model


def causes(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.cause, finding.severity) for finding in findings]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# -- captions and tokens -----------------------------------------------------------------------------------------


def test_captions_that_vary_and_those_that_do_not() -> None:
    assert captions.variety(subject_of(TEXTS)) == []
    assert causes(captions.variety(subject_of(["a picture"] * 30))) == [("captions_do_not_vary", "fault")]
    four = subject_of(["one", "two", "three", "four"] * 50)
    assert causes(captions.variety(four)) == [("captions_do_not_vary", "fault")]


def test_few_captions_that_fit_their_images_are_names_of_kinds() -> None:
    bright = [torch.full((3, 16, 16), 20 + 50 * (row % 4), dtype=torch.uint8) for row in range(200)]
    pictures = [(one.float() + other % 20).to(torch.uint8) for one, other in zip(bright, noise(200))]
    names = subject_of(["one", "two", "three", "four"] * 50, images=pictures)
    names.train = dataclasses.replace(names.train, groups=np.arange(200) % 4)
    assert causes(captions.variety(names)) == [("captions_do_not_vary", "note")]


def test_ids_and_class_names_for_captions() -> None:
    assert captions.no_texts(subject_of(TEXTS)) == []
    ids = subject_of([f"img_{row:04d}.png" for row in range(30)])
    assert causes(captions.no_texts(ids)) == [("captions_are_no_texts", "fault")]
    names = ["dog", "cat"] * 50
    assert captions.no_texts(subject_of(names)) == []  # there is nothing better in the data
    richer = subject_of(names, columns={"description": 90})
    assert causes(captions.no_texts(richer)) == [("captions_are_no_texts", "warning")]
    for label, found in (("kind", []), ("other", [("captions_are_no_texts", "warning")])):
        # Classes in the place of captions, as FLYP has them, are no mistake.
        of = recipe(data={"path": "shapes", "columns": {"text": "kind", "label": label}})
        assert causes(captions.no_texts(subject_of(names, of, columns={"description": 90}))) == found
    assert "description (90 distinct)" in captions.no_texts(richer)[0].next_step


@pytest.mark.parametrize("text", ["17", "a.jpg", "3.14", "deadbeef01", "x12", "..."])
def test_what_looks_like_an_id(text: str) -> None:
    assert captions.looks_like_id(text)


@pytest.mark.parametrize("text", ["dog", "a 3 legged dog", "two dogs", "facade", "Haus"])
def test_what_is_a_caption(text: str) -> None:
    assert not captions.looks_like_id(text)


def test_tokens_that_are_not_the_towers() -> None:
    own = subject_of(TEXTS, start=model_of(recipe()))
    assert tokens.tokenizer(own) == []
    strange = subject_of(["wolkenbruch sommergewitter"] * 10 + TEXTS, start=model_of(recipe(), ["zebra"]))
    assert causes(tokens.tokenizer(strange)) == [("tokenizer_mismatch", "fault")]
    assert "tokens on average" in tokens.tokenizer(strange)[0].evidence
    beyond = model_of(recipe())
    beyond.text.tower.model.embeddings.word_embeddings = torch.nn.Embedding(5, 16)
    found = tokens.tokenizer(subject_of(TEXTS, start=beyond))
    assert causes(found) == [("tokenizer_mismatch", "fault")]
    assert "has 5 rows" in found[0].evidence


def test_unknown_tokens() -> None:
    found = tokens.tokenizer(subject_of(["красный круг", "синий квадрат"] * 12, start=model_of(recipe())))
    assert causes(found) == [("tokenizer_mismatch", "fault")]
    assert "100 %" in found[0].evidence


def test_captions_that_are_cut() -> None:
    short = recipe(model={"text": {"options": TOWER, "max_length": 4}})
    assert causes(tokens.cut(subject_of(TEXTS, short, start=model_of(short)))) == [("captions_cut", "fault")]
    assert tokens.cut(subject_of(TEXTS, start=model_of(recipe()))) == []


def test_kinship_of_words_and_plurals() -> None:
    words = [f"{a}{b}{c}o" for a in "bdfg" for b in "aei" for c in "klmn"]
    tower = model_of(recipe(), [*words, *(f"{word}s" for word in words)]).text.tower
    assert abs(tokens.kinship(tower)) < tokens.KINSHIP  # random weights know nothing
    vocabulary, table = tower.preprocessing.tokenizer.get_vocab(), tokens.embedding_table(tower.model).weight
    with torch.no_grad():
        for word in words:
            table[vocabulary[f"{word}s"]] = table[vocabulary[word]] + 0.01 * torch.randn(16)
    assert tokens.kinship(tower) > tokens.KINSHIP
    assert tokens.kinship(model_of(recipe()).text.tower) is None  # too few pairs


# -- images ------------------------------------------------------------------------------------------------------


def test_normalisation_by_what_comes_out() -> None:
    model = model_of(recipe())
    assert images.normalization(subject_of(TEXTS, start=model)) == []
    model.image.tower.preprocessing = dataclasses.replace(
        model.image.tower.preprocessing, mean=(0.0,) * 3, std=(1 / 255,) * 3
    )
    assert causes(images.normalization(subject_of(TEXTS, start=model))) == [("wrong_normalization", "fault")]


def test_normalisation_against_the_library() -> None:
    model = model_of(recipe())  # 0.5 and 0.5
    own = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert images.normalization(subject_of(TEXTS, start=model, standard=own)) == []
    other = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = images.normalization(subject_of(TEXTS, start=model, standard=other))
    assert causes(found) == [("wrong_normalization", "warning")]


def test_mean_and_spread_against_torch() -> None:
    pictures, mean, std = noise(4), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    stacked = torch.stack(pictures).double() / 255
    wanted = (stacked.mean((0, 2, 3)) - torch.tensor(mean).double()) / torch.tensor(std).double()
    spread = stacked.std((0, 2, 3), correction=0) / torch.tensor(std).double()
    found = images.mean_and_spread(pictures, mean, std)
    assert found[0] == pytest.approx(float(wanted[wanted.abs().argmax()]), abs=1e-6)
    assert found[1] == pytest.approx(float(spread.max()), abs=1e-6)


def test_the_librarys_own_figures_are_those_of_its_list() -> None:
    from mmcl.builders.examining.run_models import standard_normalization

    changed = {"pretrained_cfg_overlay": {"mean": (0.1, 0.1, 0.1)}}
    model = model_of(recipe(model={"image": {"name": "timm:test_vit", "pretrained": False, "options": changed}}))
    assert tuple(model.image.tower.preprocessing.mean) == (0.1, 0.1, 0.1)
    assert standard_normalization(model) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert standard_normalization(model_of(recipe())) is None  # transformers says nothing of its weights


def test_images_that_are_all_one() -> None:
    assert images.variety(subject_of(TEXTS)) == []
    found = images.variety(subject_of(TEXTS, images=noise(1) * len(TEXTS)))
    assert causes(found) == [("images_do_not_vary", "fault")]
    blank = [torch.full((3, 16, 16), row * 9, dtype=torch.uint8) for row in range(len(TEXTS))]
    assert causes(images.variety(subject_of(TEXTS, images=blank))) == [("images_do_not_vary", "warning")]


# -- weights -----------------------------------------------------------------------------------------------------


def test_weights_that_are_not_finite_at_the_start() -> None:
    model = model_of(recipe())
    assert weights.not_finite(subject_of(TEXTS, start=model)) == []
    with torch.no_grad():
        model.text.head.projection.weight[0, :2] = torch.nan
    found = weights.not_finite(subject_of(TEXTS, start=model))
    assert causes(found) == [("not_a_number", "fault")]
    assert "2 of 128 values of text.head.projection.weight" in found[0].evidence


def test_nothing_trains() -> None:
    frozen = recipe(
        model={
            "embedding_dim": 16,
            **{
                side: {"freeze": True, "head": {"name": "none"}, "options": TOWER, **more}
                for side, more in (("image", {"image_size": 16}), ("text", {}))
            },
        }
    )
    assert causes(weights.nothing_trains(subject_of(TEXTS, frozen, start=model_of(frozen)))) == [
        ("nothing_trains", "fault")
    ]
    model = model_of(recipe())
    assert weights.nothing_trains(subject_of(TEXTS, start=model)) == []
    records = [{"step": 10, "epoch": 1.0, "loss": 2.0, "chance_loss": 2.0, "lr": 1e-3, "grad_norm": 1.0}]
    same = subject_of(TEXTS, start=model, trained=model, records=records)
    assert causes(weights.nothing_trains(same)) == [("nothing_trains", "fault")]


def records_of(*losses: float, chance: float = 3.0) -> list[dict[str, float]]:
    return [
        {"step": 10 * n, "epoch": n / 2, "loss": loss, "chance_loss": chance, "lr": 1e-3, "grad_norm": 1.0}
        for n, loss in enumerate(losses, 1)
    ]


def test_learning_rates() -> None:
    start = model_of(recipe())
    hot = recipe(optimizer={"learning_rate": 1.0})
    stuck, fell = records_of(*[3.0] * 6), records_of(3.0, 2.5, 2.0, 1.5, 1.2, 1.0)
    assert causes(weights.rate_too_high(subject_of(TEXTS, hot, start=start, records=stuck))) == [
        ("learning_rate_too_high", "fault")
    ]
    assert weights.rate_too_high(subject_of(TEXTS, hot, start=start, records=fell)) == []
    assert weights.rate_too_high(subject_of(TEXTS, start=start, records=stuck)) == []  # stuck for another reason
    near = model_of(recipe())
    with torch.no_grad():
        for parameter in near.parameters():
            parameter.mul_(1.001)
    low = subject_of(TEXTS, start=start, trained=near, records=stuck)
    assert weights.weights_moved(low) == pytest.approx(0.001, rel=1e-3)
    assert causes(weights.rate_too_low(low)) == [("learning_rate_too_low", "fault")]
    assert weights.rate_too_low(subject_of(TEXTS, start=start, trained=near, records=fell)) == []


def test_steps_that_are_too_large_though_the_model_has_learnt() -> None:
    start, far = model_of(recipe()), model_of(recipe())
    with torch.no_grad():
        for parameter in far.parameters():
            parameter.mul_(10)
    fell = records_of(3.0, 2.5, 2.0, 1.5, 1.2, 1.0)
    wild = [{**record, "update_ratio": 0.8} for record in fell]
    assert causes(weights.rate_too_high(subject_of(TEXTS, start=start, trained=far, records=wild))) == [
        ("learning_rate_too_high", "warning")
    ]
    assert weights.rate_too_high(subject_of(TEXTS, start=start, trained=far, records=fell)) == []  # by sound steps
    assert weights.rate_too_high(subject_of(TEXTS, start=start, trained=start, records=wild)) == []  # and stayed near


def test_a_warm_up_longer_than_the_run() -> None:
    long = recipe(schedule={"warmup_steps": 1000}, train={"max_steps": 60})
    found = weights.rate_too_low(subject_of(TEXTS, long, records=records_of(*[3.0] * 6)))
    assert causes(found) == [("learning_rate_too_low", "fault")]
    assert "schedule.warmup_steps=3" in found[0].next_step


# -- batches, scale, splits, reading -----------------------------------------------------------------------------


def test_meeting_share_against_drawn_batches() -> None:
    generator = np.random.default_rng(0)
    texts, groups = [f"caption {row % 60}" for row in range(300)], np.arange(300)
    met = []
    for _ in range(300):
        rows = generator.permutation(300)[:20]
        own = [texts[row] for row in rows]
        met.append(np.mean([own.count(text) > 1 for text in own]))
    share = batches.meeting_share(texts, groups, rows=300, batch=20, groups_count=True)
    assert share == pytest.approx(np.mean(met), abs=0.02)
    assert batches.meeting_share(texts, np.arange(300) % 60, rows=300, batch=20, groups_count=True) == 0
    by_pair = batches.meeting_share(texts, np.arange(300) % 60, rows=300, batch=20, groups_count=False)
    assert by_pair == pytest.approx(share, abs=0.02)


def test_false_negatives_and_batch_sizes() -> None:
    texts = ["one", "two", "three", "four"] * 10
    same = subject_of(texts, recipe(loss={"positives": "pair"}))
    same.train = dataclasses.replace(same.train, groups=np.arange(40) % 4)
    assert causes(batches.false_negatives(same)) == [("false_negatives", "warning")]
    same.recipe = recipe()
    assert batches.false_negatives(same) == []
    assert causes(batches.sizes(subject_of(texts, recipe(train={"batch_size": 2})))) == [("batch_too_small", "fault")]
    assert batches.sizes(subject_of(texts, recipe(train={"batch_size": 32}))) == []
    assert causes(batches.sizes(subject_of(texts, recipe(train={"batch_size": 64})))) == [("too_few_rows", "note")]


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        ({}, None),
        ({"logit_scale": 1.0, "logit_scale_learnable": False}, "temperature_fixed"),
        ({"logit_scale": 20.0, "logit_scale_learnable": False}, None),
        ({"logit_scale": 100.0}, "temperature_at_clamp"),
        ({"logit_scale": 5.0}, None),
    ],
)
def test_scales(model: dict[str, Any], cause: str | None) -> None:
    found = batches.scale(subject_of(TEXTS, recipe(model=model)))
    assert [one.cause for one in found] == ([] if cause is None else [cause])


def test_spaces() -> None:
    generator = np.random.default_rng(0)
    wide, one = unit(generator.normal(size=(64, 32))), unit(1 + 1e-3 * generator.normal(size=(64, 32)))
    texts = [f"caption {row}" for row in range(64)]
    assert spaces.constant(subject_of(texts, image=wide, text=wide)) == []
    assert causes(spaces.constant(subject_of(texts, image=wide, text=one))) == [("constant_embeddings", "fault")]
    line = unit(np.outer(generator.normal(size=64), generator.normal(size=32)) + 1e-6)
    assert spaces.collapse(subject_of(texts, image=wide, text=wide)) == []
    assert causes(spaces.collapse(subject_of(texts, image=line, text=wide))) == [("dimensional_collapse", "warning")]
    assert causes(spaces.gap(subject_of(texts, image=one, text=-one))) == [("modality_gap", "note")]


def test_embeddings_on_a_plane_are_collapsed_where_the_model_has_learnt() -> None:
    generator = np.random.default_rng(0)
    plane = unit(generator.normal(size=(64, 2)) @ generator.normal(size=(2, 32)))
    texts = [f"caption {row}" for row in range(64)]
    assert causes(spaces.collapse(subject_of(texts, image=plane, text=plane))) == [("dimensional_collapse", "warning")]
    by_lot = plane[generator.permutation(64)]
    assert spaces.collapse(subject_of(texts, image=plane, text=by_lot)) == []  # it may begin so
    wider = unit(generator.normal(size=(64, 4)) @ generator.normal(size=(4, 32)))
    assert spaces.collapse(subject_of(texts, image=wider, text=wider)) == []


def test_splits() -> None:
    generator = np.random.default_rng(0)
    wide, other = (unit(generator.normal(size=(60, 32))) for _ in range(2))
    texts = [f"caption {row}" for row in range(60)]
    held = Sample(texts, np.arange(60), image=wide, text=other)
    learnt = subject_of(texts, image=wide, text=wide, validation=held, validation_rows=60)
    assert causes(splits.overfitting(learnt)) == [("overfitting", "warning")]
    learnt.validation = dataclasses.replace(held, text=wide)
    assert splits.overfitting(learnt) == []
    learnt.leaks = [Leak("caption", 1), Leak("image", 40, "a.png like b.png of the training split")]
    assert causes(splits.leak(learnt)) == [("split_leak", "fault")]
    assert "40 of 60" in splits.leak(learnt)[0].evidence
    assert "(such as a.png like b.png of the training split)" in splits.leak(learnt)[0].evidence
    learnt.leaks = [Leak("near image", 20, is_estimate=True)]
    assert causes(splits.leak(learnt)) == [("split_leak", "warning")]
    assert splits.leak(learnt)[0].evidence.startswith("About 20 of 60 validation rows (33 %) have an image nearly like")
    learnt.leaks = [Leak("caption", 1)]
    assert splits.leak(learnt) == []


def test_reading() -> None:
    assert causes(reading.loader(subject_of(TEXTS, timing=Timing(2.0, 0.1)))) == [("slow_loader", "warning")]
    assert reading.loader(subject_of(TEXTS, timing=Timing(2.0, 0.1, workers=16))) == []
    assert reading.loader(subject_of(TEXTS, timing=Timing(0.01, 0.001))) == []  # nobody would feel it
    died = subject_of(TEXTS, timing=Timing(0.0, 0.0, 2, died="a reader process died (killed)"))
    assert causes(reading.readers(died)) == [("dead_workers", "fault")]
    broken = subject_of(TEXTS, recipe(data={"path": "shapes", "workers": 2}), ending=Ending("broken off"))
    assert causes(reading.readers(broken)) == [("dead_workers", "fault")]
    assert reading.readers(subject_of(TEXTS, ending=Ending("broken off"))) == []


# -- the verdict -------------------------------------------------------------------------------------------------


def finding(cause: str, severity: str = "fault") -> Finding:
    return Finding(cause, severity, f"About {cause}.", 1.0, 0.5, "Do something.")


def test_the_root_is_named_and_what_follows_is_a_note() -> None:
    faults = [finding(cause) for cause in ("stuck_at_chance", "constant_embeddings", "nothing_trains")]
    found = verdict.in_order([*faults, finding("slow_loader", "warning")])
    assert causes(found) == [
        ("nothing_trains", "fault"),
        ("slow_loader", "warning"),
        ("constant_embeddings", "note"),
        ("stuck_at_chance", "note"),
    ]


def test_of_one_cause_the_gravest_counts() -> None:
    found = verdict.in_order([finding("overfitting", "note"), finding("overfitting", "warning")])
    assert causes(found) == [("overfitting", "warning")]
    assert verdict.in_order([]) == []


def test_every_cause_that_is_named_is_known() -> None:
    follows = {cause for group in verdict.EXPLAINS.values() for cause in group}
    assert {*verdict.ROOTS, *verdict.SYMPTOMS, *verdict.EXPLAINS, *follows} <= set(CAUSES)
    places = {cause: place for place, cause in enumerate(verdict.ROOTS)}
    for root, caused in verdict.EXPLAINS.items():  # what explains stands before what it explains
        assert all(places[root] <= places.get(cause, 99) for cause in caused), root


def test_a_healthy_subject_and_what_cannot_be_looked_at() -> None:
    generator = np.random.default_rng(0)
    wide = unit(generator.normal(size=(len(TEXTS), 16)))
    found = verdict.examine(subject_of(TEXTS, image=wide, text=wide), run="runs/x")
    assert found.first is None
    assert found.diagnosis.startswith("Nothing is wrong")
    bare = verdict.examine(Subject(recipe=recipe()))
    assert bare.first is None
    assert "captions vary" in [name for name, _ in bare.not_made]
    assert "captions vary" in [name for name, _ in found.well]


def test_a_check_that_fails_keeps_no_other_from_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(subject: Subject) -> list[Finding]:
        raise ZeroDivisionError("by nothing")

    checks = [dataclasses.replace(verdict.CHECKS[0], name="fails", find=fails), *verdict.CHECKS]
    monkeypatch.setattr(verdict, "CHECKS", tuple(checks))
    found = verdict.examine(subject_of(["a picture"] * 30))
    assert ("fails", "the check failed: ZeroDivisionError by nothing") in found.not_made
    assert found.first is not None
    assert found.first.cause == "captions_do_not_vary"
