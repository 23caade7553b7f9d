"""Real images and captions that an exported model is checked on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mmcl.config import parse_yaml
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.sources.loading import load
from mmcl.errors import DataError, MmclError
from mmcl.logs import get_logger

log = get_logger(__name__)

DRAWN = "shapes?train=0&test={count}:test"
RECALL_ROWS = 1_000


@dataclass(frozen=True)
class Samples:
    """What an exported model is checked on.

    Attributes:
        name: of the data they are from.
        images: n, uint8 (3, h, w) each, of any size.
        texts: m captions, the longest among them.
        dataset: the rows that retrieval is judged on, where a format is judged by it.
    """

    name: str
    images: list[Tensor]
    texts: list[str]
    dataset: ImageTextDataset


def find_samples(source: str | Path | None, data: ImageTextDataset | None, *, count: int) -> Samples:
    """Samples of the data given, else of those a run was judged on, else of drawn scenes.

    Args:
        source: the run or model that is exported; None where it has no folder.
        data: rows to take; None: find some.
        count: images, at least 1; of fewer rows all are taken.

    Raises:
        DataError: the data given hold no readable image.
    """
    if data is not None:
        return draw_samples(data, count=count)
    named = _data_of_run(source)
    if named is not None:
        try:
            return draw_samples(load(named), count=count)
        except MmclError as error:
            log.warning("checked on drawn scenes: the data of the run cannot be read (%s)", error)
    return draw_samples(load(DRAWN.format(count=max(count, 128))), count=count)


def draw_samples(data: ImageTextDataset, *, count: int) -> Samples:
    """Rows spread evenly over the data, with their first captions and the longest caption of all.

    Raises:
        DataError: none of ``count`` images could be read.
    """
    step = max(1, len(data) // count)
    rows = range(0, len(data), step)[:count]
    images, texts = [], []
    for row in rows:
        texts.append(data.texts(row)[0])
        try:
            images.append(data.images.read(row))
        except DataError as error:
            log.warning("left out of the check: %s", error)
    if not images:
        raise DataError(f"{data.name}: none of {len(rows)} images could be read; name other data with --data")
    longest = max((text for row in range(min(len(data), RECALL_ROWS)) for text in data.texts(row)), key=len)
    return Samples(data.name, images, [*texts, longest], data.select(range(min(len(data), RECALL_ROWS))))


def _data_of_run(source: str | Path | None) -> str | None:
    """DATA:SPLIT that a run was judged on; None where the source is no run."""
    config = Path(source) / "config.yaml" if source is not None else None
    if config is None or not config.is_file():
        return None
    section = parse_yaml(config.read_text(encoding="utf-8"), source=str(config)).get("data") or {}
    splits = section.get("split") or {}
    path = section.get("path")
    if not path or section.get("columns") or section.get("images"):
        return None  # its columns are called otherwise: better said by --data than guessed
    return f"{path}:{splits.get('test') or splits.get('validation') or 'test'}"
