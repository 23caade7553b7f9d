"""Augmentation and caption sampling: drawn from (seed, epoch, row), whoever reads the row."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from mmcl.config import AugmentSection, CaptionsSection, NegativesSection
from mmcl.data.augment.captions import possible_captions, sample_captions
from mmcl.data.augment.images import ImageAugmentation
from mmcl.data.augment.seeds import row_seed, row_seeds
from mmcl.data.augment.tokens import TokenDropout
from mmcl.data.batches.collate import BatchReader, ImagePixels
from mmcl.data.batches.reader_processes import ReaderProcesses
from mmcl.data.mining.hard_negatives import HardNegativeChoice
from mmcl.data.shapes import load_shapes
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.models.towers.text_preprocessing import TextPreprocessing
from mmcl.models.towers.tiny_tower import word_tokenizer
from mmcl.training.loading import number_of_workers

PREPROCESSING = ImagePreprocessing((24, 24))
EVERYTHING = AugmentSection(
    crop_scale=(0.5, 1.0), flip=0.5, color_jitter=0.5, grayscale=0.3, blur=0.5, erase=0.5, randaugment={"num_ops": 1}
)
VARIED = CaptionsSection(
    tags_probability=0.5, tags_shuffle=True, tags_drop=0.2, word_dropout=0.1, word_swap=0.1, token_dropout=0.1
)


def picture() -> torch.Tensor:
    return torch.randint(0, 256, (3, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "section",
    [
        AugmentSection(crop_scale=(0.3, 0.6)),
        AugmentSection(color_jitter=1.0, color_jitter_probability=1.0),
        AugmentSection(erase=1.0),
        EVERYTHING,
    ],
    ids=["crop", "jitter", "erase", "everything"],
)
def test_the_same_seed_gives_the_same_view(section: AugmentSection) -> None:
    augment = ImageAugmentation(section, PREPROCESSING)
    image = picture()
    kept = image.clone()
    state = torch.get_rng_state()
    view = augment(image, seed=7)
    assert view.shape == (3, 24, 24)
    assert view.dtype == torch.uint8
    assert torch.equal(augment(image, seed=7), view)
    assert not torch.equal(augment(image, seed=8), view)
    assert torch.equal(image, kept)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_the_towers_own_resize() -> None:
    image = picture()
    plain = PREPROCESSING.resize_pixels(image)
    assert torch.equal(ImageAugmentation(AugmentSection(), PREPROCESSING)(image, seed=0), plain)
    flipped = ImageAugmentation(AugmentSection(flip=1.0), PREPROCESSING)(image, seed=0)
    assert torch.equal(flipped, plain.flip(-1))


def test_row_seeds_are_apart() -> None:
    many = [row_seeds(seed, epoch, range(200)).tolist() for seed in range(4) for epoch in range(20)]
    seeds = {value for part in many for value in part}
    assert len(seeds) == 4 * 20 * 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert many[21][7] == row_seed(1, 1, 7)
    bits = row_seeds(0, 0, range(2000)) & 1
    assert bits.mean() == pytest.approx(0.5, abs=0.05)


def naive_seed(seed: int, epoch: int, row: int) -> int:
    """The same in Python's unbounded integers."""
    value = (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + row * 0x94D049BB133111EB + 1) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return (value ^ (value >> 31)) >> 1


@pytest.mark.parametrize("arguments", [(0, 0, 0), (1, 2, 3), (2**40, 1000, 2**33), (7, 0, 2**62)])
def test_row_seeds_are_splitmix64(arguments: tuple[int, int, int]) -> None:
    assert row_seed(*arguments) == naive_seed(*arguments)


def test_captions_are_drawn_evenly_and_by_seed() -> None:
    texts, tags = ["a", "b", "c"], ["x", "y"]
    section = CaptionsSection(tags_probability=0.25)
    seeds = row_seeds(0, 1, range(4000))
    drawn = sample_captions([texts] * 4000, [tags] * 4000, section, seeds=seeds)
    assert drawn == [sample_captions([texts], [tags], section, seeds=[seed])[0] for seed in seeds]
    counts = Counter(drawn)
    assert (
        counts.keys()
        == set(possible_captions(texts, tags, section))
        == {"a", "b", "c", "a, x, y", "b, x, y", "c, x, y"}
    )
    assert sum(caption in texts for caption in drawn) / 4000 == pytest.approx(0.75, abs=0.03)
    for letter in texts:
        assert sum(caption.startswith(letter) for caption in drawn) / 4000 == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize(
    ("section", "tags", "expected"),
    [
        (CaptionsSection(), ["x"], {"a", "b"}),
        (CaptionsSection(sample="first"), ["x"], {"a"}),
        (CaptionsSection(tags_probability=1.0), ["x"], {"a, x", "b, x"}),
        (CaptionsSection(tags_probability=1.0), None, {"a", "b"}),
        (CaptionsSection(tags_probability=0.5, sample="first"), ["x"], {"a", "a, x"}),
    ],
)
def test_possible_captions_are_those_that_come(section: CaptionsSection, tags: list[str] | None, expected: set) -> None:
    assert set(possible_captions(["a", "b"], tags, section)) == expected
    drawn = sample_captions([["a", "b"]] * 100, [tags] * 100, section, seeds=row_seeds(0, 0, range(100)))
    assert set(drawn) == expected


# -- whole batches -------------------------------------------------------------------------------------------------


def reader(*, augment: bool = True, seed: int = 0) -> BatchReader:
    data = load_shapes("train", size=20, image_size=32)
    pixels = ImagePixels(data, PREPROCESSING, ImageAugmentation(EVERYTHING, PREPROCESSING) if augment else None)
    text = TokenDropout(TextPreprocessing(word_tokenizer(["a red circle"]), max_length=40), VARIED.token_dropout)
    return BatchReader(data, pixels, text, captions=VARIED, seed=seed)


ROWS = [[3, 1, 4], [15, 9], [2, 6, 5]]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_the_same_whoever_reads_them(workers: int) -> None:
    own = reader()
    own.epoch = 2
    state = torch.get_rng_state()
    loader = ReaderProcesses(own, workers=workers, device=torch.device("cpu")).read(own.epoch, ROWS)
    batches = list(loader)
    assert torch.equal(torch.get_rng_state(), state)
    for rows, batch in zip(ROWS, batches):
        expected = own.__getitems__(rows)
        assert batch.rows.tolist() == rows
        assert torch.equal(batch.image["pixel_values"], expected.image["pixel_values"])
        assert torch.equal(batch.text["input_ids"], expected.text["input_ids"])
    # A row is read alike beside any other rows.
    alone = own.__getitems__([4])
    assert torch.equal(alone.image["pixel_values"][0], batches[0].image["pixel_values"][2])


def test_hard_captions_lose_tokens_too() -> None:
    data = load_shapes("train", size=20, image_size=32)
    whole = TextPreprocessing(word_tokenizer(["a red circle"]), max_length=40)
    pixels = ImagePixels(data, PREPROCESSING)
    negatives = HardNegativeChoice(data, NegativesSection(captions_per_row=3))
    options = {"captions": CaptionsSection(), "seed": 0, "negatives": negatives}
    plain = BatchReader(data, pixels, whole, **options).__getitems__([3, 8, 5])
    own = BatchReader(data, pixels, TokenDropout(whole, 0.5), **options)
    batch, alone = own.__getitems__([3, 8, 5]).negative_text, own.__getitems__([8]).negative_text
    assert torch.equal(batch.owners, plain.negative_text.owners)
    lengths, all_lengths = (b.inputs["attention_mask"].sum(1) for b in (batch, plain.negative_text))
    assert (lengths < all_lengths).any()
    assert (lengths <= all_lengths).all()
    mine = batch.inputs["input_ids"][batch.owners == 1][:, : alone.inputs["input_ids"].shape[1]]
    assert torch.equal(mine, alone.inputs["input_ids"])


def test_epochs_and_seeds_bring_other_views_and_captions() -> None:
    one, other_epoch, other_seed = reader(), reader(), reader(seed=1)
    other_epoch.epoch = 1
    rows = list(range(20))
    first = one.__getitems__(rows)
    for changed in (other_epoch, other_seed):
        batch = changed.__getitems__(rows)
        assert not torch.equal(batch.image["pixel_values"], first.image["pixel_values"])
        assert batch.text["input_ids"].tolist() != first.text["input_ids"].tolist()
        assert torch.equal(batch.group_ids, first.group_ids)


def test_images_read_together_equal_images_read_one_by_one() -> None:
    together = reader(augment=False)
    batch = together.__getitems__([7, 2])
    for place, row in enumerate((7, 2)):
        image = PREPROCESSING([together.dataset.images.read(row)])["pixel_values"][0]
        assert torch.equal(batch.image["pixel_values"][place], image)


def test_nothing_readable_is_an_empty_batch() -> None:
    from mmcl.errors import DataError

    broken = reader()

    class Broken:
        def read(self, row: int) -> torch.Tensor:
            raise DataError(f"file {row}: cut short")

        def describe(self, row: int) -> str:
            return f"file {row}"

    broken.image.images = Broken()
    batch = broken.__getitems__([3, 1])
    assert len(batch) == 0
    assert [(row.row, row.source, row.reason) for row in batch.skipped] == [
        (3, "file 3", "cut short"),
        (1, "file 1", "cut short"),
    ]
    assert len(broken.__getitems__([])) == 0


def test_workers_where_they_help() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert number_of_workers(3, device=cpu, is_cheap=True) == 3
    assert number_of_workers("auto", device=cpu, is_cheap=False) == 0
    assert number_of_workers("auto", device=gpu, is_cheap=True) == 0
    assert 1 <= number_of_workers("auto", device=gpu, is_cheap=False) <= 8
