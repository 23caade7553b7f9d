"""What a model's figures stand beside: chance, the largest class, random weights, raw pixels, and other models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from mmcl.errors import ConfigError, DataError, ShapeError
from mmcl.hub.card.public_names import public_text, tower_name
from mmcl.hub.card.run_data import Progress, RunData
from mmcl.hub.card.source import CardSource

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder
    from mmcl.evaluation.zero_shot.evaluator import ZeroShotEvaluator

OWN = "this model"
START = "start"
RANDOM, PIXELS = "random weights", "raw pixels, linear"
MEASURED = (RANDOM, PIXELS)
MAX_ROWS = 2_000  # that random weights are judged on


@dataclass(frozen=True)
class Comparison:
    """Figures side by side.

    Attributes:
        split: what was judged.
        columns: who -> metrics; ``this model`` first.
        notes: one sentence for each that is missing or was measured in another way.
    """

    split: str = ""
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def compare(
    source: CardSource, data: RunData, embedder: Embedder, names: Sequence[str], progress: Progress | None = None
) -> Comparison:
    """The figures of the first split that was judged, beside those of baselines.

    Args:
        source: whose evaluation it is.
        data: what it was judged on; without them chance and what the evaluation holds itself is all there is.
        embedder: the model; its architecture with random weights is a baseline.
        names: what is measured besides: of ``MEASURED``, ``start`` (the recipe's model before training), any MODEL.
        progress: told what is embedded.

    Raises:
        ConfigError: another model is asked for and the data are not here, or there is no such model.
    """
    split, metrics = next(iter(source.evaluation.items()), ("", {}))
    others = [name for name in names if name not in MEASURED]
    if others and data.test is None:
        raise ConfigError(f"--baseline {others[0]} wants the data of the run to judge it on. {data.why_not}")
    if not metrics:
        if others:
            raise ConfigError(f"--baseline {others[0]}: {source.folder} holds no evaluation.json to set it beside")
        return Comparison()
    columns = {OWN: metrics, **_held(metrics)}
    if data.test is None:
        missing = f"Random weights and raw pixels were not judged. {data.why_not}" if names else ""
        return Comparison(split, columns, (missing,) if missing else ())
    try:
        judge = _Judge(source, data, progress)
        notes = _measured(judge, columns, embedder, names, data)
    except (DataError, ShapeError, ConfigError) as error:  # a file of classes that is not here, vectors for images ...
        if others:
            raise
        why = " ".join(public_text(str(error)).split())
        return Comparison(split, columns, (f"Random weights and raw pixels could not be judged: {why}.",))
    for name in others:
        title = "before training" if name == START else tower_name(public_text(name)).rstrip("/").rpartition("/")[2]
        columns[title] = judge(_start(data) if name == START else _opened(name))
        if name == START:
            notes.append("Before training: the recipe's model, as it is built, with the same seed.")
    return Comparison(split, {who: held for who, held in columns.items() if held}, tuple(notes))


def _held(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Baselines that the evaluation holds itself."""
    chance = {
        name.replace("_chance_recall@", "_recall@"): value
        for name, value in metrics.items()
        if name.startswith("retrieval/") and "_chance_recall@" in name and not name.endswith("_ci95")
    }
    majority: dict[str, Any] = {}
    if "zeroshot/chance" in metrics:
        chance |= {f"zeroshot/{figure}": metrics["zeroshot/chance"] for figure in ("top1", "mean_per_class")}
        majority["zeroshot/top1"] = metrics.get("zeroshot/majority")
    columns = {"chance": chance, "largest class": majority}
    kept = {"random_weights": RANDOM, "raw_linear": PIXELS, "chance": "chance", "majority": "largest class"}
    for key, title in kept.items():
        prefix = f"zeroshot/{key}_"
        figures = {name: value for name, value in metrics.items() if name.startswith(prefix)}
        held = {f"zeroshot/{name.removeprefix(prefix)}": value for name, value in figures.items()}
        if held:
            columns[title] = {**columns.get(title, {}), **held}
    return {title: held for title, held in columns.items() if held}


def _measured(
    judge: _Judge, columns: dict[str, Mapping[str, Any]], embedder: Embedder, names: Sequence[str], data: RunData
) -> list[str]:
    """Add what the labels, random weights and raw pixels score; the notes on them."""
    notes: list[str] = []
    zero_shot = judge.zero_shot
    if zero_shot is not None:
        labels = judge.labels(zero_shot)
        from mmcl.evaluation.zero_shot.baselines import answer_figures, fitted_figures

        answers = answer_figures(labels, len(zero_shot.classes)).figures
        for title, key in (("chance", "chance"), ("largest class", "majority")):
            columns[title] = {**columns.get(title, {}), **_zero_shot_names(answers[key])}
    if RANDOM in names and RANDOM not in columns:
        columns[RANDOM], note = judge.random_weights(embedder)
        notes.append(note)
    if PIXELS in names and PIXELS not in columns and zero_shot is not None:
        judged = judge.labelled()
        train = data.train(judge.progress)
        train = train if train is not None and train.has("label") else None
        fitted = fitted_figures(train, judged, labels, zero_shot.classes)
        columns[PIXELS] = _zero_shot_names(fitted.figures.get("raw_linear", {}))
        notes += [_sentence(note) for note in fitted.notes]
        if columns[PIXELS]:
            notes.append("Raw pixels, linear: logistic regression on small images and the training split's labels.")
    return notes


class _Judge:
    """Judges an embedder as the run was judged, on the split that it was judged on."""

    def __init__(self, source: CardSource, data: RunData, progress: Progress | None) -> None:
        metrics = next(iter(source.evaluation.values()))
        self.dataset: ImageTextDataset = data.test
        self.section, self.progress = data.recipe.evaluate, progress
        self.retrieves = any(name.startswith("retrieval/") for name in metrics)
        self.classifies = any(name.startswith("zeroshot/") for name in metrics) and self.dataset.has("label")
        self.zero_shot = self._classifier(self.dataset) if self.classifies else None

    def __call__(self, embedder: Embedder, dataset: ImageTextDataset | None = None) -> dict[str, Any]:
        from mmcl.embedder import CachedEmbedder
        from mmcl.evaluation import RetrievalEvaluator

        cached = embedder if isinstance(embedder, CachedEmbedder) else CachedEmbedder(embedder, progress=self.progress)
        size, whole = self.section.batch_size, dataset is None
        metrics: dict[str, Any] = {}
        if self.retrieves and whole:
            quick = RetrievalEvaluator(self.dataset, batch_size=size, confidence=False, same_modality=False)
            metrics |= quick(cached)
        if self.classifies:
            metrics |= (self.zero_shot if whole else self._classifier(dataset))(cached)
        return metrics

    def random_weights(self, embedder: Embedder) -> tuple[dict[str, Any], str]:
        """The figures of the same architecture with random weights, and a note on them."""
        from mmcl.embedder import untrained
        from mmcl.evaluation.zero_shot.raw_pixels import sample_rows

        other = untrained(embedder)
        if other is None:
            return {}, "Random weights: this model cannot be built anew with random weights."
        number = len(self.dataset)
        if number <= MAX_ROWS:
            return self(other), "Random weights: the same architecture as its libraries draw it, nothing trained."
        part = self.dataset.select(sample_rows(number, MAX_ROWS))
        return self(other, part), f"Random weights: judged on {MAX_ROWS:,} of {number:,} images drawn by lot."

    def labelled(self) -> ImageTextDataset:
        """The rows with a label."""
        labels = self.dataset.column("label")
        return self.dataset.select([row for row, label in enumerate(labels) if label is not None])

    def labels(self, evaluator: ZeroShotEvaluator) -> torch.Tensor:
        """(n,) the classes of those rows."""
        number = {label: index for index, label in enumerate(evaluator.classes)}
        return torch.tensor([number[label] for label in self.dataset.column("label") if label is not None])

    def _classifier(self, dataset: ImageTextDataset) -> ZeroShotEvaluator:
        from mmcl.evaluation import ZeroShotEvaluator, load_classes, load_templates

        classes, templates = self.section.classes, self.section.templates
        return ZeroShotEvaluator(
            dataset,
            classes=load_classes(classes) if classes else None,
            templates=load_templates(templates) if isinstance(templates, str) else templates,
            sensitivity=False,
            batch_size=self.section.batch_size,
        )


def _opened(name: str) -> Embedder:
    from mmcl.embedder import load

    return load(name)


def _start(data: RunData) -> Embedder:
    """The recipe's model before its first step."""
    from mmcl.embedder import DualEncoderEmbedder
    from mmcl.models.dual_encoder import build_dual_encoder

    train = data.train()
    if train is None:
        raise ConfigError(f"--baseline start wants the captions of {data.name}'s training split, which cannot be read")
    captions = (text for row in range(len(train)) for text in train.texts(row))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(data.recipe.run.seed)
        return DualEncoderEmbedder(build_dual_encoder(data.recipe.model, captions=captions))


def _zero_shot_names(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {f"zeroshot/{name}": value for name, value in figures.items()}


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:]


__all__ = ["MEASURED", "OWN", "PIXELS", "RANDOM", "START", "Comparison", "compare"]
