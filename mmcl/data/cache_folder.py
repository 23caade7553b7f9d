"""Where mmcl keeps what it can always make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$MMCL_CACHE``, or ``~/.cache/mmcl``; not created here."""
    return Path(os.environ.get("MMCL_CACHE") or "~/.cache/mmcl").expanduser()
