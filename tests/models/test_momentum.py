"""The momentum encoders: a moving average by hand, shared where frozen, the same after a save."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmcl.config import ModelSection
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.freezing import apply_freezing
from mmcl.models.momentum import MomentumEncoders

TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXTS = ["a red circle", "a small blue star"]


def section(**text: object) -> ModelSection:
    image = {"options": TOWER, "image_size": 32, "head": {"name": "mlp", "hidden_dims": [8], "norm": "batch"}}
    tree = {"embedding_dim": 8, "image": image, "text": {"options": {**TOWER, "hidden_dropout_prob": 0.5}, **text}}
    return ModelSection.model_validate(tree)


def model(**text: object) -> DualEncoder:
    torch.manual_seed(0)
    built = build_dual_encoder(section(**text), captions=TEXTS)
    apply_freezing(built, section(**text))
    return built.train()


def disturb(module: nn.Module, by: float = 0.1) -> None:
    """As an optimizer step would: everything that trains, and batch statistics."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn_like(parameter))
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.add_(by)


def inputs(model: DualEncoder) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return {"pixel_values": pixels}, model.text.tower.preprocessing(TEXTS)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_weights_follow_as_computed_by_hand(momentum: float) -> None:
    online = model()
    copies = MomentumEncoders(online, momentum)
    names = {f"{side}.{name}" for side in ("image", "text") for name in getattr(online, side).state_dict()}
    assert {name.removeprefix("encoders.") for name in copies.state_dict()} == names
    by_hand = {name: online.state_dict()[name].double() for name in names}
    for _ in range(3):
        disturb(online)
        copies.update()
        for name, value in by_hand.items():
            if online.state_dict()[name].is_floating_point():
                by_hand[name] = momentum * value + (1 - momentum) * online.state_dict()[name].double()
    for name, value in copies.encoders.state_dict().items():
        torch.testing.assert_close(value.double(), by_hand[name], atol=1e-6, rtol=1e-6)
        if value.is_floating_point():
            assert torch.equal(value, online.state_dict()[name]) == (momentum == 0), name


def test_keys_are_the_copys_embeddings_without_gradient_dropout_or_random_numbers() -> None:
    online = model()
    copies = MomentumEncoders(online, 0.9)
    disturb(online)
    copies.update()
    image, text = inputs(online)
    state = torch.get_rng_state()
    copies.train()  # as a trainer would
    keys = copies(image, text)
    assert torch.equal(torch.get_rng_state(), state)
    for key, again in zip(keys, copies(image, text)):
        assert not key.requires_grad
        assert key.shape == (2, 8)
        torch.testing.assert_close(key.norm(dim=1), torch.ones(2))
        assert torch.equal(key, again)
    # The control: the model itself drops out, and stands elsewhere.
    assert not torch.equal(online.encode_text(**text), online.encode_text(**text))
    assert not torch.allclose(keys[0], online.eval().encode_image(**image), atol=1e-4)
    assert not any(p.requires_grad for p in copies.parameters())
    assert all(p.requires_grad for p in online.image.head.parameters())


def test_frozen_weights_are_shared_until_they_thaw() -> None:
    online = model(freeze=True)
    copies = MomentumEncoders(online, 0.9)

    def shared() -> list[str]:
        theirs = dict(online.text.tower.named_parameters())
        return [name for name, own in copies.encoders["text"].tower.named_parameters() if own is theirs[name]]

    everything = [name for name, _ in online.text.tower.named_parameters()]
    assert shared() == everything
    saved = [name for name in copies.state_dict() if name.startswith("encoders.text.tower.")]
    assert all(name.removeprefix("encoders.text.tower.") not in everything for name in saved)
    for parameter in online.text.tower.parameters():
        parameter.requires_grad_(True)
    disturb(online)
    copies.update()
    assert shared() == []
    joined = {name: p.clone() for name, p in copies.encoders["text"].tower.named_parameters()}
    assert all(torch.equal(joined[name], p) for name, p in online.text.tower.named_parameters())
    disturb(online)
    copies.update()
    for name, own in copies.encoders["text"].tower.named_parameters():
        theirs = dict(online.text.tower.named_parameters())[name]
        torch.testing.assert_close(own.data, 0.9 * joined[name] + 0.1 * theirs.detach())


@pytest.mark.parametrize("thawed", [False, True])
def test_it_goes_on_from_its_state(thawed: bool) -> None:
    online = model(freeze=True)
    copies = MomentumEncoders(online, 0.9)
    if thawed:
        for parameter in online.text.tower.parameters():
            parameter.requires_grad_(True)
    for _ in range(2):
        disturb(online)
        copies.update()
    again = model(freeze=True)  # frozen, as at the start
    resumed = MomentumEncoders(again, 0.9)
    again.load_state_dict(online.state_dict())
    resumed.load_state_dict(copies.state_dict())
    for parameter, theirs in zip(again.parameters(), online.parameters()):
        parameter.requires_grad_(theirs.requires_grad)
    for number, (one, other) in enumerate(((online, copies), (again, resumed))):
        torch.manual_seed(5)
        disturb(one)
        other.update()
        assert number in (0, 1)
    ours, theirs = copies.encoders.state_dict(), resumed.encoders.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    fresh = MomentumEncoders(again, 0.9).encoders.state_dict()
    assert not all(torch.equal(value, fresh[name]) for name, value in ours.items())


def test_tokenizers_are_not_copied() -> None:
    online = model()
    copies = MomentumEncoders(online, 0.9)
    assert copies.encoders["text"].tower.preprocessing is online.text.tower.preprocessing
    assert sum(p.numel() for p in copies.parameters()) == sum(
        p.numel() for side in (online.image, online.text) for p in side.parameters()
    )
