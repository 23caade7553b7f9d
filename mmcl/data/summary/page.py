"""The page of `mmcl data inspect`: hints, figures of all splits side by side, histograms, and rows drawn by lot."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.summary.figures import column_rows, reason_rows, sections, value_rows
from mmcl.data.summary.hints import Hint
from mmcl.data.summary.overlap import SplitOverlap
from mmcl.data.summary.summarising import Summary, sample_rows
from mmcl.errors import DataError, MissingDependencyError
from mmcl.pages.figures import draw_bars
from mmcl.pages.page import Item, Page

SHOWN_VALUES = 30
_SHOWN_CHARACTERS = 200
_DRAWN_LABELS = 15
_WORD_BINS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)  # each up to the next; captions are many short and few long
_PIXEL_BINS = (1, 32, 64, 128, 256, 512, 1024, 2048, 4096)


def summary_page(
    summaries: Mapping[str, Summary],
    datasets: Mapping[str, ImageTextDataset],
    *,
    title: str,
    hints: Sequence[Hint] = (),
    overlaps: Sequence[SplitOverlap] = (),
    scans: Mapping[str, pa.Table] | None = None,
    samples: int = 24,
) -> Page:
    """All figures on one page.

    Args:
        summaries: split -> its summary.
        datasets: the same splits' rows: samples are read from them.
        title: of the page.
        hints: stand first.
        overlaps: what splits share.
        scans: the tables of ``scan_images`` that image sizes are drawn from.
        samples: rows of each split shown with their picture, drawn by lot (seed 0); 0: none.
    """
    page = Page(title)
    page.heading("What to know before training")
    if hints:
        page.table(["split", "found", "what to do"], [[hint.split, hint.found, hint.advice] for hint in hints])
    else:
        page.paragraph("Nothing that would hurt training was found in these figures. The audit looks deeper.")
    header = ["", *summaries]
    for section in sections(summaries):
        page.heading(section.title)
        page.table(header, section.rows)
    _left_out(page, summaries)
    _histograms(page, summaries, datasets, scans or {})
    _values(page, summaries)
    page.heading("Columns")
    page.table(["column", "type", *summaries], column_rows(summaries), caption="Share of rows with a value.")
    if overlaps:
        page.heading("What splits share")
        page.table(
            ["splits", "captions of both", "rows of the second", "groups of both"],
            [[f"{o.first}, {o.second}", o.captions, o.rows, "–" if o.groups is None else o.groups] for o in overlaps],
        )
    for split, dataset in datasets.items():
        if samples and len(dataset):
            page.heading(f"{split}: rows drawn by lot")
            page.grid(sample_items(dataset, samples))
    return page


def sample_items(dataset: ImageTextDataset, size: int, *, seed: int = 0) -> list[Item]:
    """Rows drawn by lot, with their pictures; where one cannot be read, its text says why."""
    items = []
    for row in sample_rows(len(dataset), size, seed=seed).tolist():
        text = " · ".join(dataset.texts(row)[:3])[:_SHOWN_CHARACTERS]
        label = dataset.value("label", row)
        text = f"{text} [{label}]" if label else text
        try:
            items.append(Item(text, dataset.images.read(row)))
        except DataError as error:
            items.append(Item(f"{text} ({error})"))
    return items


def _left_out(page: Page, summaries: Mapping[str, Summary]) -> None:
    rows = reason_rows(summaries)
    if rows:
        page.heading("Rows left out")
        page.table(["split", "reason", "rows", "first place"], rows)


def _values(page: Page, summaries: Mapping[str, Summary]) -> None:
    columns = {"label": {split: summary.labels for split, summary in summaries.items()}}
    columns["domain"] = {split: summary.domains for split, summary in summaries.items()}
    columns["tags"] = {split: summary.tags and summary.tags.tags for split, summary in summaries.items()}
    for name in dict.fromkeys(name for summary in summaries.values() for name in summary.counted):
        columns[name] = {split: summary.counted.get(name) for split, summary in summaries.items()}
    for name, counts in columns.items():
        rows = value_rows(counts, shown=SHOWN_VALUES)
        if rows:
            distinct = max(values.distinct for values in counts.values() if values)
            more = f"The {len(rows)} most frequent of {distinct:,}." if distinct > len(rows) else ""
            page.heading(f"Values of {name}")
            page.table([name, *summaries], rows, caption=more)


def _histograms(
    page: Page,
    summaries: Mapping[str, Summary],
    datasets: Mapping[str, ImageTextDataset],
    scans: Mapping[str, pa.Table],
) -> None:
    """Drawings, where matplotlib is there; the tables say the same without."""
    words = {split: _shares(_words(dataset), _WORD_BINS) for split, dataset in datasets.items()}
    sides = {split: _shares(_shorter_sides(scan), _PIXEL_BINS) for split, scan in scans.items()}
    labels = value_rows({split: summary.labels for split, summary in summaries.items()}, shown=_DRAWN_LABELS)
    try:
        page.heading("Histograms")
        page.figure(
            draw_bars(_bin_names(_WORD_BINS), words, x_label="words", y_label="share of captions"),
            caption="Words of a caption.",
        )
        if any(sum(shares) for shares in sides.values()):
            drawn = draw_bars(_bin_names(_PIXEL_BINS), sides, x_label="pixels", y_label="share of images")
            page.figure(drawn, caption="Shorter side of the images looked at.")
        if labels:
            heights = {split: [_share(summary, row[0]) for row in labels] for split, summary in summaries.items()}
            drawn = draw_bars([row[0] for row in labels], heights, x_label="label", y_label="share of labelled rows")
            page.figure(drawn, caption=f"The most frequent labels, {len(labels)} at most.")
    except MissingDependencyError as error:
        page.paragraph(f"No histograms: {error}")


def _share(summary: Summary, label: str) -> float:
    return summary.labels.top.get(label, 0) / max(1, summary.labels.filled) if summary.labels else 0.0


def _words(dataset: ImageTextDataset) -> np.ndarray:
    texts = dataset.table["texts"].combine_chunks().flatten()
    pieces = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts))
    return pc.list_value_length(pieces).to_numpy(zero_copy_only=False)


def _shorter_sides(scan: pa.Table) -> np.ndarray:
    return pc.min_element_wise(scan["width"], scan["height"]).drop_null().to_numpy()


def _shares(values: np.ndarray, bins: Sequence[int]) -> list[float]:
    counts = np.histogram(values, [*bins, np.inf])[0]
    return (counts / max(1, counts.sum())).tolist()


def _bin_names(bins: Sequence[int]) -> list[str]:
    ends = [f"{first}" if first + 1 == after else f"{first}-{after - 1}" for first, after in itertools.pairwise(bins)]
    return [*ends, f"{bins[-1]}+"]
