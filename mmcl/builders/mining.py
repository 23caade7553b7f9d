"""`mine_negatives`: hard negatives for every row of a data set, by any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmcl import data as data_sources
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.mining.mined import check_mined_path
from mmcl.data.mining.offline_mining import Embed, MiningPlan, mine_dataset
from mmcl.embedder import Embedder, embed_images, load
from mmcl.errors import ConfigError
from mmcl.training.cached_features import ProgressCallback


def mine_negatives(
    model: Embedder | str | Path,
    data: ImageTextDataset | str | Path,
    out: str | Path,
    *,
    plan: MiningPlan | None = None,
    name: str | None = None,
    batch_size: int = 64,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Mine hard negatives for every row of a data set by any model; a recipe's ``data.negatives`` takes the file.

    Args:
        model: a MODEL reference, or an ``Embedder``.
        data: a data set, or a DATA reference such as ``"path/to/data:train"``.
        out: the ``.parquet`` file to write.
        plan: how many, and which; default five captions a row.
        name: the reference of an ``Embedder``, kept with the file; a broken-off run of this name is gone on with.
        batch_size: items a forward pass.
        progress: told how far it is.

    Returns:
        What is kept with the file: ``data``, ``fingerprint``, ``rows``, ``model``, ``parameters``, ``counts``.

    Raises:
        ConfigError, DataError: no such model or data, or the file cannot be written.
    """
    out = check_mined_path(out)
    if name is None and not isinstance(model, (str, Path)):
        raise ConfigError(f"name is None and model is a {type(model).__name__}; give the model's name")
    dataset = data if isinstance(data, ImageTextDataset) else data_sources.load(data)
    embedder = load(model) if isinstance(model, (str, Path)) else model
    missing = sorted({"image", "text"} - set(embedder.modalities))
    if missing:
        raise ConfigError(f"mining compares images with texts; {name or model} does not embed {', '.join(missing)}")
    embed = Embed(
        embedder.embedding_dim,
        texts=lambda texts: embedder.encode_text(texts, batch_size=batch_size),
        images=lambda part: embed_images(embedder, part, batch_size=batch_size)[:2],
        device=getattr(embedder, "device", "cpu"),
    )
    return mine_dataset(dataset, embed, out, model=name or str(model), plan=plan or MiningPlan(), progress=progress)
