"""Time of the losses, forward and backward, beside their peers'."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from measuring import Row, Settings, compared, say, times, unmeasured
from peers import (
    CLIP_LOSS,
    INFO_NCE,
    NT_XENT,
    PLAIN,
    PLAIN_ROWS,
    SIGLIP_LOSS,
    SIGMOID,
    PairLoss,
    Peer,
    leaves,
    mmcl_info_nce,
    mmcl_nt_xent,
    mmcl_sigmoid,
    step,
)

WARM_UP = 2048  # pairs of the first call, which is not counted


def side_by_side(
    group: str,
    what: str,
    mine: PairLoss,
    others: Sequence[Peer],
    *,
    size: int,
    settings: Settings,
    at_most: Callable[[Peer], float | None],
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
) -> Iterator[Row]:
    """A row for every peer: best times of rounds in which all take turns.

    Args:
        group: the rows' group.
        what: the rows' first cell.
        mine: mmcl's loss.
        others: its peers.
        size: pairs.
        settings: rounds, and which peers.
        at_most: what the ratio must be at most.
        dtype: of the embeddings.
        autocast: the precision that peers run in.
    """
    say(f"{what} ...")
    losses, absent = {}, []
    for peer in others:
        if not settings.wants(peer.package) or (peer.most_rows is not None and size > peer.most_rows):
            continue
        loss, why = peer.load()
        if loss is None:
            absent.append((peer, why))
        else:
            losses[peer] = loss

    def timed(rows: int, rounds: int) -> dict[str, list[float]]:
        inputs = leaves(rows, settings.dim, dtype=dtype)
        calls = {"mmcl": step(mine, inputs)}
        calls |= {peer.name: step(loss, inputs, autocast=autocast) for peer, loss in losses.items()}
        return times(calls, rounds=rounds)

    timed(min(size, WARM_UP), 1)
    seconds = timed(size, settings.rounds(size))
    best = {name: min(each) for name, each in seconds.items()}
    fastest = min((best[peer.name] for peer in losses), default=None)
    for peer in losses:
        name = f"{peer.name}, the best peer" if best[peer.name] == fastest and len(losses) > 1 else peer.name
        more = {"size": size, "ours_all": seconds["mmcl"], "theirs_all": seconds[peer.name]}
        yield compared(group, what, best["mmcl"], name, best[peer.name], unit="s", at_most=at_most(peer), **more)
    for peer, why in absent:
        yield unmeasured(group, what, peer.name, why, ours=best["mmcl"], unit="s")


def info_nce(settings: Settings) -> Iterator[Row]:
    """InfoNCE in float32."""

    def bound(size: int) -> Callable[[Peer], float | None]:
        if size <= 1024:
            return lambda peer: 1.0
        return lambda peer: None if size < 4096 else 0.58 if peer is CLIP_LOSS else 0.80

    for size in settings.sizes:
        what = f"info_nce, fp32, B = {size}: time"
        yield from side_by_side(
            "info_nce", what, mmcl_info_nce(), INFO_NCE, size=size, settings=settings, at_most=bound(size)
        )


def sigmoid(settings: Settings) -> Iterator[Row]:
    """The pairwise sigmoid loss in float32."""
    for size in settings.large:
        what = f"sigmoid, fp32, B = {size}: time"
        yield from side_by_side(
            "sigmoid", what, mmcl_sigmoid(), SIGMOID, size=size, settings=settings,
            at_most=lambda peer, size=size: 0.68 if peer is SIGLIP_LOSS and size >= 4096 else None,
        )  # fmt: skip


def nt_xent(settings: Settings) -> Iterator[Row]:
    """SimCLR's loss in float32, at a large batch, and at one that fits pytorch-metric-learning."""
    large = settings.large[0]
    small = min(large, *(peer.most_rows for peer in NT_XENT if peer.most_rows is not None))
    for size in sorted({small, large}):
        what = f"nt_xent, fp32, B = {size} ({2 * size} views): time"
        yield from side_by_side(
            "nt_xent", what, mmcl_nt_xent(), NT_XENT, size=size, settings=settings,
            at_most=lambda peer, size=size: 0.25 if peer.package == "lightly" and size >= 4096 else None,
        )  # fmt: skip


def bf16(settings: Settings) -> Iterator[Row]:
    """InfoNCE on bf16 embeddings; peers under autocast."""
    for size in settings.large:
        what = f"info_nce, bf16 inputs, B = {size}: time (peers under autocast)"
        yield from side_by_side(
            "bf16", what, mmcl_info_nce(), (PLAIN, PLAIN_ROWS, CLIP_LOSS), size=size, settings=settings,
            at_most=lambda peer, size=size: 0.6 if peer is CLIP_LOSS and size >= 4096 else None,
            dtype=torch.bfloat16, autocast=torch.bfloat16,
        )  # fmt: skip
