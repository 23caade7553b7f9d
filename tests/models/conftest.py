"""Folders of small models, each written once a session, and images to read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_folders
import torch
from torch import Tensor

from mmcl.models.towers.transformers_loading import quiet_transformers


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """``folder("bert")``, ``folder("vit")``, ``folder("clip")``: the path of that model."""
    made: dict[str, Path] = {}

    def make(name: str) -> str:
        if name not in made:
            path = tmp_path_factory.mktemp(name)
            with quiet_transformers(), torch.random.fork_rng(devices=[]):
                if name in tiny_folders.TEXT_MODELS:
                    tiny_folders.save_text_model(path, name)
                elif name in tiny_folders.VISION_MODELS:
                    tiny_folders.save_vision_model(path, name)
                else:
                    tiny_folders.save_dual_model(path, name)
            made[name] = path
        return str(made[name])

    return make


@pytest.fixture(scope="session")
def images() -> list[Tensor]:
    """Smooth colour images of several shapes."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for height, width in ((40, 56), (33, 33), (71, 36), (32, 32)):
        coarse = torch.rand(1, 3, 5, 6, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
        made.append((smooth[0] * 255).round().to(torch.uint8))
    return made


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)
