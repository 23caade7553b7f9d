"""`ModelCardWords`: what a person says of a model, and no program can measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelCardWords:
    """What a person says of a model, and no program can measure.

    Attributes:
        title: heading of the card; default the repository's name, else the recipe's.
        license: the Hub's identifier; default ``unknown``, and a question in the card.
        license_name, license_link: of a licence ``other``.
        languages: codes of the captions; default what the data say, else a question in the card.
        datasets: Hub ids of what it was trained on, beside those that the recipe names.
        base_models: Hub ids of what it was fine-tuned from, beside those that the recipe names.
        tags: further tags on the Hub.
    """

    title: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    languages: Sequence[str] = ()
    datasets: Sequence[str] = ()
    base_models: Sequence[str] = ()
    tags: Sequence[str] = ()
