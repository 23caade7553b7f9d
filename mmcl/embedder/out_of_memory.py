"""Batches that halve when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.memory import is_out_of_memory, release_memory

log = get_logger(__name__)


class FittingBatches:
    """Runs items in batches, halves a batch that does not fit into memory, and keeps the size that fits.

    The size is kept for each kind of item, and said once. A batch of another size may change the last bits of floats.
    """

    def __init__(self) -> None:
        self._fits: dict[str, int] = {}

    def run(
        self, kind: str, items: Sequence[Any], batch_size: int, forward: Callable[[Sequence[Any]], Tensor]
    ) -> list[Tensor]:
        """Call ``forward`` on all items, some at a time.

        Args:
            kind: ``"image"`` or ``"text"``; sizes are kept apart.
            items: anything that slices.
            batch_size: items a call at most.
            forward: a slice of the items to its rows.

        Returns:
            What ``forward`` gave, in order.

        Raises:
            ConfigError: a single item does not fit.
        """
        parts: list[Tensor] = []
        start, refused = 0, 0
        while start < len(items):
            size = min(batch_size, self._fits.get(kind, batch_size), len(items) - start)
            part = self._attempt(kind, items[start : start + size], forward)
            if part is None:
                self._fits[kind], refused = -(-size // 2), refused or size
                release_memory()
                continue
            if refused:
                log.warning("batches of %d %ss do not fit into memory; going on with %d", refused, kind, size)
                refused = 0
            parts.append(part)
            start += size
        return parts

    def _attempt(self, kind: str, items: Sequence[Any], forward: Callable[[Sequence[Any]], Tensor]) -> Tensor | None:
        """None where memory ran out; the failed attempt's tensors are gone by then."""
        try:
            return forward(items)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(items) == 1:
                raise ConfigError(
                    f"not even one {kind} fits into memory ({str(error).splitlines()[0][:200]}); use another device, "
                    f"precision bf16, or a smaller model"
                ) from error
        return None
