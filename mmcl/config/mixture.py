"""A mixture: several data sets as one, as typed, strict, frozen models of its YAML file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from mmcl.config.data_sections import ColumnsSection
from mmcl.config.keys import nearest_key
from mmcl.config.reading import explain_problems, parse_yaml
from mmcl.config.section import Section
from mmcl.errors import ConfigError


class MixtureSource(Section):
    """One data set of a mixture."""

    path: str = Field(description="DATA, relative to the mixture's file; with :SPLIT it takes part in that split alone")
    name: str | None = Field(None, pattern=r"^[\w.-]+$", description="what its rows are called; default from its path")
    weight: float | None = Field(
        None, gt=0, description="its part of an epoch, against the others'; null for all: as many rows"
    )
    columns: ColumnsSection = ColumnsSection()
    images: str | None = Field(None, description="folder the image paths of a table are relative to")

    def renamed(self) -> dict[str, str]:
        """The columns that the data call otherwise: mmcl's name -> theirs."""
        return self.columns.model_dump(exclude_none=True)


class MixtureFile(Section):
    """Several data sets that are trained on together."""

    sources: tuple[MixtureSource, ...] = Field(strict=False, min_length=1, description="the data sets")
    mixing: Literal["stratified", "per_source"] | None = Field(
        None,
        description="stratified: every batch holds each source near its part; per_source: a batch is of one source "
        "alone; null: stratified with weights, rows as they come without",
    )
    shared_groups: bool = Field(False, description="whether one group's name means the same in every source")

    @model_validator(mode="after")
    def _all_or_none_have_weights(self) -> MixtureFile:
        given = [source.weight is not None for source in self.sources]
        if any(given) and not all(given):
            path = self.sources[given.index(False)].path
            raise ValueError(f"sources: {path} has no weight and others have; give every source one, or none")
        return self


def _nearest(key: str) -> str | None:
    parts = key.split(".")
    if parts[0] == "sources" and len(parts) > 2:  # sources.0.key
        near = nearest_key(".".join(parts[2:]), MixtureSource)
        return near and f"sources.{parts[1]}.{near}"
    return nearest_key(key, MixtureFile)


def mixture_from_tree(tree: Any, *, source: str) -> MixtureFile:
    """A checked mixture from nested dictionaries; an entry of ``sources`` may be a path alone.

    Args:
        tree: as the YAML has it.
        source: the file, for messages.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type, a value out of range, a repeated name.

    Example:
        >>> mixture_from_tree({"sources": ["a.csv", {"path": "b.csv", "name": "b"}]}, source="mine").sources[0].path
        'a.csv'
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("sources", []), list):
        raise ConfigError(f"{source}: a mixture is a mapping whose key sources holds a list of data sets")
    if "sources" in tree:
        entries = [{"path": entry} if isinstance(entry, str) else entry for entry in tree["sources"]]
        tree = {**tree, "sources": entries}
    try:
        mixture = MixtureFile.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain_problems(error, source, nearest=_nearest, whole="mixture")) from error
    times = Counter(entry.name for entry in mixture.sources if entry.name is not None)
    repeated = [name for name, number in times.items() if number > 1]
    if repeated:
        raise ConfigError(f"{source}: two sources are called {repeated[0]!r}; names must differ")
    return mixture


def load_mixture(path: str | Path) -> MixtureFile:
    """Read and check a mixture's file.

    Raises:
        ConfigError: it cannot be read, is no YAML, or holds what ``mixture_from_tree`` refuses.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no mixture can be read from it ({error})") from error
    return mixture_from_tree(parse_yaml(text, source=str(path)), source=str(path))
