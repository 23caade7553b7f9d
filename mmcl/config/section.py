"""What all sections of a recipe are: strict, typed, frozen."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe: unknown keys and wrong types are errors, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
