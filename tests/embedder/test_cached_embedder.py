"""Kept embeddings: equal to embedding, found again, and never mistaken for another model's or other data's."""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import in_child, in_children, rank_envs
from torchvision.io import write_png

import mmcl
from mmcl.data import load
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.vectors import load_vectors
from mmcl.embedder import CachedEmbedder, DualEncoderEmbedder, VectorsEmbedder, cached, fingerprint, start_processes
from mmcl.errors import ConfigError
from mmcl.evaluation.blind import BlindEmbedder
from mmcl.models.saving import save_pretrained


class Counting(DualEncoderEmbedder):
    """Counts the items that its towers run on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.counts = {"image": 0, "text": 0}

    def embed_inputs(self, inputs: dict[str, torch.Tensor], modality: str) -> torch.Tensor:
        self.counts[modality] += len(next(iter(inputs.values())))
        return super().embed_inputs(inputs, modality)


@pytest.fixture
def model(make_model: Callable) -> Counting:
    return Counting(make_model(), device="cpu")


@pytest.fixture
def dataset(make_dataset: Callable, images: list[torch.Tensor]) -> ImageTextDataset:
    """21 rows, the 3rd and 17th unreadable."""
    return make_dataset([image.roll(turn, 1) for turn in range(3) for image in images], broken=(2, 16))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "CHUNK_ROWS", 8)


def same(one: tuple, other: tuple) -> bool:
    return torch.equal(one[0], other[0]) and np.array_equal(one[1], other[1]) and one[2] == other[2]


@pytest.fixture(params=["folder", "memory"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "kept" if request.param == "folder" else None


def test_it_is_the_model_itself(
    model: Counting, dataset: ImageTextDataset, texts: list[str], where: Path | None, small_chunks: None
) -> None:
    kept = CachedEmbedder(model, folder=where)
    plain = model.embed_dataset_images(dataset)
    rows, numbers, skipped = kept.embed_dataset_images(dataset)
    torch.testing.assert_close(rows, plain[0], atol=1e-6, rtol=0)
    assert numbers.tolist() == plain[1].tolist() == [n for n in range(21) if n not in (2, 16)]
    assert skipped == plain[2]
    assert [(row.row, row.source) for row in skipped] == [(2, "image 2"), (16, "image 16")]
    torch.testing.assert_close(kept.encode_text(texts), model.encode_text(texts), atol=1e-6, rtol=0)
    assert not torch.allclose(rows, rows.flip(0), atol=1e-3)
    assert (kept.embedding_dim, kept.modalities, kept.logit_scale) == (16, {"image", "text"}, model.logit_scale)
    assert kept.pixel_statistics[0].tolist() == model.pixel_statistics[0].tolist()  # all else is the model's
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = kept.no_such_thing


def test_what_is_kept_is_not_embedded_again(
    model: Counting, dataset: ImageTextDataset, texts: list[str], where: Path | None
) -> None:
    kept = CachedEmbedder(model, folder=where)
    first, words = kept.embed_dataset_images(dataset), kept.encode_text(texts)
    counts = dict(model.counts)
    assert counts == {"image": 19, "text": 6}
    first[0][0] = 7.0  # what a caller does with its copy is its own affair
    words[0] = 7.0
    again = kept.embed_dataset_images(dataset)
    assert model.counts == counts
    assert again[0].norm(dim=1).allclose(torch.ones(19))
    assert torch.equal(again[0][1:], first[0][1:])
    assert kept.encode_text(texts)[0].norm() == pytest.approx(1)
    assert model.counts == counts
    if where is not None:
        assert same(CachedEmbedder(model, folder=where).embed_dataset_images(dataset), again)
        assert model.counts == counts
    kept.encode_text(texts[::-1])
    assert model.counts["text"] == 12, "a control: another list is embedded"


def test_the_key_changes_with_all_that_embeddings_depend_on(
    make_model: Callable, make_dataset: Callable, images: list[torch.Tensor], tmp_path: Path
) -> None:
    def new(inner: Any, rows: ImageTextDataset | None = None, batch_size: int = 64) -> tuple[int, int]:
        before = {path.name for path in tmp_path.iterdir()}
        kept = CachedEmbedder(inner, folder=tmp_path)
        kept.embed_dataset_images(make_dataset(images) if rows is None else rows, batch_size=batch_size)
        kept.encode_text(["a red circle"], batch_size=batch_size)
        made = {path.name for path in tmp_path.iterdir()} - before
        return len([name for name in made if name.startswith("image-")]), len(made)

    def embedder(**options: Any) -> DualEncoderEmbedder:
        return DualEncoderEmbedder(make_model(**options), device="cpu")

    assert new(embedder()) == (1, 2)
    assert new(embedder()) == (0, 0)
    assert new(embedder(), make_dataset(images, label=["a"] * 7)) == (0, 0)  # labels are in no embedding
    assert new(embedder(), batch_size=3) == (1, 2)
    assert new(embedder(), make_dataset(images[::-1])) == (1, 1)
    assert new(embedder(), make_dataset(images, id=list("abcdefg"))) == (1, 1)
    assert new(embedder(seed=1)) == (1, 2)
    assert new(embedder(image={"pooling": "mean"})) == (1, 2)
    assert new(DualEncoderEmbedder(make_model(), device="cpu", precision="bf16")) == (1, 2)
    other = embedder()
    with torch.no_grad():
        other.model.image.head.projection.weight[0, 0] += 1e-4
    assert new(other) == (1, 2)
    other = embedder()
    object.__setattr__(other.model.image.tower.preprocessing, "mean", (0.4, 0.5, 0.5))
    assert new(other) == (1, 2)
    other = embedder()
    other.model.text.tower.preprocessing.max_length = 3
    assert new(other) == (1, 2)


def test_fingerprints(make_model: Callable, tmp_path: Path) -> None:
    one, same_one = (DualEncoderEmbedder(make_model(), device="cpu") for _ in range(2))
    assert fingerprint(one) == fingerprint(same_one) == fingerprint(CachedEmbedder(one))
    assert fingerprint(one) != fingerprint(DualEncoderEmbedder(make_model(seed=1), device="cpu"))
    assert fingerprint(BlindEmbedder()) is None
    np.savez(tmp_path / "v.npz", image=np.eye(3), text=np.eye(3))
    vectors = mmcl.load(f"vectors:{tmp_path / 'v.npz'}")
    before = fingerprint(vectors)
    os.utime(tmp_path / "v.npz", ns=(1, 1))
    assert fingerprint(vectors) != before


def test_a_model_without_a_fingerprint_is_kept_in_memory_alone(dataset: ImageTextDataset, tmp_path: Path) -> None:
    kept = CachedEmbedder(BlindEmbedder(), folder=tmp_path / "kept")
    assert len(kept.embed_dataset_images(dataset)[0]) == 21
    assert not (tmp_path / "kept").exists()


def test_vectors_are_looked_up_and_not_kept(tmp_path: Path, make_dataset: Callable, images: list) -> None:
    ids = [str(n) for n in range(7)]
    np.savez(tmp_path / "v.npz", image=np.eye(7), text=np.eye(7), image_id=np.array(ids))
    kept = CachedEmbedder(VectorsEmbedder(load_vectors(tmp_path / "v.npz")), folder=tmp_path / "kept")
    rows, _, _ = kept.embed_dataset_images(make_dataset(images, id=ids[::-1]))
    assert torch.equal(rows, torch.eye(7).flip(0))
    assert not (tmp_path / "kept").exists()


def test_memory_holds_what_was_used_last(model: Counting, monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    monkeypatch.setattr(cached, "HELD_BYTES", 2 * 16 * 4)
    kept = CachedEmbedder(model)
    for text in ("a", "b", "a", "c"):  # "b" was used longest ago when "c" comes
        kept.encode_text([text])
    assert model.counts["text"] == 3
    kept.encode_text(["a"])
    assert model.counts["text"] == 3
    kept.encode_text(["b"])
    assert model.counts["text"] == 4
    kept.encode_text(texts)  # larger than all that may be held, and given all the same
    assert len(kept._held) == 1


# -- interruptions ---------------------------------------------------------------------------------------------------


def test_a_broken_off_computation_goes_on(
    model: Counting, dataset: ImageTextDataset, tmp_path: Path, small_chunks: None
) -> None:
    whole = CachedEmbedder(model, folder=tmp_path / "other").embed_dataset_images(dataset)

    def broken_off() -> None:
        def tell(title: str, done: int, total: int) -> None:
            if done == 16:
                os.kill(os.getpid(), signal.SIGKILL)

        CachedEmbedder(model, folder=tmp_path / "kept", progress=tell).embed_dataset_images(dataset)

    code, _ = in_child(broken_off)
    assert code == -signal.SIGKILL
    (folder,) = (tmp_path / "kept").iterdir()
    assert len(list(folder.glob("*.json"))) == 1  # it was told of the 16th image before its chunk was written
    model.counts["image"] = 0
    assert same(CachedEmbedder(model, folder=tmp_path / "kept").embed_dataset_images(dataset), whole)
    assert model.counts["image"] == 19 - 7


@pytest.mark.parametrize("damage", ["short", "empty", "gone", "no json", "json is a number"])
def test_a_damaged_file_is_computed_again(
    model: Counting, dataset: ImageTextDataset, tmp_path: Path, small_chunks: None, damage: str
) -> None:
    whole = CachedEmbedder(model, folder=tmp_path).embed_dataset_images(dataset)
    (folder,) = tmp_path.iterdir()
    rows, words = folder / "rows_000000008.npy", folder / "rows_000000008.json"
    {
        "short": lambda: rows.write_bytes(rows.read_bytes()[:200]),
        "empty": lambda: rows.write_bytes(b""),
        "gone": rows.unlink,
        "no json": lambda: words.write_text("[{"),
        "json is a number": lambda: words.write_text("3"),
    }[damage]()
    model.counts["image"] = 0
    assert same(CachedEmbedder(model, folder=tmp_path).embed_dataset_images(dataset), whole)
    assert model.counts["image"] == 8
    assert not list(folder.glob("*.partial"))


def test_larger_results_are_mapped_from_one_file(
    model: Counting, dataset: ImageTextDataset, texts: list[str], tmp_path: Path, small_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    held = CachedEmbedder(model, folder=tmp_path).embed_dataset_images(dataset)
    words = CachedEmbedder(model, folder=tmp_path).encode_text(texts)
    monkeypatch.setattr(cached, "MAPPED_BYTES", 0)
    mapped = CachedEmbedder(model, folder=tmp_path).embed_dataset_images(dataset)
    assert same(mapped, held)
    assert torch.equal(CachedEmbedder(model, folder=tmp_path).encode_text(texts), words)
    assert len(list(tmp_path.glob("*/joined.npy"))) == 2
    mapped[0][:] = 0  # written to the copy, not to the file
    assert same(CachedEmbedder(model, folder=tmp_path).embed_dataset_images(dataset), held)
    (folder,) = tmp_path.glob("image-*")
    (folder / "rows_000000008.npy").unlink()  # computed again, and joined again
    assert same(CachedEmbedder(model, folder=tmp_path).embed_dataset_images(dataset), held)
    nothing = dataset.select([2, 16])
    assert len(CachedEmbedder(model, folder=tmp_path).embed_dataset_images(nothing)[0]) == 0


def test_a_folder_that_cannot_be_written_is_named(model: Counting, texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"embeddings cannot be kept in .*file.*MMCL_CACHE.*--no-cache"):
        CachedEmbedder(model, folder=tmp_path / "file").encode_text(texts)


def test_progress_counts_images_and_texts(
    model: Counting, dataset: ImageTextDataset, texts: list[str], where: Path | None, small_chunks: None
) -> None:
    told: list[tuple[str, int, int]] = []
    kept = CachedEmbedder(model, folder=where, progress=lambda *news: told.append(news))
    kept.embed_dataset_images(dataset)
    assert {title for title, _, _ in told} == {"images of made"}
    assert {done for _, done, _ in told} >= set(range(1, 22))
    assert told[-1] == ("images of made", 21, 21)
    del told[:]
    kept.encode_text(texts * 2)
    assert ("texts", 8, 12) in told
    assert told[-1] == ("texts", 12, 12)


# -- processes -------------------------------------------------------------------------------------------------------


def shared_by(world: int, work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``work(rank)`` gives on each of several processes."""

    def run() -> None:
        start_processes()
        rank = int(os.environ["RANK"])
        torch.save(work(rank), folder / f"rank_{rank}.pt")
        if torch.distributed.is_initialized():
            torch.distributed.barrier()

    for code, output in in_children(run, envs=rank_envs(world)):
        assert code == 0, output
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=False) for rank in range(world)]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_work_and_the_result_is_one_processes(
    model: Counting, dataset: ImageTextDataset, texts: list[str], where: Path | None, small_chunks: None,
    tmp_path: Path, world: int,
) -> None:  # fmt: skip
    alone = CachedEmbedder(model)
    images, words = alone.embed_dataset_images(dataset, batch_size=3), alone.encode_text(texts * 4, batch_size=5)
    model.counts.update(image=0, text=0)

    def work(rank: int) -> Any:
        kept = CachedEmbedder(model, folder=where, shared=True)
        found = kept.embed_dataset_images(dataset, batch_size=3), kept.encode_text(texts * 4, batch_size=5)
        return (*found, dict(model.counts))

    everyone = shared_by(world, work, tmp_path)
    for found, said, _ in everyone:
        assert same(found, images)
        assert torch.equal(said, words)
    counts = [counts for _, _, counts in everyone]
    assert [count["text"] for count in counts] == ([16, 8] if world == 2 else [8, 8, 8])
    assert [count["image"] for count in counts] == ([7 + 4, 8] if world == 2 else [7, 8, 4])


def test_processes_map_one_file(
    model: Counting, dataset: ImageTextDataset, small_chunks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = CachedEmbedder(model).embed_dataset_images(dataset)
    monkeypatch.setattr(cached, "MAPPED_BYTES", 0)

    def work(rank: int) -> Any:
        rows, numbers, skipped = CachedEmbedder(model, folder=tmp_path / "kept", shared=True).embed_dataset_images(
            dataset
        )
        return rows.clone(), numbers, skipped

    assert all(same(found, alone) for found in shared_by(2, work, tmp_path))
    assert len(list(tmp_path.glob("kept/*/joined.npy"))) == 1


def test_one_process_that_fails_fails_all(
    model: Counting, texts: list[str], where: Path | None, small_chunks: None, tmp_path: Path
) -> None:
    def work(rank: int) -> str:
        if rank == 1:
            model.embed_inputs = lambda inputs, modality: (_ for _ in ()).throw(ConfigError("no space on device 1"))
        with pytest.raises(ConfigError) as caught:
            CachedEmbedder(model, folder=where, shared=True).encode_text(texts * 4)
        return str(caught.value)

    assert shared_by(2, work, tmp_path) == ["no space on device 1"] * 2


def test_processes_with_different_models_are_refused(make_model: Callable, texts: list[str], tmp_path: Path) -> None:
    models = [DualEncoderEmbedder(make_model(seed=seed), device="cpu") for seed in range(2)]

    def work(rank: int) -> str:
        with pytest.raises(ConfigError) as caught:
            CachedEmbedder(models[rank], shared=True).encode_text(texts)
        return str(caught.value)

    said = shared_by(2, work, tmp_path)
    assert all("2 processes share the embedding, but hold different models" in one for one in said)


def test_unshared_embedding_asks_nobody(model: Counting, texts: list[str], tmp_path: Path) -> None:
    """The main process judges alone while the others wait elsewhere: sharing would hang."""

    def work(rank: int) -> int:
        return 0 if rank else len(CachedEmbedder(model).encode_text(texts))

    assert shared_by(2, work, tmp_path) == [6, 0]


@pytest.mark.parametrize("script", ["eval_retrieval.py", "eval_zero_shot.py"])
def test_the_same_evaluation_on_two_processes_gives_the_same_numbers(
    make_model: Callable, tmp_path: Path, checkout: Path, small_chunks: None, capfd: pytest.CaptureFixture, script: str
) -> None:
    save_pretrained(make_model().eval(), tmp_path / "model")
    scenes = load("shapes?test=30&image_size=32:test")
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "metadata.jsonl").open("w") as table:
        for row in range(30):
            write_png(scenes.images.read(row), str(tmp_path / "data" / f"{row}.png"))
            cells = {"file_name": f"{row}.png", "text": scenes.texts(row), "label": scenes.value("label", row)}
            table.write(json.dumps(cells) + "\n")
    (tmp_path / "data" / "7.png").write_bytes(b"no image")

    def judge() -> None:
        os.environ["MMCL_CACHE"] = str(tmp_path / f"cache_{os.environ['WORLD_SIZE']}")
        file = tmp_path / f"world_{os.environ['WORLD_SIZE']}.json"
        sys.argv = [script, str(tmp_path / "model"), str(tmp_path / "data"), "--json", str(file), "--batch-size", "5"]
        runpy.run_path(str(checkout / "recipes" / script), run_name="__main__")

    def judge_otherwise() -> None:
        os.environ["WORLD_SIZE"] = "1"
        file = tmp_path / "other.json"
        sys.argv = [script, str(tmp_path / "model"), str(tmp_path / "data"), "--json", str(file), "--no-cache"]
        sys.argv += ["--precision", "bf16"]
        runpy.run_path(str(checkout / "recipes" / script), run_name="__main__")

    written = {}
    for world in (1, 2):
        outputs = in_children(judge, envs=rank_envs(world))
        assert [code for code, _ in outputs] == [0] * world, outputs
        assert "%" in outputs[0][1]
        assert all("%" not in output for _, output in outputs[1:]), "the main process alone speaks"
        written[world] = json.loads((tmp_path / f"world_{world}.json").read_text())
    assert written[1] == written[2]
    assert written[1][("retrieval" if "retrieval" in script else "zeroshot") + "/num_skipped"] == 1
    ((code, output),) = in_children(judge_otherwise, envs=rank_envs(1))
    assert code == 0, output
    assert json.loads((tmp_path / "other.json").read_text()) != written[1], "a control: bf16 gives other numbers"
