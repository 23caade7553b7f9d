"""P classes, K rows of each."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest

from mmcl.errors import ConfigError
from mmcl.negatives.balanced import BalancedBatches

LABELS = np.array(["cat"] * 40 + ["dog"] * 25 + ["owl"] * 20 + ["elk"] * 10 + ["bat"] * 5)


def test_every_batch_is_p_classes_of_k_rows() -> None:
    batches = BalancedBatches(LABELS, 3, 4, seed=0)
    assert len(batches) == 100 // 12
    for epoch in range(5):
        parts = batches.epoch(epoch)
        assert len(parts) == len(batches)
        seen: Counter[str] = Counter()
        for rows in parts:
            assert rows.shape == (12,)
            assert len(set(rows.tolist())) == 12  # no row twice: every class has K
            classes = Counter(LABELS[rows].tolist())
            assert set(classes.values()) == {4}
            assert len(classes) == 3
            seen.update(classes.keys())
        assert max(seen.values()) - min(seen[name] for name in set(LABELS)) <= 1  # rare and common classes alike


def test_rows_of_a_class_are_used_up_before_they_come_again() -> None:
    batches = BalancedBatches(LABELS, 5, 4, seed=0)  # five batches: four rows of each class in each
    used = Counter(np.concatenate(batches.epoch(0)).tolist())
    bats = [used[row] for row in np.flatnonzero(LABELS == "bat")]
    cats = [used[row] for row in np.flatnonzero(LABELS == "cat")]
    assert bats == [4] * 5  # 20 places for 5 rows
    assert sorted(set(cats)) == [0, 1]
    covered = set(np.concatenate([np.concatenate(batches.epoch(epoch)) for epoch in range(12)]).tolist())
    assert covered == set(range(100))  # what one epoch leaves out comes in another


def test_small_classes_repeat_rows_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    labels = [0] * 10 + [1] * 2 + [2]
    with caplog.at_level(logging.WARNING):
        batches = BalancedBatches(labels, 3, 4, seed=0)
    assert batches.num_small == 2
    assert "2 of 3 classes have fewer than 4 rows" in caplog.text
    (rows,) = batches.epoch(0)
    used = Counter(rows.tolist())
    assert [used[10], used[11], used[12]] == [2, 2, 4]
    caplog.clear()
    BalancedBatches(labels, 2, 1, seed=0)
    assert caplog.text == ""


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return [rows.tolist() for rows in BalancedBatches(LABELS, 2, 5, seed=seed).epoch(epoch)]

    assert order(0, 2) == order(0, 2)
    assert order(0, 2) != order(0, 3)
    assert order(0, 2) != order(1, 2)


def test_less_data_than_a_batch_make_one() -> None:
    batches = BalancedBatches(["a", "b", "b"], 2, 4, seed=0)
    assert [len(rows) for rows in batches.epoch(0)] == [8]
    assert len(batches) == 1


def test_what_cannot_be_balanced_is_told() -> None:
    with pytest.raises(ConfigError, match="2 of 4 rows have no label"):
        BalancedBatches(["a", None, "b", None], 2, 1, seed=0)
    with pytest.raises(ConfigError, match="0 of 0 rows"):
        BalancedBatches([], 2, 1, seed=0)
    with pytest.raises(ConfigError, match="classes_per_batch is 3, but the labels have 2 class"):
        BalancedBatches(["a", "b"], 3, 1, seed=0)
    for classes, each in ((1, 2), (2, 0)):
        with pytest.raises(ConfigError, match=f"classes_per_batch is {classes} and samples_per_class {each}"):
            BalancedBatches(["a", "b"], classes, each, seed=0)
