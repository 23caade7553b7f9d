"""Contrastive losses: pure functions of embeddings, usable in anybody's training loop."""

from mmcl.losses.barlow_twins import barlow_twins
from mmcl.losses.batch_triplet import batch_triplet
from mmcl.losses.coral import coral
from mmcl.losses.dcl import dcl
from mmcl.losses.distillation import distillation, relational_distillation, similarity_preserving
from mmcl.losses.info_nce import info_nce
from mmcl.losses.mmd import mmd
from mmcl.losses.nt_xent import nt_xent
from mmcl.losses.pair_logistic import pairwise_logistic, ranking_logistic
from mmcl.losses.pairs import cosine, euclidean, manhattan, margin_contrastive
from mmcl.losses.sigmoid import sigmoid
from mmcl.losses.sup_con import sup_con
from mmcl.losses.swav import sinkhorn, swav
from mmcl.losses.triplet import triplet
from mmcl.losses.vicreg import vicreg

__all__ = [
    "barlow_twins",
    "batch_triplet",
    "coral",
    "cosine",
    "dcl",
    "distillation",
    "euclidean",
    "info_nce",
    "manhattan",
    "margin_contrastive",
    "mmd",
    "nt_xent",
    "pairwise_logistic",
    "ranking_logistic",
    "relational_distillation",
    "sigmoid",
    "similarity_preserving",
    "sinkhorn",
    "sup_con",
    "swav",
    "triplet",
    "vicreg",
]
