"""How much memory a process has taken at its peak, stage by stage."""

from __future__ import annotations

from pathlib import Path

import torch

from mmcl.training.progress import peak_memory_mb

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peaks:
    """The high-water mark of this process since its start or its last ``restart``: resident, or allocated on CUDA.

    Where the kernel's mark cannot be set back, a stage's peak includes the stages before it.
    """

    def __init__(self) -> None:
        self._cuda = torch.cuda.is_available()

    def restart(self) -> None:
        """Begin a new stage."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        try:
            _CLEAR.write_text("5", encoding="ascii")
        except OSError:
            return

    def read(self) -> int:
        """Bytes at the peak of this stage.

        Not ``getrusage``'s: a process inherits that of the one that started it.
        """
        if self._cuda:
            return int(torch.cuda.max_memory_allocated())
        try:
            lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines())
            return int(lines["VmHWM"].split()[0]) * 1024
        except (OSError, KeyError, ValueError):
            return int(peak_memory_mb() * 2**20)

    def now(self) -> int:
        """Bytes held now."""
        if self._cuda:
            return int(torch.cuda.memory_allocated())
        import psutil

        return int(psutil.Process().memory_info().rss)
