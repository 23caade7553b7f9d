"""The queue against a deque of Python lists: what is in it, in which groups, after any rows were put in."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.negatives.embedding_queue import EmbeddingQueue


def rows(draw: torch.Generator, number: int, first_group: int) -> tuple[Tensor, Tensor, Tensor]:
    image, text = torch.randn(2, number, 3, generator=draw)
    return image, text, torch.arange(first_group, first_group + number)


def held(queue: EmbeddingQueue) -> dict[int, tuple[list[float], list[float]]]:
    return {
        group: (image, text)
        for image, text, group in zip(queue.image.tolist(), queue.text.tolist(), queue.group_ids.tolist())
    }


@pytest.mark.parametrize("size", [1, 4, 7, 8, 100])
@pytest.mark.parametrize("numbers", [[3, 3, 3, 3, 3], [4, 4, 4], [1] * 9, [0, 2, 0], [9, 1], [2, 17, 3], [8], []])
def test_it_holds_what_a_deque_holds(size: int, numbers: list[int]) -> None:
    draw, queue = torch.Generator().manual_seed(0), EmbeddingQueue(size, 3)
    oracle: deque[tuple[int, list[float], list[float]]] = deque(maxlen=size)
    first = 0
    for number in numbers:
        image, text, groups = rows(draw, number, first)
        first += number
        queue.put(image, text, groups)
        oracle.extend(zip(groups.tolist(), image.tolist(), text.tolist()))
        assert held(queue) == {group: (its_image, its_text) for group, its_image, its_text in oracle}
        assert len(queue) == len(queue.image) == len(queue.text) == len(queue.group_ids) == len(oracle)
    if sum(numbers) > size:  # the control: the oldest are gone
        assert 0 not in held(queue)


def test_it_starts_empty_and_an_unused_place_is_no_row() -> None:
    queue = EmbeddingQueue(5, 3)
    assert len(queue) == 0
    assert queue.image.shape == (0, 3)
    image, text, groups = rows(torch.Generator().manual_seed(0), 2, 0)
    queue.put(image, text, groups)
    assert torch.equal(queue.image, image)
    assert torch.equal(queue.text, text)
    assert queue.group_ids.tolist() == [0, 1]


def test_it_goes_on_from_its_state() -> None:
    draw, one = torch.Generator().manual_seed(0), EmbeddingQueue(5, 3)
    one.put(*rows(draw, 3, 0))
    other = EmbeddingQueue(5, 3)
    other.load_state_dict(one.state_dict())
    fresh = EmbeddingQueue(5, 3)
    more = rows(draw, 4, 3)
    for queue in (one, other, fresh):
        queue.put(*more)
    assert one.state_dict().keys() == {"image_keys", "text_keys", "key_groups", "position", "count"}
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert held(other) != held(fresh)


def test_rows_are_kept_in_float32_and_without_history() -> None:
    queue = EmbeddingQueue(4, 3)
    image, text, groups = rows(torch.Generator().manual_seed(0), 2, 0)
    queue.put(image.bfloat16().requires_grad_(), text.double(), groups)
    assert queue.image.dtype == queue.text.dtype == torch.float32
    assert not queue.image.requires_grad
    assert torch.equal(queue.image, image.bfloat16().float())
    image.zero_()
    assert queue.text.abs().min() > 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="size of a queue is 0; want 1"):
        EmbeddingQueue(0, 3)
    with pytest.raises(ConfigError, match="embedding_dim of a queue is -1"):
        EmbeddingQueue(4, -1)
    queue = EmbeddingQueue(4, 3)
    with pytest.raises(ShapeError, match=r"text of a queue's rows needs shape \(2, 3\), got \(1, 3\)"):
        queue.put(torch.zeros(2, 3), torch.zeros(1, 3), torch.arange(2))
    with pytest.raises(ShapeError, match=r"image .* \(2, 4\)"):
        queue.put(torch.zeros(2, 4), torch.zeros(2, 3), torch.arange(2))
