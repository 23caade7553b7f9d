"""`export`: write a model in another library's format, and prove that it is the same model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import mmcl
from mmcl.data.dataset import ImageTextDataset
from mmcl.embedder import DualEncoderEmbedder
from mmcl.errors import ConfigError, require
from mmcl.hub.checking import Checker, Difference, check_difference
from mmcl.hub.formats import FORMATS, ExportOptions, Format, find_format
from mmcl.hub.samples import find_samples
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.opening.opening import open_dual_encoder

REPORT = "export_report.json"
_LIBRARIES = {"sentence-transformers": "sentence_transformers", "onnx": "onnxruntime"}

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it was checked.

    Attributes:
        format: its name.
        folder: where it lies.
        reference: the MODEL that names it.
        differences: variant -> how far it is from the source; ``""`` is the main one.
        tolerances: variant -> what was allowed; None: judged by R@10.
        samples: the data it was checked on, with the numbers of images and captions.
        files: name -> bytes.
        notes: what a user of the folder should know.
    """

    format: str
    folder: Path
    reference: str
    differences: dict[str, Difference]
    tolerances: dict[str, float | None]
    samples: dict[str, Any]
    files: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; holds no path of this machine."""
        values = {"mmcl_version": mmcl.__version__, **asdict(self)}
        del values["folder"], values["reference"]
        return values


def obstacles(model: DualEncoder) -> dict[str, str | None]:
    """For every format why the model cannot be written in it, or None where it can."""
    return {name: find_format(name).obstacle(model) for name in FORMATS}


def export(
    source: DualEncoder | str | Path,
    format: str,
    out: str | Path,
    *,
    data: ImageTextDataset | None = None,
    samples: int = 32,
    options: ExportOptions | None = None,
    source_folder: str | Path | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a model in another library's format and check it against the source.

    The folder is put in its place only after its embeddings of real samples have been compared with the source's, by
    the other library's own code. What was found lies beside it as ``export_report.json``.

    Args:
        source: a model, or a MODEL: run folder, Hub id, ``open_clip:...``.
        format: ``"transformers"``, ``"open_clip"``, ``"sentence-transformers"`` or ``"onnx"``.
        out: folder to make; with ``options.combined`` one that is there already.
        data: rows to check on; default those a run was judged on, else drawn scenes.
        samples: how many images, at least 1.
        options: what may be chosen.
        source_folder: of a model that is given as it is: the run it came from, where its data are looked up.
        progress: called with (what, done, total).

    Returns:
        What was written and measured.

    Raises:
        ConfigError: no such format or model, the model does not fit, or the folder holds something.
        ExportError: the exported model gives other embeddings; nothing is left behind.
        MissingDependencyError: the format's library is not installed.

    Example:
        >>> report = export("runs/emoji", "onnx", "emoji-onnx")     # doctest: +SKIP
        >>> report.differences[""].texts < 1e-4                     # doctest: +SKIP
        True
    """
    if samples < 1:
        raise ConfigError(f"samples is {samples}; want at least 1")
    kind, options, out = find_format(format), options or ExportOptions(), Path(out)
    require_library(kind)
    check_out(out, combined=options.combined)
    tell = progress or (lambda what, done, total: None)
    tell("reading the model", 0, 4)
    model = source if isinstance(source, DualEncoder) else open_dual_encoder(source)
    _check_fits(kind, model)
    folder = source_folder if isinstance(source, DualEncoder) else source
    checker = Checker(DualEncoderEmbedder(model, device="cpu"), find_samples(folder, data, count=samples))
    partial = out if options.combined else out.with_name(f".{out.name}.partial")
    try:
        if not options.combined:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        tell("writing", 1, 4)
        notes = list(kind.write(model, partial, options))
        tell("comparing", 2, 4)
        report = _check(kind, checker, partial, options, notes)
        tell("comparing", 3, 4)
        if not options.combined:
            _write_report(report, partial / REPORT)
            os.replace(partial, out)
    except BaseException:  # Ctrl-C too: what was not compared is no export
        if not options.combined:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    tell("done", 4, 4)
    return replace(report, folder=out, reference=kind.reference(out))


def require_library(kind: Format) -> None:
    """Refuse a format whose library is not installed.

    Raises:
        MissingDependencyError: names the extra that brings it.
    """
    if kind.extra is not None:
        require(_LIBRARIES[kind.extra], extra=kind.extra)


def check_out(out: Path, *, combined: bool = False) -> None:
    """Refuse a folder that holds something, or whose parent cannot be written, before any work is done.

    Raises:
        ConfigError: see above.
    """
    if combined:
        return
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        what = "is a file" if out.is_file() else "holds files"
        raise ConfigError(f"{out} {what} already; name a new folder with -o, or delete it")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"{out} cannot be made: {parent} is not a folder that can be written")
    if out.is_dir():
        out.rmdir()


def _check_fits(kind: Format, model: DualEncoder) -> None:
    obstacle = kind.obstacle(model)
    if obstacle is None:
        return
    others = [name for name, why in obstacles(model).items() if why is None]
    fitting = f"it can be written as {', '.join(others)}" if others else "no other format takes it either"
    raise ConfigError(f"--format {kind.name} cannot hold this model: {obstacle}; {fitting}")


def _check(kind: Format, checker: Checker, folder: Path, options: ExportOptions, notes: list[str]) -> ExportReport:
    opened: Mapping[str, Any] = kind.open(folder, options)
    differences = {}
    for variant, model in opened.items():
        tolerance = kind.tolerances[variant]
        differences[variant] = checker.compare(model, by_recall=tolerance is None)
        check_difference(differences[variant], tolerance, what=f"the {kind.name} export {variant}".strip())
    files = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    seen = {
        "data": Path(checker.samples.name).name,
        "images": len(checker.samples.images),
        "captions": len(checker.samples.texts),
        "rows_for_recall": len(checker.samples.dataset) if any(d.recall for d in differences.values()) else 0,
    }
    tolerances = {variant: kind.tolerances[variant] for variant in opened}
    return ExportReport(kind.name, folder, kind.reference(folder), differences, tolerances, seen, files, notes)


def _write_report(report: ExportReport, path: Path) -> None:
    path.write_text(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
