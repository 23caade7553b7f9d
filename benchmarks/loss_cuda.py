"""The losses on a GPU: time and memory of a very large batch, beside ClipLoss and other fused losses."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from measuring import Row, Settings, compared, say, times, unmeasured
from peers import CLIP_LOSS, ON_A_GPU, PLAIN_ROWS, Peer, leaves, mmcl_info_nce, step

ROWS, ROUNDS = 32768, 10


def _bound(peer: Peer, unit: str) -> float | None:
    if peer is CLIP_LOSS:
        return 0.5 if unit == "s" else 1 / 100
    return 1.0 if peer in ON_A_GPU and unit == "s" else None


def cuda(settings: Settings) -> Iterator[Row]:
    """InfoNCE in bf16 and float32; peers in bf16 under autocast where they are plain torch."""
    if not torch.cuda.is_available():
        for name in ("fp32", "bf16"):
            yield unmeasured("cuda", f"info_nce on a GPU, {name}, B = {ROWS}", CLIP_LOSS.name, "not measured: no GPU")
        return
    rows = settings.sizes[-1] if settings.quick else ROWS
    for dtype in (torch.float32, torch.bfloat16):
        yield from on_device(settings, rows, dtype, torch.device("cuda"))


def on_device(settings: Settings, rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Row]:
    """Rows of one precision: time, then memory."""
    what = f"info_nce on a GPU, {'bf16' if dtype == torch.bfloat16 else 'fp32'}, B = {rows}"
    say(f"{what} ...")
    inputs = leaves(rows, settings.dim, dtype=dtype, device=device.type)
    calls, absent, peaks = {"mmcl": step(mmcl_info_nce(), inputs)}, {}, {"mmcl": 0}
    others = [peer for peer in (CLIP_LOSS, PLAIN_ROWS, *ON_A_GPU) if settings.wants(peer.package)]
    for peer in others:
        loss, why = peer.load()
        if loss is None:
            absent[peer.name] = why
            continue
        autocast = dtype if dtype == torch.bfloat16 and peer not in ON_A_GPU else None
        calls[peer.name] = step(loss, inputs, autocast=autocast)
    for name in list(calls):  # also compiles the kernels
        try:
            calls[name]()
            peaks[name] = _peak(calls[name], device)
        except Exception as error:  # out of memory, or a kernel that does not fit this device: the others go on
            if name == "mmcl":
                raise
            absent[name] = f"failed ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
            del calls[name]
    seconds = {name: min(each) for name, each in times(calls, rounds=settings.repeats or ROUNDS, device=device).items()}
    for figure, unit, found in (("time", "s", seconds), ("peak memory", "bytes", peaks)):
        for peer in others:
            row = (("cuda", f"{what}: {figure}"), {"unit": unit})
            if peer.name in absent:
                yield unmeasured(*row[0], peer.name, absent[peer.name], ours=found["mmcl"], **row[1])
            else:
                bound = _bound(peer, unit) if rows >= ROWS else None
                yield compared(*row[0], found["mmcl"], peer.name, found[peer.name], at_most=bound, **row[1])


def _peak(call: object, device: torch.device) -> int:
    """Bytes that CUDA's allocator gave out beyond those held before."""
    if device.type != "cuda":
        return 1
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
