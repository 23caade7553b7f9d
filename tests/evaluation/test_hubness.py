"""CSLS, inverted softmax and querybank normalisation against naive loops in float64, and their figures told apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.config import EvaluateSection
from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation import RetrievalEvaluator, positive_ranks, render_table
from mmcl.evaluation.report.retrieval_rows import correction_notes
from mmcl.evaluation.retrieval import ranking
from mmcl.evaluation.retrieval.hubness import (
    csls_penalty,
    csls_scores,
    hub_figures,
    inverted_softmax_penalty,
    near_a_hub,
    penalised,
)


def unit(rows: int, seed: int, *, dim: int = 12, hub: float = 0.0) -> Tensor:
    """Random unit rows; ``hub`` pulls them towards one direction, which makes hubs."""
    drawn = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    drawn[:, 0] += hub
    return F.normalize(drawn, dim=1)


def naive_csls(queries: Tensor, gallery: Tensor, k: int) -> np.ndarray:
    """2 cos(x, y) - r(x) - r(y), pair by pair."""
    x, y = queries.double().numpy(), gallery.double().numpy()
    cosine = np.array([[sum(a * b for a, b in zip(one, two)) for two in y] for one in x])
    of_queries = [np.mean(sorted(row, reverse=True)[:k]) for row in cosine]
    of_items = [np.mean(sorted(column, reverse=True)[:k]) for column in cosine.T]
    return np.array([[2 * cosine[i, j] - of_queries[i] - of_items[j] for j in range(len(y))] for i in range(len(x))])


def naive_ranks(scores: np.ndarray, query_groups: Tensor, gallery_groups: Tensor) -> list[int]:
    """The rank of each query's best answer; a tie counts against it."""
    ranks = []
    for row, group in zip(scores, query_groups.tolist()):
        right = gallery_groups.numpy() == group
        ranks.append(int((row[~right] >= row[right].max()).sum()))
    return ranks


@pytest.mark.parametrize("k", [1, 4, 100])
def test_csls_is_that_of_the_paper(k: int) -> None:
    queries, gallery = unit(30, 0, hub=1.0), unit(20, 1, hub=1.0)
    wanted = naive_csls(queries, gallery, k)
    np.testing.assert_allclose(csls_scores(queries, gallery, k=k).numpy(), wanted, atol=1e-6)
    assert abs(wanted - naive_csls(queries, gallery, 2)).max() > 1e-2  # control: another k is told apart
    groups, others = torch.arange(30) % 10, torch.arange(20) % 10
    left, right = penalised(queries, gallery, csls_penalty(gallery, queries, k=k))
    found = positive_ranks(left, right, groups, others).first().tolist()
    assert found == naive_ranks(wanted, groups, others)
    assert found != naive_ranks((queries @ gallery.T).numpy(), groups, others)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery = unit(300, 0), unit(200, 1)
    whole = csls_penalty(gallery, queries), inverted_softmax_penalty(gallery, queries)
    near = near_a_hub(queries, gallery, unit(5, 2))
    monkeypatch.setattr(ranking, "_CHUNK_SCORES", 1)
    monkeypatch.setattr(ranking, "_CHUNK_ROWS", 64)
    torch.testing.assert_close(csls_penalty(gallery, queries), whole[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(inverted_softmax_penalty(gallery, queries), whole[1], atol=1e-6, rtol=0)
    assert torch.equal(near_a_hub(queries, gallery, unit(5, 2)), near)
    assert 0 < int(near.sum()) < 300


def test_inverted_softmax_and_querybank() -> None:
    queries, gallery, bank = unit(25, 0, hub=1.0), unit(18, 1, hub=1.0), unit(7, 2, hub=1.0)
    scores, banked = (queries @ gallery.T).double().numpy(), (bank @ gallery.T).double().numpy()
    beta = 20.0
    softmax = np.exp(beta * scores) / np.exp(beta * banked).sum(0)  # over the bank, for each item
    hubs = {int(row.argmax()) for row in banked}
    near = [int(row.argmax()) in hubs for row in scores]
    assert near_a_hub(queries, gallery, bank).tolist() == near
    assert 0 < sum(near) < 25
    wanted = np.array([softmax[i] if near[i] else scores[i] for i in range(25)])
    groups, others = torch.arange(25) % 9, torch.arange(18) % 9
    penalty = inverted_softmax_penalty(gallery, bank, beta=beta)
    left, right = penalised(queries, gallery, penalty, active=torch.tensor(near))
    assert positive_ranks(left, right, groups, others).first().tolist() == naive_ranks(wanted, groups, others)
    everywhere = penalised(queries, gallery, penalty)
    assert positive_ranks(*everywhere, groups, others).first().tolist() != naive_ranks(wanted, groups, others)


def test_ties_never_help() -> None:
    """A collapsed model stays at chance, and equal items stay equal: nothing breaks the tie."""
    ids, same = torch.arange(40), torch.ones(40, 8) / 8**0.5
    left, right = penalised(same, same, csls_penalty(same, same))
    assert positive_ranks(left, right, ids, ids).first().tolist() == [39] * 40
    twins = unit(40, 0).repeat(2, 1)
    assert torch.equal(csls_penalty(twins, unit(50, 1))[:40], csls_penalty(twins, unit(50, 1))[40:])
    left, right = penalised(twins[:40], twins, csls_penalty(twins, twins[:40]))
    ranks = positive_ranks(left, right, ids, torch.cat([ids, ids + 100])).first()
    assert int(ranks.min()) >= 1  # each item's twin of another group counts before it


def test_csls_takes_a_hub_away() -> None:
    """One item stands in the middle of all queries and is found by each; corrected, each finds its own."""
    own = F.normalize(torch.eye(6) + 0.9, dim=1)
    middle = F.normalize(torch.ones(1, 6), dim=1)
    gallery = torch.cat([F.normalize(torch.eye(6) + 0.05, dim=1), middle])
    groups, items = torch.arange(6), torch.tensor([0, 1, 2, 3, 4, 5, 99])
    assert positive_ranks(own, gallery, groups, items).first().tolist() == [1] * 6
    corrected = penalised(own, gallery, csls_penalty(gallery, own, k=6))
    assert positive_ranks(*corrected, groups, items).first().tolist() == [0] * 6
    before, after = hub_figures(own, gallery, k=1), hub_figures(*corrected, k=1)
    assert before["never_found"] == pytest.approx(6 / 7)
    assert after["never_found"] == pytest.approx(1 / 7)
    assert before["hubness"] > 2 > 0 > after["hubness"]


@pytest.fixture
def model_and_data(table_embedder: type, make_dataset: Callable) -> tuple:
    g = torch.Generator().manual_seed(0)
    images = unit(60, 0, hub=1.5)
    texts = {
        f"caption {row}": F.normalize(images[row] + 0.5 * torch.randn(12, generator=g), dim=0) for row in range(60)
    }
    return table_embedder(images, texts), make_dataset([[f"caption {row}"] for row in range(60)])


def test_corrected_figures_stand_apart(table_embedder: type, make_dataset: Callable) -> None:
    """Six images find the caption in the middle, which is the seventh's; corrected, each finds its own."""
    middle = F.normalize(torch.ones(1, 6), dim=1)
    images, texts = (torch.cat([F.normalize(torch.eye(6) + blur, dim=1), middle]) for blur in (0.9, 0.05))
    embedder = table_embedder(images, {f"caption {row}": texts[row] for row in range(7)})
    dataset = make_dataset([[f"caption {row}"] for row in range(7)])
    plain = RetrievalEvaluator(dataset, same_modality=False)(embedder)
    both = RetrievalEvaluator(dataset, same_modality=False, csls=3)(embedder)
    assert {name: both[name] for name in plain} == plain, "the model's own figures are the same"
    assert not correction_notes(plain)
    assert "looks at the whole gallery and at the other queries" in correction_notes(both)[0]
    ranks = np.array(naive_ranks(naive_csls(images, texts, 3), *2 * [torch.arange(7)]))
    assert both["retrieval/csls_i2t_recall@1"] == (ranks < 1).mean() == 1.0
    assert both["retrieval/csls_mean_recall@1"] == 1.0
    assert plain["retrieval/i2t_recall@1"] == pytest.approx(1 / 7)
    assert both["retrieval/csls_i2t_recall@1_gain"] == pytest.approx(6 / 7)
    low, high = both["retrieval/csls_i2t_recall@1_gain_ci95"]
    assert 0 < low <= 6 / 7 <= high
    assert both["retrieval/csls_i2t_recall@1_ci95"] == [1.0, 1.0]
    for way in ("i2t", "t2i"):
        assert {f"retrieval/{name}_{way}" for name in ("hubness", "never_found", "csls_hubness")} <= both.keys()
    assert render_table(both).row_count > render_table(plain).row_count


def test_a_bank_of_other_data(model_and_data: tuple, make_dataset: Callable) -> None:
    embedder, dataset = model_and_data
    bank = make_dataset([[f"caption {row}"] for row in range(30)])
    found = RetrievalEvaluator(dataset, same_modality=False, querybank=bank)(embedder)
    assert 0 <= found["retrieval/querybank_t2i_recall@1"] <= 1
    assert not any("csls" in name for name in found)
    with pytest.raises(ConfigError, match="holds the data that are judged.* give other data, such as the split train"):
        RetrievalEvaluator(dataset, querybank=dataset)


def test_a_recipe_is_judged_by_it_only_where_it_is_named(model_and_data: tuple) -> None:
    from mmcl.builders.evaluation import build_evaluators, run_evaluators

    embedder, dataset = model_and_data
    for metric, there in (("retrieval/mean_recall@1", False), ("retrieval/csls_mean_recall@1", True)):
        section = EvaluateSection(metric=metric)
        found = run_evaluators(build_evaluators(dataset, section, tasks=["retrieval"], confidence=False), embedder)
        assert ("retrieval/csls_mean_recall@1" in found) is there


def test_what_is_refused(model_and_data: tuple) -> None:
    one, two = unit(4, 0), unit(5, 1)
    with pytest.raises(ConfigError, match="k needs to be at least 1, got 0"):
        csls_penalty(one, two, k=0)
    with pytest.raises(ConfigError, match="beta needs to be above 0, got -1"):
        inverted_softmax_penalty(one, two, beta=-1)
    with pytest.raises(ShapeError, match="queries needs at least one row"):
        csls_penalty(one, two[:0])
    with pytest.raises(ShapeError, match="bank needs at least one query"):
        near_a_hub(one, two, two[:0])
    with pytest.raises(ShapeError, match="needs as many columns"):
        csls_penalty(one, two[:, :3])
    with pytest.raises(ShapeError, match="NaN, infinity"):
        csls_penalty(one, two * torch.nan)
    with pytest.raises(ShapeError, match=r"penalty needs shape \(5,\)"):
        penalised(one, two, torch.zeros(4))
    with pytest.raises(ShapeError, match=r"active needs shape \(4,\)"):
        penalised(one, two, torch.zeros(5), active=torch.ones(5, dtype=torch.bool))
    with pytest.raises(ConfigError, match="csls is a number of neighbours, at least 1, got 0"):
        RetrievalEvaluator(model_and_data[1], csls=0)
    assert csls_penalty(one[:0], two).shape == (0,)
