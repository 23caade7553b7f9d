"""What a model was before it was trained: other data that it is judged on, and the way back to its start."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mmcl.config.section import Section


class BeforeSection(Section):
    """Data that a run is not trained for, judged before its first step and after its last."""

    data: str = Field(description="DATA, such as path/to/photos:validation")
    tasks: tuple[Literal["retrieval", "zeroshot"], ...] | None = Field(
        None, min_length=1, strict=False, description="what is judged; default: those that the data allow"
    )
    metric: str | None = Field(
        None,
        description="what evaluate.wise_ft counts there; default retrieval/mean_recall@1, or zeroshot/top1 where "
        "retrieval is not judged",
    )

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_name(cls, value: Any) -> Any:
        return {"data": value} if isinstance(value, str) else value


# One name, or one section, stands for a list of it.
BeforeData = Annotated[
    tuple[BeforeSection, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, (str, dict, BeforeSection)) else value),
]


class WiseFtSection(Section):
    """WiSE-FT (arXiv:2109.01903): the place between the starting weights and the best model that serves best."""

    enabled: bool = Field(
        False, description="at the end, choose between the weights the run started from and the best model"
    )
    alphas: tuple[float, ...] = Field(
        tuple(step / 10 for step in range(11)),
        min_length=1,
        strict=False,
        description="places that are judged: 0 is the start, 1 the best model; both are judged always",
    )
    rule: Literal["keep", "mean", "target"] | None = Field(
        None,
        description="keep: the best on validation of those that keep evaluate.wise_ft.keep of the start on each of "
        "evaluate.before; mean: of validation and those; target: of validation alone; default keep, or target without "
        "evaluate.before",
    )
    keep: float = Field(0.98, ge=0, le=1, description="share of the start's metric that rule keep wants kept")

    @field_validator("alphas")
    @classmethod
    def _lie_between(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        outside = [alpha for alpha in alphas if not (math.isfinite(alpha) and 0 <= alpha <= 1)]
        if outside:
            raise ValueError(f"evaluate.wise_ft.alphas holds {outside[0]:g}; want numbers from 0 (start) to 1 (best)")
        return alphas
