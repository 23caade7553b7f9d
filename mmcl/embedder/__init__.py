"""Raw items in, unit vectors out — and `load(MODEL)`, which makes an `Embedder` of any model."""

from mmcl.embedder.cached import CachedEmbedder, fingerprint
from mmcl.embedder.contract import ContractError, check_embedder
from mmcl.embedder.dataset_images import embed_images
from mmcl.embedder.dual_encoder_embedder import DualEncoderEmbedder, FeatureSource
from mmcl.embedder.interface import Embedder
from mmcl.embedder.loading import load
from mmcl.embedder.processes import start_processes
from mmcl.embedder.sentence_embedder import SentenceTransformersEmbedder
from mmcl.embedder.untrained import untrained
from mmcl.embedder.vectors_embedder import VectorsEmbedder

__all__ = [
    "CachedEmbedder",
    "ContractError",
    "DualEncoderEmbedder",
    "Embedder",
    "FeatureSource",
    "SentenceTransformersEmbedder",
    "VectorsEmbedder",
    "check_embedder",
    "embed_images",
    "fingerprint",
    "load",
    "start_processes",
    "untrained",
]
