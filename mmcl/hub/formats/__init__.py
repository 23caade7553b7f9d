"""The formats a model can be written in, one file each."""

from __future__ import annotations

import difflib
import importlib

from mmcl.errors import ConfigError
from mmcl.hub.formats.format import ExportOptions, Format, Opened

# Name -> the module whose FORMAT it is; imported when asked for, as each brings a library of its own.
FORMATS: dict[str, str] = {
    "transformers": "mmcl.hub.formats.as_transformers.format",
    "open_clip": "mmcl.hub.formats.as_open_clip.format",
    "sentence-transformers": "mmcl.hub.formats.as_sentence_transformers.format",
    "onnx": "mmcl.hub.formats.as_onnx.format",
}

__all__ = ["FORMATS", "ExportOptions", "Format", "Opened", "find_format"]


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"format is {name!r}; mmcl writes {', '.join([*FORMATS, 'vectors'])}{hint}")
    return importlib.import_module(FORMATS[name]).FORMAT
