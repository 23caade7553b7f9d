"""The six kinds of model, built once a session."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))

import six_models

from mmcl.models.dual_encoder import DualEncoder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DualEncoder]:
    """``trained("bert_vit")``: one of ``six_models.MODELS``; do not change it."""
    made: dict[str, DualEncoder] = {}

    def make(name: str) -> DualEncoder:
        if name not in made:
            made[name] = six_models.build_model(name, tmp_path_factory.mktemp(name))
        return made[name]

    return make


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)
