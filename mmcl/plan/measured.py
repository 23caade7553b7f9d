"""All that was measured for one plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmcl.config import Recipe
from mmcl.plan.fitting import Growth
from mmcl.plan.forecast import DataForecast
from mmcl.plan.variants import Phase


@dataclass
class Measured:
    """All that was measured for one plan.

    Attributes:
        recipe: what is planned.
        data: its data.
        small: measurements of small batches, each with its ``rows``.
        growth: the line through their peaks.
        whole: for each phase the measurement of the wanted batch, or of as much as fits.
        cached: a measurement with gradient caching, with its ``rows`` and ``micro``; None: none was possible.
        tokens: bytes of captions' tokens that were made.
    """

    recipe: Recipe
    data: DataForecast
    small: list[dict[str, Any]]
    growth: Growth
    whole: list[tuple[Phase, dict[str, Any]]]
    cached: dict[str, Any] | None
    tokens: int
