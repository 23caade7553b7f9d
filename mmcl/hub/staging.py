"""`stage`: everything that a repository of a run or model shall hold, put together in a folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mmcl.errors import ConfigError
from mmcl.repos.file_kinds import is_junk
from mmcl.repos.portable import dump_config, make_portable
from mmcl.training.runs import CHECKPOINTS, CONFIG, LAST, MODEL

if TYPE_CHECKING:
    from mmcl.hub.card import ModelCardWords

Progress = Callable[[str, int, int], None]

CARD, ASSETS, RECIPE, EVALUATION, REPORT = "README.md", "assets", "recipe.yaml", "evaluation.json", "export_report.json"
# Any of these makes a folder a model's, of mmcl or of another library.
_MODEL_FILES = ("mmcl.json", "config.json", "open_clip_config.json", "modules.json", "mmcl_onnx.json")
_BESIDE_A_RUN = ("LICENSE", "LICENCE", "NOTICE", "CITATION.cff")


@dataclass(frozen=True)
class StageOptions:
    """What may be chosen.

    Attributes:
        repo_id: ``owner/name`` it is meant for; cards and configs of some formats name it.
        formats: further formats to put beside the model, of ``mmcl.hub.formats``.
        words: what a person says of the model, for the card; None for nothing.
        gallery: show captions and images of the test split in the card.
        baselines: judged beside the model for the card, as ``write_card`` says; None for its own choice.
        new_card: write a card though the source folder has a README.md of its own.
        allow_unfinished: take a run that has not ended, or was not judged on its test split.
    """

    repo_id: str | None = None
    formats: Sequence[str] = ()
    words: ModelCardWords | None = None
    gallery: bool = True
    baselines: Sequence[str] | None = None
    new_card: bool = False
    allow_unfinished: bool = False


@dataclass
class Staged:
    """What was put together.

    Attributes:
        folder: the folder.
        kind: ``"run"`` or ``"model"``.
        formats: what it can be opened as besides, in order.
        notes: what a person should know, one sentence each.
        made_portable: files in which local paths were replaced.
        differences: format -> variant -> how far its embeddings are from the source's, as its report says.
    """

    folder: Path
    kind: str
    formats: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    made_portable: list[str] = field(default_factory=list)
    differences: dict[str, Any] = field(default_factory=dict)


def stage(
    source: str | Path, folder: str | Path, *, options: StageOptions | None = None, progress: Progress | None = None
) -> Staged:
    """Put together what a repository shall hold: the model, its card, recipe and figures, and further formats.

    The source is not changed. Local paths in recipes and configs become portable names.

    Args:
        source: a run folder, or a folder with a model (of mmcl, or exported).
        folder: an empty folder, or one to make.
        options: what may be chosen.
        progress: called with (what, done, total).

    Raises:
        ConfigError: there is no model, the run has not ended, a format cannot hold the model, or the card cannot be
            written.

    Example:
        >>> staged = stage("runs/emoji", "emoji-for-the-hub")     # doctest: +SKIP
    """
    options, folder = options or StageOptions(), Path(folder)
    source = Path(source).expanduser()
    kind = check_source(source, options)
    folder.mkdir(parents=True, exist_ok=True)
    model = source / MODEL if kind == "run" else source
    try:
        _copy_tree(model, folder, link=not options.formats)
        if kind == "run":
            _copy_beside(source, folder)
    except OSError as error:
        raise ConfigError(
            f"{source} cannot be copied to {folder} ({error.strerror or error}); check permissions and free space"
        ) from error
    staged = Staged(folder, kind, formats=_formats_there(folder))
    if options.formats:
        _export_beside(model, source, staged, options, progress)
    _write_card(source, model, staged, options, progress)
    staged.made_portable = make_portable(folder)
    return staged


def check_source(source: Path, options: StageOptions) -> str:
    """``"run"`` or ``"model"``; refuses what is neither, and runs that have not ended.

    Raises:
        ConfigError: see above.
    """
    if not source.is_dir():
        raise ConfigError(f"{source}: there is no such folder; want a run (runs/NAME) or a folder with a model")
    if (source / CONFIG).is_file():
        if not (source / MODEL / "mmcl.json").is_file():
            raise ConfigError(f"{source} holds a run that has not saved a model yet (no {MODEL}/mmcl.json)")
        if not options.allow_unfinished:
            _check_finished(source)
        return "run"
    if any((source / name).is_file() for name in _MODEL_FILES):
        return "model"
    raise ConfigError(
        f"{source}: neither a run ({CONFIG}) nor a model ({', '.join(_MODEL_FILES)}); want runs/NAME or a model folder"
    )


def _check_finished(run: Path) -> None:
    told, finish = "let it go as it is with --allow-unfinished", "finish it (mmcl train ... --resume)"
    progress = _read(run / CHECKPOINTS / LAST / "progress.json")
    if progress is None:
        raise ConfigError(f"{run}: no {CHECKPOINTS}/{LAST}/progress.json says that the run has ended; {told}")
    if progress.get("finished") is not True:
        raise ConfigError(f"{run}: the run has not ended (step {progress.get('step', 0)}); {finish}, or {told}")
    recipe = _read(run / CONFIG) or {}
    split = ((recipe.get("data") or {}).get("split") or {}).get("test")
    tasks = (recipe.get("evaluate") or {}).get("tasks")
    if split and tasks and not _read(run / EVALUATION):
        raise ConfigError(
            f"{run}: the recipe has the test split {split!r} and {EVALUATION} is missing, so the model was not judged; "
            f"{finish}, or {told}"
        )


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON or YAML file that holds keys; None where there is none."""
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path} cannot be read ({reason}); write it again or remove it") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: want keys and values, found {type(value).__name__}")
    return value


def _copy_tree(source: Path, folder: Path, *, link: bool) -> None:
    """Copy a folder; weights are linked where nothing will write here. Links out of it stay links, to be refused."""
    root = source.resolve()
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if is_junk(relative.as_posix()):
            continue
        target = folder / relative
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.resolve())
        elif path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(path, target, link=link and path.suffix in (".safetensors", ".onnx"))


def _copy(source: Path, target: Path, *, link: bool = False) -> None:
    if link:
        try:
            os.link(source.resolve(), target)
            return
        except OSError:
            pass  # another file system, or one without links
    shutil.copyfile(source, target)


def _copy_beside(run: Path, folder: Path) -> None:
    """What lies beside the model in a run and belongs to it."""
    (folder / RECIPE).write_text(dump_config(_read(run / CONFIG), ".yaml"), encoding="utf-8")
    for name in (EVALUATION, *_BESIDE_A_RUN):
        if (run / name).is_file():
            _copy(run / name, folder / name)
    if (run / CARD).is_file() and (run / ASSETS).is_dir():
        _copy_tree(run / ASSETS, folder / ASSETS, link=False)


def _formats_there(folder: Path) -> tuple[str, ...]:
    """What a folder can be opened as, beside mmcl."""
    marks = {
        "transformers": "config.json",
        "open_clip": "open_clip_config.json",
        "sentence-transformers": "modules.json",
        "onnx": "mmcl_onnx.json",
    }
    there = [name for name, mark in marks.items() if (folder / mark).is_file()]
    if (folder / "onnx" / marks["onnx"]).is_file():
        there.append("onnx")
    return tuple(dict.fromkeys(there))


def _export_beside(model: Path, source: Path, staged: Staged, options: StageOptions, progress: Progress | None) -> None:
    """Write further formats into the folder; each is compared with the source first."""
    from mmcl.hub.exporting import export
    from mmcl.hub.formats import ExportOptions, find_format
    from mmcl.models.opening.opening import open_dual_encoder

    wanted = list(dict.fromkeys(options.formats))
    for name in wanted:
        find_format(name)
    dual, reports = open_dual_encoder(model), {}
    for name in wanted:  # all of them before the first is written, which may take minutes
        obstacle = find_format(name).obstacle(dual)
        if obstacle is not None:
            raise ConfigError(f"--format {name} cannot hold this model: {obstacle}; leave it out, nothing was sent")
    for name in wanted:
        # ONNX graphs are a folder by themselves; the others lie beside the model, whose files stay as they are.
        own = name == "onnx"
        out = staged.folder / "onnx" if own else staged.folder
        chosen = ExportOptions(repo_id=options.repo_id, combined=not own)
        report = export(dual, name, out, options=chosen, source_folder=source, progress=progress)
        staged.notes += [f"{name}: {note}" for note in report.notes]
        reports[name] = report.to_dict()
    staged.differences = {name: report["differences"] for name, report in reports.items()}
    (staged.folder / REPORT).write_text(dump_config(reports, ".json"), encoding="utf-8")
    staged.formats = tuple(dict.fromkeys([*staged.formats, *wanted]))


def _write_card(source: Path, model: Path, staged: Staged, options: StageOptions, progress: Progress | None) -> None:
    """The person's own card where there is one, else one that is written from what is known."""
    own = next((folder / CARD for folder in (source, model) if (folder / CARD).is_file()), None)
    if own is not None and not options.new_card:
        if not (staged.folder / CARD).is_file() or own.parent == source:
            _copy(own, staged.folder / CARD)
        staged.notes.append(f"the card is {own}, as it is; --new-card writes one from what was measured")
        return
    if not any((model / name).is_file() for name in ("mmcl.json", "config.json")):
        raise ConfigError(f"{source} has no {CARD}, and mmcl can write none for it; write one and push again")
    from mmcl.hub.card import ModelCardWords, write_card

    more = {} if options.baselines is None else {"baselines": tuple(options.baselines)}
    text = write_card(
        source, staged.folder / ASSETS, words=options.words or ModelCardWords(), repo_id=options.repo_id,
        formats=staged.formats, gallery=options.gallery, progress=progress, **more,
    )  # fmt: skip
    (staged.folder / CARD).unlink(missing_ok=True)
    (staged.folder / CARD).write_text(text, encoding="utf-8")
