"""The gallery of a card: captions with the images they find and images with the captions they find, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmcl.evaluation.retrieval.galleries import Galleries, embed_galleries
from mmcl.evaluation.retrieval.ranking import score_all
from mmcl.evaluation.zero_shot.raw_pixels import sample_rows
from mmcl.hub.card.drawing import Answer, draw_gallery, write_webp
from mmcl.hub.card.markdown import join
from mmcl.hub.card.public_names import public_text
from mmcl.hub.card.snippets import Example

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

GALLERY, EXAMPLE = "gallery.webp", "example.webp"
MAX_ROWS = 1_000  # that are ranked; more are drawn by lot
CAPTION_QUERIES, IMAGE_QUERIES = 4, 6
FOUND_IMAGES, FOUND_CAPTIONS = 5, 3


@dataclass(frozen=True)
class Shown:
    """A gallery that was drawn.

    Attributes:
        markdown: shows it.
        example: a picture and captions that the snippets are shown on.
    """

    markdown: str
    example: Example


def make_gallery(
    embedder: Embedder, dataset: ImageTextDataset, assets: Path, *, where: str, data_name: str, split: str
) -> Shown:
    """Rank, draw, and write ``gallery.webp`` and ``example.webp``; queries are drawn by lot, not picked.

    Args:
        embedder: the model.
        dataset: that it was judged on; at most ``MAX_ROWS`` of its rows are ranked.
        assets: folder for the pictures.
        where: how the card calls that folder.
        data_name, split: for the words under the picture.

    Raises:
        DataError: no image can be read, or the rows have no pixels (vectors).
    """

    part = dataset.select(sample_rows(len(dataset), MAX_ROWS))
    galleries = embed_galleries(embedder, part, batch_size=64)
    by_caption, by_image = caption_answers(galleries), image_answers(galleries)
    pictures = {row: _picture(part, row) for row in _rows_shown(by_caption, by_image)}
    picture, undrawn = draw_gallery(by_caption, by_image, pictures)
    write_webp(picture, assets / GALLERY)
    among = f"{len(galleries.images):,} images and {len(galleries.captions):,} captions of {data_name}, split {split}"
    if len(part) < len(dataset):
        among += f" ({len(part):,} of {len(dataset):,} rows, drawn by lot)"
    hits = [sum(answer.right[0] for answer in answers) for answers in (by_caption, by_image)]
    alt = (
        f"{len(by_caption)} captions with the images nearest to them (the first is right for {hits[0]}), and "
        f"{len(by_image)} images with the captions nearest to them (the first is right for {hits[1]})"
    )
    words = (
        f"Among {among}. Queries were drawn by lot; green with a tick belongs to the query, red with a cross does not."
    )
    markdown = join([f"![{alt}]({where}/{GALLERY})", words, _undrawn(undrawn)])
    return Shown(markdown, _example(galleries, part, by_image, assets, where))


def caption_answers(galleries: Galleries, *, queries: int = CAPTION_QUERIES, found: int = FOUND_IMAGES) -> list[Answer]:
    """Captions of different groups, drawn by lot, and the images nearest to them; ties count against the model."""
    answers = []
    for index in _drawn(galleries.text_groups, queries, seed=1):
        right = galleries.image_groups == galleries.text_groups[index]
        places, scores = _nearest(galleries.texts[index], galleries.images, right, found)
        rows = [int(galleries.rows[place]) for place in places]
        answers.append(Answer(galleries.captions[index], None, rows, scores, right[places].tolist()))
    return answers


def image_answers(galleries: Galleries, *, queries: int = IMAGE_QUERIES, found: int = FOUND_CAPTIONS) -> list[Answer]:
    """Images of different groups, drawn by lot, and the captions nearest to them; ties count against the model."""
    answers = []
    for index in _drawn(galleries.image_groups, queries, seed=2):
        right = galleries.text_groups == galleries.image_groups[index]
        places, scores = _nearest(galleries.images[index], galleries.texts, right, found)
        captions = [galleries.captions[place] for place in places]
        own = galleries.captions[int(right.nonzero()[0, 0])]
        answers.append(Answer(own, int(galleries.rows[index]), captions, scores, right[places].tolist()))
    return answers


def _drawn(groups: Tensor, number: int, *, seed: int) -> list[int]:
    """Positions of different groups by lot."""
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    first: dict[int, int] = {}
    for position in order:
        first.setdefault(int(groups[position]), position)
    return list(first.values())[:number]


def _nearest(query: Tensor, gallery: Tensor, right: Tensor, number: int) -> tuple[list[int], list[float]]:
    scores = score_all(query[None], gallery)[0]
    order = sorted(range(len(scores)), key=lambda place: (-float(scores[place]), bool(right[place])))[:number]
    return order, scores[order].tolist()


def _rows_shown(by_caption: Sequence[Answer], by_image: Sequence[Answer]) -> set[int]:
    return {row for answer in by_caption for row in answer.found} | {answer.image for answer in by_image}


def _picture(dataset: ImageTextDataset, row: int) -> Image:
    from torchvision.transforms.v2.functional import to_pil_image

    return to_pil_image(dataset.images.read(row))


def _undrawn(captions: Sequence[str]) -> str:
    """Captions in letters that the picture's font lacks, by the number that stands in their place."""
    return "\n".join(f"- ({number}) {public_text(caption)}" for number, caption in enumerate(captions, start=1))


def _example(
    galleries: Galleries, dataset: ImageTextDataset, by_image: Sequence[Answer], assets: Path, where: str
) -> Example:
    """A picture of the split with its own caption and two others, none of them picked by how well the model does."""

    if not by_image:
        return Example()
    row = by_image[0].image
    own = int(galleries.image_groups[galleries.rows.tolist().index(row)])
    drawn = _drawn(galleries.text_groups, 3, seed=3)
    others = [position for position in drawn if int(galleries.text_groups[position]) != own]
    captions = [dataset.texts(row)[0], *(galleries.captions[position] for position in others[:2])]
    write_webp(_picture(dataset, row), assets / EXAMPLE, most_bytes=60_000)
    return Example(f"{where}/{EXAMPLE}", tuple(public_text(caption) for caption in captions))
