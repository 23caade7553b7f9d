"""The errors mmcl raises on purpose. Each message names what was found, what was wanted and how to mend it."""

from __future__ import annotations

import importlib
from types import ModuleType


class MmclError(Exception):
    """Base of every error that mmcl raises on purpose; the command line prints it without a traceback."""


class ConfigError(MmclError, ValueError):
    """A recipe, an option or a model reference says something that cannot be done."""


class DataError(MmclError, ValueError):
    """A data set, or a row of it, cannot be used as it is."""


class ShapeError(MmclError, ValueError):
    """A tensor has the wrong shape, dtype or values for the function it was given to."""


class TrainingError(MmclError, RuntimeError):
    """Training cannot go on: the loss is not finite, or has diverged."""


class ExportError(MmclError, RuntimeError):
    """An exported model does not give the embeddings of the model it was made from."""


class MissingDependencyError(MmclError, ImportError):
    """An optional package is needed and not installed."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Args:
        module: the module's import name, such as ``"sentence_transformers"``.
        extra: the extra of mmcl's that installs it.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise MissingDependencyError(
            f"{module} is not installed; it comes with the extra {extra!r}: pip install 'mmcl[{extra}]'"
        ) from error
