"""The limits of a model as far as they were measured: languages, domains, baselines it does not beat, spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mmcl.hub.card.baselines import PIXELS, Comparison
from mmcl.hub.card.data_cards import DataCard
from mmcl.hub.card.markdown import ask, join, percent
from mmcl.hub.card.public_names import public_text
from mmcl.hub.card.run_data import RunData
from mmcl.hub.card.source import CardSource

_SHOWN_DOMAINS = 8


def limits_section(source: CardSource, data: RunData, comparison: Comparison, card: DataCard | None) -> str:
    """What was measured of the limits, what the data's card says of theirs, and what only a person can say."""
    measured = "\n".join(f"- {sentence}" for sentence in _measured(source, data, comparison))
    quoted = card.section("Limits and biases") if card is not None else ""
    of_data = f"Of the data, as their card says:\n\n> {public_text(' '.join(quoted.split()))}" if quoted else ""
    question = ask("What should this model not be used for, and who could be harmed by its mistakes?")
    return join([measured or "Nothing was measured that tells of limits.", of_data, question])


def _measured(source: CardSource, data: RunData, comparison: Comparison) -> Iterator[str]:
    metrics = next(iter(source.evaluation.values()), {})
    yield from _of_data(source, data, metrics)
    yield from _of_zero_shot(metrics, comparison)
    yield from _of_retrieval(metrics)
    yield from _between_splits(source)


def _of_data(source: CardSource, data: RunData, metrics: Mapping[str, Any]) -> Iterator[str]:
    if data.languages:
        how = "guessed from the captions" if data.guessed else "as the data say"
        yield f"Captions it was judged on are in: {', '.join(data.languages)} ({how}). No other language was judged."
    if data.test is not None and data.test.has("domain"):
        counts = Counter(domain for domain in data.test.column("domain") if domain is not None)
        shown = ", ".join(f"{public_text(str(name))} {n:,}" for name, n in counts.most_common(_SHOWN_DOMAINS))
        more = f" and {len(counts) - _SHOWN_DOMAINS} more" if len(counts) > _SHOWN_DOMAINS else ""
        yield f"Images it was judged on are of these domains: {shown}{more}. No other kind of picture was judged."
    if source.num_skipped:
        yield f"Training left out {source.num_skipped:,} rows that could not be used."
    unreadable = max((int(metrics.get(f"{task}/num_skipped") or 0) for task in ("retrieval", "zeroshot")), default=0)
    if unreadable:
        yield f"{unreadable:,} images of the judged split could not be read, and are in no figure."


def _of_zero_shot(metrics: Mapping[str, Any], comparison: Comparison) -> Iterator[str]:
    top1, interval = metrics.get("zeroshot/top1"), metrics.get("zeroshot/top1_ci95")
    low, high = interval if isinstance(interval, list) and len(interval) == 2 else (top1, top1)
    for words, other in (
        ("what always answering the largest class scores", metrics.get("zeroshot/majority")),
        ("a linear model of raw pixels that saw the classes", comparison.columns.get(PIXELS, {}).get("zeroshot/top1")),
    ):
        if isinstance(top1, (int, float)) and isinstance(other, (int, float)) and other >= low:
            than = "below" if other > high else "no better, within its interval, than"
            yield f"Zero-shot top-1 ({percent(top1)}) is {than} {words} ({percent(other)})."
    worst, best = metrics.get("zeroshot/template_top1_min"), metrics.get("zeroshot/template_top1_max")
    if isinstance(worst, (int, float)) and isinstance(best, (int, float)):
        number = int(metrics.get("zeroshot/num_templates") or 0)
        yield (
            f"Wording matters: of {number} prompt templates the worst alone scores {percent(worst)} top-1, the best "
            f"{percent(best)}."
        )
    error = metrics.get("zeroshot/ece")
    if isinstance(error, (int, float)):
        yield f"Its probabilities are off by {percent(error)} on average (expected calibration error)."
    without = metrics.get("zeroshot/num_classes_without_images")
    if isinstance(without, (int, float)) and without:
        yield f"{without:,.0f} of its classes have no image in the judged split; nothing is known of them."


def _of_retrieval(metrics: Mapping[str, Any]) -> Iterator[str]:
    images, texts = metrics.get("retrieval/num_images"), metrics.get("retrieval/num_texts")
    if isinstance(images, (int, float)) and isinstance(texts, (int, float)):
        yield f"Recall is among {images:,.0f} images and {texts:,.0f} captions; among more of them it is lower."
    for way, words in (("i2t", "image → text"), ("t2i", "text → image")):
        own = metrics.get(f"retrieval/{way}_recall@1")
        reader = metrics.get(f"retrieval/appearance_reader_{way}_recall@1")
        if isinstance(own, (int, float)) and isinstance(reader, (int, float)) and own <= reader:
            yield (
                f"{words} R@1 ({percent(own)}) is not above what one who reads appearances alone, and not where things "
                f"are, is expected to score ({percent(reader)})."
            )
    foils, chance = metrics.get("foils/mean"), metrics.get("foils/chance")
    if isinstance(foils, (int, float)) and isinstance(chance, (int, float)):
        yield (
            f"Against captions that are wrong by a word it picks the right one in {percent(foils)} (chance "
            f"{percent(chance)})."
        )


def _between_splits(source: CardSource) -> Iterator[str]:
    splits = list(source.evaluation.items())
    for other, metrics in splits[1:]:
        name = "retrieval/mean_recall@1"
        first, second = splits[0][1].get(name), metrics.get(name)
        if isinstance(first, (int, float)) and isinstance(second, (int, float)):
            yield f"R@1, the mean of both ways, is {percent(first)} on {splits[0][0]} and {percent(second)} on {other}."
