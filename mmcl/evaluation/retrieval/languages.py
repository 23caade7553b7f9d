"""`LanguagesEvaluator`: retrieval in every language that a data set has captions in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from mmcl.data.sources.cells import as_lists
from mmcl.data.sources.columns import take_column
from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.evaluator import Metrics, image_embeddings, need_both_modalities
from mmcl.evaluation.retrieval.directions import judge_both_ways
from mmcl.evaluation.retrieval.evaluator import rank_galleries
from mmcl.evaluation.retrieval.galleries import add_captions

if TYPE_CHECKING:
    from torch import Tensor

    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

# de, pt_BR, zh-Hant; with three letters eng_Latn, and the two of Crossmodal-3600.
_CODE = re.compile(r"(?:[a-z]{2}|fil|quz|[a-z]{3}(?=[-_]))(?:[-_][A-Za-z0-9]{2,4})*")
_CAPTIONS = re.compile(r"(?:texts?|captions?)[_.-](.+)")
_SUMMARIES = ("mean", "worst", "best", "spread")
_LANGUAGE_COLUMNS = ("lang", "language")


class LanguagesEvaluator:
    """Retrieval both ways in each language, every image embedded once.

    In each language the image gallery is every readable image with a caption in it, the text gallery those captions,
    identical ones of one group once; groups are those of the data set. Rows that lack the language are left out of its
    galleries and counted, so galleries may differ in size: compare languages with ``common_rows`` where they do.

    Args:
        dataset: with captions in several languages.
        languages: {language: column}, where a dot reaches into a struct column (``i18n.de``), ``texts`` are the data
            set's own captions, and ``lang=de`` are these, of the rows where column ``lang`` is ``de``. Or some of the
            languages that `guess_languages` finds. None: all of these.
        ks: cut-offs of recall.
        batch_size: items a forward pass.
        confidence: also give 95 % intervals, by a bootstrap over groups.
        common_rows: leave out the rows that lack any of the languages.

    Raises:
        ConfigError: ``ks`` or ``languages`` is empty, or a language is called as a summary is.
        DataError: there is no such column or language, it holds no captions, or no row has all languages.

    Source:
        Recall at k of each language and its mean, as in Thapliyal et al. 2022, "Crossmodal-3600", section 5.
    """

    primary_metric = "languages/mean_recall@1"

    def __init__(
        self,
        dataset: ImageTextDataset,
        *,
        languages: Mapping[str, str] | Sequence[str] | None = None,
        ks: Sequence[int] = (1, 5, 10),
        batch_size: int = 64,
        confidence: bool = True,
        common_rows: bool = False,
    ) -> None:
        if not ks or min(ks) < 1:
            raise ConfigError(f"ks needs at least one cut-off, each at least 1, got {tuple(ks)}")
        self.languages = _chosen(dataset, languages)
        self.dataset = dataset
        self.ks = tuple(sorted(set(ks)))
        self.batch_size = batch_size
        self.confidence = confidence
        self.primary_metric = f"languages/mean_recall@{self.ks[0]}"
        self._texts = {name: captions_of(dataset, column) for name, column in self.languages.items()}
        for name, texts in self._texts.items():
            if not any(texts):
                raise DataError(f"{dataset.name}: no row has a caption in {name!r} ({self.languages[name]!r})")
        if common_rows:
            everywhere = [all(cells) for cells in zip(*self._texts.values())]
            if not any(everywhere):
                raise DataError(f"{dataset.name}: no row has captions in all of {', '.join(self.languages)}")
            for name, texts in self._texts.items():
                self._texts[name] = [cell if kept else [] for cell, kept in zip(texts, everywhere)]

    def __call__(self, embedder: Embedder) -> Metrics:
        """Judge an embedder in every language.

        Args:
            embedder: of images and texts.

        Returns:
            For each language ``languages/<language>_<metric>``: those of `judge_both_ways`, with ``num_images``,
            ``num_texts`` and ``num_missing`` (readable rows without such a caption). Over the languages, each weighing
            the same, ``languages/mean_<metric>``, ``worst_``, ``best_`` and ``spread_`` (best - worst) for
            ``i2t_recall@k``, ``t2i_recall@k`` and their mean ``recall@k``; ``languages/num_languages``,
            ``num_skipped``.

        Raises:
            ConfigError: the embedder lacks images or texts.
            DataError: no image is readable, or none with captions in a language.
            ShapeError: an embedding is not finite.
        """
        need_both_modalities(embedder, "retrieval in several languages")
        images, rows, skipped = image_embeddings(embedder, self.dataset, batch_size=self.batch_size)
        groups = self.dataset.group_ids()[torch.from_numpy(rows)]
        metrics: Metrics = {}
        for name, texts in self._texts.items():
            kept = np.array([place for place, row in enumerate(rows.tolist()) if texts[row]], dtype=np.int64)
            if not len(kept):
                raise DataError(f"{self.dataset.name}: no image with a caption in {name!r} could be read")
            found = self._judge(embedder, texts, images[torch.from_numpy(kept)], rows[kept], groups[kept])
            metrics |= {f"languages/{name}_{key}": value for key, value in found.items()}
            metrics[f"languages/{name}_num_missing"] = float(len(rows) - len(kept))
        metrics |= self._summarise(metrics)
        metrics["languages/num_languages"] = float(len(self._texts))
        metrics["languages/num_skipped"] = float(len(skipped))
        return metrics

    def _judge(
        self, embedder: Embedder, texts: list[list[str]], images: Tensor, rows: np.ndarray, groups: Tensor
    ) -> Metrics:
        """The metrics of one language, by their names without a task."""
        galleries = add_captions(embedder, texts, images, rows, groups, num_skipped=0, batch_size=self.batch_size)
        ranked = rank_galleries(galleries, self.ks)
        found = judge_both_ways(
            ranked.i2t,
            ranked.t2i,
            galleries.image_groups,
            galleries.text_groups,
            ks=self.ks,
            confidence=self.confidence,
        )
        found = {key.removeprefix("retrieval/").replace("mean_recall", "recall"): one for key, one in found.items()}
        return found | {"num_images": float(len(rows)), "num_texts": float(len(galleries.captions))}

    def _summarise(self, metrics: Metrics) -> Metrics:
        summary: Metrics = {}
        for metric in [f"{way}recall@{k}" for k in self.ks for way in ("", "i2t_", "t2i_")]:
            each = [float(metrics[f"languages/{name}_{metric}"]) for name in self._texts]
            summary[f"languages/mean_{metric}"] = sum(each) / len(each)
            summary[f"languages/worst_{metric}"] = min(each)
            summary[f"languages/best_{metric}"] = max(each)
            summary[f"languages/spread_{metric}"] = max(each) - min(each)
        return summary


def guess_languages(dataset: ImageTextDataset) -> dict[str, str]:
    """The languages that a data set's columns are named after.

    Found are the fields of a struct column whose fields are all called as languages are (``i18n: {de, fr}``), columns
    such as ``text_de`` and ``caption_fr``, and the values of a column ``lang`` or ``language``: one value for all rows
    says what language the data set's own captions are in, several which rows are in which.

    Args:
        dataset: any.

    Returns:
        {language: column} for `LanguagesEvaluator`, the data set's own captions first; empty where there is none.
    """
    found: dict[str, str] = {}
    for column in _LANGUAGE_COLUMNS:
        if dataset.has(column) and pa.types.is_string(dataset.table.schema.field(column).type):
            values = sorted({value for value in dataset.column(column) if value and _is_code(value)})
            found = {value: "texts" if len(values) == 1 else f"{column}={value}" for value in values}
            break
    for field in dataset.table.schema:
        if pa.types.is_struct(field.type):
            names = [one.name for one in field.type]
            if names and all(_is_code(name) and _holds_text(field.type.field(name).type) for name in names):
                found |= {name: f"{field.name}.{name}" for name in names if name not in found}
        else:
            match = _CAPTIONS.fullmatch(field.name)
            code = match[1] if match else ""
            # text_id is a text's id much oftener than Indonesian.
            if code not in {"id", *found} and _is_code(code) and _holds_text(field.type):
                found[code] = field.name
    return found


def read_languages(named: Sequence[str] | None, dataset: ImageTextDataset) -> dict[str, str] | None:
    """``["de=i18n.de", "fr"]`` as {language: column}; a name alone is one that `guess_languages` finds.

    Args:
        named: NAME=COLUMN or NAME; none at all gives None: all that can be found.
        dataset: that they are of.

    Raises:
        DataError: a name alone that is not found.
    """
    if not named:
        return None
    found: dict[str, str] = {}
    for one in named:
        name, sign, column = one.partition("=")
        found[name] = column if sign else _chosen(dataset, [name])[name]
    return found


def captions_of(dataset: ImageTextDataset, column: str) -> list[list[str]]:
    """The captions of every row in one column.

    Args:
        dataset: any.
        column: as in `LanguagesEvaluator`.

    Returns:
        A list a row, trimmed and without blanks; empty where the row has none.

    Raises:
        DataError: there is no such column, or it holds no texts.
    """
    by, sign, value = column.partition("=")
    if sign:
        return [cell if one == value else [] for one, cell in zip(dataset.column(by), dataset.column("texts"))]
    table = dataset.table
    try:
        cells = take_column(table, column)
    except (KeyError, pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{dataset.name} has no column {column!r}; it has {', '.join(table.column_names)}; a dot reaches into a "
            f"struct, such as i18n.de"
        ) from error
    return as_lists(cells, what=f"{dataset.name}: column {column!r}").to_pylist()


def _chosen(dataset: ImageTextDataset, languages: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    if isinstance(languages, Mapping):
        chosen = dict(languages)
    else:
        guessed = guess_languages(dataset)
        if not guessed:
            raise DataError(
                f"{dataset.name}: no column is named after a language (of {', '.join(dataset.table.column_names)}); "
                f"say which there are, such as languages={{'de': 'i18n.de'}} or --language de=i18n.de"
            )
        wanted = list(guessed if languages is None else dict.fromkeys(languages))
        missing = [name for name in wanted if name not in guessed]
        if missing:
            raise DataError(f"{dataset.name}: no captions in {missing[0]!r} were found; there are {', '.join(guessed)}")
        chosen = {name: guessed[name] for name in wanted}
    if not chosen:
        raise ConfigError("languages needs at least one language, got none")
    reserved = [name for name in chosen if name in _SUMMARIES or not name]
    if reserved:
        raise ConfigError(f"a language cannot be called {reserved[0]!r}; that is what metrics over all are called")
    return chosen


def _is_code(name: str) -> bool:
    return _CODE.fullmatch(name) is not None


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
