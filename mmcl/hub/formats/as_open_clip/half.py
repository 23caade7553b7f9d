"""`Half`: one side of a model as open_clip writes it, and what all ways to make one share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmcl.errors import ConfigError
from mmcl.models.encoder import Encoder
from mmcl.models.heads import IdentityHead, LinearHead

# open_clip's own value, in ``transformer.LayerNorm``.
_LAYER_NORM_EPS = 1e-5
_TANH_GELU = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh")


class ObstacleError(ConfigError):
    """open_clip's config cannot say this model; the message is one clause that names what is in the way."""


@dataclass(frozen=True)
class Half:
    """One side of a model in open_clip's words.

    Attributes:
        config: ``vision_cfg`` or ``text_cfg``.
        state: the weights of ``visual`` or ``text``.
        quick_gelu: the activation of its blocks, which open_clip's config has once for both halves; None: it has none
            of open_clip's own blocks.
        tokenizer: text: the Hugging Face tokenizer whose files belong beside the config; None: open_clip's own.
        tower_config: the config of a tower that open_clip builds with transformers, or timm with options: a part of
            the repository's ``config.json``.
        tower_id: text: the Hub id under which such a config may be found.
        notes: what differs from the source model, one sentence each.
    """

    config: dict[str, Any]
    state: dict[str, Tensor]
    quick_gelu: bool | None = None
    tokenizer: Any | None = None
    tower_config: dict[str, Any] | None = None
    tower_id: str | None = None
    notes: tuple[str, ...] = field(default=())


def tower_name(encoder: Encoder) -> str:
    """How a message calls an encoder's tower: ``the image tower (Dinov2Model)``."""
    return f"the {encoder.modality} tower ({type(encoder.tower.model).__name__})"


def cpu_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights on the CPU."""
    return {name: value.detach().cpu() for name, value in module.state_dict().items()}


def linear_head(encoder: Encoder) -> tuple[Tensor, Tensor | None]:
    """An encoder's head as one matrix: weight (d, f), and bias (d,) or None.

    Raises:
        ObstacleError: it has hidden layers.
    """
    if isinstance(encoder.head, IdentityHead):
        return torch.eye(encoder.tower.feature_dim), None
    if isinstance(encoder.head, LinearHead):
        state = cpu_state(encoder.head.projection)
        return state["weight"], state.get("bias")
    raise ObstacleError(
        f"the {encoder.modality} head ({type(encoder.head).__name__}) has hidden layers, and open_clip has no such "
        f"head behind {tower_name(encoder)}"
    )


def bias_before(weight: Tensor, bias: Tensor, *, modality: str) -> Tensor:
    """A shift (f,) of the features that does what a head's bias does: ``weight @ shift = bias``.

    open_clip's projections have no bias, but the layer norm before them has one, which takes the shift.

    Args:
        weight: (d, f), the head's.
        bias: (d,).
        modality: for the message.

    Raises:
        ObstacleError: there is no such shift, as where f < d.
    """
    shift = torch.linalg.lstsq(weight.double(), bias.double()[:, None], driver="gelsd").solution[:, 0]
    error = (weight.double() @ shift - bias.double()).abs().max()
    if error > 1e-9 * bias.abs().max():
        raise ObstacleError(
            f"the {modality} head has a bias, which open_clip's projection has not, and nothing before it has"
        )
    return shift.float()


def activation(name: str, where: str) -> tuple[bool, dict[str, Any]]:
    """transformers' ``hidden_act`` as open_clip's ``quick_gelu`` and further keys of a half's config.

    Raises:
        ObstacleError: open_clip's blocks know GELU alone.
    """
    if name in ("gelu", "gelu_python", "quick_gelu"):
        return name == "quick_gelu", {}
    if name in _TANH_GELU:
        return False, {"act_kwargs": {"approximate": "tanh"}}
    raise ObstacleError(f"{where} has the activation {name!r}, and open_clip's blocks have GELU")


def block_sizes(config: Any, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """``width``, ``layers``, ``mlp_ratio`` and, where it is not open_clip's, the layer norm's epsilon.

    Args:
        config: a transformers config with CLIP's names for its sizes.
        state: the weights under open_clip's names.
    """
    width, hidden = config.hidden_size, len(state["transformer.resblocks.0.mlp.c_fc.bias"])
    ratio = hidden / width
    if int(width * ratio) != hidden:  # open_clip rounds down
        ratio = (hidden + 0.5) / width
    sizes: dict[str, Any] = {"width": width, "layers": config.num_hidden_layers, "mlp_ratio": ratio}
    return sizes | ({} if config.layer_norm_eps == _LAYER_NORM_EPS else {"norm_kwargs": {"eps": config.layer_norm_eps}})


def square(size: Iterable[int]) -> int | list[int]:
    """(height, width) as open_clip writes it: one number for a square."""
    height, width = size
    return height if height == width else [height, width]
