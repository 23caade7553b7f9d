"""One half of an mmcl model as a tower of a new one."""

from __future__ import annotations

import os
from pathlib import Path

from mmcl.config import TowerSection
from mmcl.config.model_sections import DECIDED_OF_TOWERS
from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.heads import LinearHead
from mmcl.models.opening.kinds import MMCL
from mmcl.models.towers.tower import Tower

log = get_logger(__name__)


def find_mmcl_model(name: str) -> Path | None:
    """The folder of the mmcl model that a tower's name leads to; None where it names another library's model.

    Args:
        name: a folder, also of a run; or a Hub id, from which no more than the model's own description is fetched to
            see.

    Raises:
        ConfigError: it is one, and is refused (see ``locate``).
    """
    from mmcl.models.opening.locating import locate

    name = os.path.expanduser(name)
    if os.path.isdir(name):
        found = any((Path(name) / inside / MMCL).is_file() for inside in ("", "model"))
        return locate(name).folder if found else None
    return locate(name).folder if _described_on_hub(name) else None


def _described_on_hub(name: str) -> bool:
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from mmcl.repos.listing import ask_once

    repo_id, _, revision = name.partition("@")
    if repo_id.startswith((".", "/")) or repo_id.count("/") != 1:
        return False  # a folder that is not there, or one of the ids without an owner
    try:
        for file in (MMCL, "config.json"):
            if isinstance(try_to_load_from_cache(repo_id, file, revision=revision or None), str):
                return file == MMCL
    except HFValidationError:
        return False
    if constants.HF_HUB_OFFLINE:
        return False
    names = ask_once(repo_id, revision=revision or None)
    return not isinstance(names, Path) and MMCL in names


def build_mmcl_tower(folder: Path, section: TowerSection, modality: str) -> Tower:
    """The image or text tower of an mmcl model, with its weights, preprocessing, pooling and projection.

    Args:
        folder: of the model.
        section: the recipe's words for the tower; what the model decides itself must be left to it, but for its pooling
            and way to resize.
        modality: ``"image"`` or ``"text"``.

    Returns:
        The tower. A linear head without bias that is built on it, of the model's own size, starts as the model's head;
        attention pooling, whose weights are none of the tower's, starts anew.

    Raises:
        ConfigError: the model cannot be read, or the section asks for another input size, options or random weights.
    """
    from mmcl.models.saving import from_pretrained

    for key in DECIDED_OF_TOWERS:
        default = TowerSection.model_fields[key].get_default(call_default_factory=True)
        if key not in ("name", "pooling", "resize") and getattr(section, key) != default:
            raise ConfigError(
                f"model.{modality}.{key} is {getattr(section, key)!r}, but {section.name} is an mmcl model, whose "
                f"towers come as they were trained; leave the key out"
            )
    encoder = from_pretrained(folder).encoder(modality)
    tower = encoder.tower
    tower.default_pooling = encoder.pooling
    if encoder.learned_pooling is not None and section.pooling in ("auto", encoder.pooling):
        log.info("model.%s.name=%s: its %s pooling starts anew", modality, section.name, encoder.pooling)
    if isinstance(encoder.head, LinearHead) and encoder.head.projection.bias is None:
        tower.projection = encoder.head.projection.weight.detach().clone()
    return tower
