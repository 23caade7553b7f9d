"""`examine`: all checks of a run, which of their findings is the root, and the diagnosis in a sentence or two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmcl.doctor.examination import (
    batches,
    captions,
    files,
    images,
    neighbours,
    pairing,
    reading,
    spaces,
    splits,
    tokens,
    weights,
)
from mmcl.doctor.examination.subject import Damage, Subject
from mmcl.doctor.finding import CAUSES, Finding, by_severity
from mmcl.doctor.live.live_doctor import live_findings

ProgressCallback = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Check:
    """One thing that is looked at.

    Attributes:
        name: what is looked at, in a few words.
        find: makes the findings of a run; none where all is well, or where what it wants is not there.
        is_possible: whether the run has what the check wants.
        well: what may be said where nothing was found.
    """

    name: str
    find: Callable[[Subject], list[Finding]]
    is_possible: Callable[[Subject], bool]
    well: str


def _has_rows(subject: Subject) -> bool:
    return subject.train is not None


def _has_images(subject: Subject) -> bool:
    return subject.train is not None and bool(subject.train.images)


def _has_features(subject: Subject) -> bool:
    return subject.train is not None and subject.train.image_features is not None


def _has_start(subject: Subject) -> bool:
    return subject.start is not None


def _has_text_tower(subject: Subject) -> bool:
    return subject.train is not None and (subject.start or subject.trained) is not None


def _has_both(subject: Subject) -> bool:
    return subject.start is not None and subject.trained is not None


def _has_embeddings(subject: Subject) -> bool:
    return subject.train is not None and subject.train.fit is not None


def _has_validation(subject: Subject) -> bool:
    return subject.validation is not None


def _always(subject: Subject) -> bool:
    return True


CHECKS: tuple[Check, ...] = (
    Check("files of the run", files.damaged, _always, "the run's files are whole"),
    Check("weights are numbers", weights.not_finite, _has_start, "all weights at the start are finite"),
    Check("something trains", weights.nothing_trains, _has_start, "weights of the encoders train"),
    Check("learning rate, too high", weights.rate_too_high, _has_start, "no sign of steps too large"),
    Check("learning rate, too low", weights.rate_too_low, _has_both, "the weights have moved"),
    Check("captions are texts", captions.no_texts, _has_rows, "captions are neither ids nor numbers"),
    Check("captions vary", captions.variety, _has_rows, "captions differ from row to row"),
    Check("images vary", images.variety, _has_images, "images differ from row to row"),
    Check("normalisation", images.normalization, _has_images, "pixels come out as the image tower wants them"),
    Check("tokenizer", tokens.tokenizer, _has_text_tower, "the tokenizer knows the captions' words"),
    Check("caption length", tokens.cut, _has_text_tower, "captions fit into the text tower"),
    Check("pairs belong together", pairing.pairs, _has_rows, "captions can be told from their images"),
    Check("like images", neighbours.disagreement, _has_features, "like images have like labels and captions"),
    Check("embeddings vary", spaces.constant, _has_embeddings, "embeddings differ from row to row"),
    Check("dimensions", spaces.collapse, _has_embeddings, "embeddings use many dimensions"),
    Check("modality gap", spaces.gap, _has_embeddings, "images and captions lie near one another"),
    Check("scale", batches.scale, _always, "the scale is learnt, or fits"),
    Check("false negatives", batches.false_negatives, _has_rows, "few rows meet their like in a batch"),
    Check("batch size", batches.sizes, _always, "a batch has enough negatives"),
    Check("splits apart", splits.leak, _has_validation, "validation rows are new to the model"),
    Check("training against validation", splits.overfitting, _has_embeddings, "what was learnt carries over"),
    Check("number of rows", splits.sizes, _has_rows, "there are enough rows to learn from and to judge by"),
    Check("reader processes", reading.readers, _always, "no reader process died"),
    Check("reading against computing", reading.loader, lambda s: s.timing is not None, "batches come in time"),
    Check("rows that can be read", reading.skipped, _always, "rows can be read"),
)

# Causes that bring the others about, the deepest first: of several alarms the first of these is named first.
ROOTS: tuple[str, ...] = (
    "damaged_file", "skipped_rows", "not_a_number", "dead_workers", "nothing_trains", "images_do_not_vary",
    "captions_are_no_texts", "captions_do_not_vary", "tokenizer_mismatch", "captions_cut", "wrong_normalization",
    "pairs_shuffled", "learning_rate_too_high", "learning_rate_too_low", "temperature_fixed", "split_leak",
    "pairs_partly_shuffled", "false_negatives", "batch_too_small", "constant_embeddings", "dimensional_collapse",
    "temperature_at_clamp", "overfitting", "temperature_collapsed", "gradient_explodes", "gradient_vanishes",
    "unstable_loss", "slow_loader",
)  # fmt: skip
# What follows from a model that gets nothing to learn from, or cannot learn.
SYMPTOMS = (
    "stuck_at_chance", "constant_embeddings", "dimensional_collapse", "modality_gap", "unstable_loss",
    "gradient_explodes", "gradient_vanishes", "temperature_collapsed", "temperature_at_clamp", "stopped_early",
    "overfitting",
)  # fmt: skip
_RATES = ("learning_rate_too_high", "learning_rate_too_low")
_INPUTS = ("captions_do_not_vary", "false_negatives", "pairs_shuffled", "pairs_partly_shuffled", "split_leak")
# Cause -> what it brings about beside the symptoms: an alarm of these is a note where the cause was found.
EXPLAINS: dict[str, tuple[str, ...]] = {
    "damaged_file": ("dead_workers", "stopped_early"),
    "not_a_number": (*_RATES, *SYMPTOMS),
    "dead_workers": ("stopped_early",),
    "nothing_trains": (*_RATES, *SYMPTOMS),
    "images_do_not_vary": (*_RATES, *_INPUTS[2:], *SYMPTOMS, "wrong_normalization", "neighbours_disagree"),
    "captions_are_no_texts": ("neighbours_disagree", *_RATES, *_INPUTS, *SYMPTOMS, "tokenizer_mismatch"),
    "captions_do_not_vary": (*_RATES, *_INPUTS[1:], *SYMPTOMS),
    "tokenizer_mismatch": (*_RATES, *SYMPTOMS, "captions_cut", "false_negatives"),
    "captions_cut": (*_RATES, *SYMPTOMS, "false_negatives"),
    "wrong_normalization": (*_RATES, *SYMPTOMS, "neighbours_disagree"),
    "pairs_shuffled": (*_RATES, *SYMPTOMS, "pairs_partly_shuffled", "neighbours_disagree"),
    "pairs_partly_shuffled": ("neighbours_disagree", "overfitting", "unstable_loss", "temperature_collapsed"),
    "learning_rate_too_high": SYMPTOMS,
    "learning_rate_too_low": SYMPTOMS,
    "temperature_fixed": SYMPTOMS,
    "batch_too_small": ("stuck_at_chance", "unstable_loss", "temperature_collapsed"),
    "constant_embeddings": ("dimensional_collapse", "stuck_at_chance", "gradient_vanishes"),
}


@dataclass(frozen=True)
class Examination:
    """What was found of a run.

    Attributes:
        run: the run folder, as it was named.
        state: how the run stands.
        step, total_steps: where it is.
        findings: faults, then warnings, then notes; within these the root first.
        well: (check, what may be said) of checks that found nothing.
        not_made: (check, why) of checks that could not be made.
        facts: numbers beside them, for ``--json``.
    """

    run: str
    state: str
    step: int
    total_steps: int
    findings: list[Finding]
    well: list[tuple[str, str]] = field(default_factory=list)
    not_made: list[tuple[str, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> Finding | None:
        """The alarm that is named first; None: there is none."""
        return next((finding for finding in self.findings if finding.is_alarm), None)

    @property
    def diagnosis(self) -> str:
        """What is wrong, by what evidence, and what to do next."""
        first = self.first
        if first is None:
            notes = len(self.findings)
            beside = f" ({notes} thing{'s' if notes > 1 else ''} worth knowing)" if notes else ""
            return f"Nothing is wrong that {len(self.well)} checks could see{beside}."
        return f"{first.title[:1].upper()}{first.title[1:]}: {first.evidence} Next: {first.next_step}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = dataclasses.asdict(self)
        values["findings"] = [finding.to_dict() for finding in self.findings]
        return {"diagnosis": self.diagnosis, "cause": None if self.first is None else self.first.cause, **values}


def examine(
    subject: Subject, *, run: str = "", told: Iterable[Finding] = (), progress: ProgressCallback | None = None
) -> Examination:
    """Make all checks of a run, and put what they found in order.

    Args:
        subject: the run, opened.
        run: its folder.
        told: what the doctor beside the training has said.
        progress: told how many checks are made.

    Returns:
        The examination. Of findings with one cause the gravest counts, and of equals that of the check that looked at
        data and model. What follows from a cause that was found is a note.
    """
    found, well, not_made = [], [], []
    for number, check in enumerate(CHECKS):
        if not check.is_possible(subject):
            not_made.append((check.name, "the run holds nothing to look at"))
            continue
        try:
            findings = check.find(subject)
        # What is broken in a way nobody thought of must not keep the other checks from being made.
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            not_made.append((check.name, f"the check failed: {type(error).__name__} {said}".rstrip()))
            continue
        found += findings
        if not findings:
            well.append((check.name, check.well))
        if progress is not None:
            progress("checks", number + 1, len(CHECKS))
    live = [
        finding for finding in [*told, *live_findings(subject.records, subject.recipe)] if _stands(finding, subject)
    ]
    findings = in_order([*found, *live])
    return Examination(
        run=run,
        state=subject.ending.state,
        step=subject.course.step,
        total_steps=subject.course.total_steps,
        findings=findings,
        well=well,
        not_made=not_made,
        facts=_facts(subject),
    )


def examine_files(damages: Sequence[Damage], *, run: str, state: str, step: int) -> Examination:
    """What can be said of a run by its files alone: where its recipe cannot be read.

    Args:
        damages: what was found of them; at least one.
        run: its folder.
        state: how it stands.
        step: the newest that is known.
    """
    unread = [("everything else", f"{damages[0].path}, which says what was run and on which data, cannot be read")]
    return Examination(run, state, step, 0, files.damaged_files(damages, run=run), not_made=unread)


def _stands(finding: Finding, subject: Subject) -> bool:
    """Whether what the records suggest is not refuted by what the end of the run is like."""
    if _has_embeddings(subject) and finding.cause in ("dimensional_collapse", "constant_embeddings", "modality_gap"):
        return False  # looked at above, on more rows than a batch has, and at the end
    return not (subject.has_learnt and finding.cause in ("stuck_at_chance", "unstable_loss"))


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """One finding of each cause, what follows from others made a note, the gravest and deepest first.

    Example:
        >>> from mmcl.doctor.finding import Finding
        >>> stuck = Finding("stuck_at_chance", "fault", "Chance.", 1.0, 1.0, "Look.")
        >>> frozen = Finding("nothing_trains", "fault", "Frozen.", 0.0, 0.0, "Thaw.")
        >>> [(f.cause, f.severity) for f in in_order([stuck, frozen])]
        [('nothing_trains', 'fault'), ('stuck_at_chance', 'note')]
    """
    kept: dict[str, Finding] = {}
    for finding in by_severity(findings):
        kept.setdefault(finding.cause, finding)
    places = {cause: place for place, cause in enumerate([*ROOTS, *(c for c in CAUSES if c not in ROOTS)])}
    ordered = sorted(kept.values(), key=lambda finding: places[finding.cause])
    told: list[Finding] = []
    for finding in ordered:
        roots = [root for root in told if root.is_alarm and finding.cause in EXPLAINS.get(root.cause, ())]
        told.append(_as_note(finding, roots[0]) if roots and finding.is_alarm else finding)
    return by_severity(told)


def _as_note(finding: Finding, root: Finding) -> Finding:
    return dataclasses.replace(finding, severity="note", next_step=f"Mend this first: {root.title}.")


def _facts(subject: Subject) -> dict[str, Any]:
    facts: dict[str, Any] = {"rows": subject.rows, "validation_rows": subject.validation_rows}
    for name, sample in (("train", subject.train), ("validation", subject.validation)):
        if sample is not None:
            facts[f"{name}_rows_looked_at"] = len(sample)
            if sample.fit is not None:
                facts |= {f"{name}_recall@1": sample.fit.recall, f"{name}_recall@1_by_chance": sample.fit.chance}
    moved = weights.weights_moved(subject)
    if moved is not None:
        facts["weights_moved"] = moved
    if subject.course.largest_update:
        facts["largest_update"] = subject.course.largest_update
    if subject.timing is not None and not subject.timing.died:
        facts |= {"seconds_to_read_a_batch": subject.timing.read, "seconds_to_learn_from_it": subject.timing.model}
    return facts
