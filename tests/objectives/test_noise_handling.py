"""The image-text objective on noisy data: each pair's own loss, weights, siblings; and mixed pairs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcl.batch import Batch, Embeddings
from mmcl.config import NoiseSection
from mmcl.losses import info_nce, sigmoid
from mmcl.noise.claims import Claims
from mmcl.noise.feature_mixup import FeatureMixup
from mmcl.noise.trust import PairTrust
from mmcl.objectives.image_text import ImageTextObjective
from mmcl.objectives.pair_losses import pair_losses

GROUPS = torch.tensor([0, 0, 1, 2, 2, 3])


def unit(rows: int, seed: int, dim: int = 5) -> Tensor:
    return F.normalize(
        torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1
    )


class Plain(nn.Module):
    """A model without towers: only its scale is looked at."""

    embedding_dim = 5

    def clamp_logit_scale(self) -> None: ...


def embeddings(rows: int = 6) -> Embeddings:
    return Embeddings(unit(rows, 0), unit(rows, 1), GROUPS[:rows], torch.tensor([7.0]), rows=torch.arange(rows))


def trust(weights: list[float], method: str = "mixture") -> PairTrust:
    made = PairTrust(NoiseSection(method=method, warmup_epochs=1), Claims.alone(len(weights)))
    made.weights.copy_(torch.tensor(weights))
    made.clean.copy_(torch.tensor(weights))
    made.epochs += 1
    return made


def naive(image: Tensor, text: Tensor, scale: float, groups: Tensor | None) -> Tensor:
    logits, found = scale * image @ text.T, []
    for i in range(len(image)):
        others = [j for j in range(len(image)) if j != i and (groups is None or groups[j] != groups[i])]
        sides = (logits[i], logits[:, i])
        found.append(sum(-torch.log(z[i].exp() / (z[i].exp() + z[others].exp().sum())) for z in sides) / 2)
    return torch.stack(found)


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_each_pair_answers_for_itself(groups: Tensor | None) -> None:
    image, text = unit(6, 0), unit(6, 1)
    found = pair_losses(image, text, 7.0, group_ids=groups)
    torch.testing.assert_close(found, naive(image, text, 7.0, groups).float())
    assert float(pair_losses(image[:1], text[:1], 7.0)) == 0.0
    assert not torch.allclose(found, naive(image, text, 7.0, GROUPS if groups is None else None).float())


def test_weights_are_in_proportion_and_distrusted_pairs_are_nobodys_positive() -> None:
    made, weights = embeddings(), [1.0, 0.25, 1.0, 0.75, 1.0, 0.0]
    found = ImageTextObjective(Plain(), info_nce, trust=trust(weights)).loss(made)
    scale = 7.0 * made.image @ made.text.T
    losses = torch.zeros(6, dtype=torch.float64)
    trusted = [weight >= 0.5 for weight in weights]
    for z in (scale, scale.T):
        for i in range(6):
            kin = [j for j in range(6) if GROUPS[j] == GROUPS[i]]
            positives = [j for j in kin if j == i or (trusted[i] and trusted[j])]
            candidates = [j for j in range(6) if j in positives or j not in kin]
            losses[i] += (z[i][candidates].logsumexp(0) - z[i][positives].mean()) / 2
    shares = torch.tensor(weights, dtype=torch.float64)
    wanted = (losses * shares).sum() / shares.sum()
    torch.testing.assert_close(found["loss"].double(), wanted)
    plain = ImageTextObjective(Plain(), info_nce).loss(made)["loss"]
    assert abs(float(plain - wanted)) > 1e-3


@pytest.mark.parametrize("loss", [info_nce, sigmoid])
def test_where_all_are_trusted_nothing_changes(loss: Any) -> None:
    made = embeddings()
    made.logit_bias = torch.tensor([-3.0])
    wanted = ImageTextObjective(Plain(), loss).loss(made)["loss"]
    torch.testing.assert_close(ImageTextObjective(Plain(), loss, trust=trust([1.0] * 6)).loss(made)["loss"], wanted)
    warming = trust([0.5] * 6)
    warming.epochs.zero_()
    assert torch.equal(ImageTextObjective(Plain(), loss, trust=warming).loss(made)["loss"], wanted)
    none = ImageTextObjective(Plain(), loss, trust=trust([0.0] * 6)).loss(made)["loss"]
    assert float(none) == 0.0  # and not NaN


def test_pairs_are_taken_in_behind_the_step_and_not_before() -> None:
    made, kept = embeddings(), trust([1.0] * 6)
    objective = ImageTextObjective(Plain(), info_nce, trust=kept)
    objective.loss(made)
    objective.loss(made)  # a step that memory ran out in is made again
    assert bool(kept.losses.isnan().all())
    objective.after_step()
    torch.testing.assert_close(kept.losses, naive(made.image, made.text, 7.0, GROUPS).float())


def test_the_average_model_is_the_judge_where_it_is_asked() -> None:
    made = embeddings()
    made.key_image, made.key_text = unit(6, 5), unit(6, 6)
    kept = trust([1.0] * 6, method="ema_agreement")
    objective = ImageTextObjective(nn.Module(), info_nce, negatives=None)
    objective.trust, objective.model = kept, Plain()
    objective.loss(made)
    objective.after_step()
    torch.testing.assert_close(kept.losses, naive(made.key_image, made.key_text, 7.0, GROUPS).float())


def test_shares_of_processes_add_up_to_the_whole() -> None:
    whole = embeddings()
    weights = [1.0, 0.25, 1.0, 0.75, 1.0, 0.0]
    wanted = ImageTextObjective(Plain(), info_nce, trust=trust(weights)).loss(whole)["loss"]
    total = 0.0
    for start, stop in ((0, 4), (4, 6)):
        part = Embeddings(
            whole.image[start:stop], whole.text[start:stop], GROUPS[start:stop], whole.logit_scale,
            rows=torch.arange(start, stop), gathered=whole, offset=start,
        )  # fmt: skip
        total += float(ImageTextObjective(Plain(), info_nce, trust=trust(weights)).loss(part)["loss"]) * (stop - start)
    assert total / 6 == pytest.approx(float(wanted), rel=1e-5)


class Towers(nn.Module):
    """Encoders whose features are their inputs, and whose heads only normalise."""

    embedding_dim = 5

    class Side(nn.Module):
        def features(self, x: Tensor) -> Tensor:
            return 2 * x

        def forward(self, features: Tensor | None = None, x: Tensor | None = None) -> Tensor:
            return F.normalize(self.features(x) if features is None else features, dim=1)

    def __init__(self) -> None:
        super().__init__()
        self.side, self.logit_scale, self.logit_bias = self.Side(), torch.tensor([7.0]), None

    def encode_image(self, **inputs: Tensor) -> Tensor:
        return self.side(**inputs)

    encode_text = encode_image

    def clamp_logit_scale(self) -> None: ...

    def encoder(self, modality: str) -> nn.Module:
        return self.side


@pytest.mark.parametrize("key", ["x", "features"])
def test_mixed_pairs_are_positives_and_their_kin_is_left_out(key: str) -> None:
    batch = Batch({key: unit(6, 0)}, {key: unit(6, 1)}, GROUPS, torch.arange(6))
    objective = ImageTextObjective(Towers(), info_nce, mixup=FeatureMixup(2.0, seed=1))
    made = objective(batch)
    mixing = FeatureMixup(2.0, seed=1)(torch.arange(6))
    shares, partners = mixing.shares.double()[:, None], mixing.partners
    for found, seed in ((made.image, 0), (made.text, 1)):
        rows = unit(6, seed)
        torch.testing.assert_close(found, F.normalize(shares * rows + (1 - shares) * rows[partners], dim=1))
    parts = [{int(GROUPS[i]), int(GROUPS[partners[i]])} for i in range(6)]
    losses = []
    for z in (7.0 * made.image @ made.text.T, 7.0 * made.text @ made.image.T):
        for i in range(6):
            candidates = [j for j in range(6) if j == i or not parts[i] & parts[j]]
            losses.append(z[i][candidates].logsumexp(0) - z[i][i])
    torch.testing.assert_close(objective.loss(made)["loss"].double(), torch.stack(losses).mean())
    plain = ImageTextObjective(Towers(), info_nce)
    assert abs(float(plain.loss(plain(batch))["loss"]) - float(torch.stack(losses).mean())) > 1e-3


def test_a_mixed_pair_is_trusted_as_far_as_its_parts_are() -> None:
    batch, weights = (
        Batch({"x": unit(6, 0)}, {"x": unit(6, 1)}, GROUPS, torch.arange(6)),
        [1.0, 0.2, 1.0, 0.7, 0.0, 1.0],
    )
    plain = ImageTextObjective(Towers(), info_nce, mixup=FeatureMixup(2.0, seed=1))
    made = plain(batch)
    made.rows, made.key_image, made.key_text = torch.arange(6), unit(6, 5), unit(6, 6)
    kept = trust(weights, method="ema_agreement")
    plain.trust = kept
    found = plain.loss(made)["loss"]
    mixing, known = FeatureMixup(2.0, seed=1)(torch.arange(6)), torch.tensor(weights)
    trusted = known * (mixing.shares + (1 - mixing.shares) * known[mixing.partners])
    options = {"weights": trusted / trusted.mean(), "exclude_ids": mixing.components(GROUPS)}
    torch.testing.assert_close(found, info_nce(made.image, made.text, 7.0, **options))
    plain.after_step()
    assert not bool(kept.losses.isnan().any())


def test_without_them_embeddings_are_as_they_were() -> None:
    batch = Batch({"x": unit(6, 0)}, {"x": unit(6, 1)}, GROUPS, torch.arange(6))
    made = ImageTextObjective(Towers(), info_nce)(batch)
    assert made.rows is None
    assert made.mixed_ids is None
    assert dataclasses.replace(made, image=made.image).leaves().rows is None
