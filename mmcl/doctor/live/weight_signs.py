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


def trained_parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters that train, by part; parts without any are left out."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts.setdefault(part_of(name), []).append(parameter)
    return {part: parts[part] for part in PARTS if part in parts}


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
    """A few weights of every parameter, and how far they are from where they were.

    Args:
        model: as it starts; its weights are sampled at once.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._start = {name: _sampled(parameter) for name, parameter in model.named_parameters()}
        self._before: dict[str, Tensor] = {}

    def before_update(self) -> None:
        """Note the trained weights as they stand before the optimizer's step."""
        self._before = {
            name: _sampled(parameter) for name, parameter in self._model.named_parameters() if parameter.requires_grad
        }

    def after_update(self) -> dict[str, float]:
        """Relative changes ``|w - w'| / |w'|`` of the sampled weights, of that encoder part which changed most.

        Returns:
            ``update_ratio``, since ``before_update``; ``weights_moved``, since the start of the run. Empty where no
            encoder part trains, or all its weights were zero.
        """
        names = [name for name in self._before if part_of(name) in ENCODER_PARTS]
        parameters = dict(self._model.named_parameters())
        now = {name: _sampled(parameters[name]) for name in names}
        signs = {}
        for sign, reference in (("update_ratio", self._before), ("weights_moved", self._start)):
            known = [name for name in names if name in reference]
            ratios = [_relative_change(now, reference, of_part) for of_part in _by_part(known)]
            if found := [ratio for ratio in ratios if ratio is not None]:
                signs[sign] = max(found)
        self._before = {}
        return signs


def _sampled(parameter: nn.Parameter) -> Tensor:
    values = parameter.detach().reshape(-1)
    return values[:: max(1, len(values) // SAMPLED)][:SAMPLED].clone()


def _by_part(names: list[str]) -> list[list[str]]:
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(part_of(name), []).append(name)
    return list(parts.values())


def _relative_change(now: Mapping[str, Tensor], before: Mapping[str, Tensor], names: list[str]) -> float | None:
    old = torch.cat([before[name].double() for name in names])
    new = torch.cat([now[name].double() for name in names])
    norm = float(old.norm())
    return float((new - old).norm()) / norm if norm > 0 else None
