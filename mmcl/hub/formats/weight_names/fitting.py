"""`UnfitError`: what a converter says where another library cannot hold a tower."""

from __future__ import annotations

from mmcl.errors import ConfigError


class UnfitError(ConfigError):
    """Another library has no place for a tower, a pooling, a head or a tokenizer; one clause without a full stop."""
