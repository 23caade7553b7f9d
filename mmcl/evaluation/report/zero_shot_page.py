"""Pages of zero-shot results: figures beside baselines, curves, confusion, classes, templates and mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mmcl.errors import DataError
from mmcl.evaluation.metrics import (
    class_average_precision,
    macro_roc_curve,
    one_against_rest,
    reliability_curve,
    roc_areas,
    roc_curve,
)
from mmcl.evaluation.report.class_tables import FIGURES, baseline_rows, class_rows, written
from mmcl.pages.figures import draw_lines
from mmcl.pages.page import Item, Page

if TYPE_CHECKING:
    from torch import Tensor

    from mmcl.data.dataset import ImageTextDataset
    from mmcl.evaluation.evaluator import Metrics
    from mmcl.evaluation.zero_shot.evaluator import ZeroShotPrediction
    from mmcl.evaluation.zero_shot.multi_label import MultiLabelPrediction

MATRIX_CLASSES = 30
DRAWN_CLASSES = 4  # of the lowest and of the highest ROC areas
SHOWN_MISTAKES = 24
LISTED_CONFUSIONS = 40


def zero_shot_page(
    prediction: ZeroShotPrediction,
    metrics: Metrics,
    dataset: ImageTextDataset,
    *,
    title: str,
    notes: Sequence[str] = (),
) -> Page:
    """All there is to see of a zero-shot classifier, on one page.

    Args:
        prediction: of at least one image.
        metrics: of it, with those of its baselines.
        dataset: whose rows it is about; pictures of mistakes are read from it.
        title: of the page.
        notes: sentences under the table of baselines.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    page = Page(title)
    _figures(page, metrics, "zeroshot", notes)
    _curves(page, prediction)
    _confusion(page, prediction)
    page.heading("Classes")
    header, rows = class_rows(prediction.table())
    without = int(sum(not int(row[1].replace(",", "")) for row in rows))
    page.table(header, rows, caption=f"{without} without an image: candidates only." if without else "")
    _templates(page, prediction)
    _mistakes(page, prediction, dataset)
    return page


def multi_label_page(
    prediction: MultiLabelPrediction, metrics: Metrics, *, title: str, notes: Sequence[str] = ()
) -> Page:
    """The figures of a multi-label classifier beside baselines, and the average precision of each class.

    Args:
        prediction: of at least one labelled image.
        metrics: of it, with those of its baselines.
        title: of the page.
        notes: sentences under the table of baselines.
    """
    page = Page(title)
    _figures(page, metrics, "multilabel", notes)
    values = class_average_precision(prediction.scores, prediction.relevant).values
    support, share = prediction.relevant.sum(0), prediction.relevant.double().mean(0)
    page.heading("Classes")
    rows = [
        [label, f"{int(count):,}", written(float(value)), written(float(chance))]
        for label, count, value, chance in zip(prediction.classes, support, values, share)
        if count
    ]
    page.table(["class", "images", "average precision", "chance"], sorted(rows, key=lambda row: row[0]))
    return page


def _figures(page: Page, metrics: Metrics, task: str, notes: Sequence[str]) -> None:
    page.heading("Figures")
    rows = []
    for figure, name in FIGURES.items():
        value, interval = metrics.get(f"{task}/{figure}"), metrics.get(f"{task}/{figure}_ci95")
        if isinstance(value, int | float):
            bounds = " – ".join(written(end, figure) for end in interval) if isinstance(interval, list) else ""
            rows.append([name, written(value, figure), bounds])
    page.table(["figure", "value", "95 % interval"], rows)
    counts = {key.partition("/num_")[2]: value for key, value in metrics.items() if key.startswith(f"{task}/num_")}
    page.paragraph("; ".join(f"{int(value):,} {name.replace('_', ' ')}" for name, value in counts.items()))
    page.heading("Beside what it takes no trained model for")
    header, compared = baseline_rows(metrics, task)
    if len(header) > 2:
        page.table(header, compared)
    for note in notes:
        page.paragraph(note)


def _curves(page: Page, prediction: ZeroShotPrediction) -> None:
    page.heading("Curves")
    scores, labels, scale = prediction.scores, prediction.labels, prediction.logit_scale
    curve = reliability_curve(scores, labels, logit_scale=scale)
    confidence = curve.confidence.tolist()
    page.figure(
        draw_lines(
            {"accuracy": (confidence, curve.accuracy.tolist())},
            x_label="confidence",
            y_label="accuracy",
            diagonal=True,
            bars=(confidence, curve.count.tolist()),
            x_range=(0.0, 1.0),
            y_range=(0.0, 1.02),
        ),
        caption=f"Reliability: on the diagonal, {curve.bins} bins; the bars are how many images stand in each.",
    )
    if len(labels.unique()) < 2:
        page.paragraph("A ROC curve needs two classes that occur; there is one.")
        return
    by_class = one_against_rest(scores, logit_scale=scale)
    areas = roc_areas(scores, labels, logit_scale=scale).areas
    ordered = [index for index in areas.argsort().tolist() if not areas[index].isnan()]
    curves = {index: roc_curve(by_class[:, index], labels == index) for index in ordered}
    shown = list(dict.fromkeys([*ordered[:DRAWN_CLASSES], *ordered[-DRAWN_CLASSES:]]))
    lines = {f"{prediction.classes[index][:24]} ({float(areas[index]):.3f})": curves[index] for index in shown}
    mean = {f"mean of {len(curves)} ({float(areas.nanmean()):.3f})": macro_roc_curve(list(curves.values()))}
    page.figure(
        draw_lines(
            {name: (one[0].tolist(), one[1].tolist()) for name, one in {**mean, **lines}.items()},
            x_label="false positive rate",
            y_label="true positive rate",
            diagonal=True,
            x_range=(0.0, 1.0),
            y_range=(0.0, 1.02),
        ),
        caption="ROC, a class against the rest: the mean, and the classes of the smallest and the largest areas.",
    )


def _confusion(page: Page, prediction: ZeroShotPrediction) -> None:
    counts, classes = prediction.confusion(), prediction.classes
    page.heading("Confusion")
    if len(classes) <= MATRIX_CLASSES:
        header = ["true class", *(str(index + 1) for index in range(len(classes)))]
        rows = [
            [f"{index + 1} {name}", *(count or "·" for count in row)]
            for index, (name, row) in enumerate(zip(classes, counts.tolist()))
        ]
        page.table(header, rows, caption="images of each true class (rows) by predicted class (columns)")
        return
    values, places = _largest(counts)
    rows = [
        [classes[place // len(classes)], classes[place % len(classes)], f"{value:,}"]
        for value, place in zip(values, places)
    ]
    page.table(
        ["true class", "taken for", "images"], rows, caption=f"the largest of {len(classes):,} classes' mistakes"
    )


def _largest(counts: Tensor) -> tuple[list[int], list[int]]:
    values, places = counts.clone().fill_diagonal_(0).flatten().sort(descending=True, stable=True)
    some = int((values[:LISTED_CONFUSIONS] > 0).sum())
    return values[:some].tolist(), places[:some].tolist()


def _templates(page: Page, prediction: ZeroShotPrediction) -> None:
    if not prediction.template_top1:
        return
    page.heading("Templates")
    ordered = sorted(prediction.template_top1.items(), key=lambda pair: -pair[1])
    together = float((prediction.predicted == prediction.labels).double().mean())
    rows = [["all together", written(together)], *([template, written(value)] for template, value in ordered)]
    page.table(["template alone", "top-1"], rows)
    page.paragraph("A template picked by these figures is picked on the data it is judged on: judge it on others.")


def _mistakes(page: Page, prediction: ZeroShotPrediction, dataset: ImageTextDataset) -> None:
    """Cards of the wrong answers the classifier was surest of."""
    probabilities = (prediction.logit_scale * prediction.scores).softmax(1)
    sure = probabilities.gather(1, prediction.predicted[:, None])[:, 0]
    wrong = (prediction.predicted != prediction.labels).nonzero()[:, 0]
    page.heading("The surest mistakes")
    if not len(wrong):
        page.paragraph("There is none.")
    for position in wrong[torch.argsort(sure[wrong], descending=True, stable=True)][:SHOWN_MISTAKES].tolist():
        row, true = int(prediction.rows[position]), int(prediction.labels[position])
        guess = int(prediction.predicted[position])
        answers = [
            Item(prediction.classes[guess], score=float(probabilities[position, guess]), right=False),
            Item(prediction.classes[true], score=float(probabilities[position, true]), right=True),
        ]
        page.card(Item(dataset.texts(row)[0], _picture(dataset, row)), answers, note=f"row {row}")


def _picture(dataset: ImageTextDataset, row: int) -> Tensor | None:
    """The image of a row; None where it has no pixels, as embeddings from a file have none."""
    try:
        return dataset.images.read(row)
    except DataError:
        return None
