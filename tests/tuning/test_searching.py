"""The search and the choice of a winner, on a made-up training that is a formula: what is best is known."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from mmcl.config import load_recipe, parse_yaml
from mmcl.errors import ConfigError, TrainingError
from mmcl.tuning import confirming, limits, searching
from mmcl.tuning.asked import AskedRecipe
from mmcl.tuning.confirming import Candidate, Confirmation, candidates_of, choose, collect
from mmcl.tuning.limits import Limits
from mmcl.tuning.mattering import influences, too_few
from mmcl.tuning.metric import Metric
from mmcl.tuning.searching import Searcher
from mmcl.tuning.settings import Setting
from mmcl.tuning.stages import Stage
from mmcl.tuning.trial_book import JOURNAL, TrialBook, TrialRecord
from mmcl.tuning.trial_runs import COMPLETE, CUT, FAILED, PRUNED, Report, TrialOutcome

SMALL = Path(__file__).parents[1] / "training" / "small.yaml"  # learning rate 1.5e-3, weight decay 0.1
METRIC = Metric.parse("retrieval/mean_recall@1", mode="max")
RATE = Setting("optimizer.learning_rate", 1e-4, 1e-1, log=True)
DECAY = Setting("optimizer.weight_decay", 0.0, 1.0)
SPACE = (RATE, DECAY)


class FormulaRunner:
    """A training that is best at a rate of 1e-2, whatever the weight decay; seeds add noise."""

    def __init__(
        self,
        folder: Path,
        *,
        noise: float = 0.0,
        fails_above: float = math.inf,
        seconds: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        self.asked = AskedRecipe.copy(SMALL, [], folder)
        self.noise, self.fails_above, self.seconds = noise, fails_above, seconds
        self.last_total, self.runs, self.clock, self.metric = 10, [], clock, METRIC
        self.stop_at: int | None = None

    def run(
        self,
        settings: Mapping[str, str],
        *,
        seed: int,
        report: Report | None = None,
        deadline: float | None = None,
        forgive: bool = True,
    ) -> TrialOutcome:
        if self.stop_at is not None and len(self.runs) >= self.stop_at:
            raise KeyboardInterrupt
        recipe = self.asked.recipe(settings)
        self.runs.append((dict(settings), seed))
        rate = recipe.optimizer.learning_rate
        if rate > self.fails_above:
            if not forgive:
                raise TrainingError("the loss has diverged")
            return TrialOutcome(FAILED, None, self.seconds, 3, "the loss has diverged")
        if self.clock is not None:
            self.clock.now += self.seconds
            if deadline is not None and self.clock.now > deadline:
                return TrialOutcome(CUT, None, self.seconds, 5)
        value = 0.5 - 0.1 * abs(math.log10(rate) + 2)
        value += self.noise * random.Random(f"{sorted(settings.items())} {seed}").gauss(0, 1)
        curve = []
        for part in range(1, 11):
            curve.append((part / 10, value * part / 10))
            if report is not None and report(part / 10, value * part / 10) and part < 10:
                return TrialOutcome(PRUNED, curve[-1][1], self.seconds, part, "behind", {METRIC.name: value}, curve)
        return TrialOutcome(COMPLETE, value, self.seconds, 10, "", {METRIC.name: value}, curve)


def searcher(folder: Path, runner: FormulaRunner, *, pruner: str = "none", **given) -> Searcher:
    book = TrialBook(folder, direction="maximize", pruner=pruner, seed=0)
    return Searcher(runner, book, Limits.start(given.get("budget"), given.get("trials")), seed=0, repeats=0)


def points(records: list[TrialRecord]) -> list[dict[str, str]]:
    return [record.settings for record in records]


def test_the_first_trial_is_the_recipe_as_asked_and_the_best_is_near_the_best_there_is(tmp_path: Path) -> None:
    runner = FormulaRunner(tmp_path)
    records = searcher(tmp_path, runner, trials=25).search(Stage("heads", SPACE))
    assert len(records) == 25
    assert runner.runs[0] == ({}, 0)
    assert records[0].settings == {RATE.key: "0.0015", DECAY.key: "0.1"}
    best = max(records, key=lambda record: record.value)
    assert best.value > 0.48 > records[0].value
    assert 5e-3 < float(best.settings[RATE.key]) < 2e-2
    told = influences(searcher(tmp_path, runner, trials=1).book.open("heads"), SPACE, records, METRIC)
    assert [one.setting.key for one in told] == [RATE.key, DECAY.key]
    assert told[0].importance > 0.7
    assert told[0].difference > 0.05
    assert sum(part.trials for part in told[0].parts) == 25
    assert "between worst and best third" in told[0].sentence(METRIC)
    assert too_few(SPACE, 25) is None
    assert "few for 2 settings" in too_few(SPACE, 9)


def test_what_a_third_is_ahead_is_the_mean_of_its_trials() -> None:
    records = [
        TrialRecord("heads", n, 0, {DECAY.key: f"{n / 10}"}, "complete", value, 1.0)
        for n, value in enumerate([0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.2, 0.2, 0.2])
    ]
    records.append(TrialRecord("heads", 9, 0, {DECAY.key: "0.95"}, "pruned", 0.9, 1.0))  # does not count

    class NoStudy:
        def get_trials(self, **_) -> list:
            return []

    (told,) = influences(NoStudy(), [DECAY], records, METRIC)
    assert [round(part.mean, 6) for part in told.parts] == [0.2, 0.6, 0.2]
    assert told.difference == pytest.approx(0.4)
    assert told.best == "0.3 to 0.5"
    assert told.importance is None
    assert influences(NoStudy(), [DECAY], records[:8], METRIC) == []


def test_a_stopped_search_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    whole = searcher(tmp_path / "whole", FormulaRunner(tmp_path / "whole"), trials=14).search(Stage("heads", SPACE))
    folder = tmp_path / "parts"
    runner = FormulaRunner(folder)
    runner.stop_at = 12
    with pytest.raises(KeyboardInterrupt):
        searcher(folder, runner, trials=14).search(Stage("heads", SPACE))
    journal = folder / JOURNAL
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4,"half')  # what a kill leaves
    done = searcher(folder, FormulaRunner(folder), trials=12).search(Stage("heads", SPACE))
    assert points(done) == points(whole)[:12]
    more = FormulaRunner(folder)
    again = searcher(folder, more, trials=14).search(Stage("heads", SPACE))
    assert len(more.runs) == 2
    assert [record.number for record in again] == list(range(14))
    assert points(again) == points(whole)
    other = Searcher(FormulaRunner(tmp_path / "other"), TrialBook(tmp_path / "other", direction="maximize", seed=1),
                     Limits.start(None, 14), seed=0, repeats=0)  # fmt: skip
    assert points(other.search(Stage("heads", SPACE)))[1:] != points(whole)[1:]


def test_the_journal_is_json_alone(tmp_path: Path) -> None:
    searcher(tmp_path, FormulaRunner(tmp_path), trials=3).search(Stage("heads", SPACE))
    lines = (tmp_path / JOURNAL).read_text(encoding="utf-8").splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    for damaged in (["no json", *lines], [*lines, "no json"]):
        (tmp_path / JOURNAL).write_text("\n".join(damaged) + "\n")
        with pytest.raises(ConfigError, match="is damaged"):
            TrialBook(tmp_path, direction="maximize")


def test_a_trial_that_fails_counts_as_pruned_and_says_why(tmp_path: Path) -> None:
    runner = FormulaRunner(tmp_path, fails_above=2e-3)
    records = searcher(tmp_path, runner, trials=12).search(Stage("heads", SPACE))
    failed = [record for record in records if record.state == "failed"]
    assert failed
    assert all(record.reason == "the loss has diverged" and record.value is None for record in failed)
    assert all(float(record.settings[RATE.key]) > 2e-3 for record in failed)
    study = TrialBook(tmp_path, direction="maximize").open("heads")
    assert [t.state.name for t in study.trials] == [
        "PRUNED" if record.state == "failed" else "COMPLETE" for record in records
    ]


def test_a_recipe_that_fails_as_asked_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="diverged"):
        searcher(tmp_path, FormulaRunner(tmp_path, fails_above=1e-3), trials=3).search(Stage("heads", SPACE))


def test_trials_that_are_behind_are_given_up(tmp_path: Path) -> None:
    given_up = searcher(tmp_path / "a", FormulaRunner(tmp_path / "a"), trials=20, pruner="median")
    records = given_up.search(Stage("heads", SPACE))
    pruned = [record for record in records if record.state == "pruned"]
    assert pruned
    assert all(0.3 <= record.curve[-1][0] < 1 for record in pruned)
    complete = [record.value for record in records if record.is_complete]
    ends = [record.metrics[METRIC.name] for record in pruned]
    assert max(ends) < max(complete)  # none of them would have won
    kept = searcher(tmp_path / "b", FormulaRunner(tmp_path / "b"), trials=20).search(Stage("heads", SPACE))
    assert all(record.is_complete for record in kept)


def test_a_recipe_outside_of_the_space_is_still_the_first_trial(tmp_path: Path) -> None:
    narrow = (Setting(RATE.key, 1e-2, 1e-1, log=True), DECAY)
    records = searcher(tmp_path, FormulaRunner(tmp_path), trials=5).search(Stage("heads", narrow))
    assert records[0].settings[RATE.key] == "0.0015"
    assert all(1e-2 <= float(record.settings[RATE.key]) <= 1e-1 for record in records[1:])


def test_a_space_of_few_points_is_searched_once(tmp_path: Path) -> None:
    space = (Setting("train.batch_size", choices=("8", "16", "32")),)
    runner = FormulaRunner(tmp_path)
    records = searcher(tmp_path, runner, trials=50).search(Stage("heads", space))
    assert sorted(record.settings["train.batch_size"] for record in records) == ["16", "32", "8"]
    assert len(runner.runs) == 3


class Clock:
    """A time that passes only in trainings."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (confirming, limits, searching):
        monkeypatch.setattr(module, "time", found)
    return found


def test_a_budget_ends_the_search(tmp_path: Path, clock: Clock) -> None:
    runner = FormulaRunner(tmp_path, clock=clock)
    search = searcher(tmp_path, runner, budget=10.5)
    search.repeats = 3  # 3.45 seconds are kept for them
    records = search.search(Stage("heads", SPACE))
    assert len(records) == 7
    assert [record.at for record in records] == [1, 2, 3, 4, 5, 6, 7]
    more = searcher(tmp_path, FormulaRunner(tmp_path, clock=clock), budget=5.0)
    assert len(more.search(Stage("heads", SPACE))) > 7  # going on has a budget of its own


def test_time_for_repeats_is_kept_where_there_is_something_to_repeat(tmp_path: Path, clock: Clock) -> None:
    runner = FormulaRunner(tmp_path, seconds=4.0, clock=clock)
    search = searcher(tmp_path, runner, budget=10.0)
    search.repeats = 12  # of them 4 seconds are kept
    assert len(search.search(Stage("heads", SPACE))) == 2


def test_a_slow_first_trial_does_not_end_the_search(tmp_path: Path, clock: Clock) -> None:
    runner = FormulaRunner(tmp_path, seconds=9.0, clock=clock)  # it waits for the features
    search = searcher(tmp_path, runner, budget=14.0)
    tell = lambda record: setattr(runner, "seconds", 1.0)  # noqa: E731
    search.tell = tell
    assert len(search.search(Stage("heads", SPACE))) == 6


def test_within_a_budget_a_trial_that_is_too_dear_is_given_up(tmp_path: Path, clock: Clock) -> None:
    runner = FormulaRunner(tmp_path, clock=clock)
    search = searcher(tmp_path, runner, budget=20.0)

    def dear_third(record: TrialRecord) -> None:
        runner.seconds = 2.5 if record.number == 2 else 1.0

    search.tell = dear_third
    records = search.search(Stage("heads", SPACE))
    assert [record.state for record in records[:5]] == ["complete"] * 3 + ["pruned", "complete"]
    assert records[3].reason == "takes more than 2 times a usual training"
    runner = FormulaRunner(tmp_path / "trials", clock=clock)  # the control: a number of trials has time for each
    search = searcher(tmp_path / "trials", runner, trials=5)
    search.tell = dear_third
    assert all(record.is_complete for record in search.search(Stage("heads", SPACE)))


def test_a_budget_too_short_for_the_recipe_says_what_it_needs(tmp_path: Path, clock: Clock) -> None:
    runner = FormulaRunner(tmp_path, seconds=9.0, clock=clock)
    with pytest.raises(ConfigError, match="came to 50 % of its training within it; give about 1 m 12 s"):
        searcher(tmp_path, runner, budget=5.0).search(Stage("heads", SPACE))
    assert searcher(tmp_path, runner, budget=5.0).search(Stage("towers", SPACE), before=3) == []


# -- the winner ----------------------------------------------------------------------------------------------------


def confirmed(folder: Path, *, noise: float, seeds: int) -> tuple[FormulaRunner, list[Candidate]]:
    runner = FormulaRunner(folder, noise=noise)
    search = searcher(folder, runner, trials=20)
    stage = Stage("heads", SPACE)
    candidates = candidates_of(stage, search.search(stage), METRIC, most=3)
    runner.runs.clear()
    confirmation = Confirmation(runner, search.book, search.limits, stage=stage, seed=0)
    return runner, confirmation.run(candidates, seeds)


def test_the_best_few_are_trained_with_other_seeds(tmp_path: Path) -> None:
    runner, candidates = confirmed(tmp_path, noise=0.05, seeds=3)
    assert len(candidates) == 4
    assert candidates[0].settings == {}
    assert [seed for _, seed in runner.runs] == [1] * 4 + [2] * 4 + [3] * 4
    for candidate in candidates:
        told = [METRIC.gain(v, 0) for v in candidate.values.values()]
        assert candidate.mean == pytest.approx(sum(told) / 3)
    choice = choose(candidates, METRIC)
    assert choice.winner.mean == max(candidate.mean for candidate in candidates)
    assert choice.gain == pytest.approx(choice.winner.mean - candidates[0].mean)
    assert choice.seeds == (1, 2, 3)


def test_without_time_for_seeds_the_best_of_the_search_still_wins(tmp_path: Path) -> None:
    runner, candidates = confirmed(tmp_path, noise=0.0, seeds=0)
    assert runner.runs == []
    assert len(candidates) == 4
    winner = choose(candidates, METRIC).winner
    assert winner.found == max(candidate.found for candidate in candidates) > candidates[0].found


def test_repeats_of_an_earlier_part_count_where_no_time_is_left(tmp_path: Path) -> None:
    runner, _ = confirmed(tmp_path, noise=0.05, seeds=2)
    search = searcher(tmp_path, runner, trials=20)
    stage = Stage("heads", SPACE)
    candidates = candidates_of(stage, search.search(stage), METRIC, most=3)
    runner.runs.clear()
    again = Confirmation(runner, search.book, Limits.start(1e-9, None), stage=stage, seed=0)
    found = again.run(candidates, 2)
    assert runner.runs == []
    assert [sorted(candidate.values) for candidate in found] == [[1, 2]] * 4


def test_luck_is_told_from_gain() -> None:
    seeds = {1: 0.30, 2: 0.32}
    asked = Candidate("as asked", {}, 0.30, values=seeds)
    lucky = Candidate("heads 3", {"a": "1"}, 0.40, values={1: 0.31, 2: 0.33})
    steady = Candidate("heads 5", {"a": "2"}, 0.36, values={1: 0.34, 2: 0.37})
    choice = choose([asked, lucky, steady], METRIC)
    assert choice.winner is steady
    assert choice.claimed == pytest.approx(0.10)
    assert choice.kept == pytest.approx(0.01)
    assert choice.noise_share == pytest.approx(0.9)
    assert choice.gain == pytest.approx(0.045)
    assert choice.gain_spread == pytest.approx(0.0070710678)
    worse = Candidate("heads 3", {"a": "1"}, 0.40, values={1: 0.29, 2: 0.33})
    assert choose([asked, worse], METRIC).winner is asked  # ties are the recipe's own
    down = Metric.parse("retrieval/i2t_median_rank", mode="min")
    assert choose([asked, steady], down).winner is asked


def test_without_repeats_the_best_of_the_search_wins() -> None:
    asked, found = Candidate("as asked", {}, 0.30), Candidate("heads 3", {"a": "1"}, 0.40)
    choice = choose([asked, found], METRIC)
    assert choice.winner is found
    assert math.isnan(choice.gain)
    assert math.isnan(choice.noise_share)
    assert choose([asked], METRIC).winner is asked


def test_candidates_are_compared_on_the_seeds_that_all_have(tmp_path: Path) -> None:
    def repeat(settings: dict[str, str], seed: int, value: float | None) -> TrialRecord:
        state = "failed" if value is None else "complete"
        return TrialRecord("seeds", 0, seed, settings, state, value, 1.0)

    asked, one, two = Candidate("as asked", {}, 0.3), Candidate("1", {"a": "1"}, 0.4), Candidate("2", {"a": "2"}, 0.4)
    done = [repeat({}, 1, 0.3), repeat({"a": "1"}, 1, 0.4), repeat({"a": "2"}, 1, None), repeat({}, 2, 0.2)]
    found = collect([asked, one, two], done)
    assert [candidate.label for candidate in found] == ["as asked", "1"]  # the other one failed with a seed
    assert found[0].values == {1: 0.3}


def test_repeats_fit_the_time_left(tmp_path: Path, clock: Clock) -> None:
    candidates = [Candidate(str(n), {"a": str(n)}, 0.3, seconds=1.0) for n in range(4)]
    runner = FormulaRunner(tmp_path)
    book = TrialBook(tmp_path, direction="maximize")

    def planned(seconds: float) -> tuple[int, int]:
        confirmation = Confirmation(
            runner, book, Limits(seconds, None, began=clock.now), stage=Stage("heads", SPACE), seed=0
        )
        return confirmation.plan(candidates, 3)

    assert [planned(s) for s in (100, 10, 8, 3, 1)] == [(4, 3), (4, 2), (2, 3), (2, 1), (0, 0)]
    assert Confirmation(runner, book, Limits(None, 3, 0.0), stage=Stage("heads", SPACE), seed=0).plan(
        candidates, 5
    ) == (4, 5)
    # What each took counts: the two that must be compared are quick.
    dear = [*candidates[:2], *(Candidate(c.label, c.settings, c.found, seconds=9.0) for c in candidates[2:])]
    assert [
        Confirmation(runner, book, Limits(seconds, None, began=clock.now), stage=Stage("heads", SPACE), seed=0).plan(
            dear, 3
        )
        for seconds in (10, 100)
    ] == [(2, 3), (4, 3)]


# -- the recipe ----------------------------------------------------------------------------------------------------


def test_the_written_recipe_is_the_asked_one_with_its_settings(tmp_path: Path) -> None:
    pairs = ["run.dir=elsewhere", "train.epochs=3"]
    asked = AskedRecipe.copy(SMALL, pairs, tmp_path)
    settings = {RATE.key: "0.003", "model.image.head.input_dropout": "0.25", "loss.matryoshka_dims": "[4, 8]"}
    asked.write(tmp_path / "best.yaml", settings, comments=["found"])
    text = (tmp_path / "best.yaml").read_text()
    assert text.startswith(f"# mmcl train {tmp_path / 'best.yaml'}\n# found\n")
    written, wanted = load_recipe(tmp_path / "best.yaml"), asked.recipe(settings)
    assert written.name == "small-tuned"
    assert written.run.dir is None
    plain = {"name": "x", "run": {}}
    assert {**written.model_dump(), **plain} == {**wanted.model_dump(), **plain}
    assert wanted.train.epochs == 3
    assert parse_yaml(text, source="best")["loss"]["matryoshka_dims"] == [4, 8]


def test_a_search_keeps_the_recipe_it_was_begun_with(tmp_path: Path) -> None:
    source = tmp_path / "mine.yaml"
    source.write_text(SMALL.read_text())
    asked = AskedRecipe.copy(source, [], tmp_path / "out")
    source.write_text(SMALL.read_text().replace("1.5e-3", "2.5e-3"))
    assert asked.recipe().optimizer.learning_rate == 1.5e-3
    with pytest.raises(ConfigError, match="is not what .* was begun with"):
        AskedRecipe.copy(source, [], tmp_path / "out")
    with pytest.raises(ConfigError, match="unknown key"):
        AskedRecipe.copy(SMALL, ["train.epoch=3"], tmp_path / "other")
    assert not (tmp_path / "other").exists()
