"""`open_dual_encoder(MODEL)`: any model with an image and a text tower by its name, as a `DualEncoder`."""

from __future__ import annotations

from pathlib import Path

import torch

from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.opening.locating import LocatedModel, locate


def open_dual_encoder(
    reference: str | Path | LocatedModel, *, revision: str | None = None, token: str | None = None
) -> DualEncoder:
    """Open a model whose towers can be run, trained on, merged and exported.

    Args:
        reference: a run folder or folder of an mmcl model; a folder or Hub id (``owner/name``,
            ``owner/name@REVISION``) of an mmcl, transformers (CLIP, SigLIP, ALIGN, VisionTextDualEncoder), open_clip or
            sentence-transformers model with two towers; ``open_clip:ARCH[/PRETRAINED]``,
            ``open_clip:hf-hub:owner/name``, ``sentence-transformers:FOLDER``; or what ``locate`` found.
        revision: of a Hub id: a branch, tag, commit or ``refs/pr/N``; default main.
        token: for the Hub, instead of the one that is logged in.

    Returns:
        The model in evaluation mode. An open_clip architecture without weights has random ones, always the same.

    Raises:
        ConfigError: there is no such model; it cannot be reached or read; it is a pickle or needs code of its own; or
            it has not two towers that can be run in torch (ONNX graphs, files of vectors).
    """
    if not isinstance(reference, LocatedModel):
        reference = locate(reference, revision=revision, token=token)
    if reference.kind == "onnx":
        raise ConfigError(
            f"{reference.reference!r} holds ONNX graphs, which embed and cannot be trained, merged or exported again; "
            f"give the model they were made from, or load them with mmcl.load(...) to embed"
        )
    model = _OPENERS[reference.kind](reference)
    if reference.repo_id is not None and reference.kind != "mmcl":
        for encoder in (model.image, model.text):  # not where this machine keeps what it fetched
            encoder.tower.spec["name"] = reference.repo_id
    return model


def _mmcl(located: LocatedModel) -> DualEncoder:
    from mmcl.models.saving import from_pretrained

    return from_pretrained(located.folder)


def _transformers(located: LocatedModel) -> DualEncoder:
    from mmcl.models.opening.dual_sources import dual_encoder_from_transformers

    return dual_encoder_from_transformers(str(located.folder))


def _sentence_transformers(located: LocatedModel) -> DualEncoder:
    from mmcl.models.opening.sentence_sources import dual_encoder_from_sentence_transformers

    return dual_encoder_from_sentence_transformers(str(located.folder))


def _open_clip(located: LocatedModel) -> DualEncoder:
    from mmcl.models.opening.dual_sources import dual_encoder_from_open_clip
    from mmcl.models.opening.security import no_questions

    name = located.architecture if located.folder is None else str(located.folder)
    # Weights that are not loaded are drawn; every process and every run draws the same.
    with no_questions(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return dual_encoder_from_open_clip(name, located.checkpoint)


_OPENERS = {
    "mmcl": _mmcl,
    "transformers": _transformers,
    "open_clip": _open_clip,
    "sentence-transformers": _sentence_transformers,
}
