"""`load(MODEL)`: any model by its name, as an `Embedder`."""

from __future__ import annotations

from pathlib import Path

from mmcl.data.vectors import load_vectors
from mmcl.embedder.dual_encoder_embedder import DualEncoderEmbedder
from mmcl.embedder.interface import Embedder
from mmcl.embedder.precision import check_precision, find_device
from mmcl.embedder.sentence_embedder import SentenceTransformersEmbedder
from mmcl.embedder.vectors_embedder import VectorsEmbedder
from mmcl.errors import ConfigError, require
from mmcl.models.opening.locating import LocatedModel, locate
from mmcl.models.opening.opening import open_dual_encoder


def load(
    reference: str | Path,
    *,
    device: str | None = None,
    precision: str = "fp32",
    revision: str | None = None,
    token: str | None = None,
) -> Embedder:
    """Load any model by its name; what a folder or repository of the Hub is, its files tell (see ``locate``).

    Args:
        reference: a run folder or folder of an mmcl model; a folder or Hub id (``owner/name``, ``owner/name@REVISION``)
            of an mmcl, transformers (CLIP, SigLIP, VisionTextDualEncoder), open_clip, sentence-transformers or ONNX
            model; ``open_clip:ARCH[/PRETRAINED]``, ``open_clip:hf-hub:owner/name``; ``sentence-transformers:NAME``;
            ``onnx:FOLDER``, ``onnx:FOLDER/int8``; ``vectors:FILE.npz`` or ``.safetensors``.
        device: where it runs; default the GPU where there is one. ONNX graphs run on the CPU.
        precision: ``"fp32"``, or what the model runs in under autocast: ``"bf16"``, ``"fp16"`` (GPUs alone). Heads
            and norms stay in float32.
        revision: of a Hub id: a branch, tag, commit or ``refs/pr/N``; default main.
        token: for the Hub, instead of the one that is logged in.

    Returns:
        An ``Embedder``. An open_clip architecture without pretrained weights has random ones, always the same.

    Raises:
        ConfigError: there is no such model, it cannot be reached or read, it is a pickle or needs code of its own, or
            no such device or precision here.

    Example:
        >>> model = load("runs/quickstart")                       # doctest: +SKIP
        >>> model.encode_text(["a red circle"]).shape             # doctest: +SKIP
        torch.Size([1, 256])
    """
    reference, found = str(reference), find_device(device)
    check_precision(precision, found)
    if reference.startswith("vectors:"):
        return VectorsEmbedder(load_vectors(reference.removeprefix("vectors:")))
    if reference.startswith("sentence-transformers:"):
        require("sentence_transformers", extra="sentence-transformers")
    located = locate(reference, revision=revision, token=token)
    if located.kind == "onnx":
        return _onnx(located, precision)
    if located.kind == "sentence-transformers":
        return _sentence_transformer(located, str(found), precision)
    return DualEncoderEmbedder(open_dual_encoder(located), device=found, precision=precision)


def _onnx(located: LocatedModel, precision: str) -> Embedder:
    from mmcl.runtime.onnx_embedder import OnnxEmbedder

    if precision != "fp32":
        raise ConfigError(
            f"precision is {precision!r}; ONNX graphs run in what they were written in: {located.reference} or "
            f"onnx:{located.folder}/int8"
        )
    return OnnxEmbedder(located.folder, precision=located.precision, tensors=True)


def _sentence_transformer(located: LocatedModel, device: str, precision: str) -> Embedder:
    library = require("sentence_transformers", extra="sentence-transformers")
    from mmcl.models.opening.security import code_refused, wants_code
    from mmcl.models.towers.transformers_loading import first_line, quiet_transformers

    try:
        with quiet_transformers():
            model = library.SentenceTransformer(
                str(located.folder),
                device=device,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        if wants_code(error):
            raise code_refused(located.reference, first_line(error)) from None
        raise ConfigError(f"{located.reference!r} cannot be loaded ({first_line(error)})") from error
    return SentenceTransformersEmbedder(model, precision=precision)
