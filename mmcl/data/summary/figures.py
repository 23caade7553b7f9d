"""Summaries as rows of text, one column a split: what the terminal, the page and the card show alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mmcl.data.summary.distributions import Spread, ValueCounts
from mmcl.data.summary.images import TINY_PIXELS
from mmcl.data.summary.languages import UNDETERMINED
from mmcl.data.summary.summarising import Summary

NONE = "–"
_SHOWN = 4  # names in one cell


@dataclass(frozen=True)
class Section:
    """Rows under one heading.

    Attributes:
        title: the heading.
        rows: [what, a cell for each split ...].
    """

    title: str
    rows: list[list[str]]


_Cell = Callable[[Summary], str | None]


def sections(summaries: Mapping[str, Summary], *, images: bool = True) -> list[Section]:
    """All figures of some splits side by side; rows and sections that no split has anything for are left out.

    Args:
        summaries: split -> its summary.
        images: whether image figures are wanted.
    """
    wanted = {**_TEXT_ROWS, **(IMAGE_ROWS if images else {})}
    made = []
    for title, cells in wanted.items():
        rows = _rows(summaries, cells)
        if rows:
            made.append(Section(title, rows))
    return made


def image_section(summaries: Mapping[str, Summary]) -> Section:
    """The image figures alone; of no rows where no images were scanned."""
    return Section("Images", _rows(summaries, IMAGE_ROWS["Images"]))


def _rows(summaries: Mapping[str, Summary], cells: Mapping[str, _Cell]) -> list[list[str]]:
    rows = []
    for what, cell in cells.items():
        values = [cell(summary) for summary in summaries.values()]
        if any(value is not None for value in values):
            rows.append([what, *(NONE if value is None else value for value in values)])
    return rows


def percent(share: float) -> str:
    """A share in percent: ``12.3 %``; what would round to 0 or 100 and is not says so."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def _names(counts: Mapping[str, float], write: Callable[[float], str]) -> str:
    shown = [f"{name} {write(value)}" for name, value in list(counts.items())[:_SHOWN]]
    return ", ".join(shown) + (f", {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else "") or NONE


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _lengths(spread: Spread) -> str:
    return f"{spread.min:,.0f} / {spread.median:,.0f} / {spread.p95:,.0f} / {spread.max:,.0f}"


def _optional(value: int) -> str | None:
    return _count(value) if value else None


def _largest(values: ValueCounts) -> str:
    name, _ = next(iter(values.top.items()), (NONE, 0))
    return f"{name} {percent(values.largest_share)}"


def _sizes(summary: Summary) -> str:
    sizes = summary.groups.sizes
    shown = [f"{number:,} of {size}" for size, number in list(sizes.items())[:_SHOWN]]
    more = f", {len(sizes) - _SHOWN} larger sizes up to {max(sizes):,}" if len(sizes) > _SHOWN else ""
    return ", ".join(shown) + more or NONE


def _together(summary: Summary) -> str | None:
    if not summary.languages.languages.get(UNDETERMINED) or not summary.languages.together:
        return None
    return ", ".join(f"{script}: {code}" for script, (code, _) in summary.languages.together.items())


def _counted(summary: Summary, column: str) -> str | None:
    return _names(summary.counted[column].top, _count) if column in summary.counted else None


def _of_labels(write: Callable[[ValueCounts], str]) -> _Cell:
    return lambda s: None if s.labels is None else write(s.labels)


_TEXT_ROWS: dict[str, dict[str, _Cell]] = {
    "Rows": {
        "rows": lambda s: _count(s.rows),
        "left out by the reader": lambda s: _optional(s.skipped),
    },
    "Captions": {
        "captions": lambda s: _count(s.captions.total),
        "distinct": lambda s: _count(s.captions.distinct),
        "a row: min / median / 95 % / max": lambda s: _lengths(s.captions.per_row),
        "characters": lambda s: _lengths(s.captions.characters),
        "words": lambda s: _lengths(s.captions.words),
        "over 77 CLIP tokens (estimate)": lambda s: percent(s.captions.over_context),
        "rows with a caption of other groups": lambda s: f"{_count(s.repeats.rows)} ({percent(s.repeats.share)})",
        "equal captions in a random batch": lambda s: f"{s.repeats.equal_pairs:,.2f} pairs of {s.repeats.batch_size}",
        "of them in different groups": lambda s: f"{s.repeats.negative_pairs:,.2f} pairs of {s.repeats.batch_size}",
    },
    "Languages (a guess)": {
        "captions looked at": lambda s: _count(s.languages.looked_at),
        "script": lambda s: _names(s.languages.scripts, percent),
        "language": lambda s: _names(s.languages.languages, percent),
        "undetermined ones together": _together,
    },
    "Groups": {
        "groups": lambda s: _count(s.groups.count),
        "rows of one": _sizes,
        "from": lambda s: "column group" if s.groups.from_column else "equal captions",
    },
    "Labels": {
        "classes": _of_labels(lambda labels: _count(labels.distinct)),
        "rows with one": _of_labels(lambda labels: _count(labels.filled)),
        "largest: always answering it scores": _of_labels(_largest),
        "rows of the smallest": _of_labels(lambda labels: _count(labels.smallest)),
    },
    "Domains, tags, sources": {
        "domains": lambda s: None if s.domains is None else _names(s.domains.top, _count),
        "tags": lambda s: None if s.tags is None else f"{_count(s.tags.tags.distinct)} different",
        "tags a row": lambda s: None if s.tags is None else _lengths(s.tags.per_row),
        "sources": lambda s: _counted(s, "source"),
        "licences": lambda s: _counted(s, "licence") or _counted(s, "license"),
    },
}


def _image(write: Callable[..., str | None]) -> _Cell:
    return lambda s: None if s.images is None else write(s.images)


IMAGE_ROWS: dict[str, dict[str, _Cell]] = {
    "Images": {
        "looked at": _image(lambda i: _count(i.looked_at)),
        "unreadable": _image(lambda i: _count(i.unreadable)),
        "format": _image(lambda i: _names(i.formats, _count)),
        "mode": _image(lambda i: _names(i.modes, _count)),
        "width: min / median / 95 % / max": _image(lambda i: _lengths(i.width)),
        "height": _image(lambda i: _lengths(i.height)),
        "width / height": _image(lambda i: f"{i.aspect.min:.2f} / {i.aspect.median:.2f} / {i.aspect.p95:.2f} / "
                                 f"{i.aspect.max:.2f}"),
        "bytes": _image(lambda i: _lengths(i.bytes)),
        f"shorter side under {TINY_PIXELS} pixels": _image(lambda i: _optional(i.tiny)),
        "of one grey": _image(lambda i: _optional(i.blank)),
        "copies of one before, to the byte": _image(lambda i: _optional(i.repeated)),
        "of several frames": _image(lambda i: _optional(i.animated)),
        "to be turned (EXIF)": _image(lambda i: _optional(i.rotated)),
    }
}  # fmt: skip


def column_rows(summaries: Mapping[str, Summary]) -> list[list[str]]:
    """[column, type, share filled in each split ...] of every column but the captions."""
    kinds = {column.name: column.type for summary in summaries.values() for column in summary.columns}
    filled = [{column.name: column.filled for column in summary.columns} for summary in summaries.values()]
    return [
        [name, _short(kind), *(percent(shares[name]) if name in shares else NONE for shares in filled)]
        for name, kind in kinds.items()
    ]


def value_rows(counts: Mapping[str, ValueCounts | None], *, shown: int) -> list[list[str]]:
    """[value, rows in each split ...] of the most frequent values over all splits.

    Args:
        counts: split -> its counts; None where it has none.
        shown: values at most.
    """
    totals: dict[str, int] = {}
    for values in counts.values():
        for name, count in (values.top if values else {}).items():
            totals[name] = totals.get(name, 0) + count
    ordered = sorted(totals, key=lambda name: (-totals[name], name))[:shown]
    return [[name, *(_count(values.top.get(name, 0)) if values else NONE for values in counts.values())]
            for name in ordered]  # fmt: skip


def reason_rows(summaries: Mapping[str, Summary]) -> list[Sequence[str]]:
    """[split, why rows were left out, how many, the first place] of the most frequent reasons."""
    rows = []
    for split, summary in summaries.items():
        for reason, number in summary.skipped_reasons.items():
            place = summary.skipped_examples[0][0] if len(summary.skipped_reasons) == 1 else ""
            rows.append([split, reason, _count(number), place])
    return rows


def _short(kind: str) -> str:
    return kind if len(kind) <= 40 else kind[:37] + "..."
