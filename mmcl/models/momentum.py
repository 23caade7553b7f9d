"""`MomentumEncoders`: a slowly following copy of a dual encoder's two encoders, which embeds the keys of a queue."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mmcl.models.dual_encoder import DualEncoder


class MomentumEncoders(nn.Module):
    """``copy = momentum * copy + (1 - momentum) * weight`` after every step, for all that trains.

    Frozen parameters are shared with the model and not copied, nor do they stand in the state; a copy of them begins,
    from where they stand, with the first step after they thaw.

    Args:
        model: the model that trains.
        momentum: in [0, 1); 0 takes the weights over after every step.

    Source: He et al. 2020 (arXiv:1911.05722) eq. 2; for image and text: Li et al. 2021 (arXiv:2107.07651) section 3.2.
    Unlike theirs, the copy stays in evaluation mode: keys are made without dropout and with the running averages of
    batch norm, so that "shuffling BN" is not needed, and they draw no random numbers: those of the model itself are
    the same with a queue and without.
    """

    def __init__(self, model: DualEncoder, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        online = nn.ModuleDict({"image": model.image, "text": model.text})
        shared: list[Any] = [p for p in online.parameters() if not p.requires_grad]
        shared += [encoder.tower.preprocessing for encoder in online.values()]
        self.encoders = copy.deepcopy(online, {id(part): part for part in shared})
        self._online = (online,)  # in a tuple: the model is registered where it belongs
        for _, own, theirs in self._pairs():
            if own is not theirs:
                own.requires_grad_(False)
        self.train()

    @torch.no_grad()
    def forward(self, image: dict[str, Tensor], text: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs of both encoders -> embeddings (b, d) of both, unit rows, without gradient."""
        return self.encoders["image"](**image), self.encoders["text"](**text)

    def train(self, mode: bool = True) -> MomentumEncoders:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def update(self) -> None:
        """Follow the model's present weights; what has thawed since is copied as it stands."""
        for _, own, theirs in self._pairs():
            if own is not theirs:
                own.lerp_(theirs, 1 - self.momentum)
            elif theirs.requires_grad:
                self._unshare(own)
        for own, theirs in zip(self.encoders.buffers(), self._online[0].buffers()):
            if own.is_floating_point():
                own.lerp_(theirs, 1 - self.momentum)
            else:
                own.copy_(theirs)

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:
        """What the model does not hold itself."""
        state = super().state_dict(*args, prefix=prefix, **kwargs)
        for name, own, theirs in self._pairs(every_name=True):
            if own is theirs:
                del state[f"{prefix}encoders.{name}"]
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, own, theirs in self._pairs(every_name=True):
            key = f"{prefix}encoders.{name}"
            if own is theirs and key in state_dict:  # it had thawed when the state was saved
                self._unshare(own)
            elif own is theirs:
                state_dict[key] = own
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _pairs(self, *, every_name: bool = False) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
        """The copy's parameters with the model's of the same name; one object where they are shared."""
        theirs = dict(self._online[0].named_parameters(remove_duplicate=False))
        own = self.encoders.named_parameters(remove_duplicate=not every_name)
        return [(name, parameter, theirs[name]) for name, parameter in own]

    def _unshare(self, parameter: nn.Parameter) -> None:
        """Put a copy wherever the shared parameter stands."""
        copied = nn.Parameter(parameter.detach().clone(), requires_grad=False)
        for name, own, _ in self._pairs(every_name=True):
            if own is parameter:
                module, _, leaf = name.rpartition(".")
                setattr(self.encoders.get_submodule(module), leaf, copied)
