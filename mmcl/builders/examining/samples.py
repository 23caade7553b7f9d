"""Some rows of a split, and what the run's models make of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl.builders.examining.attempts import attempt
from mmcl.builders.examining.kept_features import kept_image_features
from mmcl.data.dataset import ImageTextDataset
from mmcl.doctor.examination.agreement import pixel_features
from mmcl.doctor.examination.subject import Sample, Subject
from mmcl.doctor.examination.verdict import ProgressCallback
from mmcl.errors import DataError
from mmcl.models.encoder import Encoder

FEWEST_ROWS = 100
HELD_SHARE = 0.5  # of what is taken of the training split, for the validation split
IMAGE_SECONDS = 20.0  # that image towers may take of the training rows
IMAGES_AT_A_TIME, TEXTS_AT_A_TIME = 32, 64


class SampleReader:
    """Takes rows by lot, and looks at them through the run's models.

    Args:
        subject: with its recipe and models.
        progress: told how far it is.
    """

    def __init__(self, subject: Subject, progress: ProgressCallback | None = None) -> None:
        self._recipe, self._start, self._trained = subject.recipe, subject.start, subject.trained
        section = subject.recipe.model
        # Towers drawn by lot have nothing to say of an image or a caption.
        self._image_knows, self._text_knows = (
            subject.start is not None and bool(section.init_from or (side.pretrained and side.name != "tiny"))
            for side in (section.image, section.text)
        )
        self._progress = progress

    def read(self, dataset: ImageTextDataset, *, rows: int, title: str) -> Sample:
        """Rows with their images, plain figures, features and embeddings.

        Args:
            dataset: the split.
            rows: at most; those whose image cannot be read are left out.
            title: of the split, for the progress.
        """
        order = np.random.default_rng(0).permutation(len(dataset))[:rows]
        images, kept = [], []
        for number, row in enumerate(order.tolist()):
            try:
                images.append(dataset.images.read(row))
                kept.append(row)
            except DataError:
                continue  # a row that cannot be read is the business of mmcl data audit
            if number % 50 == 0 or number + 1 == len(order):
                self._tell(f"{title} images", number + 1, len(order))
        if not kept:
            kept = order.tolist()
        texts = [dataset.texts(row)[0] for row in kept]
        groups = dataset.group_ids().numpy()[kept]
        labels = [dataset.value("label", row) for row in kept] if dataset.has("label") else None
        sample = Sample(texts, groups, images, pixel_features(images), labels=labels)
        known = None
        if images and self._start is not None:
            known = kept_image_features(self._recipe, self._start.image, dataset, kept)
        return self._embedded(sample, title, known)

    def _tell(self, what: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(what, done, total)

    def _embedded(self, sample: Sample, title: str, known: np.ndarray | None) -> Sample:
        """The sample with features of towers that know something, and the trained model's embeddings.

        Where an image tower is slow, fewer rows than there are get through in the time there is; the others are left
        out of the whole sample. Features that the run has kept are not computed again.
        """
        start, trained = self._start, self._trained
        seconds = IMAGE_SECONDS * (1.0 if title == "training" else HELD_SHARE)
        if not sample.images or (start is None and trained is None):
            return sample
        values = {} if known is None else {"image_features": known}
        wanted = (
            ("image_features", start and start.image, self._image_knows, sample.images, self._image_features),
            ("text_features", start and start.text, self._text_knows, sample.texts, self._text_features),
        )
        for name, encoder, knows, items, features in wanted:
            if name in values or encoder is None or not (knows or (encoder.has_fixed_features and trained is not None)):
                continue
            part = items[: len(sample)]
            found = attempt(lambda f=features, e=encoder, p=part: f(e, p, seconds, title), "", [])
            if found is not None:
                sample = _first_rows(sample, len(found))
                values[name] = found
        if trained is not None:
            embedded = attempt(lambda: self._embeddings(sample, values, seconds, title), "", [])
            if embedded is not None:
                sample = _first_rows(sample, len(embedded[0]))
                values["image"], values["text"] = embedded
        if not (self._image_knows and self._text_knows):
            values.pop("text_features", None)
        if not self._image_knows:
            values.pop("image_features", None)
        return replace(sample, **{name: value[: len(sample)] for name, value in values.items()})

    def _embeddings(
        self, sample: Sample, values: dict[str, np.ndarray], seconds: float, title: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) of images and of texts; features of towers that never changed are not computed again."""
        model, start = self._trained, self._start
        image = values.get("image_features") if start is not None and start.image.has_fixed_features else None
        text = values.get("text_features") if start is not None and start.text.has_fixed_features else None
        if image is None:
            image = self._image_features(model.image, sample.images, seconds, title)
        if text is None:
            text = self._text_features(model.text, sample.texts, seconds, title)
        model.eval()
        rows = min(len(image), len(text))
        with torch.inference_mode():
            sides = ((model.image, image[:rows]), (model.text, text[:rows]))
            embedded = [encoder(features=torch.from_numpy(part)).numpy() for encoder, part in sides]
        return embedded[0], embedded[1]

    def _image_features(self, encoder: Encoder, images: list[Tensor], seconds: float, title: str) -> np.ndarray:
        """(k, f) of the first k images, as many as there is time for."""
        return self._in_time(encoder, images, IMAGES_AT_A_TIME, seconds, f"{title} image features")

    def _text_features(self, encoder: Encoder, texts: list[str], seconds: float, title: str) -> np.ndarray:
        """(k, f) of the first k captions, as many as there is time for; repeated ones are computed once."""
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        features = self._in_time(encoder, list(places), TEXTS_AT_A_TIME, seconds, f"{title} caption features")
        rows = [places[text] for text in texts]
        known = next((number for number, place in enumerate(rows) if place >= len(features)), len(rows))
        return features[rows[:known]]

    @torch.inference_mode()
    def _in_time(self, encoder: Encoder, items: Sequence[Any], size: int, seconds: float, what: str) -> np.ndarray:
        """(k, f) of the first k items, ``size`` at a time, as many as there is time for."""
        encoder.eval()
        began, parts = time.perf_counter(), []
        for first in range(0, len(items), size):
            parts.append(encoder.features(**encoder.tower.preprocessing(items[first : first + size])).float())
            self._tell(what, min(len(items), first + size), len(items))
            if time.perf_counter() - began > seconds and first + size >= FEWEST_ROWS:
                break
        self._tell(what, len(items), len(items))
        return torch.cat(parts).numpy()


def _first_rows(sample: Sample, number: int) -> Sample:
    if number >= len(sample):
        return sample
    return replace(
        sample,
        texts=sample.texts[:number],
        groups=sample.groups[:number],
        images=sample.images[:number],
        pixels=sample.pixels[:number],
        labels=None if sample.labels is None else sample.labels[:number],
    )
