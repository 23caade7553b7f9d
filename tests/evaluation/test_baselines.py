"""What figures are without a trained model: chance, the largest class, random weights, raw pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmcl import data
from mmcl.data.dataset import ImageTextDataset
from mmcl.errors import DataError, ShapeError
from mmcl.evaluation import ZeroShotEvaluator
from mmcl.evaluation.zero_shot import baselines
from mmcl.evaluation.zero_shot.baselines import answer_figures
from mmcl.evaluation.zero_shot.class_metrics import classification_metrics
from mmcl.evaluation.zero_shot.raw_pixels import fit_raw_linear, fit_ridge, raw_pixels, sample_rows, split_by_group

LABELS = torch.tensor([0] * 40 + [1] * 25 + [2] * 20 + [3] * 10 + [5] * 3 + [6] * 2)


def test_the_largest_class_is_what_constant_scores_by_frequency_get() -> None:
    frequency = torch.bincount(LABELS, minlength=8).float() + torch.arange(8) * 1e-3
    want = classification_metrics(frequency.expand(100, -1), LABELS, logit_scale=1.0)
    found = answer_figures(LABELS, 8).figures["majority"]
    assert set(found) == set(want) - {"ece"}
    for name, value in found.items():
        assert value == pytest.approx(want[name], abs=1e-6), name
    assert found["top1"] == 0.4
    assert found["f1_macro"] != pytest.approx(found["f1_weighted"])


def test_chance_is_what_answers_at_random_get_on_average() -> None:
    g = torch.Generator().manual_seed(0)
    labels = LABELS.repeat(400)
    want = classification_metrics(torch.rand(40_000, 8, generator=g), labels, logit_scale=1.0)
    found = answer_figures(labels, 8).figures["chance"]
    for name, value in found.items():
        assert value == pytest.approx(want[name], abs=0.01), name
    assert abs(found["f1_weighted"] - found["top1"]) > 0.02


def test_one_class() -> None:
    figures = answer_figures(torch.zeros(3, dtype=torch.int64), 1).figures
    assert figures["chance"]["top1"] == figures["majority"]["f1_macro"] == figures["majority"]["top5"] == 1.0


def test_random_weights_are_judged_on_the_same_images(
    make_dataset: Callable, table_embedder: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = torch.eye(4)
    labels = [str(index % 4) for index in range(40)]
    dataset = make_dataset([["x"]] * 40, label=labels, unreadable=[3])
    right = table_embedder(axes[torch.arange(40) % 4], {str(index): axes[index] for index in range(4)})
    wrong = table_embedder(axes[torch.arange(40) % 4], {str(index): axes[(index + 1) % 4] for index in range(4)})
    seeds = []

    def stands_in(embedder: object, seed: int = 0) -> object:
        assert embedder is right
        seeds.append(seed)
        return wrong

    monkeypatch.setattr("mmcl.embedder.untrained", stands_in)
    evaluator = ZeroShotEvaluator(dataset, templates=["{}"], baselines=True)
    metrics = evaluator(right)
    assert metrics["zeroshot/top1"] == 1.0
    assert metrics["zeroshot/random_weights_top1"] == 0.0
    assert metrics["zeroshot/random_weights_num_images"] == 39
    assert metrics["zeroshot/chance_top1"] == metrics["zeroshot/chance"] == 0.25
    assert metrics["zeroshot/majority_top1"] == metrics["zeroshot/majority"]
    assert seeds == [0]
    assert not any("random" in name for name in ZeroShotEvaluator(dataset, templates=["{}"])(right))

    monkeypatch.setattr(baselines, "MAX_RANDOM_ROWS", 10)
    compared = evaluator.compare(right, evaluator.predict(right))
    assert compared.figures["random_weights"]["num_images"] == 10
    assert "a sample of 10 of 39 images" in compared.notes[0]
    monkeypatch.setattr("mmcl.embedder.untrained", lambda embedder, seed=0: None)
    compared = evaluator.compare(right, evaluator.predict(right))
    assert "random_weights" not in compared.figures
    assert "cannot be built anew" in compared.notes[0]
    assert "no training split" in compared.notes[1]


class ColouredImages:
    """Images whose colour tells their number modulo 3, with noise that tells nothing."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, row: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(int(self.numbers[row]))
        image = torch.randint(120, (3, 20, 24), generator=g)
        image[int(self.numbers[row]) % 3] += 100
        return image.to(torch.uint8)

    def describe(self, row: int) -> str:
        return f"image {self.numbers[row]}"

    def select(self, rows: np.ndarray) -> ColouredImages:
        return ColouredImages(self.numbers[rows])

    def fingerprint(self) -> str:
        return str(self.numbers.tolist())


@pytest.fixture
def coloured(make_dataset: Callable) -> Callable[..., ImageTextDataset]:
    def make(first: int, number: int, *, labels: list[str | None] | None = None) -> ImageTextDataset:
        rows = np.arange(first, first + number)
        named = labels or [("red", "green", "blue")[row % 3] for row in rows]
        plain = make_dataset([["x"]] * number, label=named)
        return ImageTextDataset(ColouredImages(rows), plain.table, name=f"coloured {first}")

    return make


def test_a_linear_model_tells_colours_apart(coloured: Callable, table_embedder: type) -> None:
    vector = F.normalize(torch.ones(4), dim=0)
    blind = table_embedder(vector.expand(2**16, -1), dict.fromkeys(("red", "green", "blue", "grey"), vector))
    judged = coloured(1000, 30)
    options = {"classes": ["blue", "green", "grey", "red"], "templates": ["{}"], "baselines": True}

    def compare(train: ImageTextDataset | None):
        evaluator = ZeroShotEvaluator(judged, train=train, **options)
        # The blind embedder reads an image's number from two pixels, which coloured ones do not hold.
        blind.embed = lambda items, modality, batch_size=64: vector.expand(len(items), -1)
        return evaluator.compare(blind, evaluator.predict(blind))

    found = compare(coloured(0, 90)).figures["raw_linear"]
    assert found["top1"] == 1.0
    assert found["num_train"] == 90
    # A control: labels that have nothing to do with the colour teach nothing.
    wrong = [("red", "green", "blue")[(row // 3) % 3] for row in range(90)]
    assert compare(coloured(0, 90, labels=wrong)).figures["raw_linear"]["top1"] < 0.7
    assert "is what is judged" in compare(coloured(1000, 30)).notes[-1]
    assert (
        "fewer than two of the classes" in compare(coloured(0, 6, labels=["red", "x", None, "red", "y", "z"])).notes[-1]
    )
    assert "no training split" in compare(None).notes[-1]


def test_data_without_pixels_or_labels(make_dataset: Callable, coloured: Callable, tmp_path) -> None:
    axes = np.eye(3, dtype=np.float32)
    np.savez(tmp_path / "v.npz", image=axes, text=axes, label=np.array(["0", "1", "2"]))
    dataset = data.load(f"vectors:{tmp_path}/v.npz")
    with pytest.raises(DataError, match="none of its 3 images has pixels"):
        raw_pixels(dataset)
    found = baselines.fitted_figures(dataset, coloured(0, 3, labels=["0", "1", "2"]), torch.arange(3), ["0", "1", "2"])
    assert found.figures == {}
    assert "has pixels to read" in found.notes[0]
    with pytest.raises(DataError, match="no column 'label'"):
        baselines.fitted_figures(make_dataset([["x"]] * 3), coloured(0, 3), torch.arange(3), ["a"])


def test_pixels_are_shrunk_and_unreadable_ones_left_out(make_dataset: Callable) -> None:
    features, rows = raw_pixels(make_dataset([["x"]] * 5, unreadable=[1, 4]))
    assert rows.tolist() == [0, 2, 3]
    assert features.shape == (3, 768)
    assert features.dtype == np.float32
    assert features[1].reshape(3, 16, 16)[1] == pytest.approx(np.full((16, 16), 2 / 255))


def test_a_class_that_was_not_seen_is_below_all_others() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2 * 3
    features = rng.normal(size=(60, 4)) + labels[:, None]
    model = fit_raw_linear(features, labels, np.arange(60))
    scores = model.log_probabilities(features, 5)
    assert (scores[:, [1, 2, 4]].amax(1) < scores[:, [0, 3]].amin(1)).all()
    assert torch.allclose(scores[:, [0, 3]].exp().sum(1), torch.ones(60), atol=1e-5)
    with pytest.raises(ShapeError, match="two classes"):
        fit_raw_linear(features, labels * 0, np.arange(60))
    with pytest.raises(ShapeError, match="do not fit"):
        fit_ridge(features, labels[:5, None], np.arange(60))


def test_groups_are_held_out_whole() -> None:
    groups = np.repeat(np.arange(20), 3)
    fit, held = split_by_group(groups)
    assert sorted([*fit, *held]) == list(range(60))
    assert len(held) == 12
    assert not set(groups[fit]) & set(groups[held])
    assert len(split_by_group(np.zeros(5))[1]) == 0
    assert sample_rows(100, 10).tolist() == sorted(set(sample_rows(100, 10).tolist()))
    assert len(sample_rows(100, 10)) == 10
