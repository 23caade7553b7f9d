"""Contrastive losses: pure functions of embeddings, usable in anybody's training loop."""

from mmcl.losses.dcl import dcl
from mmcl.losses.info_nce import info_nce
from mmcl.losses.nt_xent import nt_xent
from mmcl.losses.sigmoid import sigmoid
from mmcl.losses.sup_con import sup_con

__all__ = ["dcl", "info_nce", "nt_xent", "sigmoid", "sup_con"]
