"""The suite: which models are judged on which data by which tasks, as typed, strict, frozen models."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from mmcl.config.data_sections import ColumnsSection
from mmcl.config.keys import nearest_key
from mmcl.config.reading import explain_problems, parse_yaml
from mmcl.config.section import Section
from mmcl.errors import ConfigError

SUITE_SUFFIXES = (".yaml", ".yml")


class SuiteData(Section):
    """One data set of a suite."""

    path: str = Field(description="DATA, with :SPLIT behind it where it has several")
    columns: ColumnsSection = ColumnsSection()
    images: str | None = Field(None, description="folder the image paths of a table are relative to")

    def renamed(self) -> dict[str, str]:
        """The columns that the data call otherwise: mmcl's name -> theirs."""
        return self.columns.model_dump(exclude_none=True)


class SuiteTask(Section):
    """One task of a suite, with the options of its evaluator."""

    name: str = Field(description="what is measured, such as retrieval or zeroshot")
    options: dict[str, Any] = Field(default_factory=dict, description="keywords of the task's evaluator")


class Suite(Section):
    """Models, data and tasks; every model is judged on every data set by every task."""

    models: dict[str, str] = Field(default_factory=dict, description="name: MODEL; or a list of MODELs")
    data: dict[str, SuiteData] = Field(
        default_factory=dict, description="name: DATA, or {path, columns, images}; or a list of these"
    )
    tasks: tuple[SuiteTask, ...] = Field(
        (SuiteTask(name="retrieval"), SuiteTask(name="zeroshot"), SuiteTask(name="foils")),
        strict=False,
        min_length=1,
        description="names, or {name: {option: value}}; a task whose column the data lack is left out",
    )
    batch_size: int = Field(64, ge=1, description="items a forward pass")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="arithmetic of the models")
    device: str | None = Field(None, description="cpu, cuda, cuda:1; null: the GPU where there is one")
    output: str = Field("results", description="folder of the cells and the tables")

    def labels(self) -> list[str]:
        """What tables call each task: its name, with its options behind it where the name occurs more than once."""
        times = Counter(task.name for task in self.tasks)
        return [task.name if times[task.name] == 1 else _with_options(task) for task in self.tasks]


def _with_options(task: SuiteTask) -> str:
    shown = ", ".join(f"{key}={value}" for key, value in task.options.items())
    return f"{task.name} ({shown})" if shown else task.name


def _named(value: Any, key: str, *, source: str) -> Any:
    """A list of references as {reference: reference}; an entry of a list may be a mapping with ``path``."""
    if not isinstance(value, list):
        return {} if value is None else value
    named: dict[str, Any] = {}
    for entry in value:
        name = entry.get("path") if isinstance(entry, dict) else entry
        if not isinstance(name, str):
            raise ConfigError(f"{source}: {key} holds {entry!r}; want references, or a mapping of name: reference")
        if name in named:
            raise ConfigError(f"{source}: {key} holds {name!r} twice; give the two names, as in {{a: ..., b: ...}}")
        named[name] = entry
    return named


def _task(entry: Any, *, source: str) -> dict[str, Any]:
    """``name`` or ``{name: options}`` as {name, options}."""
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, options),) = entry.items()
        if isinstance(name, str) and (options is None or isinstance(options, dict)):
            return {"name": name, "options": dict(options or {})}
    raise ConfigError(f"{source}: tasks holds {entry!r}; want a name such as retrieval, or {{name: {{option: value}}}}")


def _nearest(key: str) -> str | None:
    parts = key.split(".")
    if parts[0] == "data" and len(parts) > 2:  # data.NAME.key: the name is the reader's own
        near = nearest_key(".".join(parts[2:]), SuiteData)
        return near and f"{parts[0]}.{parts[1]}.{near}"
    return nearest_key(key, Suite)


def suite_from_tree(tree: Any, *, source: str) -> Suite:
    """A checked suite from nested dictionaries.

    Args:
        tree: as the YAML has it; lists and short forms are written out here.
        source: the file, for messages.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type, a value out of range, a repeated name or
            task.

    Example:
        >>> suite_from_tree({"models": ["runs/a"], "data": {"s": "shapes:test"}}, source="mine").data["s"].path
        'shapes:test'
    """
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: a suite is a mapping with models, data and tasks, found {type(tree).__name__}")
    tree = dict(tree)
    for key in ("models", "data"):
        if key in tree:
            tree[key] = _named(tree[key], key, source=source)
    if isinstance(tree.get("data"), Mapping):
        given = tree["data"].items()
        tree["data"] = {name: {"path": entry} if isinstance(entry, str) else entry for name, entry in given}
    if "tasks" in tree:
        tasks = tree["tasks"]
        if isinstance(tasks, dict):
            tasks = [{name: options} for name, options in tasks.items()]
        if not isinstance(tasks, list):
            raise ConfigError(f"{source}: tasks is {tasks!r}; want a list such as [retrieval, zeroshot]")
        tree["tasks"] = [_task(entry, source=source) for entry in tasks]
    try:
        suite = Suite.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain_problems(error, source, nearest=_nearest, whole="suite")) from error
    repeated = [label for label, times in Counter(suite.labels()).items() if times > 1]
    if repeated:
        raise ConfigError(f"{source}: the task {repeated[0]!r} stands twice with the same options; leave one out")
    return suite


def suite_to_tree(suite: Suite) -> dict[str, Any]:
    """The plain tree of a suite, as its YAML would have it; ``suite_from_tree`` gives the suite again."""
    tree = suite.model_dump(exclude_none=True)
    for entry in tree["data"].values():
        if not entry["columns"]:
            del entry["columns"]
    tree["tasks"] = [{task.name: dict(task.options)} if task.options else task.name for task in suite.tasks]
    return tree


def shipped_suites() -> dict[str, Path]:
    """Name -> file of every suite that ships with mmcl."""
    package = Path(__file__).parents[1]
    folders = (package / "recipes" / "suites", package.parent / "recipes" / "suites")
    return {path.stem: path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.yaml"))}


def load_suite_tree(reference: str | Path) -> tuple[dict[str, Any], str]:
    """The unchecked tree of a suite's file, and the file's name, for what a command line adds to it.

    Args:
        reference: a YAML file, or the name of a suite that ships with mmcl.

    Raises:
        ConfigError: there is no such file or suite (the nearest is named), or it is no YAML mapping.
    """
    path, shipped = Path(reference), shipped_suites()
    if not path.is_file():
        if str(reference) not in shipped:
            near = difflib.get_close_matches(path.stem, shipped, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            listed = ", ".join(sorted(shipped)) or "none"
            raise ConfigError(
                f"no suite {str(reference)!r}: it is neither a file nor one of those shipped ({listed}){hint}"
            )
        path = shipped[str(reference)]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no suite can be read from it ({error})") from error
    tree = parse_yaml(text, source=str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a suite is a mapping with models, data and tasks, found {type(tree).__name__}")
    return tree, str(path)


def load_suite(reference: str | Path) -> Suite:
    """Read and check a suite.

    Args:
        reference: a YAML file, or the name of a suite that ships with mmcl.

    Raises:
        ConfigError: see `load_suite_tree` and `suite_from_tree`.

    Example:
        >>> load_suite("standard").tasks[0].name
        'retrieval'
    """
    tree, source = load_suite_tree(reference)
    return suite_from_tree(tree, source=source)
