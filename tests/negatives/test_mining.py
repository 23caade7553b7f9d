"""Mining over a whole set, against loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import ConfigError, ShapeError
from mmcl.negatives.mining import Mined, MiningRules, mine


def unit(rows: int, dim: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=draw, dtype=torch.float64), dim=1)


class Case:
    """Some queries, candidates, groups and shared keys."""

    def __init__(self, queries: int = 37, candidates: int = 53, dim: int = 4, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.queries, self.candidates = unit(queries, dim, seed), unit(candidates, dim, seed + 1)
        self.groups = {
            "query_groups": torch.from_numpy(draw.integers(0, 12, queries)),
            "candidate_groups": torch.from_numpy(draw.integers(0, 12, candidates)),
        }
        self.keys = (
            torch.from_numpy(np.stack([draw.integers(0, max(1, queries), 20), draw.integers(0, 9, 20)], 1)),
            torch.from_numpy(np.stack([draw.integers(0, max(1, candidates), 20), draw.integers(0, 9, 20)], 1)),
        )
        self.positive_scores = torch.from_numpy(draw.uniform(-0.4, 0.9, queries))
        owners = draw.integers(0, max(1, queries), 60)  # some own several, some nothing
        self.owned = (unit(60, dim, seed + 2), torch.from_numpy(owners))
        if not queries:
            self.keys = tuple(part[:0] for part in self.keys)
            self.owned = (self.owned[0][:0], self.owned[1][:0])

    def mined(self, rules: MiningRules, *, dtype: torch.dtype = torch.float32, **changes) -> Mined:
        arguments = {
            **self.groups,
            "shared_keys": self.keys,
            "positive_scores": self.positive_scores,
            "owned": (self.owned[0].to(dtype), self.owned[1]),
            **changes,
        }
        return mine(self.queries.to(dtype), self.candidates.to(dtype), rules, **arguments)

    def oracle(self, rules: MiningRules) -> tuple[list[list[int]], list[int]]:
        """Candidates of each query, and how many pairs were left out for which reason."""
        found, left_out = [], [0, 0, 0]
        keys = [set(map(tuple, part.tolist())) for part in self.keys]
        for i, query in enumerate(self.queries):
            kept = []
            own = [item for item, owner in zip(self.owned[0], self.owned[1].tolist()) if owner == i]
            p = float(self.positive_scores[i])
            for j, candidate in enumerate(self.candidates):
                score = float(query @ candidate)
                if self.groups["query_groups"][i] == self.groups["candidate_groups"][j] or any(
                    (i, key) in keys[0] and (j, key) in keys[1] for key in range(9)
                ):
                    left_out[0] += 1
                elif rules.positive_margin is not None and score > p - (1 - rules.positive_margin) * abs(p):
                    left_out[1] += 1
                elif rules.near_duplicate is not None and any(
                    float(item @ candidate) >= rules.near_duplicate for item in own
                ):
                    left_out[2] += 1
                else:
                    kept.append((score, j))
            kept.sort(reverse=True)
            found.append([j for _, j in kept[rules.skip_nearest : rules.skip_nearest + rules.k]])
        return found, left_out


RULES = [
    MiningRules(1, None, None),
    MiningRules(5, None, None, skip_nearest=3),
    MiningRules(5, 0.95, None),
    MiningRules(4, 1.2, 0.7),
    MiningRules(60, 0.8, 0.5, skip_nearest=2),  # more than there are
]


@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize("tile", [(512, 4096), (1, 1), (8, 7), (37, 53), (5, 60)], ids=str)
def test_equals_the_oracle(rules: MiningRules, tile: tuple[int, int]) -> None:
    case = Case()
    mined = case.mined(rules, tile=tile)
    found, left_out = case.oracle(rules)
    assert [[j for j in row if j >= 0] for row in mined.indices.tolist()] == found
    assert [mined.num_positives, mined.num_above_margin, mined.num_near_duplicates] == left_out
    assert mined.indices.shape == mined.scores.shape == (37, rules.k)
    assert (mined.scores == -torch.inf).equal(mined.indices < 0)
    exact = (case.queries[:, None] * case.candidates[mined.indices]).sum(-1)
    there = mined.indices >= 0
    torch.testing.assert_close(mined.scores[there].double(), exact[there], rtol=0, atol=1e-6)
    assert all(row == sorted(row, reverse=True) for row in mined.scores.tolist())


def test_the_oracle_cases_exercise_every_rule() -> None:
    left_out = [Case().oracle(rules)[1] for rules in RULES]
    assert all(counts[0] > 0 for counts in left_out)
    assert any(counts[1] > 0 for counts in left_out)
    assert any(counts[2] > 0 for counts in left_out)
    with_keys, without = Case().oracle(RULES[0])[1], Case()
    without.keys = tuple(part[:0] for part in without.keys)
    assert without.oracle(RULES[0])[1] != with_keys


def test_without_keys_the_result_differs() -> None:
    case, rules = Case(), RULES[1]
    assert not case.mined(rules).indices.equal(case.mined(rules, shared_keys=None).indices)


def test_bf16_embeddings_are_scored_in_float32() -> None:
    case = Case()
    rules = MiningRules(3, None, None)
    mined = case.mined(rules, dtype=torch.bfloat16)
    assert mined.scores.dtype == torch.float32
    rounded = Case()
    rounded.queries = case.queries.bfloat16().double()
    rounded.candidates = case.candidates.bfloat16().double()
    assert mined.indices.tolist() == rounded.oracle(rules)[0]


def test_a_positive_of_negative_score_lowers_the_limit() -> None:
    query, candidates = torch.tensor([[1.0, 0.0]]), F.normalize(torch.tensor([[-0.2, 1.0], [-0.3, 1.0]]))
    arguments = {"query_groups": torch.tensor([0]), "candidate_groups": torch.tensor([1, 2])}
    p = query @ candidates[0]  # about -0.196: 0.95 * p would lie above it
    mined = mine(query, candidates, MiningRules(2, 0.95, None), positive_scores=p, **arguments)
    assert mined.indices.tolist() == [[1, -1]]


def test_order_of_queries_and_candidates_does_not_matter() -> None:
    case, rules = Case(), MiningRules(4, 0.95, 0.8)
    rows, columns = torch.randperm(37), torch.randperm(53)
    plain = case.mined(rules)
    place = torch.empty_like(rows).scatter_(0, rows, torch.arange(37))
    other = torch.empty_like(columns).scatter_(0, columns, torch.arange(53))
    keys = tuple(torch.stack([where[part[:, 0]], part[:, 1]], 1) for where, part in zip((place, other), case.keys))
    moved = mine(
        case.queries[rows].float(),
        case.candidates[columns].float(),
        rules,
        query_groups=case.groups["query_groups"][rows],
        candidate_groups=case.groups["candidate_groups"][columns],
        shared_keys=keys,
        positive_scores=case.positive_scores[rows],
        owned=(case.owned[0].float(), place[case.owned[1]]),
        tile=(10, 11),
    )
    back = torch.where(moved.indices < 0, -1, columns[moved.indices.clamp(min=0)])
    assert back.equal(plain.indices[rows])


@pytest.mark.parametrize(("queries", "candidates"), [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_few_or_none(queries: int, candidates: int) -> None:
    case = Case(queries, candidates)
    mined = case.mined(MiningRules(3), shared_keys=None)
    assert mined.indices.shape == mined.scores.shape == (queries, 3)
    if not candidates:
        assert (mined.indices == -1).all()


def test_all_positive_leaves_nothing() -> None:
    case = Case()
    same = {name: torch.zeros_like(groups) for name, groups in case.groups.items()}
    mined = case.mined(MiningRules(3, None, None), **same)
    assert (mined.indices == -1).all()
    assert mined.num_positives == 37 * 53


def test_ties_stay_in_bounds() -> None:
    rows = torch.ones(6, 3) / 3**0.5
    arguments = {"query_groups": torch.arange(6), "candidate_groups": torch.arange(6)}
    mined = mine(rows, rows, MiningRules(5, None, None), tile=(2, 2), **arguments)
    for i, found in enumerate(mined.indices.tolist()):
        assert sorted(found) == [j for j in range(6) if j != i]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"query_groups": torch.zeros(3, dtype=torch.int64)}, "query_groups has shape"),
        ({"candidate_groups": torch.zeros(53)}, "candidate_groups .*type torch.float32"),
        ({"positive_scores": torch.full((37,), torch.nan)}, "positive_scores"),
        ({"owned": (torch.zeros(2, 9), torch.zeros(2, dtype=torch.int64))}, "owned items has shape"),
        ({"owned": (torch.zeros(2, 4), torch.tensor([0, 37]))}, "owners names 0 to 37"),
        ({"shared_keys": (torch.tensor([[40, 0]]), torch.tensor([[0, 0]]))}, r"shared_keys \(query, key\) names 40"),
        (
            {"shared_keys": (torch.tensor([[0, 0]]), torch.tensor([[-1, 0]]))},
            r"shared_keys \(candidate, key\) names -1",
        ),
    ],
)
def test_wrong_arguments_are_named(changes: dict, named: str) -> None:
    with pytest.raises(ShapeError, match=named):
        Case().mined(MiningRules(2), **changes)


def test_wrong_rules_are_named() -> None:
    case = Case()
    for arguments, named in (
        ({"k": 0}, "k is 0"),
        ({"k": 1, "skip_nearest": -1}, "skip_nearest -1"),
        ({"k": 1, "positive_margin": 0.0}, "positive_margin is 0.0"),
        ({"k": 1, "near_duplicate": 1.5}, "near_duplicate is 1.5"),
    ):
        with pytest.raises(ConfigError, match=named):
            MiningRules(**arguments)
    with pytest.raises(ConfigError, match="positive_scores are not given"):
        case.mined(MiningRules(1), positive_scores=None)
    with pytest.raises(ConfigError, match="owned is not given"):
        case.mined(MiningRules(1), owned=None)
    with pytest.raises(ConfigError, match="tile is"):
        case.mined(MiningRules(1), tile=(0, 4))
    case.queries[3, 1] = torch.nan
    with pytest.raises(ShapeError, match="queries row 3 is not finite"):
        case.mined(MiningRules(1))
