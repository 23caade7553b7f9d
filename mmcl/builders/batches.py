"""A recipe's `batches` section to what makes its batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmcl.config import Recipe
from mmcl.data.caption_groups import twin_ids
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.mixing import sources_of
from mmcl.embedder import embed_images, load
from mmcl.errors import ConfigError, MmclError
from mmcl.logs import get_logger
from mmcl.models.dual_encoder import DualEncoder
from mmcl.negatives.balanced import BalancedBatches
from mmcl.negatives.blocks import DEFAULT_BLOCKS, BlockBatches
from mmcl.negatives.clusters import ClusterBatches, cluster_embeddings, default_clusters
from mmcl.negatives.mixtures import MixtureBatches
from mmcl.negatives.samplers import RandomBatches
from mmcl.negatives.unique_groups import UniqueGroupBatches
from mmcl.training.gather import broadcast_object, rank
from mmcl.training.protocols import Batches

log = get_logger(__name__)


def _random_batches(recipe: Recipe, train: ImageTextDataset, model: DualEncoder) -> Batches:
    if train.mixture is not None and not train.mixture.is_plain:
        return _mixture_batches(recipe, train)
    if getattr(train.images, "reads_whole_blocks", False) and not recipe.data.bucket_by_length:
        log.warning(
            "%s is streamed: batches are made as with batches.name=blocks, of rows of some row groups at a time; "
            "random ones would fetch a row group for nearly every image",
            train.name,
        )
        return _block_batches(recipe, train, model)
    lengths = None
    if recipe.data.bucket_by_length:
        lengths = model.text.tower.preprocessing.lengths([texts[0] for texts in train.column("texts")])
    return RandomBatches(len(train), recipe.train.batch_size, seed=recipe.run.seed, lengths=lengths)


def _mixture_batches(recipe: Recipe, train: ImageTextDataset) -> MixtureBatches:
    if recipe.data.bucket_by_length:
        raise ConfigError(
            f"{recipe.data.path} mixes its sources by weights or one a batch, which data.bucket_by_length would undo; "
            f"leave one of them out"
        )
    if getattr(train.images, "reads_whole_blocks", False):
        log.warning(
            "%s is streamed, and drawn from by weights or one source a batch: nearly every image fetches a row group; "
            "leave weight and mixing out for batches.name=blocks, or streaming",
            train.name,
        )
    ids, names, weights = sources_of(train, train.mixture)
    size, mixing = recipe.train.batch_size, train.mixture.mixing
    batches = MixtureBatches(ids, weights, size, seed=recipe.run.seed, mixing=mixing, names=names)
    rows = np.bincount(ids)
    shown = ", ".join(
        f"{name} {part} of {total} rows" for name, part, total in zip(names, batches.rows_per_epoch, rows)
    )
    log.info("%s: an epoch takes %s (%s batches)", train.name, shown, mixing)
    return batches


def _unique_group_batches(recipe: Recipe, train: ImageTextDataset, model: DualEncoder) -> UniqueGroupBatches:
    return UniqueGroupBatches(twin_ids(train), recipe.train.batch_size, seed=recipe.run.seed)


def _cluster_batches(recipe: Recipe, train: ImageTextDataset, model: DualEncoder) -> ClusterBatches:
    """The main process clusters for all; what goes wrong there is raised by every process, so that none waits."""
    found: np.ndarray | MmclError | None = None
    if rank() == 0:
        try:
            found = _cluster_rows(recipe, train)
        except MmclError as error:
            found = error
    found = broadcast_object(found)
    if isinstance(found, MmclError):
        raise found
    size, several = recipe.train.batch_size, recipe.batches.clusters_per_batch
    return ClusterBatches(found, size, seed=recipe.run.seed, clusters_per_batch=several)


def _cluster_rows(recipe: Recipe, train: ImageTextDataset) -> np.ndarray:
    """(n,) the cluster of each row, -1 for those whose image cannot be read."""
    section, size = recipe.batches, recipe.evaluate.batch_size
    embedder = load(section.model)
    rows = np.arange(len(train))
    if section.modality == "image":
        embeddings, rows, _ = embed_images(embedder, train, batch_size=size)
    else:
        embeddings = embedder.encode_text([texts[0] for texts in train.column("texts")], batch_size=size)
    number = section.clusters or min(default_clusters(len(train), recipe.train.batch_size), max(1, len(rows)))
    log.info("clustering %d %ss by %s into %d clusters", len(rows), section.modality, section.model, number)
    clusters = np.full(len(train), -1, dtype=np.int64)
    clusters[rows] = cluster_embeddings(embeddings.numpy(), number, seed=recipe.run.seed)
    return clusters


def _balanced_batches(recipe: Recipe, train: ImageTextDataset, model: DualEncoder) -> BalancedBatches:
    section = recipe.batches
    each, labels = section.samples_per_class, train.column(section.column)
    classes = section.classes_per_batch or recipe.train.batch_size // each
    return BalancedBatches(labels, classes, each, seed=recipe.run.seed)


def _block_batches(recipe: Recipe, train: ImageTextDataset, model: DualEncoder) -> BlockBatches:
    images = train.images
    if not hasattr(images, "blocks"):
        raise ConfigError(
            f"batches.name=blocks needs data that lie in blocks: Parquet that is streamed (?streaming=true), or tar "
            f"shards; {train.name} does not, so its rows can be read in any order: take batches.name=random"
        )
    fitting = images.blocks_in_memory() if hasattr(images, "blocks_in_memory") else DEFAULT_BLOCKS
    number = recipe.batches.blocks_at_once or min(fitting, DEFAULT_BLOCKS)
    return BlockBatches(images.blocks(), recipe.train.batch_size, seed=recipe.run.seed, blocks_at_once=number)


# batches.name -> how the batches of a recipe are made.
BATCHES: dict[str, Callable[[Recipe, ImageTextDataset, DualEncoder], Batches]] = {
    "random": _random_batches,
    "unique_groups": _unique_group_batches,
    "clusters": _cluster_batches,
    "balanced": _balanced_batches,
    "blocks": _block_batches,
}


def build_batches(recipe: Recipe, train: ImageTextDataset, model: DualEncoder) -> Batches:
    """What makes the batches of a recipe.

    Raises:
        ConfigError: ``batches.name`` does not suit the data.
    """
    if recipe.batches.name != "random" and train.mixture is not None and not train.mixture.is_plain:
        raise ConfigError(
            f"{recipe.data.path} mixes its sources by weights or one a batch, which batches.name={recipe.batches.name} "
            f"would undo; take weight and mixing out of the file, or batches.name=random"
        )
    return BATCHES[recipe.batches.name](recipe, train, model)
