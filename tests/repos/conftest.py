"""A Hub on loopback for the tests of repositories."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from push_server import hub

__all__ = ["hub"]
