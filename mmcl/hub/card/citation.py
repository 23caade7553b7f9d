"""The last section of a card: under which terms, what the data ask for, and whom to name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmcl.hub.card.data_cards import DataCard
from mmcl.hub.card.front_matter import base_model_ids
from mmcl.hub.card.markdown import ask, join
from mmcl.hub.card.public_names import public_text
from mmcl.hub.card.source import CardSource
from mmcl.hub.card.words import ModelCardWords

# loss.name -> where it was published.
SOURCES: dict[str, str] = {
    "info_nce": "Radford et al. 2021, *Learning Transferable Visual Models From Natural Language Supervision*, "
    "arXiv:2103.00020",
    "sigmoid": "Zhai et al. 2023, *Sigmoid Loss for Language Image Pre-Training*, arXiv:2303.15343",
    "dcl": "Yeh et al. 2022, *Decoupled Contrastive Learning*, arXiv:2110.06848",
    "nt_xent": "Chen et al. 2020, *A Simple Framework for Contrastive Learning of Visual Representations*, "
    "arXiv:2002.05709",
    "triplet": "Schroff et al. 2015, *FaceNet: A Unified Embedding for Face Recognition and Clustering*, "
    "arXiv:1503.03832",
    "barlow_twins": "Zbontar et al. 2021, *Barlow Twins: Self-Supervised Learning via Redundancy Reduction*, "
    "arXiv:2103.03230",
    "vicreg": "Bardes et al. 2022, *VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised "
    "Learning*, arXiv:2105.04906",
}


def licence_section(
    source: CardSource, words: ModelCardWords, values: Mapping[str, Any], card: DataCard | None, *, name: str
) -> str:
    """Licence of the model, of what it was made from, and a citation.

    Args:
        source, words: what is known and said.
        values: the front matter.
        card: of the training data, where mmcl ships one.
        name: of the model, for the citation.
    """
    blocks = [_own(values)]
    if not words.license:
        blocks.append(ask("Under which licence is the model given away? `--license` says it in the front matter too."))
    if bases := base_model_ids(source, words):
        listed = ", ".join(f"`{base}`" for base in bases)
        blocks.append(f"It starts from weights of {listed}, whose licences apply to what is made from them.")
    if card is not None and card.licenses:
        blocks.append(f"The training data, {card.title}, are under: {', '.join(card.licenses)}.")
        blocks.append(public_text(card.section("Licences and credits")))
    loss = SOURCES.get(str(source.value("loss.name")))
    blocks.append(f"The method: {loss}." if loss else "")
    blocks.append(_bibtex(name))
    blocks.append(ask("Who made this model, and how is it to be cited? Put author and year into the entry above."))
    return join(blocks)


def _own(values: Mapping[str, Any]) -> str:
    named = values.get("license_name") or values["license"]
    if values["license"] == "unknown":
        return "No licence was given."
    link = values.get("license_link")
    return f"The model is given away under: {named}" + (f" ([text]({link}))." if link else ".")


def _bibtex(name: str) -> str:
    key = re.sub(r"[^a-z0-9]+", "_", name.rpartition("/")[2].lower()).strip("_") or "model"
    title = f"  title = {{{name}: an image-text embedding model}},"
    return "\n".join(["```bibtex", f"@misc{{{key},", title, "  note = {trained with mmcl}", "}", "```"])
