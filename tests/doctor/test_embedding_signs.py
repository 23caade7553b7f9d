"""Signs of embeddings and inputs, against naive loops and against the evaluation's own figures."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmcl.doctor.live.embedding_signs import (
    MOST_ROWS,
    RANK_ROWS,
    batch_recall,
    effective_rank,
    embedding_signs,
    input_keys,
    mean_cosine,
    repetition_signs,
)
from mmcl.evaluation import metrics


def unit_rows(rows: int, width: int, *, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize(("rows", "width"), [(64, 8), (8, 64), (40, 40), (1, 5)])
def test_the_effective_rank_is_the_evaluations(rows: int, width: int) -> None:
    points = unit_rows(rows, width)
    assert effective_rank(points) == pytest.approx(metrics.effective_rank(points), rel=1e-6)


def test_the_effective_rank_of_the_first_rows_alone() -> None:
    points = torch.cat([unit_rows(RANK_ROWS, 100), unit_rows(200, 100, seed=1)])
    assert effective_rank(points) == pytest.approx(metrics.effective_rank(points[:RANK_ROWS]), rel=1e-6)
    assert effective_rank(torch.ones(30, 4)) == pytest.approx(1.0)
    assert effective_rank(torch.zeros(3, 4)) == 0.0


def test_mean_cosine_of_all_pairs() -> None:
    points = unit_rows(7, 3)
    naive = [float(points[i] @ points[j]) for i in range(7) for j in range(7) if i != j]
    assert mean_cosine(points) == pytest.approx(sum(naive) / len(naive), abs=1e-6)
    assert mean_cosine(points[:1].repeat(5, 1)) == pytest.approx(1.0)
    assert mean_cosine(points[:1]) == 0.0


def naive_recall(image: torch.Tensor, text: torch.Tensor, groups: list[int]) -> float:
    hits = []
    for queries, gallery in ((image, text), (text, image)):
        for row, group in enumerate(groups):
            scores = [float(queries[row] @ item) for item in gallery]
            own = [s for s, other in zip(scores, groups) if other == group]
            others = [s for s, other in zip(scores, groups) if other != group]
            if others:
                hits.append(max(own) > max(others))
    return sum(hits) / len(hits)


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 3]])
def test_batch_recall_is_the_naive_one(groups: list[int]) -> None:
    image = unit_rows(6, 4)
    text = F.normalize(image + 0.7 * unit_rows(6, 4, seed=3), dim=-1)
    recall = batch_recall(image, text, torch.tensor(groups))
    assert recall == pytest.approx(naive_recall(image, text, groups))
    assert recall > 0
    assert recall != batch_recall(image, text.flip(0), torch.tensor(groups))


def test_a_collapsed_batch_finds_nothing_and_one_group_is_no_question() -> None:
    same = unit_rows(1, 4).repeat(5, 1)
    assert batch_recall(same, same, torch.arange(5)) == 0.0
    assert batch_recall(same, same, torch.zeros(5, dtype=torch.int64)) is None


def test_equal_inputs_have_equal_keys() -> None:
    tokens = {"input_ids": torch.tensor([[1, 2, 3], [1, 3, 2], [1, 2, 3]]), "attention_mask": torch.ones(3, 3).long()}
    keys = input_keys(tokens)
    assert keys[0] == keys[2] != keys[1]
    pixels = torch.rand(2, 3, 40, 40)
    keys = input_keys({"pixel_values": torch.cat([pixels, pixels[:1]])})
    assert keys[0] == keys[2] != keys[1]
    changed = pixels.clone()
    changed[0, 0, 0, 1] += 0.5  # between the values that are looked at one by one
    assert input_keys({"pixel_values": changed})[0] != keys[0]
    assert input_keys({}) is None


@pytest.mark.parametrize("counts", [True, False])
def test_false_negatives_are_those_that_the_loss_does_not_know(counts: bool) -> None:
    groups = torch.tensor([0, 0, 1, 2, 3])
    captions = {"input_ids": torch.tensor([[1], [2], [3], [3], [4]])}  # rows 2 and 3 share a caption across groups
    images = {"features": torch.eye(5)}
    signs = repetition_signs(images, captions, groups, groups_count=counts)
    assert signs["repeated_share"] == pytest.approx(4 / 5)
    assert signs["false_negative_share"] == pytest.approx(2 / 5 if counts else 4 / 5)
    assert signs["distinct_captions"] == pytest.approx(4 / 5)
    assert signs["distinct_images"] == 1.0


def test_signs_of_a_batch() -> None:
    image, text = unit_rows(20, 6), unit_rows(20, 6, seed=1)
    signs = embedding_signs(image, text, torch.arange(20))
    assert signs["sign_rows"] == 20
    assert signs["modality_gap"] == pytest.approx(metrics.modality_gap(image, text), abs=1e-6)
    assert signs["effective_rank_text"] == pytest.approx(metrics.effective_rank(text - text.mean(0)), rel=1e-6)
    assert signs["effective_rank_text"] != pytest.approx(metrics.effective_rank(text), rel=1e-3)
    many = embedding_signs(unit_rows(MOST_ROWS + 9, 4), unit_rows(MOST_ROWS + 9, 4), torch.arange(MOST_ROWS + 9))
    assert (many["sign_rows"], many["batch_recall@1"]) == (MOST_ROWS, 1.0)
    assert embedding_signs(image * torch.nan, text, torch.arange(20)) == {}
    assert embedding_signs(image[:0], text[:0], torch.arange(0)) == {}
