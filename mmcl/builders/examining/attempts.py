"""Opening what may be broken: what fails is left out, with its reason."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Made = TypeVar("Made")


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, mmcl does not warn of what it warned of when the run began."""
    logger = logging.getLogger("mmcl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def attempt(call: Callable[[], Made], what: str, missing: list[tuple[str, str]]) -> Made | None:
    """The call's result; None where it fails, with the reason noted in ``missing``.

    Args:
        call: opens something.
        what: it opens.
        missing: (what, why) is added to it.
    """
    try:
        return call()
    # Whatever a library says of what is broken: a run that cannot be opened is what this is for.
    except Exception as error:
        missing.append((what, reason(error)))
        return None


def reason(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
