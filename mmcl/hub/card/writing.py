"""`write_card`: a model card from a run or a model, with what was measured and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl.data.cards.front_matter import dump_front_matter
from mmcl.errors import ConfigError, DataError
from mmcl.hub.card.baselines import MEASURED, compare
from mmcl.hub.card.citation import licence_section
from mmcl.hub.card.data_cards import find_data_card
from mmcl.hub.card.facts import ModelFacts, read_facts
from mmcl.hub.card.front_matter import card_front_matter
from mmcl.hub.card.gallery import Shown, make_gallery
from mmcl.hub.card.limits import limits_section
from mmcl.hub.card.markdown import ask, count, join, table
from mmcl.hub.card.pictures import curves
from mmcl.hub.card.public_names import data_name, public_text, public_value
from mmcl.hub.card.results import headline, results_section
from mmcl.hub.card.run_data import Progress, RunData, find_data
from mmcl.hub.card.snippets import Example, make_snippets, snippet_markdown
from mmcl.hub.card.source import CardSource, read_source
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
        assets: folder for its pictures, which the card calls ``assets/NAME``; made where it is missing.
        words: what a person says of the model.
        repo_id: where it will be pushed; None: the snippets say ``owner/name``, and nothing links to files that a push
            puts beside the card.
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
    from mmcl.embedder import DualEncoderEmbedder
    from mmcl.models.opening import open_dual_encoder

    known = read_source(source)
    try:
        assets.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{assets} cannot be made: {error.strerror or error}; name another folder") from error
    model = open_dual_encoder(known.model)
    facts, data = read_facts(model, known), find_data(known, progress)
    embedder = DualEncoderEmbedder(model)
    compared = compare(known, data, embedder, baselines, progress)
    shown = _gallery(embedder, data, assets, wanted=gallery, progress=progress)
    card = find_data_card(known)
    if card is not None:
        (assets / f"data_card_{card.file}").write_text(card.text, encoding="utf-8")
    name = words.title or repo_id or str(known.value("name") or "") or known.folder.resolve().name
    values = card_front_matter(known, facts, data, words, name=public_text(name), formats=formats)
    snippets = make_snippets(facts, repo_id=repo_id or PLACEHOLDER, formats=formats, example=shown.example)
    pushed = repo_id is not None
    link = f" ([their card]({ASSETS}/data_card_{card.file}))" if card is not None else ""
    body = [
        f"# {(words.title or name).rpartition('/')[2]}",
        _introduction(known, facts, data, link),
        _towers(facts),
        "## How to use it", snippet_markdown(snippets),
        "## Results", results_section(known, data.name, compared),
        "### What it finds" if shown.markdown else "", shown.markdown,
        "## Training",
        training_section(known, data_name=data.name, data_link=link, recipe_link=pushed, curves=curves(known, assets, ASSETS)),
        "## Limits and biases", limits_section(known, data, compared, card),
        "## How it was judged", _judging(known, data, repo_id or PLACEHOLDER),
        "## Licence and citation", licence_section(known, words, values, card, name=name),
    ]  # fmt: skip
    return dump_front_matter(public_value(values), flow=True) + public_text(join(body)) + "\n"


def _gallery(embedder: Embedder, data: RunData, assets: Path, *, wanted: bool, progress: Progress | None) -> Shown:
    """The gallery, or a sentence on why there is none."""
    if not wanted:
        return Shown("", Example())
    if data.test is None:
        return Shown(f"No pictures of what it finds are shown. {data.why_not}", Example())
    from mmcl.embedder import CachedEmbedder

    cached = CachedEmbedder(embedder, progress=progress)
    try:
        return make_gallery(cached, data.test, assets, where=ASSETS, data_name=data.name, split=data.split)
    except DataError as error:
        return Shown(f"No pictures of what it finds are shown: {' '.join(str(error).split())}.", Example())


def _introduction(source: CardSource, facts: ModelFacts, data: RunData, link: str) -> str:
    """What it is, what it learnt from, and one figure with its chance line."""
    parts = [
        f"An image-text embedding model: images and captions become {facts.embedding_dim} numbers each, and what belongs "
        "together lies close. For search, matching and classification without training examples."
    ]
    if data.name:
        parts.append(f"Trained with mmcl on **{data.name}**{link}.")
    split, metrics = next(iter(source.evaluation.items()), ("", {}))
    told = headline(metrics)
    if told:
        parts.append(f"On the split {split} it {told}.")
    elif source.recipe:
        parts.append("It was not judged on a test split.")
    else:
        parts.append("No training run lies beside it: what it learnt from and how good it is are not known here.")
    return join([" ".join(parts), ask("What is it for, and who made it? Two sentences.")])


def _towers(facts: ModelFacts) -> str:
    image, text = facts.sides
    rows = [
        ("tower", image.name, text.name),
        ("architecture", image.architecture, text.architecture),
        ("reads", image.reads, text.reads),
        ("weights", image.trained, text.trained),
        ("pooling, head", f"{image.pooling}, {image.head}", f"{text.pooling}, {text.head}"),
        ("parameters", count(image.num_parameters), count(text.num_parameters)),
    ]
    bias = "" if facts.logit_bias is None else f" and bias {facts.logit_bias:.4g}"
    together = (
        f"Together {count(facts.num_parameters)} parameters; embeddings have {facts.embedding_dim} values and unit "
        f"length; logits are cosines times {facts.logit_scale:.4g}{bias}."
    )
    return join([table(["", "image encoder", "text encoder"], [row for row in rows if any(row[1:])]), together])


def _judging(source: CardSource, data: RunData, repo_id: str) -> str:
    """The commands that measure the same again."""
    if not source.evaluation:
        return "It was not judged. `mmcl eval retrieval MODEL DATA` and `mmcl eval zeroshot MODEL DATA` do it."
    tasks = {name.partition("/")[0] for metrics in source.evaluation.values() for name in metrics}
    commands = {"retrieval": "retrieval", "zeroshot": "zeroshot", "foils": "foils", "probe": "probe", "knn": "knn",
                "clusters": "clusters", "geometry": "geometry"}  # fmt: skip
    where = data_name(data.name) if data.name.startswith("shapes") else f"path/to/{data.name}"
    lines = [
        f"mmcl eval {command} {repo_id} '{where}:{split}'"
        for split in source.evaluation
        for task, command in commands.items()
        if task in tasks
    ]
    extra = [
        f"`{key}` of the recipe: {value if isinstance(value, str) else '; '.join(map(str, value))}"
        for key in ("evaluate.classes", "evaluate.templates")
        if (value := source.value(key))
    ]
    rules = (
        "The model was chosen on the validation split and judged once on these. Retrieval ranks all images against all "
        "distinct captions; a hit is any item of the query's group, and ties count against the model. Intervals are 95 % "
        "bootstrap intervals over groups. Zero-shot classes are named by prompts alone, an ensemble of templates."
    )
    return join([rules, "```\n" + "\n".join(lines) + "\n```", "\n".join(f"- {line}" for line in extra)])
