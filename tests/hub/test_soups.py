"""Model soups: means against naive loops, the greedy recipe against a table made by hand, and what is judged."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import pytest
import six_models
import torch

from mmcl.config import ModelSection
from mmcl.embedder import DualEncoderEmbedder
from mmcl.errors import ConfigError
from mmcl.hub.merging.soups import Soup, judged_soup, mix
from mmcl.hub.merging.sources import SourceModels
from mmcl.hub.merging.state_averages import average_models
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.saving import save_pretrained

NAMES = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def base() -> DualEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_dual_encoder(ModelSection(embedding_dim=8), captions=six_models.CAPTIONS).eval()


def scaled(model: DualEncoder, value: float) -> DualEncoder:
    """The same model, marked: its scale's logarithm is ``value``, and a head is moved by it."""
    twin = copy.deepcopy(model)
    twin.log_logit_scale.data.fill_(value)
    twin.text.head.projection.weight.data.add_(value)
    return twin


@pytest.fixture
def models(base: DualEncoder) -> list[DualEncoder]:
    return [scaled(base, value) for value in (1.0, 2.0, 3.0, 4.0)]


class Table:
    """A judge that looks up the mean of the logarithm of the scale, by which each soup is known."""

    def __init__(self, values: dict[float, float]) -> None:
        self.values, self.asked = values, []

    def __call__(self, embedder: DualEncoderEmbedder) -> dict[str, float]:
        mean = round(embedder.model.log_logit_scale.item(), 3)
        self.asked.append(mean)
        return {"toy/x": self.values[mean], "toy/mean": mean}


def plain(example: DualEncoder, equal: set[str]) -> type[DualEncoderEmbedder]:
    return DualEncoderEmbedder


@pytest.mark.parametrize("weights", [None, [0.4, 0.3, 0.2, 0.1], [0.5, 0.5, 0.5, -0.5]])
def test_it_is_the_naive_mean(models: list[DualEncoder], weights: list[float] | None) -> None:
    found = mix(models, weights).state_dict()
    shares = weights or [0.25] * 4
    for name in ("text.head.projection.weight", "log_logit_scale"):
        column = zip(*(model.state_dict()[name].double().flatten().tolist() for model in models))
        wanted = [sum(share * value for share, value in zip(shares, values)) for values in column]
        assert found[name].flatten().tolist() == pytest.approx(wanted, abs=1e-6)
        assert found[name].flatten().tolist() != pytest.approx(wanted[::-1] if len(wanted) > 1 else [9.9], abs=1e-6)
    same = "image.head.projection.weight"
    assert torch.equal(found[same], models[0].state_dict()[same])


def test_order_does_not_count_and_one_model_is_itself(models: list[DualEncoder]) -> None:
    one, other = mix(models).state_dict(), mix(models[::-1]).state_dict()
    assert all(torch.allclose(one[name], other[name], atol=1e-7) for name in one)
    alone = mix(models[:1]).state_dict()
    assert all(torch.equal(alone[name], value) for name, value in models[0].state_dict().items())


# By the mean of the marks; the best is c, then b, d and a.
SINGLES = {1.0: 0.30, 2.0: 0.501, 3.0: 0.60, 4.0: 0.50}


def test_the_greedy_soup_takes_what_does_not_harm(models: list[DualEncoder]) -> None:
    # c+b is 2.5 and no worse than c; c+b+d is 3.0 again; with a it is 2.5 again.
    judge = Table({**SINGLES, 2.5: 0.60})
    told: list[tuple[str, int, int]] = []
    found = judged_soup(
        models, judge, "toy/x", names=NAMES, make_embedder=plain, progress=lambda *now: told.append(now)
    )
    assert [(step.name, step.kept) for step in found.steps] == [("c", True), ("b", True), ("d", True), ("a", True)]
    assert judge.asked == [1.0, 2.0, 3.0, 4.0, 2.5, 2.5, 3.0, 2.5]  # singles, all, c+b, c+b+d, c+b+d+a
    assert found.weights == dict.fromkeys(NAMES, 0.25)
    assert told[-1] == ("models and soups", 8, 8)


def test_the_greedy_soup_leaves_out_what_harms(models: list[DualEncoder]) -> None:
    judge = Table({1.0: 0.30, 2.0: 0.50, 3.0: 0.60, 4.0: 0.501, 3.5: 0.58, 2.5: 0.60})
    found = judged_soup(models, judge, "toy/x", names=NAMES, make_embedder=plain)
    # c; c+d 3.5 is worse; c+b 2.5 is as good; c+b+a 2.0 is worse.
    assert [(step.name, step.value, step.kept) for step in found.steps] == [
        ("c", 0.60, True),
        ("d", 0.58, False),
        ("b", 0.60, True),
        ("a", 0.50, False),
    ]
    assert found.weights == {"a": 0.0, "b": 0.5, "c": 0.5, "d": 0.0}
    assert found.model.log_logit_scale.item() == pytest.approx(2.5)
    wanted = average_models([models[1], models[2]]).state_dict()
    assert all(torch.allclose(found.model.state_dict()[name], value, atol=1e-7) for name, value in wanted.items())
    assert found.singles["d"]["toy/x"] == 0.501
    assert (found.mixed["toy/mean"], found.greedy["toy/mean"]) == (2.5, 2.5)
    assert found.value(found.greedy) >= max(found.value(single) for single in found.singles.values())
    plain_values = found.to_dict()
    assert plain_values["steps"][1] == {"name": "d", "value": 0.58, "kept": False}


def test_a_soup_of_all_is_judged_without_greed(models: list[DualEncoder]) -> None:
    judge = Table({**SINGLES, 1.3: 0.1})
    found = judged_soup(
        models, judge, "toy/x", greedy=False, weights=[0.8, 0.1, 0.1, 0.0], names=NAMES, make_embedder=plain
    )
    assert isinstance(found, Soup)
    assert found.greedy is None
    assert found.mixed["toy/x"] == 0.1
    assert found.model.log_logit_scale.item() == pytest.approx(1.3)
    assert found.weights == {"a": 0.8, "b": 0.1, "c": 0.1, "d": 0.0}


def test_equal_sides_are_shared_and_judged_alike(base: DualEncoder) -> None:
    # With heads of texts alone apart, images are embedded once; the figures are those of each model alone.
    models = [scaled(base, value) for value in (0.1, 0.2)]

    def judge(embedder: DualEncoderEmbedder) -> dict[str, float]:
        images, texts = embedder.encode_image(six_models.make_images()), embedder.encode_text(six_models.CAPTIONS[:4])
        return {"toy/x": (images * texts).sum(1).mean().item()}

    found = judged_soup(models, judge, "toy/x", names=["a", "b"])
    alone = [judge(DualEncoderEmbedder(model))["toy/x"] for model in models]
    assert [found.singles[name]["toy/x"] for name in ("a", "b")] == pytest.approx(alone, abs=1e-6)
    assert alone[0] != pytest.approx(alone[1], abs=1e-4)
    assert found.mixed["toy/x"] == pytest.approx(judge(DualEncoderEmbedder(mix(models)))["toy/x"], abs=1e-6)
    assert all(parameter.requires_grad for parameter in models[0].parameters())  # those that were given stay


class Opened(Sequence[DualEncoder]):
    """Models that count how often they are asked for."""

    def __init__(self, models: list[DualEncoder]) -> None:
        self.models, self.asked = models, 0

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, row: int) -> DualEncoder:
        self.asked += row < len(self.models)
        return self.models[row]

    def __iter__(self) -> Iterator[DualEncoder]:
        return (self[row] for row in range(len(self)))


def test_models_are_asked_for_one_by_one(models: list[DualEncoder], tmp_path) -> None:
    opened = Opened(models)
    mix(opened)
    assert opened.asked == 4
    for name, model in zip(NAMES[:2], models):
        save_pretrained(model, tmp_path / name)
    found = mix(SourceModels([str(tmp_path / "a"), str(tmp_path / "b")]))
    assert found.log_logit_scale.item() == pytest.approx(1.5)


def test_what_cannot_be_mixed(models: list[DualEncoder], base: DualEncoder) -> None:
    other = build_dual_encoder(ModelSection(embedding_dim=12), captions=six_models.CAPTIONS)
    judge = Table(SINGLES)
    with pytest.raises(ConfigError, match="embedding_dim is 8 in runs/a and 12 in runs/b"):
        mix([base, other], names=["runs/a", "runs/b"])
    with pytest.raises(ConfigError, match="there is no model"):
        mix([])
    with pytest.raises(ConfigError, match="2 weights are given for 4 models"):
        mix(models, [0.5, 0.5])
    with pytest.raises(ConfigError, match=r"0\.5, 0\.5, 0\.5, 0\.5 sum to 2; want 1"):
        mix(models, [0.5] * 4)
    with pytest.raises(ConfigError, match="sum to nan"):
        mix(models, [float("nan"), 0.5, 0.25, 0.25])
    with pytest.raises(ConfigError, match="takes no weights"):
        judged_soup(models, judge, "toy/x", weights=[0.25] * 4)
    with pytest.raises(ConfigError, match="different names, got a, a"):
        judged_soup(models[:2], judge, "toy/x", names=["a", "a"])
    with pytest.raises(ConfigError, match="no metric 'toy/y'; did you mean 'toy/x'"):
        judged_soup(models, judge, "toy/y", names=NAMES, make_embedder=plain)
