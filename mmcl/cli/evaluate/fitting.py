"""Data that a command fits on before it judges: ``--train`` and ``--validation``, and where they come from unnamed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmcl.cli.evaluate.options import open_data

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset

Train = Annotated[
    str | None, typer.Option("--train", metavar="DATA", help="What to fit on; default the split train of DATA.")
]
Validation = Annotated[
    str | None,
    typer.Option(
        "--validation",
        metavar="DATA",
        help="What to choose the regularisation by; default the split validation, or else a fifth of train.",
    ),
]


def open_fitted(
    task: str,
    data: str,
    *,
    train: str | None,
    validation: str | None = None,
    columns: list[str] | None,
    images: Path | None,
) -> dict[str, ImageTextDataset]:
    """The data sets a task fits on, by the keyword of its evaluator.

    Args:
        task: of ``EVALUATORS``.
        data: DATA that is judged on.
        train: as given; None: the split ``train`` of DATA.
        validation: as given; None: the split ``validation`` of the training data, where there is one that is not
            judged on.
        columns: as given by ``--column``; they hold for these data too.
        images: as given by ``--images``.

    Raises:
        ConfigError: DATA has no split ``train``, and none was named.
        DataError: there are no such data.
    """
    from mmcl.builders.evaluation import with_train_split, with_validation_split
    from mmcl.data import available_splits
    from mmcl.errors import ConfigError

    if train is None and "train" not in available_splits(data, images=images):
        raise ConfigError(f"{data} has no split 'train' to fit on; name what to fit on with --train DATA")
    given = {name: value for name, value in (("train", train), ("validation", validation)) if value is not None}
    references = with_validation_split(task, with_train_split(task, given, data), data)
    return {name: open_data(reference, columns=columns, images=images) for name, reference in references.items()}


def read_numbers(text: str, *, option: str) -> list[int]:
    """Whole numbers parted by commas; none for an empty text.

    Raises:
        ConfigError: a part is no whole number.
    """
    from mmcl.errors import ConfigError

    try:
        return [int(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        raise ConfigError(f"{option} {text!r}: want whole numbers parted by commas, such as 1,2,4") from None
