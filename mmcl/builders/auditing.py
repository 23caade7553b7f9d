"""`audit_data`: what is wrong with a data set, by any model's judgement too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmcl import data as data_sources
from mmcl.data.audit.auditing import audit
from mmcl.data.audit.limits import Limits
from mmcl.data.audit.report import AuditReport
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.mining.offline_mining import Embed
from mmcl.embedder import Embedder, embed_images, load
from mmcl.errors import ConfigError
from mmcl.training.cached_features import ProgressCallback


def audit_data(
    data: Mapping[str | None, ImageTextDataset] | str | Path,
    *,
    model: Embedder | str | Path | None = None,
    name: str | None = None,
    limits: Limits | None = None,
    checks: Sequence[str] | None = None,
    batch_size: int = 64,
    workers: int = 0,
    progress: ProgressCallback | None = None,
) -> AuditReport:
    """Look for everything that spoils training or evaluation on a data set; see ``mmcl.data.audit.auditing.audit``.

    Args:
        data: a DATA reference, of all splits or of one; or splits as ``load_all`` gives them.
        model: a MODEL reference, or an ``Embedder`` of images and texts; None: without.
        name: of the data, for the report.
        limits, checks, workers, progress: see ``audit``.
        batch_size: items a forward pass.

    Raises:
        ConfigError, DataError: no such model, data or check; or the model lacks images or texts.

    Example:
        >>> audit_data("shapes?train=8&test=8:test").count("error")
        0
    """
    splits = data if isinstance(data, Mapping) else data_sources.load_all(data, progress=progress)
    name = name or (None if isinstance(data, Mapping) else str(data))
    embed = None if model is None else _embed_of(model, batch_size)
    return audit(splits, name=name, limits=limits, checks=checks, embed=embed, workers=workers, progress=progress)


def _embed_of(model: Embedder | str | Path, batch_size: int) -> Embed:
    embedder = load(model) if isinstance(model, (str, Path)) else model
    missing = sorted({"image", "text"} - set(embedder.modalities))
    if missing:
        raise ConfigError(f"an audit compares images with texts; the model does not embed {', '.join(missing)}")
    return Embed(
        embedder.embedding_dim,
        texts=lambda texts: embedder.encode_text(texts, batch_size=batch_size),
        images=lambda part: embed_images(embedder, part, batch_size=batch_size)[:2],
        device=getattr(embedder, "device", "cpu"),
    )
