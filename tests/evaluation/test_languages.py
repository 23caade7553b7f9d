"""Retrieval in several languages, against the evaluator of one language on the same captions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from mmcl.data.dataset import ImageTextDataset
from mmcl.errors import ConfigError, DataError
from mmcl.evaluation import LanguagesEvaluator, RetrievalEvaluator, guess_languages
from mmcl.evaluation.retrieval.languages import captions_of, read_languages

ROWS = 24


@pytest.fixture
def made(make_dataset: Callable, table_embedder: type) -> tuple[ImageTextDataset, object]:
    """24 rows in 12 groups; German captions are worse than English ones, French ones are missing in every third row."""
    g = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(ROWS, 6, generator=g), dim=1)
    texts, english, structs = {}, [], []
    for row in range(ROWS):
        cells = {}
        for language, noise in (("en", 0.1), ("de", 1.0), ("fr", 0.5)):
            # The rows of a group share their German name, as translations do.
            name = f"{language} {row // 2 if language == 'de' else row}"
            texts.setdefault(name, F.normalize(images[row] + noise * torch.randn(6, generator=g), dim=0))
            cells[language] = name
        english.append([cells.pop("en")])
        structs.append({**cells, "fr": None if row % 3 == 0 else f" {cells['fr']} "})
    dataset = make_dataset(
        english, group=[str(row // 2) for row in range(ROWS)], i18n=structs, lang=["en"] * ROWS,
        text_es=[["", f"fr {row}"] for row in range(ROWS)], text_id=[str(row) for row in range(ROWS)],
    )  # fmt: skip
    return dataset, table_embedder(images, texts)


def test_languages_are_guessed_from_the_columns(made: tuple) -> None:
    assert guess_languages(made[0]) == {"en": "texts", "de": "i18n.de", "fr": "i18n.fr", "es": "text_es"}


def test_a_column_lang_with_several_values_splits_the_rows(make_dataset: Callable) -> None:
    dataset = make_dataset([["a"], ["b"], ["c"]], lang=["de", "fr", "de"], note=["x", "y", "z"])
    assert guess_languages(dataset) == {"de": "lang=de", "fr": "lang=fr"}
    assert captions_of(dataset, "lang=de") == [["a"], [], ["c"]]
    boxes = make_dataset([["a"]], box=[{"left": "1", "top": "2"}], text_id=["7"])
    assert guess_languages(boxes) == {}


def test_each_language_is_the_evaluators_own_figure(made: tuple, make_dataset: Callable) -> None:
    dataset, embedder = made
    metrics = LanguagesEvaluator(dataset)(embedder)
    groups = dataset.column("group")
    cells = dataset.column("i18n")
    for language, rows in (("de", range(ROWS)), ("fr", [row for row in range(ROWS) if row % 3])):
        texts = [[(cells[row][language] or "").strip()] if cells[row][language] else ["-"] for row in range(ROWS)]
        own = make_dataset(texts, group=groups).select(rows)
        want = RetrievalEvaluator(own, same_modality=False)(embedder)
        for name in ("i2t_recall@1", "t2i_recall@5", "t2i_mrr", "i2t_median_rank", "num_texts", "i2t_recall@1_ci95"):
            assert metrics[f"languages/{language}_{name}"] == want[f"retrieval/{name}"], (language, name)
        assert metrics[f"languages/{language}_recall@1"] == want["retrieval/mean_recall@1"]
    assert [metrics[f"languages/{one}_num_missing"] for one in ("en", "de", "fr", "es")] == [0, 0, 8, 0]
    assert metrics["languages/de_num_texts"] == 12
    assert metrics["languages/fr_num_images"] == 16
    each = [metrics[f"languages/{one}_i2t_recall@1"] for one in ("en", "de", "fr", "es")]
    assert len(set(each)) > 1
    assert metrics["languages/mean_i2t_recall@1"] == pytest.approx(sum(each) / 4)
    assert metrics["languages/worst_i2t_recall@1"] == min(each)
    assert metrics["languages/spread_i2t_recall@1"] == max(each) - min(each)
    assert metrics["languages/num_languages"] == 4


def test_common_rows_make_galleries_equal(made: tuple) -> None:
    dataset, embedder = made
    metrics = LanguagesEvaluator(dataset, languages=["en", "fr"], common_rows=True, confidence=False)(embedder)
    assert [metrics[f"languages/{one}_num_images"] for one in ("en", "fr")] == [16, 16]
    assert [metrics[f"languages/{one}_num_missing"] for one in ("en", "fr")] == [8, 8]
    assert not [name for name in metrics if name.endswith("_ci95")]
    whole = LanguagesEvaluator(dataset, languages=["en", "fr"], confidence=False)(embedder)
    assert whole["languages/en_num_images"] == 24


def test_images_are_embedded_once(made: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, embedder = made
    seen = []
    embed = embedder.embed
    monkeypatch.setattr(
        embedder,
        "embed",
        lambda items, modality, **options: (
            seen.append(len(items) if modality == "image" else 0) or embed(items, modality, **options)
        ),
    )
    LanguagesEvaluator(dataset, confidence=False)(embedder)
    assert sum(seen) == ROWS


def test_names_on_the_command_line(made: tuple) -> None:
    dataset = made[0]
    assert read_languages(None, dataset) is None
    assert read_languages(["en", "x=i18n.de"], dataset) == {"en": "texts", "x": "i18n.de"}
    assert read_languages(["de=lang=en"], dataset) == {"de": "lang=en"}


def test_wrong_languages_are_named(made: tuple, make_dataset: Callable) -> None:
    dataset, embedder = made
    with pytest.raises(DataError, match="no captions in 'it' were found; there are en, de, fr, es"):
        LanguagesEvaluator(dataset, languages=["it"])
    with pytest.raises(DataError, match=r"no column 'i18n.it'; it has .*i18n"):
        LanguagesEvaluator(dataset, languages={"it": "i18n.it"})
    with pytest.raises(DataError, match="no column 'nothing'"):
        LanguagesEvaluator(dataset, languages={"it": "nothing"})
    with pytest.raises(ConfigError, match="cannot be called 'mean'"):
        LanguagesEvaluator(dataset, languages={"mean": "texts"})
    with pytest.raises(ConfigError, match="at least one language"):
        LanguagesEvaluator(dataset, languages={})
    with pytest.raises(ConfigError, match="ks needs"):
        LanguagesEvaluator(dataset, ks=())
    with pytest.raises(DataError, match="no row has a caption in 'de'"):
        LanguagesEvaluator(dataset, languages={"de": "lang=de"})
    with pytest.raises(DataError, match="no column is named after a language"):
        LanguagesEvaluator(make_dataset([["a"]]))
    apart = make_dataset([["a"], ["b"]], lang=["de", "fr"])
    with pytest.raises(DataError, match="no row has captions in all of de, fr"):
        LanguagesEvaluator(apart, common_rows=True)
    embedder.modalities = frozenset({"text"})
    with pytest.raises(ConfigError, match="lacks image"):
        LanguagesEvaluator(dataset)(embedder)
