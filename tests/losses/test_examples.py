"""The examples in the losses' docstrings run, and every public loss has one."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import mmcl.losses

MODULES = sorted(module.name for module in pkgutil.iter_modules(mmcl.losses.__path__, "mmcl.losses."))


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    # import_module, for attributes of the package are functions where a module has its function's name.
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0, f"{result.failed} of {result.attempted} lines of examples fail; they are printed above"


def test_every_public_loss_has_an_example() -> None:
    without = [name for name in mmcl.losses.__all__ if ">>>" not in (getattr(mmcl.losses, name).__doc__ or "")]
    assert without == []


def test_modules_and_examples_are_found() -> None:
    # A control: an empty list of modules would pass everything above.
    assert "mmcl.losses.info_nce" in MODULES
    assert doctest.testmod(importlib.import_module("mmcl.losses.info_nce")).attempted > 2
