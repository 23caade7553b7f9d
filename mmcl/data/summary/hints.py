"""What in a data set will hurt training, in plain words, with the number that says so and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmcl.data.summary.figures import percent
from mmcl.data.summary.images import TINY_PIXELS
from mmcl.data.summary.overlap import SplitOverlap
from mmcl.data.summary.summarising import Summary

FALSE_NEGATIVES = 0.5  # expected pairs in a batch
CUT_CAPTIONS = 0.01
LARGE_CLASS = 0.5
BAD_IMAGES = 0.001
TINY_IMAGES = 0.01
SHORT_WORDS = 2
BOILERPLATE = 0.01  # of the rows
FEW_ROWS = 1_000
LARGE_PIXELS = 800


@dataclass(frozen=True)
class Hint:
    """One thing to know before training.

    Attributes:
        name: what it is about, for scripts.
        split: which split; empty for the data set as a whole.
        found: what was found, with its number.
        advice: what to do next.
    """

    name: str
    split: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.split}: {self.found}. {self.advice}." if self.split else f"{self.found}. {self.advice}."


def hints(
    summaries: Mapping[str, Summary], overlaps: Sequence[SplitOverlap] = (), *, data: str, whole: bool = True
) -> list[Hint]:
    """What will hurt training or mislead its figures.

    Args:
        summaries: split -> its summary.
        overlaps: what the splits share.
        data: the data set as a person names it, for commands.
        whole: whether these are all splits of the data; one split alone cannot miss another.
    """
    found = list(_of_splits(summaries, overlaps, data, whole=whole))
    judged = [split for split in summaries if split == "validation" or split.startswith("test")]
    for split, summary in summaries.items():
        found += _of_rows(split, summary, data)
        # What hurts batches is said of splits that are trained on, or of the only one that is shown.
        if split not in judged or len(judged) == len(summaries):
            found += _of_batches(split, summary)
        found += _of_captions(split, summary)
        found += _of_images(split, summary, data)
    return found


def _of_splits(
    summaries: Mapping[str, Summary], overlaps: Sequence[SplitOverlap], data: str, *, whole: bool
) -> Iterator[Hint]:
    if whole and "validation" not in summaries:
        yield Hint(
            "no_validation",
            "",
            "There is no validation split",
            "Training holds out data.holdout_share of the training groups (0.05 by default)",
        )
    if whole and "test" not in summaries:
        yield Hint(
            "no_test",
            "",
            "There is no test split",
            "Keep some groups apart before training: figures on data that were trained on say nothing",
        )
    for overlap in overlaps:
        if overlap.captions or overlap.groups:
            groups = f", groups: {overlap.groups:,}" if overlap.groups else ""
            yield Hint(
                "overlap",
                "",
                f"Captions that stand in {overlap.first} and in {overlap.second}: {overlap.captions:,}, on "
                f"{overlap.rows:,} of the {summaries[overlap.second].rows:,} rows of {overlap.second}{groups}",
                f"Figures on {overlap.second} may flatter the model; mmcl data audit {data} lists them",
            )
    languages = {code for summary in summaries.values() for code in summary.languages.likely()}
    if len(languages) == 1:
        code = next(iter(languages))
        yield Hint(
            "one_language",
            "",
            f"The captions seem to be in one language alone ({code}, a guess)",
            "A model trained on them will not understand others; the recipe multilingual shows a way",
        )


def _of_rows(split: str, summary: Summary, data: str) -> Iterator[Hint]:
    if summary.skipped:
        total = summary.rows + summary.skipped
        yield Hint(
            "skipped_rows",
            split,
            f"{summary.skipped:,} of {total:,} rows cannot be used and were left out",
            f"The reasons are above; mmcl data audit {data} lists every row",
        )
    if split in ("train", "all") and 0 < summary.rows < FEW_ROWS:
        yield Hint(
            "few_rows",
            split,
            f"There are {summary.rows:,} rows",
            "Too few to train from scratch: start from a pretrained model (recipe finetune_clip)",
        )
    labels = summary.labels
    if labels is not None and labels.distinct > 1 and labels.largest_share >= LARGE_CLASS:
        name = next(iter(labels.top))
        yield Hint(
            "large_class",
            split,
            f"The class {name!r} holds {percent(labels.largest_share)} of the labelled rows",
            "Always answering it scores as much: read the mean per class, and train with batches.name=balanced",
        )


def _of_batches(split: str, summary: Summary) -> Iterator[Hint]:
    repeats, words = summary.repeats, summary.captions.words
    batch = f"a random batch of {repeats.batch_size}"
    if repeats.negative_pairs >= FALSE_NEGATIVES:
        yield Hint(
            "false_negatives",
            split,
            f"In {batch}, {repeats.negative_pairs:,.1f} pairs of different groups show "
            "the same caption, and the loss takes them for negatives",
            "batches.name=unique_groups keeps them apart; or give those rows one group",
        )
    elif repeats.equal_pairs >= FALSE_NEGATIVES:
        yield Hint(
            "equal_captions",
            split,
            f"In {batch}, {repeats.equal_pairs:,.1f} pairs of rows show the same caption",
            "They are of one group: keep loss.positives=group, or use batches.name=unique_groups",
        )
    if words.count and words.median <= SHORT_WORDS and "Latin" in summary.languages.scripts:
        advice = "data.captions.tags_probability=0.5 appends the tags" if summary.tags else "Add what else is known"
        yield Hint(
            "short_captions",
            split,
            f"Half of the captions have at most {words.median:,.0f} words",
            f"They tell images apart poorly. {advice}",
        )


def _of_captions(split: str, summary: Summary) -> Iterator[Hint]:
    captions = summary.captions
    text, rows = next(iter(summary.repeats.most_repeated.items()), ("", 0))
    if rows >= 10 and rows >= BOILERPLATE * summary.rows:
        yield Hint(
            "boilerplate",
            split,
            f"The caption {text[:60]!r} stands on {rows:,} rows ({percent(rows / summary.rows)})",
            "If it says nothing about its images, leave those rows out",
        )
    if captions.over_context >= CUT_CAPTIONS:
        yield Hint(
            "long_captions",
            split,
            f"About {percent(captions.over_context)} of the captions pass 77 tokens "
            f"(the longest has {captions.words.max:,.0f} words)",
            "CLIP's text encoders cut what is behind: put "
            "what matters first, or use a text encoder with a larger model.text.max_length",
        )


def _of_images(split: str, summary: Summary, data: str) -> Iterator[Hint]:
    images = summary.images
    if images is None or not images.looked_at:
        return
    looked = f"of the {images.looked_at:,} looked at"
    if images.unreadable:
        why = next(iter(images.problems))
        yield Hint(
            "unreadable_images",
            split,
            f"Images that cannot be read: {images.unreadable:,} {looked} ({why[:80]})",
            f"mmcl data audit {data} --fix OUT writes a copy without them",
        )
    for name, number, what, least in (
        ("tiny_images", images.tiny, f"Images with a shorter side under {TINY_PIXELS} pixels", TINY_IMAGES),
        ("blank_images", images.blank, "Images of one grey, or almost", BAD_IMAGES),
        ("repeated_images", images.repeated, "Images that are copies of another, to the byte", TINY_IMAGES),
    ):
        if number and number >= least * images.looked_at:
            yield Hint(name, split, f"{what}: {number:,} {looked}", f"mmcl data audit {data} lists them")
    if images.shorter_side.median >= LARGE_PIXELS:
        yield Hint(
            "large_images",
            split,
            f"Half of the images have a shorter side of {images.shorter_side.median:,.0f} pixels or more",
            "Decoding that much at every epoch gains a model of 224 pixels nothing: mmcl data convert "
            f"{data} -o OUT --format webdataset --resize 256 does it once",
        )
