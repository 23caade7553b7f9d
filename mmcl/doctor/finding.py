"""`Finding`: one thing that is wrong with a training, with its evidence, a number and a next step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mmcl.errors import ConfigError

# cause -> what it is, in a few words. Those that hinder learning altogether stand first.
CAUSES: dict[str, str] = {
    "nothing_trains": "no weight that matters is trained",
    "learning_rate_too_high": "the learning rate is too high",
    "learning_rate_too_low": "the learning rate is too low",
    "constant_embeddings": "all embeddings are alike",
    "captions_do_not_vary": "the captions do not vary",
    "pairs_shuffled": "images and captions do not belong together",
    "pairs_partly_shuffled": "part of the captions belong to other images",
    "wrong_normalization": "the images are not normalised as the image tower was trained",
    "images_do_not_vary": "the images do not vary",
    "tokenizer_mismatch": "the tokenizer is not the text tower's",
    "captions_cut": "captions are longer than the text tower reads",
    "stuck_at_chance": "the model cannot tell the pairs apart",
    "temperature_at_clamp": "the logit scale is at its ceiling",
    "temperature_collapsed": "the logit scale has collapsed",
    "temperature_fixed": "the logit scale does not fit and is not learnt",
    "false_negatives": "pairs that belong together are taken for negatives",
    "overfitting": "the training pairs are learnt by heart",
    "split_leak": "validation items are among the training items",
    "dimensional_collapse": "the embeddings use few of their dimensions",
    "modality_gap": "images and captions lie apart",
    "slow_loader": "the model waits for its batches",
    "dead_workers": "a reader process died",
    "neighbours_disagree": "like images have unlike captions or labels",
    "damaged_file": "a file of the run is damaged",
    "skipped_rows": "many rows cannot be read",
    "gradient_explodes": "gradients explode",
    "gradient_vanishes": "a part of the model gets no gradient",
    "not_a_number": "a value is not finite",
    "unstable_loss": "the loss jumps",
    "stopped_early": "training ended before it had converged",
    "batch_too_small": "a batch has few negatives",
    "captions_are_no_texts": "ids, numbers or class names stand in the place of captions",
    "too_few_rows": "there are few rows to learn from",
    "validation_too_small": "the validation split is too small for its metric",
}
SEVERITIES = ("fault", "warning", "note")  # the run is broken and this is why; it costs quality; worth knowing


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        cause: a key of ``CAUSES``.
        severity: ``"fault"``: the run is broken and this is why; ``"warning"``: it costs quality; ``"note"``: worth
            knowing. The first two are alarms.
        evidence: one sentence with the numbers.
        value: the number that was measured.
        threshold: the number from which on it is told.
        next_step: one imperative sentence with the recipe key or the command.

    Raises:
        ConfigError: ``cause`` or ``severity`` is unknown, or a sentence is empty.

    Example:
        >>> from mmcl.doctor.finding import Finding
        >>> finding = Finding("slow_loader", "warning", "62 % of the time went into waiting.", 0.62, 0.5, "Set more.")
        >>> finding.is_alarm, finding.title
        (True, 'the model waits for its batches')
    """

    cause: str
    severity: str
    evidence: str
    value: float
    threshold: float
    next_step: str

    def __post_init__(self) -> None:
        if self.cause not in CAUSES:
            raise ConfigError(f"a finding's cause is {self.cause!r}; want one of {', '.join(CAUSES)}")
        if self.severity not in SEVERITIES:
            raise ConfigError(f"a finding's severity is {self.severity!r}; want one of {', '.join(SEVERITIES)}")
        for name in ("evidence", "next_step"):
            if not getattr(self, name).strip():
                raise ConfigError(f"the finding {self.cause!r} has an empty {name}; give one sentence")

    @property
    def is_alarm(self) -> bool:
        """Whether it is a fault or a warning."""
        return self.severity != "note"

    @property
    def title(self) -> str:
        """What is wrong, in a few words."""
        return CAUSES[self.cause]

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """What ``to_dict`` gave; keys beyond the fields, such as ``step``, are left aside.

        A number that JSON could not hold, and that came back as None, is NaN.

        Raises:
            ConfigError: a field is missing, or says something unknown.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in values]:
            raise ConfigError(f"a finding lacks {', '.join(missing)}; want {', '.join(names)}")
        numbers = {name: float("nan" if values[name] is None else values[name]) for name in ("value", "threshold")}
        return cls(**{name: numbers.get(name, values[name]) for name in names})


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Faults before warnings before notes, each kind in the order it came in."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
