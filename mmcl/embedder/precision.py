"""Where a model runs, and in which arithmetic."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from mmcl.errors import ConfigError

# Names as in a recipe's train.precision -> what autocast computes matrix products in; None: no autocast.
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(device: str | torch.device | None) -> torch.device:
    """The device of a name, tried out; None: the GPU where there is one.

    Raises:
        ConfigError: no such device on this machine.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].strip()
        raise ConfigError(f"device is {str(device)!r}: this machine cannot ({reason}); use cpu, or a GPU it has") from (
            error
        )
    return found


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that there is not, or that the device lacks.

    Args:
        precision: of ``PRECISIONS``.
        device: where the model runs.

    Raises:
        ConfigError: an unknown name; fp16 on a CPU; bf16 on a GPU without it.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; want one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision is 'fp16', which needs a GPU; on a CPU use bf16 or fp32")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f"precision is 'bf16', which {torch.cuda.get_device_name(device)} lacks; use fp16 or fp32")


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Within it, matrix products run in this precision; nothing changes for fp32."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
