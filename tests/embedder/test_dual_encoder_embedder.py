"""An mmcl model as an embedder: rows do not depend on how they are asked for, inputs and gradients for attacks."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl.embedder import DualEncoderEmbedder, embed_images
from mmcl.errors import ConfigError, DataError, ShapeError


def _png(image: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_rows_do_not_depend_on_the_batch(embedder, images, texts, batch_size):
    for modality, items in (("image", images), ("text", texts)):
        rows = embedder.embed(items, modality, batch_size=batch_size)
        alone = torch.cat([embedder.embed([item], modality) for item in items])
        torch.testing.assert_close(rows, alone, atol=1e-6, rtol=0)
        assert rows.shape == (len(items), 16)
        assert (rows.dtype, rows.device.type) == (torch.float32, "cpu")
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(items)))
        backwards = embedder.embed(items[::-1], modality, batch_size=batch_size)
        torch.testing.assert_close(backwards.flip(0), rows, atol=1e-6, rtol=0)
        assert not torch.allclose(backwards, rows, atol=1e-3), "order is kept, so the other order differs"


def test_rows_do_not_depend_on_the_batch_under_mean_pooling(make_model, texts):
    embedder = DualEncoderEmbedder(make_model(text={"pooling": "mean"}), device="cpu")
    together = embedder.encode_text(texts)
    torch.testing.assert_close(together, embedder.encode_text(texts, batch_size=1), atol=1e-6, rtol=0)


def test_nothing_gives_no_rows(embedder):
    for modality in ("image", "text"):
        assert embedder.embed([], modality).shape == (0, 16)
    assert embedder.encode_image(np.empty((0, 8, 8, 3), np.uint8)).shape == (0, 16)


def test_every_kind_of_image_is_the_same(embedder, images, tmp_path):
    image = images[0]
    array = image.permute(1, 2, 0).numpy()
    path = tmp_path / "a.png"
    path.write_bytes(_png(image))
    kinds = [image, array, Image.fromarray(array), _png(image), path, str(path), array[:, ::-1][:, ::-1]]
    rows = embedder.encode_image(kinds)
    assert (rows == rows[0]).all()
    assert not torch.allclose(embedder.encode_image([images[1]])[0], rows[0])
    batch = torch.stack([image, image.flip(2)])
    torch.testing.assert_close(embedder.encode_image(batch)[0], rows[0], atol=1e-6, rtol=0)


def test_training_mode_and_gradients(embedder, images):
    embedder.model.train()
    rows = embedder.encode_image(images)
    assert not rows.requires_grad
    assert not embedder.model.training
    probe = torch.nn.Linear(16, 2)
    probe(rows).sum().backward()  # rows from inference_mode would refuse this
    assert probe.weight.grad is not None


def test_wrong_items(embedder, images, texts, tmp_path):
    for items in ("a red circle", b"bytes", tmp_path, Image.new("RGB", (8, 8)), (text for text in texts)):
        with pytest.raises(ShapeError, match="want a list of texts, even of one"):
            embedder.encode_text(items)
    with pytest.raises(ShapeError, match="text 1 is a int; want a string"):
        embedder.encode_text(["a", 3])
    with pytest.raises(ShapeError, match="an image tensor is uint8"):
        embedder.encode_image(images[0])
    with pytest.raises(ConfigError, match="modality is 'audio'; this model embeds image, text"):
        embedder.embed(["a"], "audio")
    with pytest.raises(DataError, match=r"nothing.png: no such image file"):
        embedder.encode_image([tmp_path / "nothing.png"])
    with pytest.raises(ConfigError, match="batch_size is 0"):
        embedder.encode_text(["a"], batch_size=0)


def test_images_of_a_data_set_skip_what_cannot_be_read(embedder, images, make_dataset):
    dataset = make_dataset(images, broken=(1, 4, 5))
    for batch_size in (1, 2, 64):
        rows, numbers, skipped = embed_images(embedder, dataset, batch_size=batch_size)
        assert numbers.tolist() == [0, 2, 3, 6]
        assert [row.row for row in skipped] == [1, 4, 5]
        assert (skipped[0].source, skipped[0].reason) == ("image 1", "image 1 is damaged")
        expected = embedder.encode_image([images[n] for n in (0, 2, 3, 6)])
        torch.testing.assert_close(rows, expected, atol=1e-6, rtol=0)
    rows, numbers, skipped = embed_images(embedder, make_dataset(images, broken=range(7)))
    assert (rows.shape, numbers.shape, len(skipped)) == ((0, 16), (0,), 7)


# -- inputs and gradients, for attacks ------------------------------------------------------------------------------


def test_inputs_are_what_the_model_is_fed(embedder, images, texts):
    inputs = embedder.image_inputs(images)
    assert inputs["pixel_values"].shape == (7, 3, 64, 64)
    assert inputs["pixel_values"].dtype == torch.float32
    with torch.no_grad():
        rows = embedder.embed_inputs(inputs, "image")
        torch.testing.assert_close(rows, embedder.encode_image(images), atol=1e-6, rtol=0)
        tokens = embedder.model.text.tower.preprocessing(texts)
        rows = embedder.embed_inputs(tokens, "text")
    torch.testing.assert_close(rows, embedder.encode_text(texts), atol=1e-6, rtol=0)
    assert not rows.requires_grad


def test_pixel_statistics_undo_the_normalisation(embedder):
    mean, std = embedder.pixel_statistics
    assert mean.shape == std.shape == (3,)
    grey = torch.full((3, 64, 64), 51, dtype=torch.uint8)  # 51 / 255 = 0.2
    pixels = embedder.image_inputs([grey])["pixel_values"][0] * std[:, None, None] + mean[:, None, None]
    torch.testing.assert_close(pixels, torch.full((3, 64, 64), 0.2), atol=1e-6, rtol=0)


def test_gradients_reach_the_pixels(embedder, images):
    embedder.model.train()
    pixels = embedder.image_inputs(images[:2])["pixel_values"].requires_grad_()
    rows = embedder.embed_inputs({"pixel_values": pixels}, "image")
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    assert not embedder.model.training
    (gradient,) = torch.autograd.grad(rows[0, 0], pixels)
    assert gradient[0].abs().max() > 0
    assert gradient[1].abs().max() == 0, "the other image has no part in this row"
    step = 0.01 * gradient.sign()
    with torch.no_grad():
        assert embedder.embed_inputs({"pixel_values": pixels + step}, "image")[0, 0] > rows[0, 0]
        assert embedder.embed_inputs({"pixel_values": pixels - step}, "image")[0, 0] < rows[0, 0]
    with pytest.raises(ConfigError, match="modality is 'sound'"):
        embedder.embed_inputs({}, "sound")
    with pytest.raises(ShapeError, match="want a list of images"):
        embedder.image_inputs("a.png")


# -- precision and device ---------------------------------------------------------------------------------------------


def test_bf16_is_near_and_its_heads_stay_exact(make_model, images, texts):
    plain = DualEncoderEmbedder(make_model(), device="cpu")
    half = DualEncoderEmbedder(make_model(), device="cpu", precision="bf16")
    seen = []
    half.model.image.head.register_forward_hook(lambda module, given, made: seen.append((given[0].dtype, made.dtype)))
    for modality, items in (("image", images), ("text", texts)):
        rows, exact = half.embed(items, modality), plain.embed(items, modality)
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(items)))
        torch.testing.assert_close(rows, exact, atol=0.05, rtol=0)
        assert not torch.allclose(rows, exact, atol=1e-6, rtol=0)
    assert seen == [(torch.float32, torch.float32)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"precision": "fp16"}, "precision is 'fp16', which needs a GPU; on a CPU use bf16 or fp32"),
        ({"precision": "half"}, "precision is 'half'; want one of fp32, bf16, fp16"),
        ({"device": "cuda:99"}, "device is 'cuda:99': this machine cannot"),
        ({"device": "gpu"}, "device is 'gpu': this machine cannot"),
    ],
)
def test_precisions_and_devices_that_are_not_there(make_model, options, says):
    with pytest.raises(ConfigError, match=says):
        DualEncoderEmbedder(make_model(), **{"device": "cpu", **options})


# -- memory -----------------------------------------------------------------------------------------------------------

CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"


def _short_of_memory(monkeypatch, embedder, rows: int, error: Exception) -> list[int]:
    """From now on more than so many rows at once do not fit; the sizes tried."""
    tried = []
    own = embedder.embed_inputs

    def embed_inputs(inputs, modality):
        tried.append(len(next(iter(inputs.values()))))
        if tried[-1] > rows:
            raise error
        return own(inputs, modality)

    monkeypatch.setattr(embedder, "embed_inputs", embed_inputs)
    return tried


@pytest.mark.parametrize(
    "error", [RuntimeError(CPU_MESSAGE), torch.OutOfMemoryError("CUDA out of memory."), MemoryError()]
)
def test_batches_halve_until_they_fit(make_model, images, texts, monkeypatch, caplog, error):
    embedder = DualEncoderEmbedder(make_model(), device="cpu")
    expected = {"image": embedder.encode_image(images), "text": embedder.encode_text(texts)}
    tried = _short_of_memory(monkeypatch, embedder, 3, error)
    torch.testing.assert_close(embedder.encode_image(images), expected["image"], atol=1e-6, rtol=0)
    assert tried == [7, 4, 2, 2, 2, 1]
    assert [record.message for record in caplog.records] == [
        "batches of 7 images do not fit into memory; going on with 2"
    ]
    del tried[:]
    embedder.encode_image(images)
    assert tried == [2, 2, 2, 1], "the size is kept"
    del tried[:]
    torch.testing.assert_close(embedder.encode_text(texts), expected["text"], atol=1e-6, rtol=0)
    assert tried == [6, 3, 3], "texts have a size of their own"
    assert len(caplog.records) == 2


def test_one_item_that_does_not_fit_is_an_error(make_model, images, monkeypatch):
    embedder = DualEncoderEmbedder(make_model(), device="cpu")
    _short_of_memory(monkeypatch, embedder, 0, RuntimeError(CPU_MESSAGE))
    with pytest.raises(ConfigError, match="not even one image fits into memory .*another device"):
        embedder.encode_image(images)


def test_other_errors_are_no_lack_of_memory(make_model, images, monkeypatch):
    embedder = DualEncoderEmbedder(make_model(), device="cpu")
    tried = _short_of_memory(monkeypatch, embedder, 0, RuntimeError("shapes do not agree"))
    with pytest.raises(RuntimeError, match="shapes do not agree"):
        embedder.encode_image(images)
    assert tried == [7]


def test_a_text_longer_than_the_tower_is_cut(embedder):
    limit = embedder.model.text.tower.preprocessing.max_length
    long = " ".join(["red"] * 10 * limit)
    rows = embedder.encode_text([long, "red", long + " circle"])
    assert torch.equal(rows[0], rows[2])
    assert not torch.allclose(rows[0], rows[1], atol=1e-3)
