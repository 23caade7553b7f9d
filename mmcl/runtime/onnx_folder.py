"""A folder of ONNX graphs: `mmcl_onnx.json`, what it names, and where a folder or a repository of the Hub has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcl.errors import ConfigError

FORMAT = 1
DESCRIPTION = "mmcl_onnx.json"
SUBFOLDER = "onnx"  # where a repository that holds more than graphs keeps them
TOKENIZER = "tokenizer.json"
PRECISIONS = ("fp32", "int8")


def is_onnx_folder(folder: str | Path) -> bool:
    """Whether a folder is one of ``mmcl export --format onnx``: it holds an ``mmcl_onnx.json`` itself.

    As MODEL: the folder by its name, or ``onnx:FOLDER``, are its float32 graphs, ``onnx:FOLDER/int8`` its int8 graphs.
    A repository that holds an mmcl model and graphs in ``onnx/`` is an mmcl model by its name, and its graphs as
    ``onnx:FOLDER``.
    """
    return (Path(folder) / DESCRIPTION).is_file()


@dataclass(frozen=True)
class OnnxFolder:
    """What an ``mmcl_onnx.json`` says.

    Attributes:
        folder: where it lies.
        values: the whole of it.
    """

    folder: Path
    values: Mapping[str, Any]

    @property
    def source(self) -> str:
        """The file, for messages."""
        return str(self.folder / DESCRIPTION)

    def files(self, precision: str) -> dict[str, tuple[str, ...]]:
        """Modality -> the graph's file, and files of weights beside it.

        Raises:
            ConfigError: there are no graphs of that precision.
        """
        graphs = self.values["graphs"]
        if precision not in graphs:
            raise ConfigError(
                f"{self.source} names no {precision} graphs, but {', '.join(graphs)}; export the model with them, or "
                f"ask for {next(iter(graphs))}"
            )
        return {modality: tuple(names) for modality, names in graphs[precision].items()}


def read_description(folder: str | Path) -> OnnxFolder:
    """Read the description in a folder, or in its ``onnx/``.

    Raises:
        ConfigError: there is none, it is damaged, of a newer format, or names files outside its folder.
    """
    folder = Path(folder).expanduser()
    found = next((place for place in (folder, folder / SUBFOLDER) if is_onnx_folder(place)), None)
    if found is None:
        raise ConfigError(
            f"{folder} holds no {DESCRIPTION}, nor does its {SUBFOLDER}/; give a folder that mmcl export --format onnx "
            f"wrote"
        )
    path = found / DESCRIPTION
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); export the model again") from error
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT:
        raise ConfigError(f"{path}: format {version!r}, this mmcl reads {FORMAT}; upgrade mmcl or export again")
    missing = {"embedding_dim", "logit_scale", "modalities", "graphs", "image", "text"} - set(values)
    if missing:
        raise ConfigError(f"{path} has no {', '.join(sorted(missing))}; export the model again")
    try:
        names = [name for graphs in values["graphs"].values() for files in graphs.values() for name in files]
        outside = next((name for name in names if name != Path(name).name or name.startswith(".")), None)
        for side in ("image", "text"):
            dict(values[side]["preprocessing"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({type(error).__name__}: {error}); export the model again") from error
    if outside is not None:
        raise ConfigError(f"{path} names the file {outside!r}; want plain names of files beside it")
    return OnnxFolder(found, values)


def check_precision(precision: str) -> None:
    """Refuse a precision that graphs are never written in.

    Raises:
        ConfigError: names those there are.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; ONNX graphs come as {' and '.join(PRECISIONS)}")


def fetch_onnx(repo_id: str, *, precision: str, revision: str | None = None, token: str | None = None) -> Path:
    """Fetch the graphs of one precision from the Hub, and nothing else.

    Args:
        repo_id: ``owner/name``.
        precision: which graphs.
        revision: branch, tag or commit; default main.
        token: default the one that is logged in with.

    Returns:
        The folder in the Hub's cache that holds the description.

    Raises:
        ConfigError: no such repository, revision or graphs, no permission, or the Hub cannot be reached.
    """
    check_precision(precision)
    path = None
    for place in (f"{SUBFOLDER}/", ""):
        path = _fetch(repo_id, place + DESCRIPTION, revision, token, optional=True)
        if path is not None:
            break
    if path is None:
        raise ConfigError(f"{repo_id} on the Hub has no {DESCRIPTION}, nor in {SUBFOLDER}/: it holds no ONNX graphs")
    described = read_description(path.parent)
    wanted = [name for names in described.files(precision).values() for name in names]
    for name in [*wanted, TOKENIZER]:
        _fetch(repo_id, place + name, revision, token)
    return path.parent


def _fetch(repo_id: str, name: str, revision: str | None, token: str | None, *, optional: bool = False) -> Path | None:
    """One file of a repository; None where it is optional and the repository has none of that name."""
    import huggingface_hub
    from huggingface_hub import errors

    at = f"{repo_id}{f' at {revision}' if revision else ''}"
    try:
        return Path(huggingface_hub.hf_hub_download(repo_id, name, revision=revision, token=token))
    except errors.HFValidationError as error:
        raise ConfigError(f"there is no folder {repo_id!r}, and it is no name on the Hub; want owner/name") from error
    except errors.GatedRepoError as error:
        raise ConfigError(
            f"{at} is gated: ask for access on its page on the Hub, then log in (hf auth login)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(f"there is no {at} on the Hub, or it is private and needs a token (hf auth login)") from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(f"{repo_id} on the Hub has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        raise ConfigError(
            f"{name} of {at} is not in the cache, and the Hub cannot be reached; check the network, or give a folder"
        ) from error
    except errors.EntryNotFoundError as error:
        if optional:
            return None
        raise ConfigError(f"{at} on the Hub names {name}, but has no such file; export and push it again") from error
    except (errors.HfHubHTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = f"the Hub answers {status}" if status else str(error).split("\n")[0][:200]
        raise ConfigError(f"{name} of {at} cannot be fetched ({said}); try again later") from error
