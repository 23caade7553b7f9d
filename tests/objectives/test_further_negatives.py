"""Hard negatives and the queue on their way through the objective: into the loss, out of groups, behind the step."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from mmcl.batch import Batch, Embeddings, HardNegatives
from mmcl.config import ModelSection, NegativesSection
from mmcl.losses.info_nce import info_nce
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.negatives.hardness import HardnessSchedule
from mmcl.objectives.image_text import ImageTextObjective

TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXTS = ["a red circle", "a small blue star", "a red circle", "two hearts"]
HARD = ["a blue circle", "a small blue circle", "two hearts", "three hearts", "a red circle"]
HARD_GROUPS = torch.tensor([-1, -1, 2, -1, 0])
GROUPS = torch.tensor([0, 1, 0, 2])


@pytest.fixture
def model() -> DualEncoder:
    torch.manual_seed(0)
    section = ModelSection.model_validate(
        {"embedding_dim": 8, "image": {"options": TOWER, "image_size": 32}, "text": {"options": TOWER}}
    )
    return build_dual_encoder(section, captions=[*TEXTS, *HARD]).eval()


def batch(model: DualEncoder, *, seed: int = 1, hard: bool = True) -> Batch:
    draw, tokenize = torch.Generator().manual_seed(seed), model.text.tower.preprocessing
    made = Batch(
        image={"pixel_values": torch.randn(4, 3, 32, 32, generator=draw)},
        text=tokenize(TEXTS),
        group_ids=GROUPS,
        rows=torch.arange(4),
    )
    if hard:
        made.negative_text = HardNegatives(tokenize(HARD), torch.tensor([0, 1, 2, 3, 3]), HARD_GROUPS)
        pixels = {"pixel_values": torch.randn(2, 3, 32, 32, generator=draw)}
        made.negative_image = HardNegatives(pixels, torch.tensor([0, 2]), torch.tensor([1, 7]))
    return made


def queued(model: DualEncoder, size: int = 6, momentum: float = 0.9) -> ImageTextObjective:
    return ImageTextObjective(model, info_nce, negatives=NegativesSection(queue_size=size, queue_momentum=momentum))


# -- hard negatives ------------------------------------------------------------------------------------------------


def test_hard_negatives_are_embedded_and_reach_the_loss(model: DualEncoder) -> None:
    objective, inputs = ImageTextObjective(model, info_nce), batch(model)
    embeddings = objective(inputs)
    assert torch.equal(embeddings.negative_text, model.encode_text(**inputs.negative_text.inputs))
    assert torch.equal(embeddings.negative_image, model.encode_image(**inputs.negative_image.inputs))
    assert torch.equal(embeddings.negative_text_groups, HARD_GROUPS)
    loss = objective.loss(embeddings)["loss"]
    own = {name: getattr(embeddings, name) for name in ("negative_text", "negative_text_groups")}
    own |= {name: getattr(embeddings, name) for name in ("negative_image", "negative_image_groups")}
    direct = info_nce(embeddings.image, embeddings.text, embeddings.logit_scale, group_ids=GROUPS, **own)
    torch.testing.assert_close(loss, direct)
    for missing in ("negative_text", "negative_image"):
        less = objective.loss(dataclasses.replace(embeddings, **{missing: None, f"{missing}_groups": None}))["loss"]
        assert less < loss - 1e-3
    loss.backward()
    assert all(p.grad is not None for side in (model.image, model.text) for p in side.head.parameters())


def test_a_negative_of_a_rows_own_group_is_left_out_for_it(model: DualEncoder) -> None:
    objective, inputs = ImageTextObjective(model, info_nce), batch(model)
    inputs.negative_image = None
    embeddings = objective(inputs)
    scores = embeddings.logit_scale * embeddings.image @ torch.cat([embeddings.text, embeddings.negative_text]).T
    columns = torch.cat([GROUPS, HARD_GROUPS])
    losses = []
    for row in range(4):
        positives = [j for j in range(4) if GROUPS[j] == GROUPS[row]]
        counted = positives + [j for j in range(9) if columns[j] != GROUPS[row]]
        losses.append(sum(scores[row, counted].logsumexp(0) - scores[row, j] for j in positives) / len(positives))
    forth = sum(losses) / 4
    plain = scores[:, :4]
    shares = (GROUPS[:, None] == GROUPS).float()
    back = -(shares / shares.sum(1, keepdim=True) * plain.T.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(objective.loss(embeddings)["loss"], (forth + back) / 2)
    nobodys = dataclasses.replace(embeddings, negative_text_groups=torch.full((5,), -1))
    assert objective.loss(nobodys)["loss"] > objective.loss(embeddings)["loss"] + 1e-3


def test_gathered_negatives_of_all_processes_count(model: DualEncoder) -> None:
    objective, inputs = ImageTextObjective(model, info_nce), batch(model)
    whole = objective(inputs)
    value = objective.loss(whole)["loss"]
    parts = []
    for start, hard in ((0, slice(0, 2)), (2, slice(2, 5))):
        part = Embeddings(
            image=whole.image[start : start + 2],
            text=whole.text[start : start + 2],
            group_ids=GROUPS[start : start + 2],
            logit_scale=whole.logit_scale,
            negative_text=whole.negative_text[hard],
            negative_text_groups=HARD_GROUPS[hard],
            gathered=whole,
            offset=start,
        )  # its own images have no hard ones, the other process's have
        parts.append(objective.loss(part)["loss"])
    torch.testing.assert_close(sum(parts) / 2, value)


def test_chance_counts_what_there_was(model: DualEncoder) -> None:
    def chance(rows: int, captions: int, images: int) -> float:
        return 100.0 * rows + 10 * captions + images

    objective = ImageTextObjective(model, info_nce, chance=chance)
    assert objective.chance_loss(4) == 400.0
    objective.loss(objective(batch(model)))
    assert objective.chance_loss(4) == 452.0
    objective.loss(objective(batch(model, hard=False)))
    assert objective.chance_loss(4) == 400.0
    assert ImageTextObjective(model, info_nce).chance_loss(4) is None
    with_queue = ImageTextObjective(model, info_nce, chance=chance, negatives=NegativesSection(queue_size=3))
    for _ in range(2):
        with_queue.loss(with_queue(batch(model)))
        with_queue.after_step()
    assert with_queue.chance_loss(4) == 400 + 80 + 5


# -- the queue -----------------------------------------------------------------------------------------------------


def step(objective: ImageTextObjective, inputs: Batch, rate: float = 0.5) -> float:
    objective.zero_grad()
    loss = objective.loss(objective(inputs))["loss"]
    loss.backward()
    with torch.no_grad():
        for parameter in objective.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
    objective.after_step(loss=float(loss.detach()), done=0.1)
    return float(loss.detach())


def test_keys_go_in_behind_the_step_and_come_back_as_negatives(model: DualEncoder) -> None:
    objective, inputs = queued(model), batch(model, hard=False)
    embeddings = objective(inputs)
    assert not embeddings.key_image.requires_grad
    torch.testing.assert_close(embeddings.key_image, embeddings.image)  # nothing has moved yet
    first = objective.loss(embeddings)["loss"]
    assert torch.equal(objective.loss(embeddings)["loss"], first)  # judging twice puts nothing in
    assert len(objective.queue) == 0
    objective.after_step()
    assert len(objective.queue) == 4
    assert torch.equal(objective.queue.text, embeddings.key_text)
    objective.after_step()
    assert len(objective.queue) == 4  # a step puts its keys in once
    # The same rows again: all that is in the queue belongs to groups of the batch, and is left out for these.
    again = objective.loss(objective(inputs))["loss"]
    extra = {
        "negative_text": embeddings.key_text,
        "negative_text_groups": GROUPS,
        "negative_image": embeddings.key_image,
        "negative_image_groups": GROUPS,
    }
    direct = info_nce(embeddings.image, embeddings.text, embeddings.logit_scale, group_ids=GROUPS, **extra)
    torch.testing.assert_close(again, direct)
    assert again > first + 1e-3


def test_a_row_never_stands_against_its_own_earlier_self(model: DualEncoder) -> None:
    objective, inputs = queued(model), batch(model, hard=False)
    inputs.group_ids = torch.zeros(4, dtype=torch.int64)
    step(objective, inputs, rate=0.0)
    without = ImageTextObjective(model, info_nce).loss(objective(inputs))["loss"]
    torch.testing.assert_close(objective.loss(objective(inputs))["loss"], without)
    assert len(objective.queue) == 4


def test_keys_are_those_of_the_slow_copy(model: DualEncoder) -> None:
    objective = queued(model, size=100, momentum=0.5)
    weight = model.text.head.projection.weight
    by_hand = weight.detach().clone()
    for number in range(3):
        embeddings = objective(batch(model, seed=number, hard=False))
        step(objective, batch(model, seed=number, hard=False))
        by_hand = 0.5 * by_hand + 0.5 * weight.detach()
        assert torch.equal(objective.queue.image[-4:], embeddings.key_image)
    own = dict(objective.momentum.encoders["text"].head.named_parameters())
    torch.testing.assert_close(own["projection.weight"], by_hand)
    assert not torch.allclose(by_hand, weight)
    last = objective(batch(model, hard=False))
    assert not torch.allclose(last.key_image, last.image, atol=1e-4)


def test_queue_and_copy_are_in_the_objectives_state_and_not_in_the_model(model: DualEncoder) -> None:
    objective = queued(model)
    for number in range(2):
        step(objective, batch(model, seed=number, hard=False))
    state = {name: value.clone() for name, value in objective.state_dict().items()}
    assert {name.split(".")[0] for name in state} == {"model", "queue", "momentum"}
    assert not any(name.startswith(("queue", "momentum")) for name in model.state_dict())
    wanted = step(objective, batch(model, seed=7, hard=False))
    objective.load_state_dict(state)
    assert step(objective, batch(model, seed=7, hard=False)) == wanted
    torch.manual_seed(1)
    other = queued(model)
    other.model.load_state_dict({name[6:]: value for name, value in state.items() if name.startswith("model.")})
    assert step(other, batch(model, seed=7, hard=False)) != wanted  # the control: a queue that was not brought back
    assert {name.split(".")[0] for name in ImageTextObjective(model, info_nce).state_dict()} == {"model"}


# -- hardness ------------------------------------------------------------------------------------------------------


def test_hardness_follows_its_schedule_and_reaches_the_loss(model: DualEncoder) -> None:
    seen: list[float] = []

    def loss(image: Tensor, *others: Tensor, hardness: float, **options: object) -> Tensor:
        seen.append(hardness)
        return image.sum() * 0

    objective = ImageTextObjective(
        model, loss, hardness_schedule=HardnessSchedule(2.0, "loss"), chance=lambda *_: 4.0, label_smoothing=0.1
    )
    inputs = batch(model, hard=False)
    for value in (4.0, 1.0, math.nan):
        terms = objective.loss(objective(inputs))
        assert float(terms["hardness"]) == seen[-1]
        objective.after_step(loss=value, done=0.5)
    objective.loss(objective(inputs))
    assert seen == pytest.approx([0.0, 0.0, 2 * (1 - (0.95 * 4 + 0.05) / 4), 2 * (1 - (0.95 * 4 + 0.05) / 4)])
    assert "hardness" not in ImageTextObjective(model, info_nce).loss(ImageTextObjective(model, info_nce)(inputs))
    assert {name for name in objective.state_dict() if name.startswith("hardness")} == {
        "hardness.value",
        "hardness.average",
    }
