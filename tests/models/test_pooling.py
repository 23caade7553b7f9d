from __future__ import annotations

import math

import pytest
import torch

from mmcl.errors import ShapeError
from mmcl.models.pooling import AttentionPooling, GridPooling, pool_tokens


def _naive(tokens, mask, pooling):
    rows = []
    for row, keep in zip(tokens.double().tolist(), mask.tolist()):
        kept = [token for token, k in zip(row, keep) if k]
        if pooling == "cls":
            rows.append(row[0])
        elif pooling == "mean":
            rows.append([sum(column) / len(kept) for column in zip(*kept)])
        else:
            rows.append([max(column) for column in zip(*kept)])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_against_loops(pooling):
    tokens = torch.randn(5, 7, 3)
    mask = torch.rand(5, 7) < 0.5
    mask[:, 2] = True
    found = pool_tokens(tokens, mask, pooling)
    torch.testing.assert_close(found.double(), _naive(tokens, mask, pooling), atol=1e-6, rtol=0)
    if pooling != "cls":
        assert not torch.allclose(found, pool_tokens(tokens, torch.ones_like(mask), pooling))


def test_rows_without_a_token_that_counts():
    tokens, mask = torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool)
    assert torch.equal(pool_tokens(tokens, mask, "mean"), torch.zeros(2, 4))
    assert pool_tokens(tokens, mask, "max").max() == torch.finfo(torch.float32).min


def test_wrong_shapes_and_names():
    with pytest.raises(ShapeError, match=r"need a mask \(b, t\), got \(2, 3, 4\) and \(2, 4\)"):
        pool_tokens(torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool), "mean")
    with pytest.raises(ShapeError, match="want cls, mean or max"):
        pool_tokens(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), "sum")


def test_attention_pooling_against_loops():
    """One head, in float64: softmax of scaled products of the query and each token that counts."""
    pooling = AttentionPooling(4, num_heads=1).double()
    tokens = torch.randn(3, 5, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 1]]).bool()
    weight, bias = pooling.attention.in_proj_weight, pooling.attention.in_proj_bias
    expected = []
    for row, keep in zip(tokens, mask):
        query = weight[:4] @ pooling.query[0, 0] + bias[:4]
        kept = row[keep]
        logits = [float(query @ (weight[4:8] @ token + bias[4:8])) / math.sqrt(4) for token in kept]
        total = sum(math.exp(logit) for logit in logits)
        mixed = sum(math.exp(x) / total * (weight[8:] @ token + bias[8:]) for x, token in zip(logits, kept))
        expected.append(pooling.norm(pooling.attention.out_proj(mixed)))
    torch.testing.assert_close(pooling(tokens, mask), torch.stack(expected))
    assert not torch.allclose(pooling(tokens, torch.ones_like(mask))[1:], torch.stack(expected)[1:])


def test_attention_heads_divide_the_width():
    assert AttentionPooling(24).attention.num_heads == 8
    assert AttentionPooling(6).attention.num_heads == 2
    assert AttentionPooling(7).attention.num_heads == 1


def test_grid_pooling_starts_as_the_mean_and_learns_places():
    tokens = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 5, dtype=torch.bool)
    pooling = GridPooling(5, 8)
    torch.testing.assert_close(pooling(tokens, mask), tokens.mean(1))
    shuffled = tokens[:, [1, 0, 2, 3, 4]]
    torch.testing.assert_close(pooling(shuffled, mask), pooling(tokens, mask))
    torch.nn.init.normal_(pooling.places.weight)
    places = pooling.places.weight.view(8, 5, 8)
    mean = tokens.mean(1)
    expected = [mean[b] + sum(places[:, t] @ (tokens[b, t] - mean[b]) for t in range(5)) for b in range(3)]
    torch.testing.assert_close(pooling(tokens, mask), torch.stack(expected), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(pooling(shuffled, mask), pooling(tokens, mask), atol=1e-2)
    # A class token before them is left out, as the mean of what counts leaves it out.
    with_class = torch.cat([torch.full((3, 1, 8), 9.0), tokens], 1)
    its_mask = torch.cat([torch.zeros(3, 1, dtype=torch.bool), mask], 1)
    torch.testing.assert_close(pooling(with_class, its_mask), pooling(tokens, mask))
    for wrong in (tokens[:, :4], with_class):
        with pytest.raises(ShapeError, match=f"made for 5 tokens an image, got {wrong.shape[1]}"):
            pooling(wrong, torch.ones(wrong.shape[:2], dtype=torch.bool))
