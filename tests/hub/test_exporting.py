"""An export is there only when another library gives the same embeddings: the core, with a format made up here."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from six_models import build_model
from torch import Tensor

from mmcl.embedder import DualEncoderEmbedder
from mmcl.errors import ConfigError, DataError, ExportError
from mmcl.hub import formats
from mmcl.hub.checking import Checker, Difference, check_difference
from mmcl.hub.exporting import export
from mmcl.hub.formats import ExportOptions, Format, find_format
from mmcl.hub.samples import draw_samples, find_samples
from mmcl.models.dual_encoder import DualEncoder


class Copy:
    """The model itself, each value of its embeddings moved by ``error``."""

    def __init__(self, model: DualEncoder, error: float = 0.0) -> None:
        self.embedder, self.error = DualEncoderEmbedder(model, device="cpu"), error

    @torch.no_grad()
    def embed_pixels(self, pixel_values: Tensor) -> Tensor:
        return self.embedder.embed_inputs({"pixel_values": pixel_values}, "image") + self.error

    def embed_images(self, images: Sequence[Any]) -> Tensor:
        return self.embedder.encode_image(images) + self.error

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return self.embedder.encode_text(list(texts)) + self.error


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Any:
    """made_up(error=..., obstacle=...): registers a format ``made-up`` that writes one file."""

    def register(
        *, error: float = 0.0, why: str | None = None, int8_error: float | None = None, fails: type | None = None
    ) -> None:
        held: dict[str, DualEncoder] = {}

        def write(model: DualEncoder, folder: Path, options: ExportOptions) -> list[str]:
            held["model"] = model
            (folder / "weights.txt").write_text("all of them")
            if fails is not None:
                raise fails
            return ["A note."]

        def opened(folder: Path, options: ExportOptions) -> Mapping[str, Copy]:
            assert (folder / "weights.txt").is_file()
            variants = {"": Copy(held["model"], error)}
            return variants if int8_error is None else {**variants, "int8": Copy(held["model"], int8_error)}

        kind = Format(
            "made-up", lambda model: why, write, opened, {"": 1e-5, "int8": None}, lambda folder: f"made-up:{folder}"
        )
        module = types.ModuleType("made_up_format")
        module.FORMAT = kind
        monkeypatch.setitem(sys.modules, "made_up_format", module)
        monkeypatch.setattr(formats, "FORMATS", {"made-up": "made_up_format"})
        monkeypatch.setattr("mmcl.hub.exporting.FORMATS", {"made-up": "made_up_format"})

    return register


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    return build_model("clip", tmp_path_factory.mktemp("clip"))


def test_what_is_the_same_is_written_with_its_report(made_up, model: DualEncoder, tmp_path: Path) -> None:
    made_up()
    told: list[tuple[str, int, int]] = []
    report = export(model, "made-up", tmp_path / "out", samples=5, progress=lambda *step: told.append(step))
    assert report.differences[""].texts == 0
    assert report.differences[""].pixels < 1e-6
    assert report.reference == f"made-up:{tmp_path / 'out'}"
    assert report.files == {"weights.txt": 11}
    assert report.samples == {"data": "shapes?train=0&test=128:test", "images": 5, "captions": 6, "rows_for_recall": 0}
    kept = json.loads((tmp_path / "out" / "export_report.json").read_text())
    assert kept["differences"][""] == report.differences[""].to_dict()
    assert kept["notes"] == ["A note."]
    assert str(tmp_path) not in json.dumps(kept)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert told[0][1:] == (0, 4)
    assert told[-1][1:] == (4, 4)


def test_another_model_is_refused_and_nothing_is_left(made_up, model: DualEncoder, tmp_path: Path) -> None:
    made_up(error=2e-5)
    with pytest.raises(ExportError, match=r"made-up export gives other embeddings of images .* 2.0e-05, at most 1e-05"):
        export(model, "made-up", tmp_path / "out", samples=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_a_broken_off_export_leaves_nothing(made_up, model: DualEncoder, tmp_path: Path, kind: type) -> None:
    made_up(fails=kind)
    with pytest.raises(kind):
        export(model, "made-up", tmp_path / "out", samples=2)
    assert list(tmp_path.iterdir()) == []


def test_a_variant_without_a_tolerance_is_judged_by_retrieval(made_up, model: DualEncoder, tmp_path: Path) -> None:
    made_up(int8_error=1e-7)
    report = export(model, "made-up", tmp_path / "out", samples=2)
    assert report.differences["int8"].recall == {"retrieval/i2t_recall@10": 0.0, "retrieval/t2i_recall@10": 0.0}
    assert report.samples["rows_for_recall"] == 128


def test_how_much_recall_may_be_lost() -> None:
    def lost(points: float) -> Difference:
        return Difference(0.1, 0.1, 0.1, 0.1, {"retrieval/i2t_recall@10": -points / 100, "retrieval/t2i_recall@10": 0})

    check_difference(lost(1.0), None, what="it")
    check_difference(lost(-5.0), None, what="it")
    with pytest.raises(ExportError, match=r"it falls retrieval/i2t_recall@10 by 1.2 points"):
        check_difference(lost(1.2), None, what="it")


def test_not_a_number_is_no_small_difference() -> None:
    with pytest.raises(ExportError, match="captions"):
        check_difference(Difference(0.0, float("nan"), 0.0, 0.0), 1e-5, what="it")


def test_a_model_that_does_not_fit_is_told_what_stands_in_the_way(made_up, model: DualEncoder, tmp_path: Path) -> None:
    made_up(why="the image tower is made of wood")
    with pytest.raises(ConfigError, match="--format made-up cannot hold this model: the image tower is made of wood"):
        export(model, "made-up", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_not_touched(made_up, model: DualEncoder, tmp_path: Path) -> None:
    made_up()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="mine holds files already; name a new folder with -o"):
        export(model, "made-up", tmp_path / "mine")
    with pytest.raises(ConfigError, match="is a file already"):
        export(model, "made-up", tmp_path / "mine" / "thesis.txt")
    with pytest.raises(ConfigError, match="samples is 0"):
        export(model, "made-up", tmp_path / "new", samples=0)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        find_format("onx")


def test_samples_come_from_the_data_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {path: 'shapes?train=4&test=9', split: {test: test}}\n")
    found = find_samples(tmp_path, None, count=4)
    assert found.name == "shapes?train=4&test=9:test"
    assert (len(found.images), len(found.texts), len(found.dataset)) == (4, 5, 9)
    (tmp_path / "config.yaml").write_text("data: {path: nowhere}\n")
    assert find_samples(tmp_path, None, count=4).name.startswith("shapes?train=0")


def test_an_unreadable_image_is_left_out_of_the_check_and_said(caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    from mmcl.data.sources.loading import load

    data = load("shapes?train=0&test=3:test")
    read = data.images.read

    def damaged(row: int) -> Tensor:
        if row == 1:
            raise DataError("image 1 is damaged")
        return read(row)

    monkeypatch.setattr(data.images, "read", damaged)
    assert len(draw_samples(data, count=3).images) == 2
    assert "image 1 is damaged" in caplog.text
    monkeypatch.setattr(data.images, "read", lambda row: damaged(1))
    with pytest.raises(DataError, match="none of 3 images could be read"):
        draw_samples(data, count=3)


def test_captions_that_a_library_mends_are_compared_as_it_reads_them(model: DualEncoder) -> None:
    class Mending(Copy):
        def reads_as(self, text: str) -> str:
            return text.replace("a ", "two ")

        def embed_texts(self, texts: Sequence[str]) -> Tensor:
            return super().embed_texts([self.reads_as(text) for text in texts])

    data = draw_samples(find_samples(None, None, count=2).dataset, count=2).dataset
    checker = Checker(DualEncoderEmbedder(model, device="cpu"), draw_samples(data, count=2))
    found = checker.compare(Mending(model))
    assert found.mended_texts > 0
    assert found.texts == 0
    silent = Mending(model)
    unsaid = SimpleNamespace(
        embed_pixels=silent.embed_pixels, embed_images=silent.embed_images, embed_texts=silent.embed_texts
    )
    assert checker.compare(unsaid).texts > 1e-3
