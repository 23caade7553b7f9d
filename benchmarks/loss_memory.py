"""Memory of a large batch's loss, forward and backward, beside its peers'."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import peers
from measuring import Row, Settings, compared, say, unmeasured
from peak_memory import PeakError, peak_memory
from peers import CLIP_LOSS, PLAIN, SIGLIP_LOSS, Peer, leaves, step

COMPARED = (
    ("info_nce", peers.mmcl_info_nce, (PLAIN, CLIP_LOSS)),
    ("sigmoid", peers.mmcl_sigmoid, (SIGLIP_LOSS,)),
)


def one_step(settings: Settings, *, make: str, size: int) -> Callable[[], object]:
    """What a fresh process measures: one forward and backward pass, after one of a few rows.

    Args:
        settings: of this run.
        make: the function of ``peers`` that makes the loss.
        size: pairs.
    """
    loss = getattr(peers, make)()
    step(loss, leaves(8, settings.dim))()
    inputs = leaves(size, settings.dim)
    return step(loss, inputs)


def _peak(settings: Settings, make: Callable, size: int) -> int:
    return peak_memory("loss_memory", "one_step", settings, make=make.__name__, size=size)


def _compared(what: str, mine: int, peer: Peer, settings: Settings, *, size: int) -> Row:
    loss, why = peer.load()
    if loss is None:
        return unmeasured("memory", what, peer.name, why, ours=mine, unit="bytes")
    try:
        theirs = _peak(settings, peer.make, size)
    except PeakError as error:
        return unmeasured("memory", what, peer.name, f"failed ({error})", ours=mine, unit="bytes")
    bound = 1 / 15 if size >= 16384 else None
    return compared("memory", what, mine, peer.name, theirs, unit="bytes", at_most=bound, size=size)


def memory(settings: Settings) -> Iterator[Row]:
    """Peak memory beyond the inputs, at the largest batch; gradients of the inputs count."""
    size = settings.sizes[-1]
    for name, make, others in COMPARED:
        others = [peer for peer in others if settings.wants(peer.package)]
        if not others:
            continue
        what = f"{name}, fp32, B = {size}: peak memory"
        say(f"{what} ...")
        mine = _peak(settings, make, size)
        for peer in others:
            yield _compared(what, mine, peer, settings, size=size)
