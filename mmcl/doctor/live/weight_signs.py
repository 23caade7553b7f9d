"""What gradients and weights say: the gradient norm of each part of the model, and how far a step moves it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

PARTS = ("image_tower", "image_head", "text_tower", "text_head", "logits", "other")
ENCODER_PARTS = PARTS[:4]
SAMPLED = 64  # weights of each parameter whose way is followed


def part_of(name: str) -> str:
    """The part of a dual encoder that a parameter belongs to, by its name.

    Example:
        >>> part_of("image.tower.model.conv.weight"), part_of("text.head.projection.weight"), part_of("logit_bias")
        ('image_tower', 'text_head', 'logits')
    """
    words = name.split(".")
    side = next((position for position, word in enumerate(words) if word in ("image", "text")), None)
    if side is None:
        return "logits" if words[-1] in ("log_logit_scale", "logit_bias") else "other"
    is_head = any(word.startswith("head") for word in words[side + 1 : side + 2])
    return f"{words[side]}_{'head' if is_head else 'tower'}"


def parts_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """All parameters by part; parts without any are left out."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parts.setdefault(part_of(name), []).append(parameter)
    return {part: parts[part] for part in PARTS if part in parts}


def trained_parts(parts: Mapping[str, list[nn.Parameter]]) -> dict[str, list[nn.Parameter]]:
    """Of ``parts_of`` the parameters that train now; parts without any are left out."""
    trained = {part: [p for p in parameters if p.requires_grad] for part, parameters in parts.items()}
    return {part: parameters for part, parameters in trained.items() if parameters}


def gradient_norms(parts: Mapping[str, list[nn.Parameter]], *, whole: float) -> dict[str, float]:
    """``grad_norm/PART``: the norm of each part's gradient before it was clipped.

    Args:
        parts: ``trained_parts``; their gradients may have been clipped, all by one factor.
        whole: the norm of all gradients before that.

    Returns:
        Norms, 0 for a part without gradients. Where all are 0 or ``whole`` is not finite, they are as found.
    """
    norms = {}
    for part, parameters in parts.items():
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norms[part] = float(nn.utils.get_total_norm(gradients)) if gradients else 0.0
    found = sum(norm**2 for norm in norms.values()) ** 0.5
    factor = whole / found if 0 < found < float("inf") and whole < float("inf") else 1.0
    return {f"grad_norm/{part}": norm * factor for part, norm in norms.items()}


class WeightSample:
    """A few weights of every parameter of the encoders, and how far they are from where they were.

    A look takes some tenths of a millisecond whatever the model's size is: the places are found once, and looked at
    together.

    Args:
        parts: ``parts_of`` the model as it starts; its weights are sampled at once.
    """

    def __init__(self, parts: Mapping[str, list[nn.Parameter]]) -> None:
        encoders = {part: [_Places(p) for p in parameters] for part, parameters in parts.items()}
        self._places = {part: encoders[part] for part in ENCODER_PARTS if part in encoders}
        self._start = {part: [place.view().clone() for place in places] for part, places in self._places.items()}
        self._before: dict[str, Tensor] = {}
        self._trained: dict[str, list[int]] = {}

    def before_update(self) -> None:
        """Note the trained weights as they stand before the optimizer's step."""
        self._trained = {
            part: numbers
            for part, places in self._places.items()
            if (numbers := [number for number, place in enumerate(places) if place.parameter.requires_grad])
        }
        self._before = self._now()

    def after_update(self) -> dict[str, float]:
        """Relative changes ``|w - w'| / |w'|`` of the sampled weights, of that encoder part which changed most.

        Returns:
            ``update_ratio``, since ``before_update``; ``weights_moved``, since the start of the run. Empty where no
            encoder part trains, or all its weights were zero.
        """
        now, signs = self._now(), {}
        start = {part: _joined([self._start[part][number] for number in self._trained[part]]) for part in now}
        for sign, reference in (("update_ratio", self._before), ("weights_moved", start)):
            ratios = [_relative_change(now[part], reference[part]) for part in now]
            if found := [ratio for ratio in ratios if ratio is not None]:
                signs[sign] = max(found)
        self._before, self._trained = {}, {}
        return signs

    def _now(self) -> dict[str, Tensor]:
        return {
            part: _joined([self._places[part][number].view() for number in numbers])
            for part, numbers in self._trained.items()
        }


class _Places:
    """Some places of a parameter, seen through a view that is made anew where its values have moved in memory."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self._seen, self._address = parameter.detach(), -1

    def view(self) -> Tensor:
        if self.parameter.data_ptr() != self._address:
            values = self.parameter.detach().reshape(-1)
            self._seen = values[:: max(1, len(values) // SAMPLED)][:SAMPLED]
            # Of a parameter that is not contiguous this is a copy, which would not follow it: -1 is no address.
            self._address = values.data_ptr() if values.data_ptr() == self.parameter.data_ptr() else -1
        return self._seen


def _joined(values: list[Tensor]) -> Tensor:
    return torch.cat(values).double()


def _relative_change(now: Tensor, before: Tensor) -> float | None:
    norm = float(before.norm())
    return float((now - before).norm()) / norm if norm > 0 else None
