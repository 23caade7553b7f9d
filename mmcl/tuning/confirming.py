"""The best few settings and the recipe as it was asked, trained again with other seeds: what of a gain is luck.

The best of many trials on a few hundred rows is partly the luckiest: its value falls when it is trained again (the
winner's curse). So the winner is named by seeds that the search has not seen, on which all candidates are compared.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmcl.tuning.limits import MARGIN, Limits
from mmcl.tuning.metric import Metric
from mmcl.tuning.searching import Tell
from mmcl.tuning.stages import Stage
from mmcl.tuning.trial_book import TrialBook, TrialRecord, better_than_asked, record_of
from mmcl.tuning.trial_runs import CUT, TrialRunner

CANDIDATES = 3  # beside the recipe as it was asked
REPEATS = "repeats"  # the note in the book
ASKED = "as asked"


@dataclass(frozen=True)
class Candidate:
    """Settings that may win.

    Attributes:
        label: ``as asked``, or the trial's.
        settings: recipe key -> YAML; empty for the recipe as it was asked.
        found: its value in the search.
        seconds: that its training took there.
        values: seed -> its value with it.
        metrics: seed -> the numbers of that evaluation.
    """

    label: str
    settings: dict[str, str]
    found: float
    seconds: float = 0.0
    values: dict[int, float] = field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Over the seeds; NaN without any."""
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; NaN with less than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else math.nan


@dataclass(frozen=True)
class Choice:
    """Who wins, and by how much.

    Attributes:
        candidates: the recipe as it was asked first, then by their value in the search.
        winner: one of them.
        claimed: gain of the search's best over the recipe as it was asked, with the search's own seed.
        gain: of the winner over the recipe as it was asked, mean over the other seeds; NaN where nothing was repeated.
        gain_spread: standard deviation of the gain over the seeds.
        kept: gain, over the other seeds, of the candidate that was best in the search.
    """

    candidates: tuple[Candidate, ...]
    winner: Candidate
    claimed: float
    gain: float = math.nan
    gain_spread: float = math.nan
    kept: float = math.nan

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that all candidates were trained with."""
        return tuple(self.candidates[0].values)

    @property
    def noise_share(self) -> float:
        """Share of the claimed gain that other seeds do not show; NaN where there is none to share."""
        return 1 - self.kept / self.claimed if self.seeds and self.claimed > 0 else math.nan


def candidates_of(stage: Stage, records: Sequence[TrialRecord], metric: Metric, *, most: int) -> list[Candidate]:
    """The recipe as it was asked, and the best trials of a stage that are better.

    A trial that is not better with the search's own seed has nothing that other seeds could confirm.

    Args:
        stage: the last one.
        records: its trials, the recipe as it was asked first.
        metric: what counts.
        most: how many beside the recipe as it was asked.
    """
    asked = records[0]
    found = [Candidate(ASKED, dict(stage.fixed), asked.value, asked.seconds)]
    better = better_than_asked(records, metric)[:most]
    return found + [Candidate(r.label, stage.settings(r.settings), r.value, r.seconds) for r in better]


class Confirmation:
    """Trains candidates with other seeds, round by round.

    Args:
        runner: trains and judges.
        book: keeps what came of it.
        limits: what may be spent.
        stage: the last one; its notes hold the repeats.
        seed: of the search; the others follow it.
        tell: told of every training.
        worked: seconds of earlier parts of this search.
    """

    def __init__(
        self,
        runner: TrialRunner,
        book: TrialBook,
        limits: Limits,
        *,
        stage: Stage,
        seed: int,
        tell: Tell | None = None,
        worked: float = 0.0,
    ) -> None:
        self.runner, self.book, self.limits, self.stage = runner, book, limits, stage
        self.seed, self.tell, self.worked = seed, tell, worked

    def records(self) -> list[TrialRecord]:
        """The repeats so far."""
        return [TrialRecord(**record) for record in self.book.note(self.stage.name, REPEATS) or []]

    def plan(self, candidates: Sequence[Candidate], seeds: int) -> tuple[int, int]:
        """How many candidates and how many seeds fit the time left, fewer seeds first, then fewer candidates.

        Returns:
            (candidates, seeds), the recipe as it was asked among the candidates; (0, 0) where not even one seed of two
            candidates fits.
        """
        number = len(candidates)
        if number < 2 or seeds < 1:
            return 0, 0
        left = self.limits.left
        for few, some in [(number, s) for s in range(seeds, 1, -1)] + [(2, s) for s in range(seeds, 0, -1)]:
            if some * sum(candidate.seconds for candidate in candidates[:few]) * MARGIN <= left:
                return few, some
        return 0, 0

    def run(self, candidates: Sequence[Candidate], seeds: int) -> list[Candidate]:
        """Train them, as many as the time left allows.

        Args:
            candidates: the recipe as it was asked first.
            seeds: how many.

        Returns:
            See ``repeated``.
        """
        few, some = self.plan(candidates, seeds)
        for seed in range(self.seed + 1, self.seed + 1 + some):
            if not all(self._repeat(candidate, seed) for candidate in candidates[:few]):
                break
        return repeated(candidates, self.records())

    def _repeat(self, candidate: Candidate, seed: int) -> bool:
        """Whether the training came to its end, now or in an earlier part of the search."""
        if any(record.settings == candidate.settings and record.seed == seed for record in self.records()):
            return True
        outcome = self.runner.run(candidate.settings, seed=seed, deadline=self.limits.end)
        if outcome.state == CUT:
            return False
        at = self.worked + time.monotonic() - self.limits.began
        done = self.records()
        record = record_of(outcome, stage="seeds", number=len(done), seed=seed, settings=candidate.settings, at=at)
        kept: list[dict[str, Any]] = [dataclasses.asdict(one) for one in [*done, record]]
        self.book.write_note(self.stage.name, REPEATS, kept)
        if self.tell is not None:
            self.tell(record)
        return True


def repeated(candidates: Sequence[Candidate], repeats: Sequence[TrialRecord]) -> list[Candidate]:
    """Those that were trained with other seeds, with their values; of a round that was broken off, those reached.

    Args:
        candidates: the recipe as it was asked first.
        repeats: all trainings with other seeds, of earlier parts of the search too.

    Returns:
        All candidates as they are where the repeats compare none of them with the recipe as it was asked.
    """
    reached = [c for c in candidates if any(record.settings == c.settings for record in repeats)]
    return collect(reached, repeats) if len(reached) > 1 and reached[0] is candidates[0] else list(candidates)


def collect(candidates: Sequence[Candidate], repeats: Sequence[TrialRecord]) -> list[Candidate]:
    """Candidates with the values of their repeats, on the seeds that all of them were trained with.

    A candidate that fails with another seed is left out; the recipe as it was asked stays.
    """
    found = []
    for number, candidate in enumerate(candidates):
        own = [record for record in repeats if record.settings == candidate.settings]
        if number and any(not record.is_complete for record in own):
            continue
        done = [record for record in own if record.is_complete]
        values = {record.seed: record.value for record in done}
        metrics = {record.seed: record.metrics for record in done}
        found.append(dataclasses.replace(candidate, values=values, metrics=metrics))
    shared = set.intersection(*(set(candidate.values) for candidate in found)) if found else set()
    return [
        dataclasses.replace(
            candidate,
            values={seed: candidate.values[seed] for seed in sorted(shared)},
            metrics={seed: candidate.metrics[seed] for seed in sorted(shared)},
        )
        for candidate in found
    ]


def choose(candidates: Sequence[Candidate], metric: Metric) -> Choice:
    """The winner: the best mean over the other seeds, or without any the best of the search; the recipe as it was
    asked wins ties.

    Args:
        candidates: the recipe as it was asked first.
        metric: what counts.
    """
    asked = candidates[0]
    repeated = bool(asked.values)
    best, found = asked, asked
    for candidate in candidates[1:]:
        ahead = (candidate.mean, best.mean) if repeated else (candidate.found, best.found)
        best = candidate if metric.better(*ahead) else best
        found = candidate if metric.better(candidate.found, found.found) else found
    claimed = metric.gain(found.found, asked.found)
    if not repeated:
        return Choice(tuple(candidates), best, claimed)
    gains = [metric.gain(best.values[seed], asked.values[seed]) for seed in asked.values]
    kept = metric.gain(found.mean, asked.mean)
    spread = statistics.stdev(gains) if len(gains) > 1 else math.nan
    return Choice(tuple(candidates), best, claimed, statistics.fmean(gains), spread, kept)
