"""Logging: one logger per module, silent until a program configures it, main process only."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


def is_main_process() -> bool:
    """Whether this process is rank 0 of its launch (always true without a launcher)."""
    return int(os.environ.get("RANK", "0")) == 0


class _MainProcessFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return is_main_process() or record.levelno >= logging.ERROR


def get_logger(name: str) -> logging.Logger:
    """The logger of a module: ``log = get_logger(__name__)``. Ranks above 0 log errors alone."""
    logger = logging.getLogger(name)
    if not any(isinstance(f, _MainProcessFilter) for f in logger.filters):
        logger.addFilter(_MainProcessFilter())
    return logger


@contextmanager
def quiet_root_logger() -> Iterator[None]:
    """For libraries that log on the root logger, and so would install a handler on it; within this they do neither."""
    root, handler = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
