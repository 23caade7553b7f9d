"""Graphs made by hand, and a Hub on loopback."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "repos"))

from push_server import hub

__all__ = ["hub"]
