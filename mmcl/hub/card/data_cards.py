"""The data cards that ship with mmcl: found for a run's data, copied beside a model card, quoted in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmcl.config import shipped_recipes
from mmcl.data.cards.front_matter import FrontMatter, read_front_matter
from mmcl.data.sources.built_in import is_built_in
from mmcl.data.sources.loading import parse_reference
from mmcl.errors import MmclError
from mmcl.hub.card.public_names import data_name
from mmcl.hub.card.source import CardSource


@dataclass(frozen=True)
class DataCard:
    """A data card that ships with mmcl.

    Attributes:
        recipe: a shipped recipe that names it: ``mmcl recipes card RECIPE`` prints it.
        file: its name.
        text: all of it.
        front: its front matter.
    """

    recipe: str
    file: str
    text: str
    front: FrontMatter

    @property
    def title(self) -> str:
        """What the card calls the data."""
        return str(self.front.values.get("pretty_name") or self.file)

    @property
    def licenses(self) -> list[str]:
        """The Hub's identifiers; of a licence ``other`` its name."""
        said = self.front.values.get("license")
        names = said if isinstance(said, list) else [said] if said else []
        return [str(self.front.values.get("license_name") or name) if name == "other" else str(name) for name in names]

    def section(self, title: str) -> str:
        """The paragraphs of a section, without measured blocks; empty where there is none."""
        found = re.search(rf"^## {re.escape(title)}\s*\n(.*?)(?=^## |\Z)", self.front.body, re.MULTILINE | re.DOTALL)
        if found is None:
            return ""
        return re.sub(r"<!-- mmcl:measured .*?<!-- mmcl:end -->", "", found[1], flags=re.DOTALL).strip()


def find_data_card(source: CardSource) -> DataCard | None:
    """The shipped card of a run's data: of built-in data, or of a shipped recipe whose data have the card's name.

    None for a person's own data, whatever they are called, and where no card is installed.
    """
    path, name = source.value("data.path"), str(source.value("name") or "")
    if not path:
        return None
    built_in = is_built_in(parse_reference(str(path)).base.partition("?")[0])
    wanted = data_name(str(path)).partition("?")[0]
    for recipe, file in _cards_of_recipes():
        same_recipe = name.removesuffix("-smoke") == recipe
        if file.stem == wanted and (built_in or same_recipe):
            try:
                text = file.read_text(encoding="utf-8")
            except OSError:
                return None
            return DataCard(recipe, file.name, text, read_front_matter(text))
    return None


def _cards_of_recipes() -> list[tuple[str, Path]]:
    """(recipe, file of its data card) of every recipe that ships."""
    found = []
    try:
        recipes = shipped_recipes()
    except MmclError:
        return []
    for recipe, file in recipes.items():
        named = re.search(r"data_cards/[\w.]+\.md", file.read_text(encoding="utf-8"))
        # Cards lie beside configs/ in the installed package, and beside recipes/ in a checkout.
        homes: Sequence[Path] = file.resolve().parents[1:3]
        card = next((home / named[0] for home in homes if (home / named[0]).is_file()), None) if named else None
        if card is not None:
            found.append((recipe, card))
    return found
