"""`RunData`: the data that a run was judged on, or why they cannot be read on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmcl.data.cards.vocabulary import is_language
from mmcl.data.sources.built_in import is_built_in
from mmcl.data.sources.loading import load_split, open_data, parse_reference
from mmcl.data.splits.names import canonical_splits
from mmcl.data.summary.languages import guess_languages
from mmcl.errors import MmclError
from mmcl.hub.card.public_names import data_name, public_text
from mmcl.hub.card.source import CardSource

if TYPE_CHECKING:
    from mmcl.config import Recipe
    from mmcl.data.dataset import ImageTextDataset

Progress = Callable[[str, int, int], None]
GUESSED_CAPTIONS = 2_000


@dataclass(frozen=True)
class RunData:
    """The data of a run, as far as this machine has them.

    Attributes:
        name: as everybody may read it; empty where no recipe names data.
        recipe: the run's, as mmcl reads it; None where there is none.
        split: what was judged at the end.
        test: its rows; None where they cannot be read.
        why_not: why not, in a sentence; empty where they can.
        languages: of the captions, as the data or the recipe say; else as they look.
        guessed: whether the languages were guessed from the captions.
    """

    name: str = ""
    recipe: Recipe | None = None
    split: str = ""
    test: ImageTextDataset | None = None
    why_not: str = ""
    languages: tuple[str, ...] = ()
    guessed: bool = False

    def train(self, progress: Progress | None = None) -> ImageTextDataset | None:
        """The training split; None where it cannot be read."""
        if self.recipe is None or self.test is None:
            return None
        try:
            return _read(self.recipe, self.recipe.data.split.train, progress)
        except MmclError:
            return None


def find_data(source: CardSource, progress: Progress | None = None) -> RunData:
    """The data that a run was judged on; nothing is downloaded.

    Args:
        source: of a run; without a recipe there are no data.
        progress: told how far the drawing of built-in data is.
    """
    path = source.value("data.path")
    if not path:
        return RunData(why_not="No run lies beside this model, so no data are known that it was judged on.")
    name, recipe = data_name(str(path)), source.checked_recipe()
    if recipe is None:
        return RunData(name, why_not="The recipe was written for another version of mmcl, which names its data anew.")
    split = next(iter(source.evaluation), None) or recipe.data.split.test or recipe.data.split.validation or ""
    base = parse_reference(path).base.partition("?")[0].removeprefix("vectors:")
    if not is_built_in(base) and not os.path.exists(os.path.expanduser(base)) and "{" not in base and "*" not in base:
        return RunData(name, recipe, split, why_not=f"The data ({name}) are not on the machine that wrote this card.")
    try:
        test = _read(recipe, split, progress)
    except MmclError as error:
        why = " ".join(public_text(str(error)).split())
        return RunData(name, recipe, split, why_not=f"The data ({name}) could not be read again: {why}.")
    judged = _judged_rows(source, split)
    if judged is not None and judged != len(test):
        other = f"The data ({name}) on this machine are others than were judged: {len(test):,} rows, not {judged:,}."
        return RunData(name, recipe, split, why_not=other)
    languages, guessed = _languages(recipe, test)
    return RunData(name, recipe, split, test, languages=languages, guessed=guessed)


def _judged_rows(source: CardSource, split: str) -> int | None:
    """Rows of the split when it was judged; None where the evaluation does not say."""
    metrics = source.evaluation.get(split, {})
    counts = [metrics.get(f"retrieval/num_{what}") for what in ("images", "skipped")]
    return int(sum(counts)) if all(isinstance(count, (int, float)) for count in counts) else None


def _read(recipe: Recipe, split: str, progress: Progress | None) -> ImageTextDataset:
    """A split as the run read it."""
    section = recipe.data
    if section.max_rows is not None:  # rows were drawn by lot: the loader of runs draws the same
        from mmcl.data.splits.training_splits import load_splits

        splits = load_splits(recipe, progress=progress)
        if split in splits.test:
            return splits.test[split]
        if split == section.split.train:
            return splits.train
    opened = open_data(
        parse_reference(section.path).base,
        columns=section.columns.model_dump(exclude_none=True),
        images=section.images,
        progress=progress,
    )
    return load_split(opened, section.path, split if canonical_splits(opened.splits()) else None)


def _languages(recipe: Recipe, test: ImageTextDataset) -> tuple[tuple[str, ...], bool]:
    """Codes of the captions' languages, and whether they were guessed."""
    column = (recipe.data.columns.text or "").rpartition(".")[2]
    if column and column != recipe.data.columns.text and is_language(column):
        return (column,), False  # a translation was picked, such as i18n.de
    said = [code for name in ("lang", "language") if name in test.table.column_names for code in test.column(name)]
    if codes := [code for code in dict.fromkeys(said) if isinstance(code, str) and is_language(code)]:
        return tuple(codes), False
    captions = [text for row in range(min(len(test), GUESSED_CAPTIONS)) for text in test.texts(row)]
    return tuple(guess_languages(captions[:GUESSED_CAPTIONS]).likely()), True
