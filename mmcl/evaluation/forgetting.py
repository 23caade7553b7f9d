"""What training on one data set did to a model on others: paired differences of before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.comparison import ComparedMetric, compare_models
from mmcl.evaluation.evaluator import Metrics
from mmcl.evaluation.paired import holm

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

_WORDS = {"i2t_recall@1": "image → text R@1", "t2i_recall@1": "text → image R@1", "zeroshot_top1": "zero-shot top-1"}
_COLUMNS = {"retrieval": "texts", "zeroshot": "label"}
_METRICS = {"retrieval": ("i2t_recall@1", "t2i_recall@1"), "zeroshot": ("zeroshot_top1",)}
_LEVEL = 0.05


@dataclass(frozen=True)
class Change:
    """One data set's figures before and after training.

    Attributes:
        name: of the data set, short.
        metrics: before as A, after as B; p-values are corrected for all metrics of all data sets.
        num_images: images judged.
        num_left_out: images that only one of the two models could read.
    """

    name: str
    metrics: list[ComparedMetric]
    num_images: int
    num_left_out: int


@dataclass(frozen=True)
class Forgetting:
    """What training changed, on the data set it was for and on others.

    Attributes:
        changes: one a data set; the first is the one trained for.
        trained_for: false where none of them is.
    """

    changes: list[Change]
    trained_for: bool = True

    def to_metrics(self) -> Metrics:
        """By ``forgetting/<data set>/<metric>`` with ``_before``, ``_after``, ``_change``, ``_change_ci95``, ``_p`` and
        ``_p_adjusted`` behind it.
        """
        found: Metrics = {}
        for change in self.changes:
            for one in change.metrics:
                name = f"forgetting/{change.name}/{one.name}"
                found |= {f"{name}_before": one.a, f"{name}_after": one.b, f"{name}_change": one.paired.difference}
                found |= {f"{name}_change_ci95": one.paired.ci95, f"{name}_p": one.paired.p_value}
                found[f"{name}_p_adjusted"] = one.p_adjusted
            found[f"forgetting/{change.name}/num_images"] = float(change.num_images)
            found[f"forgetting/{change.name}/num_left_out"] = float(change.num_left_out)
        return found

    def verdict(self) -> list[str]:
        """A sentence a data set: what was gained, what lost, and what chance would make too (corrected p > 0.05)."""
        return [
            _sentence(change, trained=self.trained_for and number == 0) for number, change in enumerate(self.changes)
        ]


def measure_forgetting(
    before: Embedder,
    after: Embedder,
    datasets: Mapping[str, ImageTextDataset],
    *,
    batch_size: int = 64,
) -> Forgetting:
    """Judge a model before and after training on what it was trained for, and on what it was not.

    On each data set retrieval R@1 is compared both ways where it has captions, and zero-shot top-1 where it has labels;
    item by item, on the images that both can read. Intervals and p-values are those of `paired_differences`.

    Args:
        before: the model that training started from.
        after: the trained one.
        datasets: by short names; the first is the one trained for, at least one more is wanted.
        batch_size: items a forward pass.

    Raises:
        ConfigError: fewer than two data sets, or an embedder lacks images or texts.
        DataError: no image is readable by both, or data have neither captions nor labels.
        ShapeError: an embedding is not finite.
    """
    if len(datasets) < 2:
        raise ConfigError(
            f"forgetting is seen on data that were not trained for: give a second data set besides "
            f"{', '.join(datasets) or 'the first'}"
        )
    return measure_changes(before, after, datasets, batch_size=batch_size)


def measure_changes(
    before: Embedder,
    after: Embedder,
    datasets: Mapping[str, ImageTextDataset],
    *,
    tasks: Mapping[str, Sequence[str]] | None = None,
    trained_for: bool = True,
    batch_size: int = 64,
) -> Forgetting:
    """What `measure_forgetting` measures, on any number of data sets from one on, and on chosen tasks.

    Args:
        before, after, datasets, batch_size: as there.
        tasks: of ``retrieval`` and ``zeroshot``, by data set; one that is not named takes those it allows.
        trained_for: whether the first data set is the one trained for.

    Raises:
        ConfigError, DataError, ShapeError: as `measure_forgetting`.
    """
    found = []
    for name, dataset in datasets.items():
        if not len(dataset):
            raise DataError(f"{dataset.name} has no rows to evaluate on; name another split or file")
        chosen = allowed_tasks(dataset, (tasks or {}).get(name))
        metrics = [
            metric for metric in _WORDS if ("zeroshot" if metric.startswith("zeroshot") else "retrieval") in chosen
        ]
        compared = compare_models(before, after, dataset, tasks=chosen, metrics=metrics, ks=(1,), batch_size=batch_size)
        found.append(Change(name, compared.metrics, compared.num_images, compared.num_left_out))
    adjusted = iter(holm([one.paired.p_value for change in found for one in change.metrics]))
    changes = [
        Change(
            change.name,
            [ComparedMetric(one.name, one.a, one.b, one.paired, next(adjusted)) for one in change.metrics],
            change.num_images,
            change.num_left_out,
        )
        for change in found
    ]
    return Forgetting(changes, trained_for)


def allowed_tasks(dataset: ImageTextDataset, wanted: Sequence[str] | None = None) -> list[str]:
    """Which of retrieval and zero-shot classification some data can be judged by.

    Args:
        dataset: any.
        wanted: those that were asked for; None: all that can be.

    Raises:
        DataError: it lacks the column of one that was asked for, or those of both.
    """
    there = [task for task, column in _COLUMNS.items() if dataset.has(column)]
    missing = [task for task in wanted or () if task not in there]
    if missing:
        raise DataError(f"{dataset.name} has no column {_COLUMNS[missing[0]]}, which {missing[0]} needs; leave it out")
    if not there:
        raise DataError(
            f"{dataset.name} has neither captions (column texts) for retrieval nor labels (column label) for zero-shot "
            f"classification; name other data"
        )
    return [task for task in there if wanted is None or task in wanted]


def short_names(names: list[str]) -> list[str]:
    """Data set names without their folders, told apart by a number where that makes two of them equal.

    Example:
        >>> short_names(["data/emoji:test", "other/emoji:test", "shapes:test"])
        ['emoji:test', 'emoji:test-2', 'shapes:test']
    """
    found: list[str] = []
    for name in names:
        short = name.rstrip("/").rpartition("/")[2]
        number = sum(other == short or other.startswith(f"{short}-") for other in found)
        found.append(short if not number else f"{short}-{number + 1}")
    return found


def _sentence(change: Change, *, trained: bool) -> str:
    parts = []
    for one in change.metrics:
        points = 100 * one.paired.difference
        low, high = (100 * end for end in one.paired.ci95)
        interval = f"{low:+.1f} to {high:+.1f}, p {write_p(one.p_adjusted)}"
        if one.p_adjusted > _LEVEL:
            parts.append(f"no sure change in {_WORDS[one.name]} ({points:+.1f} points, {interval})")
        else:
            verb = "gained" if points > 0 else "lost"
            parts.append(f"{verb} {abs(points):.1f} points of {_WORDS[one.name]} ({interval})")
    return f"{'on' if trained else 'elsewhere, on'} {change.name}: {'; '.join(parts)}"


def write_p(p_value: float) -> str:
    """A p-value as it is read: ``= 0.031``, or ``< 0.001``."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
