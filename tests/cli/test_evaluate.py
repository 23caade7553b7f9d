"""`mmcl eval` on a model of a few steps, and on embeddings from a file."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mmcl import data
from mmcl.cli.console import watch_embedding
from mmcl.embedder import CachedEmbedder, embed_images
from mmcl.evaluation.blind import BlindEmbedder

SCENES = "shapes?train=60&test=40:test"


def test_retrieval_prints_a_table_and_writes_json(tiny_run: Path, invoke, tmp_path: Path) -> None:
    file = tmp_path / "retrieval.json"
    done = invoke("eval", "retrieval", str(tiny_run), SCENES, "--json", str(file))
    assert done.code == 0, done.err
    metrics = json.loads(file.read_text())
    assert metrics["retrieval/num_images"] == 40
    for way in ("i2t", "t2i"):
        low, high = metrics[f"retrieval/{way}_recall@1_ci95"]
        assert 0 <= low <= metrics[f"retrieval/{way}_recall@1"] <= high <= 1
    assert 0 <= metrics["foils/mean"] <= 1
    assert f"{100 * metrics['retrieval/i2t_recall@1']:.1f} %" in done.out
    assert "appearance only" in done.out


def test_retrieval_says_the_same_as_python(tiny_run: Path, invoke, tmp_path: Path) -> None:
    import mmcl

    file = tmp_path / "retrieval.json"
    assert invoke("eval", "retrieval", str(tiny_run / "model"), SCENES, "--json", str(file)).code == 0
    metrics = mmcl.evaluate(str(tiny_run), SCENES, tasks=["retrieval"])
    written = json.loads(file.read_text())
    assert {name: written[name] for name in metrics} == metrics


def test_zero_shot_with_the_datas_labels(tiny_run: Path, invoke, tmp_path: Path) -> None:
    file = tmp_path / "zeroshot.json"
    done = invoke("eval", "zeroshot", str(tiny_run), SCENES, "--json", str(file))
    assert done.code == 0, done.err
    metrics = json.loads(file.read_text())
    assert 0 <= metrics["zeroshot/top1"] <= metrics["zeroshot/top5"] <= 1
    assert metrics["zeroshot/num_classes"] == 8
    assert "confusion: images of each true class" in done.out


def test_zero_shot_with_files(tiny_run: Path, invoke, tmp_path: Path) -> None:
    shapes = ["circle", "square", "triangle", "star", "diamond", "cross", "heart", "moon", *map(str, range(5))]
    classes, templates = tmp_path / "classes.txt", tmp_path / "templates.txt"
    classes.write_text("".join(f"{shape}\tred {shape}\n" for shape in shapes))
    templates.write_text("a {} on a plain background\n")
    done = invoke(
        "eval", "zeroshot", str(tiny_run), SCENES, "--classes", str(classes), "--templates", str(templates)
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "over 13 classes" in " ".join(done.out.split())  # too many for a matrix
    done = invoke("eval", "zeroshot", str(tiny_run), SCENES, "--templates", str(tmp_path / "none.txt"))
    assert done.code == 1
    assert "none.txt" in done.err


def test_embeddings_from_a_file_are_model_and_data(invoke, tmp_path: Path) -> None:
    vectors = np.eye(6, dtype=np.float32)
    np.savez(tmp_path / "right.npz", image=vectors, text=vectors)
    np.savez(tmp_path / "wrong.npz", image=vectors, text=np.roll(vectors, 1, axis=0))
    recalls = []
    for name in ("right", "wrong"):
        reference, file = f"vectors:{tmp_path}/{name}.npz", tmp_path / f"{name}.json"
        done = invoke("eval", "retrieval", reference, reference, "--json", str(file))
        assert done.code == 0, done.err
        recalls.append(json.loads(file.read_text())["retrieval/i2t_recall@1"])
    assert recalls == [1.0, 0.0]


@pytest.mark.parametrize("script", ["eval_retrieval.py", "eval_zero_shot.py"])
def test_the_scripts_are_the_commands(script: str, checkout: Path, tiny_run: Path, run_python, tmp_path: Path) -> None:
    path = str(checkout / "recipes" / script)
    done = run_python(path, str(tiny_run), SCENES, "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    task = "retrieval" if "retrieval" in script else "zeroshot"
    assert any(name.startswith(task) for name in json.loads((tmp_path / "out.json").read_text()))


def test_kept_embeddings_give_the_same_numbers(tiny_run: Path, invoke, tmp_path: Path) -> None:
    folder, written = Path(os.environ["MMCL_CACHE"]) / "embeddings", []
    for number, options in enumerate([(), (), ("--no-cache",), ("--precision", "bf16"), ("--batch-size", "7")]):
        file = tmp_path / f"{number}.json"
        done = invoke("eval", "retrieval", str(tiny_run), SCENES, "--json", str(file), *options)
        assert done.code == 0, done.err
        written.append((json.loads(file.read_text()), {path.name for path in folder.iterdir()}))
    metrics, kept = zip(*written)
    assert metrics[0] == metrics[1] == metrics[2]
    assert metrics[3] != metrics[0], "a control: another precision gives other numbers"
    assert kept[0] == kept[1] == kept[2]
    assert kept[2] < kept[3] < kept[4]
    done = invoke("eval", "retrieval", str(tiny_run), SCENES, "--precision", "int4")
    assert (done.code, "precision is 'int4'; want one of fp32, bf16, fp16" in done.err) == (2, True)


class _Reader(BlindEmbedder):
    """Reads the images of a data set, which blind embedders do not."""

    embed_dataset_images = None


@pytest.mark.parametrize("broken_off", [False, True])
def test_progress_shows_on_a_terminal_alone(broken_off: bool) -> None:
    dataset = data.load("shapes?test=4:test")
    embedder = CachedEmbedder(_Reader())
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with contextlib.suppress(KeyboardInterrupt), watch_embedding(embedder, console):
        embed_images(embedder, dataset)
        embedder.encode_text(["a", "b"])
        if broken_off:
            raise KeyboardInterrupt
    assert "images of shapes" in console.file.getvalue()
    assert "4/4" in console.file.getvalue()
    assert "2/2" in console.file.getvalue()
    assert embedder.progress is None
    assert console.file.getvalue().count("\x1b[?25l") == console.file.getvalue().count("\x1b[?25h"), "cursor is back"

    plain = Console(file=io.StringIO(), force_terminal=False)
    with watch_embedding(embedder, plain):
        embed_images(CachedEmbedder(_Reader()), dataset)
        embed_images(embedder, dataset)
    assert plain.file.getvalue() == ""
