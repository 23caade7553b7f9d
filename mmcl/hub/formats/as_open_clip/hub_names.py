"""The names under which open_clip finds a tower's config and a tokenizer: ids of the Hub, never a path."""

from __future__ import annotations

import os
import re

from mmcl.errors import ConfigError
from mmcl.hub.formats.as_open_clip.half import Half
from mmcl.hub.formats.format import ExportOptions
from mmcl.models.dual_encoder import DualEncoder

# Stands for the repository's id in a folder that was written for none.
PLACEHOLDER = "owner/name"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# Ids of before owners: bert-base-uncased, roberta-base, xlm-roberta-base.
_OLD_ID = re.compile(r"(bert|roberta|xlm-roberta)-[\w.-]+")


def is_hub_id(name: str | None) -> bool:
    """Whether a tower's name is one that the Hub knows as far as can be told from here: no folder, no placeholder."""
    if not name or name == PLACEHOLDER or os.path.exists(name) or name.startswith("runs/"):
        return False
    return bool(_HUB_ID.fullmatch(name) or _OLD_ID.fullmatch(name))


def tower_id(model: DualEncoder, text: Half) -> str | None:
    """The Hub id whose config is the text tower's; None where none is known to be."""
    if not is_hub_id(text.tower_id) or model.image.tower.spec["name"] == text.tower_id:
        return None  # the name of a model with two towers leads to the config of both
    return text.tower_id


def name_sources(
    model: DualEncoder, image: Half, text: Half, options: ExportOptions
) -> tuple[dict[str, str], list[str]]:
    """``hf_model_name`` and ``hf_tokenizer_name`` as far as the text half needs them, and what must be known of names.

    Raises:
        ConfigError: the folder is another model's too, and a tower's config cannot be found elsewhere.
    """
    names: dict[str, str] = {}
    notes: list[str] = []
    own = tower_id(model, text)
    of_text = text.tower_config is not None
    if options.combined and (image.tower_config is not None or (of_text and own is None)):
        raise ConfigError(
            f"format open_clip: it reads the {'text' if of_text and own is None else 'image'} tower's config from "
            f"the config.json of a repository, and in this one that file is the whole model's; export open_clip to a "
            f"folder of its own and push it as a repository of its own"
        )
    if text.tokenizer is not None:
        known = text.config.get("hf_tokenizer_name")
        names["hf_tokenizer_name"] = options.repo_id or (known if is_hub_id(known) else own) or PLACEHOLDER
    if of_text:
        names["hf_model_name"] = (None if options.combined else options.repo_id) or own or PLACEHOLDER
    if of_text and names["hf_model_name"] == own:
        notes.append(f"open_clip reads the text tower's config from the Hub: {own}")
    elif of_text or image.tower_config is not None:
        sides = " and the ".join(
            side for side, half in (("image", image), ("text", text)) if half.tower_config is not None
        )
        notes.append(
            f"the config of the {sides} tower lies in the folder: it was opened from there, as the Hub will answer; "
            f"plain open_clip finds it once the folder is pushed"
        )
    if PLACEHOLDER in names.values() or (image.tower_config is not None and options.repo_id is None):
        notes.append(
            f"the config names {PLACEHOLDER!r} where the repository's id belongs: export with --repo-id OWNER/NAME "
            f"before pushing it, or plain open_clip cannot find the towers' files"
        )
    return names, notes
