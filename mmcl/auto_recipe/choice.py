"""`Choice`: what `recipe: auto` decided, and the file it is written to."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from mmcl.auto_recipe.data_facts import DataFacts
from mmcl.auto_recipe.machine_facts import MachineFacts
from mmcl.auto_recipe.probe import Probe
from mmcl.auto_recipe.rules import Route
from mmcl.auto_recipe.settings import Setting


@dataclass(frozen=True)
class Choice:
    """What was chosen and why.

    Attributes:
        paragraph: for people, one paragraph.
        route: frozen, lora, unfreeze or scratch, and from what.
        settings: the keys that were set; none that the user gave.
        said: keys that the user gave.
        tree: the recipe without defaults: what the user gave and what was chosen, nested.
        facts, machine, probes: what was seen.
        seconds: that looking took.
    """

    paragraph: str
    route: Route
    settings: tuple[Setting, ...]
    said: tuple[str, ...]
    tree: dict[str, Any]
    facts: DataFacts
    machine: MachineFacts
    probes: tuple[Probe, ...]
    seconds: float

    def markdown(self) -> str:
        """``choices.md``: the paragraph, and every key that was set with its reason."""
        rows = [f"| `{one.key}` | `{_plain(one.value)}` | {one.why} |" for one in self.settings]
        table = "\n".join(["| key | value | why |", "|---|---|---|", *rows])
        return f"# What was chosen, and why\n\n{_wrapped(self.paragraph)}\n\n{table}\n"

    def recipe_text(self) -> str:
        """The recipe as YAML that runs by itself, the paragraph as comments above it."""
        return f"{_wrapped(self.paragraph, '# ')}\n{yaml.safe_dump(self.tree, sort_keys=False, allow_unicode=True)}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "paragraph": self.paragraph,
            "route": asdict(self.route),
            "settings": {one.key: one.value for one in self.settings},
            "said": list(self.said),
            "facts": asdict(self.facts),
            "machine": asdict(self.machine),
            "probes": [asdict(one) for one in self.probes],
            "seconds": round(self.seconds, 1),
        }


def _wrapped(text: str, indent: str = "") -> str:
    """Lines that break between words alone: names and paths stay whole."""
    return textwrap.fill(
        text, 120, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _plain(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
