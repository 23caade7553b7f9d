"""A classifier made of text: which prompts stand for which class, and the class weights they make."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.evaluation.evaluator import text_embeddings
from mmcl.evaluation.zero_shot.prompts import DEFAULT_TEMPLATES, check_templates, fill_templates
from mmcl.logs import get_logger

if TYPE_CHECKING:
    from mmcl.embedder import Embedder

log = get_logger(__name__)

# Distinct prompts embedded at a time: 1,000 classes of 80 prompts are never held as 80,000 embeddings.
CHUNK_PROMPTS = 4096


@dataclass(frozen=True)
class ClassPrompts:
    """The classes of a text classifier and what stands for each.

    Attributes:
        prompts: {label: whole prompts}, in the order of the classifier's columns.
        templates: what the prompts were filled from, the same for every class; empty where they were given whole.
        alike: groups of labels that have the same prompts, and so can never be told apart.
    """

    prompts: dict[str, list[str]]
    templates: tuple[str, ...]
    alike: tuple[tuple[str, ...], ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The c labels."""
        return tuple(self.prompts)


@dataclass(frozen=True)
class PromptChunk:
    """Some of a classifier's prompts, embedded.

    Attributes:
        embeddings: (u, d) float32, each distinct prompt once.
        row: (p,) int64 in [0, u), the embedding of each of p uses of a prompt.
        owner: (p,) int64, the class that uses it.
        slot: (p,) int64, its place among the prompts of the class: the template it was made from.
    """

    embeddings: Tensor
    row: Tensor
    owner: Tensor
    slot: Tensor


def class_prompts(
    present: Sequence[str],
    *,
    classes: Mapping[str, str] | Sequence[str] | None,
    templates: Sequence[str] | None,
    prompts: Mapping[str, Sequence[str]] | None,
) -> ClassPrompts:
    """The classes and their prompts.

    Args:
        present: the labels of the data: the classes where neither ``classes`` nor ``prompts`` names any, with
            underscores read as spaces.
        classes: {label: readable name}, or names that are the labels.
        templates: prompts with ``{}`` in the place of the readable name. Default: ``DEFAULT_TEMPLATES``.
        prompts: {label: whole prompts}, in the place of templates.

    Returns:
        Classes with the same prompts are kept, warned of and listed in ``alike``.

    Raises:
        ConfigError: both ``templates`` and ``prompts`` are given.
        DataError: there is no class, one stands twice or has no name, a class has no prompt, prompts are for a class
            there is not, or a template lacks ``{}``.
    """
    if templates is not None and prompts is not None:
        raise ConfigError("templates and prompts were both given; prompts are whole already: give one of the two")
    if classes is None and prompts is not None:
        classes = list(prompts)
    names = _names(classes) if classes is not None else {label: label.replace("_", " ") for label in present}
    if prompts is not None:
        check_covered(names, prompts, "prompts lack classes")
        _check_known(prompts, names)
        filled, templates = {label: list(prompts[label]) for label in names}, ()
    else:
        templates = check_templates(DEFAULT_TEMPLATES if templates is None else templates)
        filled = fill_templates(names, templates)
    empty = [label for label, some in filled.items() if not some]
    if empty:
        raise DataError(f"prompts need at least one prompt a class; {empty[0]!r} has none")
    return ClassPrompts(filled, tuple(templates), _alike(filled))


def check_covered(wanted: Iterable[str], given: Mapping[str, object], what: str) -> None:
    """Refuse labels that are missing.

    Raises:
        DataError: one of ``wanted`` is not in ``given``; the message starts with ``what``.
    """
    missing = [label for label in wanted if label not in given]
    if missing:
        shown = ", ".join(repr(label) for label in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(f"{what}: {shown} ({len(missing)} in all); the classes start with {list(given)[:5]}")


def class_weights(
    embedder: Embedder,
    prompts: Mapping[str, Sequence[str]],
    *,
    batch_size: int,
    watch: Callable[[PromptChunk], None] | None = None,
) -> Tensor:
    """The classifier: each class's mean prompt embedding, at unit length again.

    Every distinct prompt is embedded once, whichever classes share it; memory is O((c + CHUNK_PROMPTS) * d) whatever
    the number of prompts. Classes of equal prompts get equal weights, bit for bit.

    Args:
        embedder: of texts.
        prompts: {label: at least one prompt}, c of them.
        batch_size: texts a forward pass.
        watch: shown every chunk of embedded prompts.

    Returns:
        (c, d) float32 unit rows.

    Raises:
        ShapeError: an embedding is not finite, or the prompts of a class cancel out.

    Source:
        Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 3.1.4.
    """
    flat = [prompt for some in prompts.values() for prompt in some]
    sizes = torch.tensor([len(some) for some in prompts.values()])
    owner = torch.repeat_interleave(sizes)
    slot = torch.arange(len(flat)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    position = {prompt: index for index, prompt in enumerate(dict.fromkeys(flat))}
    used, order = torch.tensor([position[prompt] for prompt in flat]).sort(stable=True)
    distinct, sums = list(position), None
    for start in range(0, len(distinct), CHUNK_PROMPTS):
        texts = distinct[start : start + CHUNK_PROMPTS]
        embedded, index = text_embeddings(embedder, texts, batch_size=batch_size)
        low, high = torch.searchsorted(used, torch.tensor([start, start + len(texts)])).tolist()
        mine = order[low:high]
        chunk = PromptChunk(embedded, torch.tensor(index)[used[low:high] - start], owner[mine], slot[mine])
        if sums is None:
            sums = torch.zeros(len(prompts), embedded.shape[1], dtype=torch.float64)
        sums.index_add_(0, chunk.owner, embedded[chunk.row].double())
        if watch is not None:
            watch(chunk)
    length = sums.norm(dim=1)
    # Unit vectors that cancel leave rounding behind, not a direction.
    lost = length <= 1e-6 * sizes
    if lost.any():
        label = list(prompts)[int(lost.nonzero()[0, 0])]
        raise ShapeError(f"the prompt embeddings of class {label!r} add up to zero; no direction is left to score")
    return F.normalize(sums, dim=1).float()


def _names(classes: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    names = dict(classes) if isinstance(classes, Mapping) else {name: name for name in classes}
    if not names or len(names) != len(classes):
        listed = list(classes)
        twice = next((f"; {name!r} stands twice" for name in listed if listed.count(name) > 1), "")
        raise DataError(
            f"classes needs at least one class and each once, got {len(listed)}, {len(names)} distinct{twice}"
        )
    for label, name in names.items():
        if not (isinstance(label, str) and isinstance(name, str) and label.strip() and name.strip()):
            raise DataError(f"classes: label {label!r} needs one non-empty name, got {name!r}")
    return names


def _check_known(prompts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:
    unknown = [label for label in prompts if label not in names]
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"prompts are given for {unknown[0]!r}, which is no class ({len(unknown)} such){hint}")


def _alike(prompts: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    by_prompts: dict[tuple[str, ...], list[str]] = {}
    for label, some in prompts.items():
        by_prompts.setdefault(tuple(sorted(some)), []).append(label)
    alike = tuple(tuple(labels) for labels in by_prompts.values() if len(labels) > 1)
    if alike:
        log.warning(
            "classes %s have the same prompts and can never be told apart (%d such groups): every image of them counts "
            "as wrong; give them names or prompts that differ",
            " and ".join(repr(label) for label in alike[0]),
            len(alike),
        )
    return alike
