"""`write_card`: a model card from a run or a model, with what was measured and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl.data.cache_folder import cache_folder
from mmcl.data.cards.front_matter import dump_front_matter
from mmcl.errors import ConfigError, DataError
from mmcl.hub.card.about import introduction, judging, towers
from mmcl.hub.card.baselines import MEASURED, compare
from mmcl.hub.card.citation import licence_section
from mmcl.hub.card.data_cards import DataCard, find_data_card
from mmcl.hub.card.facts import read_facts
from mmcl.hub.card.front_matter import card_front_matter
from mmcl.hub.card.gallery import Shown, make_gallery
from mmcl.hub.card.limits import limits_section
from mmcl.hub.card.markdown import join
from mmcl.hub.card.pictures import curves
from mmcl.hub.card.public_names import public_text, public_value
from mmcl.hub.card.results import results_section
from mmcl.hub.card.run_data import Progress, RunData, find_data
from mmcl.hub.card.snippets import Example, make_snippets, snippet_markdown
from mmcl.hub.card.source import RECIPE, CardSource, read_source
from mmcl.hub.card.training_section import training_section
from mmcl.hub.card.words import ModelCardWords

if TYPE_CHECKING:
    from mmcl.embedder import Embedder

ASSETS = "assets"  # how the card calls the folder of its pictures
PLACEHOLDER = "owner/name"


def write_card(
    source: Path,
    assets: Path,
    *,
    words: ModelCardWords,
    repo_id: str | None,
    formats: Sequence[str] = (),
    gallery: bool = True,
    baselines: Sequence[str] = MEASURED,
    progress: Progress | None = None,
) -> str:
    """A whole model card.

    Args:
        source: a run folder, or a folder of a model.
        assets: folder for its pictures, which the card calls ``assets/NAME``; made where it is missing. The card links
            to a ``recipe.yaml`` that lies beside this folder.
        words: what a person says of the model.
        repo_id: where it will be pushed; None: the snippets say ``owner/name``.
        formats: names of ``mmcl.hub.formats`` that lie in the repository: their snippets are shown.
        gallery: draw captions and images with what they find, where the data are on this machine.
        baselines: what is measured beside the model where the data are here: of ``MEASURED``, ``start``, any MODEL.
        progress: told what is embedded and drawn.

    Returns:
        Markdown; `check_model_card` finds nothing in it but the questions that a person has to answer.

    Raises:
        ConfigError: no model in ``source``, a damaged file, a folder that cannot be written, or a baseline that cannot
            be judged.
    """
    from mmcl.embedder import CachedEmbedder, DualEncoderEmbedder
    from mmcl.models.opening.opening import open_dual_encoder

    known = read_source(source)
    try:
        assets.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{assets} cannot be made: {error.strerror or error}; name another folder") from error
    model = open_dual_encoder(known.model)
    facts, data = read_facts(model, known), find_data(known, progress)
    # Kept on disk, as `mmcl eval` keeps them: a card that is written again embeds nothing again.
    embedder = CachedEmbedder(DualEncoderEmbedder(model), folder=cache_folder() / "embeddings", progress=progress)
    compared = compare(known, data, embedder, baselines, progress)
    shown = _gallery(embedder, data, assets, wanted=gallery)
    name = words.title or (repo_id or "").rpartition("/")[2] or str(known.value("name") or "model")
    values = card_front_matter(known, facts, data, words, name=repo_id or name, formats=formats)
    snippets = make_snippets(facts, repo_id=repo_id or PLACEHOLDER, formats=formats, example=shown.example)
    card = find_data_card(known)
    link = _copy_data_card(card, assets)
    body = [
        f"# {name}",
        introduction(known, facts, data, link),
        towers(facts),
        "## How to use it", snippet_markdown(snippets, shown.example),
        "## Results", results_section(known, data.name, compared),
        "### What it finds" if shown.markdown else "", shown.markdown,
        "## Training", _training(known, data.name, link, assets),
        "## Limits and biases", limits_section(known, data, compared, card),
        "## How it was judged", judging(known, data, repo_id or PLACEHOLDER),
        "## Licence and citation", licence_section(known, words, values, card, name=repo_id or name),
    ]  # fmt: skip
    return dump_front_matter(public_value(values), flow=True) + public_text(join(body)) + "\n"


def _copy_data_card(card: DataCard | None, assets: Path) -> str:
    """Copy a shipped data card beside the pictures; Markdown that leads to it."""
    if card is None:
        return ""
    (assets / f"data_card_{card.file}").write_text(card.text, encoding="utf-8")
    return f" ([their card]({ASSETS}/data_card_{card.file}))"


def _training(source: CardSource, data_name: str, link: str, assets: Path) -> str:
    return training_section(
        source,
        data_name=data_name,
        data_link=link,
        recipe_link=(assets.parent / RECIPE).is_file(),
        curves=curves(source, assets, ASSETS),
    )


def _gallery(embedder: Embedder, data: RunData, assets: Path, *, wanted: bool) -> Shown:
    """The gallery, or a sentence on why there is none."""
    if not wanted:
        return Shown("", Example())
    if data.test is None:
        return Shown(f"No pictures of what it finds are shown. {data.why_not}", Example())
    try:
        return make_gallery(embedder, data.test, assets, where=ASSETS, data_name=data.name, split=data.split)
    except DataError as error:
        return Shown(f"No pictures of what it finds are shown: {' '.join(str(error).split())}.", Example())
