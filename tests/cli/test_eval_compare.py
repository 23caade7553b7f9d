"""`mmcl eval compare`, `forgetting`, `languages`, and the options of `retrieval`, on embeddings from files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROWS = 12


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Data of 12 pictures with English and German captions, and two models that look vectors up."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(ROWS, 6)).astype(np.float32)
    lines, texts = [], {"sharp": [], "blurred": []}
    for row in range(ROWS):
        Image.new("RGB", (8, 8), (row * 20, 0, 0)).save(tmp_path / f"{row}.png")
        line = {"file_name": f"{row}.png", "id": str(row), "text": f"en {row}", "group": str(row // 2), "lang": "en"}
        lines.append(json.dumps({**line, "i18n": {"de": f"de {row}", "fr": f"fr {row}" if row else None}}))
    names = [f"{language} {row}" for language in ("en", "de", "fr") for row in range(ROWS)]
    for name in names:
        row = int(name.split()[1])
        for model, noise in (("sharp", 0.1), ("blurred", 2.0)):
            texts[model].append(images[row] + noise * rng.normal(size=6).astype(np.float32))
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ids = np.array([str(row) for row in range(ROWS)])
    groups = np.array([name.split()[1] for name in names])
    for model, vectors in texts.items():
        np.savez(
            tmp_path / f"{model}.npz", image=images, text=np.stack(vectors), image_id=ids, text_id=np.array(names),
            image_group=ids, text_group=groups,
        )  # fmt: skip
    found = {model: f"vectors:{tmp_path}/{model}.npz" for model in texts}
    return {**found, "data": str(tmp_path / "data.jsonl"), "json": str(tmp_path / "out.json")}


def written(files: dict[str, str]) -> dict:
    return json.loads(Path(files["json"]).read_text())


def test_compare_shows_both_models_and_their_difference(invoke, files: dict[str, str]) -> None:
    chosen = ["--metric", "i2t_recall@1", "--metric", "t2i_mrr", "--json", files["json"]]
    done = invoke("eval", "compare", files["blurred"], files["sharp"], files["data"], *chosen)
    assert done.code == 0, done.err
    metrics = written(files)
    key = "compare/i2t_recall@1"
    assert metrics[f"{key}_difference"] == pytest.approx(metrics[f"{key}_b"] - metrics[f"{key}_a"])
    assert metrics[f"{key}_difference"] > 0
    assert metrics[f"{key}_p"] <= metrics[f"{key}_p_adjusted"] <= 1
    assert f"{100 * metrics[f'{key}_b']:.1f} %" in done.out
    assert "t2i_mrr" in done.out
    done = invoke("eval", "compare", files["sharp"], files["sharp"], files["data"], "--json", files["json"])
    assert done.code == 0, done.err
    assert written(files)[f"{key}_p"] == 1.0
    done = invoke("eval", "compare", files["sharp"], files["sharp"], files["data"], "--metric", "recall")
    assert done.code == 2
    assert "no metric 'recall' to compare" in done.err
    done = invoke("eval", "compare", files["sharp"], files["sharp"], files["data"], "--task", "knn")
    assert done.code == 2
    assert "retrieval, zeroshot" in done.err


def test_forgetting_judges_the_data_trained_for_and_others(invoke, files: dict[str, str]) -> None:
    other = files["sharp"]
    arguments = [files["sharp"], files["blurred"], files["data"], "--on", files["data"], "--json", files["json"]]
    done = invoke("eval", "forgetting", *arguments)
    assert done.code == 0, done.err
    metrics = written(files)
    assert metrics["forgetting/data.jsonl/i2t_recall@1_change"] < 0
    assert (
        metrics["forgetting/data.jsonl-2/i2t_recall@1_change"] == metrics["forgetting/data.jsonl/i2t_recall@1_change"]
    )
    assert "elsewhere, on data.jsonl-2:" in " ".join(done.out.split())
    done = invoke("eval", "forgetting", other, other, files["data"])
    assert done.code == 2
    assert "--on" in done.err


def test_languages_are_found_and_said(invoke, files: dict[str, str]) -> None:
    done = invoke("eval", "languages", files["sharp"], files["data"], "--json", files["json"])
    assert done.code == 0, done.err
    assert "languages found: en=texts, de=i18n.de, fr=i18n.fr" in done.out
    metrics = written(files)
    assert metrics["languages/fr_num_missing"] == 1
    assert metrics["languages/num_languages"] == 3
    chosen = ["--language", "x=i18n.de", "--language", "fr", "--common-rows", "--json", files["json"]]
    done = invoke("eval", "languages", files["sharp"], files["data"], *chosen)
    assert done.code == 0, done.err
    assert written(files)["languages/x_num_images"] == ROWS - 1
    assert written(files)["languages/fr_recall@1"] == metrics["languages/fr_recall@1"]
    done = invoke("eval", "languages", files["sharp"], files["data"], "--language", "it")
    assert done.code == 1
    assert "no captions in 'it' were found; there are en, de, fr" in done.err


def test_retrieval_over_folds_and_its_page(invoke, files: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "failures.html"
    options = ["--folds", "3", "--report", str(page), "--json", files["json"]]
    done = invoke("eval", "retrieval", files["blurred"], files["data"], *options)
    assert done.code == 0, done.err
    metrics = written(files)
    assert metrics["retrieval/3fold_images"] == 4
    line = next(line for line in done.out.splitlines() if "image → text R@1, 3 folds" in line)
    assert f"± {100 * metrics['retrieval/3fold_i2t_recall@1_std']:.1f} %" in line
    assert "image → image R@1" in done.out
    assert metrics["retrieval/i2i_unanswerable"] == 0
    assert 'class="card"' in page.read_text(encoding="utf-8")
    assert "data:image/webp" in page.read_text(encoding="utf-8")
    done = invoke(
        "eval", "retrieval", files["blurred"], files["data"], "--no-same-modality", "--json", files["json"]
    )  # fmt: skip
    assert done.code == 0, done.err
    assert not [name for name in written(files) if "i2i" in name or "fold" in name]
    done = invoke("eval", "retrieval", files["blurred"], files["data"], "--report", str(tmp_path))
    assert done.code == 2
    assert "it is a folder" in done.err
    done = invoke("eval", "retrieval", files["blurred"], files["data"], "--folds", "13")
    assert done.code == 2
    assert "folds needs to be 2 to 12" in done.err
