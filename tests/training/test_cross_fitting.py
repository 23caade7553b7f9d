"""Pairs judged by models of the other folds: which rows a model sees, what becomes of the losses, and resuming."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import AtStep, differences, final_state, in_child, in_children, rank_envs, small_recipe, small_run
from torch import nn

from mmcl.builders import cross_fitting
from mmcl.builders.cross_fitting import CrossFit, caption_donors, fold_of_rows, of_another_group
from mmcl.config import NoiseSection, Recipe
from mmcl.data.splits.training_splits import load_splits
from mmcl.errors import ConfigError
from mmcl.noise.claims import Claims
from mmcl.noise.trust import PairTrust
from mmcl.training.runs import RunFolder

DATA = "data.path=shapes?train=60&validation=24&test=24&image_size=32"
CROSS_FIT = (DATA, "noise.method=cross_fit", "noise.folds=2", "train.epochs=2", "evaluate.tasks=[]")


def test_folds_are_of_whole_groups_and_even() -> None:
    groups = np.random.default_rng(0).integers(0, 50, 400)
    folds = fold_of_rows(groups, 4, seed=1)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
    held = [len(set(groups[folds == fold])) for fold in range(4)]
    assert max(held) - min(held) <= 1
    assert not np.array_equal(folds, fold_of_rows(groups, 4, seed=2))
    with pytest.raises(ConfigError, match=r"noise.folds=4 needs 8 groups .* has 7; take fewer folds"):
        fold_of_rows(np.arange(7), 4, seed=0)


def test_another_group_is_never_the_own_and_one_for_all_its_rows() -> None:
    groups = np.random.default_rng(0).integers(0, 9, 100)
    others = groups[of_another_group(groups, np.random.default_rng(1))]
    assert not (others == groups).any()
    assert len({(int(own), int(other)) for own, other in zip(groups, others)}) == len(set(groups)) == len(set(others))
    assert of_another_group(np.zeros(3, dtype=np.int64), np.random.default_rng(1)).tolist() == [0, 0, 0]


class Knowing(nn.Module):
    """A stand-in for a model: it knows the pairs of the rows it was trained on, and says of others what is so."""

    logit_scale = torch.tensor(20.0)
    image = SimpleNamespace(has_fixed_features=False)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return small_recipe(tmp_path / "run", *CROSS_FIT)


def fitted(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, wrong: np.ndarray
) -> tuple[CrossFit, list[np.ndarray], Any]:
    """A cross-fit whose models embed row i as one unit vector, and captions of wrong rows as that of another row."""
    train = load_splits(recipe).train
    name = {train.texts(row)[0]: row for row in range(len(train))}
    rows = torch.eye(len(train))
    caption_of = np.arange(len(train))
    caption_of[wrong] = np.roll(caption_of[wrong], 1)
    trained: list[np.ndarray] = []

    class Embedder:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def encode_text(self, texts: list[str], **_: Any) -> torch.Tensor:
            return rows[[caption_of[name[text]] for text in texts]]

    def embed_images(_: Any, part: Any, **__: Any) -> Any:
        own = [name[part.texts(row)[0]] for row in range(len(part))]
        return rows[own], np.arange(len(part)), []

    monkeypatch.setattr(cross_fitting, "DualEncoderEmbedder", Embedder)
    monkeypatch.setattr(cross_fitting, "embed_images", embed_images)

    def train_fold(recipe: Recipe, others: np.ndarray, run: RunFolder, display: Any) -> Any:
        run.path.mkdir(parents=True)
        trained.append(others)
        return Knowing(), SimpleNamespace(interrupted=False)

    run = RunFolder(recipe.run_dir)
    return CrossFit(recipe, train, run, cache=None, device=torch.device("cpu")), trained, train_fold


def test_each_row_is_judged_by_the_model_that_has_not_seen_it(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    unique = load_splits(recipe).train
    texts = [unique.texts(row)[0] for row in range(len(unique))]
    if len(set(texts)) < len(texts):
        pytest.fail("the stand-in needs captions that differ")
    wrong = np.array([3, 14, 15, 40])
    crossing, trained, train_fold = fitted(recipe, monkeypatch, wrong)
    losses, broken_off = crossing.losses(train_fold)
    assert broken_off is None
    assert [sorted(others) for others in trained] == [
        np.flatnonzero(crossing.folds != fold).tolist() for fold in (0, 1)
    ]
    assert losses.shape == (60, 2)
    assert bool((losses[wrong, 0] > 3).all())
    right = np.setdiff1d(np.arange(60), wrong)
    assert bool((losses[right, 0] < 1).all())
    assert bool((losses[right, 1] > 10).all()), "what was made wrong looks wrong"


def test_finished_folds_are_kept_and_an_interrupted_one_ends_it(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossing, trained, train_fold = fitted(recipe, monkeypatch, np.array([3, 14]))

    def second_breaks_off(*given: Any) -> Any:
        model, result = train_fold(*given)
        result.interrupted = len(trained) == 2
        return model, result

    losses, broken_off = crossing.losses(second_breaks_off)
    assert broken_off.interrupted
    assert losses.isnan().any(1).numpy().tolist() == (crossing.folds == 1).tolist()
    kept = [path.name for path in (Path(recipe.run.dir) / "cross_fit").iterdir() if path.is_file()]
    assert kept == ["fold_1.safetensors"]
    shutil.rmtree(Path(recipe.run.dir) / "cross_fit" / "fold_2")
    whole, _ = crossing.losses(train_fold)
    assert len(trained) == 3, "the first fold is not trained again"
    torch.testing.assert_close(whole[crossing.folds == 0], losses[crossing.folds == 0])
    assert not whole.isnan().any()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DiesInTheSecondFold(cross_fitting._FoldDisplay):
    def step(self, record: dict[str, Any], *, total_steps: int) -> None:
        if "fold 2" in self.title and record["step"] == 3:
            die()


STEPS = (*CROSS_FIT, "noise.fold_share=1", "checkpoint.every_steps=2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("whole") / "run", *STEPS).folder


@pytest.mark.parametrize("where", ["in a fold", "behind them"])
def test_killed_and_resumed_equals_never_stopped(
    tmp_path: Path, whole: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    display = AtStep(5, die) if where == "behind them" else None
    with monkeypatch.context() as patched:
        if display is None:
            patched.setattr(cross_fitting, "_FoldDisplay", DiesInTheSecondFold)
        code, output = in_child(lambda: small_run(run, *STEPS, display=display))
    assert code == -signal.SIGKILL, output
    assert (run / "cross_fit" / "fold_2").exists() == (where == "in a fold")
    small_run(run, *STEPS, resume=True)
    assert differences(final_state(run), final_state(whole)) == []
    assert sorted(path.name for path in (run / "cross_fit").iterdir()) == ["fold_1.safetensors", "fold_2.safetensors"]


def test_it_changes_what_is_learnt(tmp_path: Path, whole: Path) -> None:
    plain = small_run(tmp_path / "plain", DATA, *CROSS_FIT[3:]).folder
    assert differences(final_state(plain), final_state(whole)) != []


def test_two_processes_are_one(tmp_path: Path) -> None:
    steady = "optimizer={name: adamw, learning_rate: 1e-3, options: {eps: 1e-3}}"
    small_run(tmp_path / "one", *CROSS_FIT, steady)
    for code, output in in_children(lambda: small_run(tmp_path / "two", *CROSS_FIT, steady), envs=rank_envs(2)):
        assert code == 0, output
    one, two = (final_state(tmp_path / name) for name in ("one", "two"))
    judged = [name for name in one if name.endswith("trust.losses")]
    assert judged
    for name in judged:
        torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=1e-3)


def test_a_pair_left_out_takes_the_best_trusted_caption_of_its_group() -> None:
    groups = np.array([0, 0, 0, 1, 1, 2])
    trust = PairTrust(NoiseSection(method="cross_fit"), Claims.alone(6))
    trust.clean.copy_(torch.tensor([0.1, 0.8, 0.9, 0.2, 0.3, 0.1]))
    trust.weights.copy_(torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0]))
    # Row 4 is in, but looks wrong itself; row 5 is alone.
    assert caption_donors(trust, groups).tolist() == [2, 1, 2, 3, 4, 5]
    trust.weights[2] = 0
    assert caption_donors(trust, groups).tolist()[:3] == [0, 1, 2], "the best of the group is left out itself"


def test_captions_of_other_rows_leave_the_images_and_their_features(recipe: Recipe) -> None:
    train = load_splits(recipe).train
    rows = np.arange(len(train))[::-1]
    other = train.with_captions_of(rows)
    assert [other.texts(row) for row in range(len(train))] == [train.texts(int(row)) for row in rows]
    assert other.fingerprint() == train.fingerprint()
    assert other.images is train.images
    assert train.select(rows).fingerprint() != train.fingerprint()  # the control
