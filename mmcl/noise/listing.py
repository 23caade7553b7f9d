"""Pairs that look wrong, listed for a person to look at."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

import torch

from mmcl.noise.trust import TRUSTED, PairTrust

FILE = "suspicious_pairs.csv"  # in the run folder
COLUMNS = ("row", "id", "caption", "clean_probability", "loss", "weight")


def suspicious_rows(trust: PairTrust) -> list[int]:
    """Rows that are more likely wrong than right, the likeliest first; none before the warm-up is over."""
    clean, losses = trust.clean.cpu(), trust.losses.cpu().nan_to_num()
    rows = torch.arange(len(clean))[clean < TRUSTED]
    return sorted(rows.tolist(), key=lambda row: (float(clean[row]), -float(losses[row]), row))


def write_suspicious_pairs(
    path: Path, trust: PairTrust, *, name: Callable[[int], str], caption: Callable[[int], str]
) -> int:
    """Write the suspicious rows as CSV, one a line, the likeliest first.

    ``clean_probability`` is an estimate from the losses of one training: rare, hard and ambiguous pairs look like wrong
    ones, and wrong captions that nearly fit look right. The list says where to look, not what to delete.

    Args:
        path: the file; written whole or not at all, and without lines where nothing is suspicious.
        trust: of the training.
        name: row -> its id.
        caption: row -> its (first) caption.

    Returns:
        Rows listed.
    """
    rows = suspicious_rows(trust)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in rows:
        numbers = (trust.clean[row], trust.losses[row], trust.weights[row])
        writer.writerow([row, name(row), caption(row), *(f"{float(number):.4f}" for number in numbers)])
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text.getvalue(), encoding="utf-8", newline="")
    os.replace(partial, path)
    return len(rows)
