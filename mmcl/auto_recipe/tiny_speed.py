"""How quickly two tiny towers train here: what a training from scratch can afford."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from mmcl.auto_recipe.probe import Clock
from mmcl.auto_recipe.settings import TINY_IMAGE, TINY_TEXT
from mmcl.config import ModelSection, TowerSection
from mmcl.data.dataset import ImageTextDataset
from mmcl.models.dual_encoder import build_dual_encoder

PAIRS = 128
STEPS = 3


def tiny_pairs_per_second(dataset: ImageTextDataset, *, device: str, embedding_dim: int = 128) -> float:
    """Pairs that forward, contrastive loss and backward of two tiny towers take a second; the best of some steps.

    Args:
        dataset: some rows with captions; their images are not read.
        device: where it runs.
        embedding_dim: of the common space.

    Returns:
        Pairs a second; the optimizer's step and the reading of images come on top.
    """
    captions = [text for row in range(len(dataset)) for text in dataset.texts(row)]
    with torch.random.fork_rng(devices=[]):
        section = ModelSection(
            embedding_dim=embedding_dim, image=TowerSection(**TINY_IMAGE), text=TowerSection(**TINY_TEXT)
        )
        model = build_dual_encoder(section, captions=captions).to(device).train()
        preprocessing = model.image.tower.preprocessing
        size = preprocessing.size if isinstance(preprocessing.size, tuple) else (preprocessing.size,) * 2
        pixels = torch.randn(PAIRS, 3, *size, device=device)
    texts = [captions[number % len(captions)] for number in range(PAIRS)]
    tokens = model.text.tower.preprocessing.tokens(texts).batch(np.arange(PAIRS))
    inputs = {name: value.to(device) for name, value in tokens.items()}
    best = np.inf
    for _ in range(STEPS):
        clock = Clock(device)
        logits = model.logit_scale * model.encode_image(pixel_values=pixels) @ model.encode_text(**inputs).T
        F.cross_entropy(logits, torch.arange(PAIRS, device=device)).backward()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock.seconds())
    return PAIRS / max(best, 1e-6)
