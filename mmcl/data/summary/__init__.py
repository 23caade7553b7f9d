"""What a data set holds, in figures: `summarise`, and what is made of it (tables, hints, a page)."""

from mmcl.data.summary.summarising import Summary, summarise

__all__ = ["Summary", "summarise"]
