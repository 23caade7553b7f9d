"""SIGINT and SIGTERM during training: noted, and acted on between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class StopSignals:
    """Within the block, the first SIGINT or SIGTERM is only noted in ``number``; a second one interrupts at once."""

    CAUGHT = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python sets handlers nowhere else
            for number in self.CAUGHT:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number

    @staticmethod
    def name(number: int) -> str:
        """``"SIGTERM"`` for 15."""
        return signal.Signals(number).name
