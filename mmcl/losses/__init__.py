"""Contrastive losses: pure functions of embeddings, usable in anybody's training loop."""

from mmcl.losses.info_nce import info_nce

__all__ = ["info_nce"]
