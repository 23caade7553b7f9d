"""Graphs made by hand, and a Hub on loopback."""

from __future__ import annotations

import sys
from pathlib import Path

for near in (Path(__file__).parent, Path(__file__).parents[1] / "repos"):
    sys.path.append(str(near))

from push_server import hub

__all__ = ["hub"]
