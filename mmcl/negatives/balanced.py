"""Class-balanced batches: P classes, K rows of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.negatives.samplers import BatchSampler
from mmcl.negatives.unique_groups import deal

log = get_logger(__name__)


class BalancedBatches(BatchSampler):
    """Batches of P different classes with K rows of each, every class equally often whatever its size.

    An epoch is ``max(1, floor(n / (P * K)))`` batches of exactly P * K rows: as many rows as the data have. Classes are
    dealt out evenly, so that each comes in ``floor`` or ``ceil`` of its share of the batches. A class's rows come in
    random order and begin again when they are used up: within a batch a row repeats only where its class has fewer
    than K rows. Rows of large classes are not all seen in one epoch, but others in the next.

    Source: Schroff et al. 2015 (FaceNet, arXiv:1503.03832, sec. 3.2); Hermans et al. 2017 (arXiv:1703.07737, sec. 2)
        for P x K. Deviation from pytorch-metric-learning's MPerClassSampler: rows of a small class are repeated in
        turn instead of drawn with replacement, and classes are spread evenly over the whole epoch.

    Args:
        labels: (n,) class of each row, texts or integers; none may be missing.
        classes_per_batch: P, in [2, number of classes].
        samples_per_class: K, at least 1.
        seed: of the order.

    Attributes:
        num_small: classes with fewer than K rows, whose rows repeat within a batch; logged once.

    Raises:
        ConfigError: missing labels (with their count), fewer classes than P, P below 2 or K below 1.

    Example:
        >>> batches = BalancedBatches(["cat", "dog", "cat", "dog", "cat", "cat"], 2, 2, seed=0)
        >>> len(batches), sorted(batches.epoch(0)[0].tolist())[0] in (0, 1, 2)
        (1, True)
    """

    def __init__(
        self,
        labels: Sequence[str | int | None] | np.ndarray,
        classes_per_batch: int,
        samples_per_class: int,
        *,
        seed: int,
    ) -> None:
        self.classes = _class_codes(labels)
        counts = np.bincount(self.classes)
        if classes_per_batch < 2 or samples_per_class < 1:
            raise ConfigError(
                f"classes_per_batch is {classes_per_batch} and samples_per_class {samples_per_class}; want at least 2 "
                f"and 1"
            )
        if len(counts) < classes_per_batch:
            raise ConfigError(
                f"classes_per_batch is {classes_per_batch}, but the labels have {len(counts)} class(es); lower "
                f"classes_per_batch (and train.batch_size with it), or balance by another column"
            )
        self.num_rows, self.seed = len(self.classes), seed
        self.classes_per_batch, self.samples_per_class = classes_per_batch, samples_per_class
        self.num_small = int((counts < samples_per_class).sum())
        if self.num_small:
            log.warning(
                "%d of %d classes have fewer than %d rows (samples_per_class): their rows repeat within a batch",
                self.num_small,
                len(counts),
                samples_per_class,
            )

    def __len__(self) -> int:
        """Batches an epoch."""
        return max(1, self.num_rows // (self.classes_per_batch * self.samples_per_class))

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch: row numbers, class by class, whole batches over all processes."""
        draw = np.random.default_rng([self.seed, epoch])
        classes = self._deal_classes(draw)  # (B, P)
        order = draw.permutation(self.num_rows)
        order = order[np.argsort(self.classes[order], kind="stable")]  # class beside class, each in random order
        counts = np.bincount(self.classes)
        starts = np.cumsum(counts) - counts
        # Which visit of its class a place is: its rank among the places of equal class, in the order of batches.
        flat = classes.reshape(-1)
        by_class = np.argsort(flat, kind="stable")
        visit = np.empty_like(flat)
        visits = np.bincount(flat, minlength=len(counts))
        visit[by_class] = np.arange(len(flat)) - np.repeat(np.cumsum(visits) - visits, visits)
        step = visit[:, None] * self.samples_per_class + np.arange(self.samples_per_class)  # (B * P, K)
        rows = order[starts[flat, None] + step % counts[flat, None]]
        return list(rows.reshape(len(self), -1))

    def _deal_classes(self, draw: np.random.Generator) -> np.ndarray:
        """(B, P): P different classes a batch, each class as often as another, or once more."""
        number = int(self.classes.max()) + 1
        places = len(self) * self.classes_per_batch
        # Copies of a class are at most as many as batches, because P <= number: dealt out, none meets its like.
        copies = np.resize(draw.permutation(number), places)
        return np.stack([copies[batch] for batch in deal(copies, len(self), draw)])


def _class_codes(labels: Sequence[str | int | None] | np.ndarray) -> np.ndarray:
    """(n,) int64 codes from 0 of labels that are all there."""
    values = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    missing = sum(value is None for value in values)
    if missing or not values:
        raise ConfigError(
            f"{missing} of {len(values)} rows have no label; balanced batches need the class of every row: fill the "
            f"column, leave those rows out, or balance by another column"
        )
    codes: dict[str | int, int] = {}
    return np.array([codes.setdefault(value, len(codes)) for value in values], dtype=np.int64)
