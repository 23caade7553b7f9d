from __future__ import annotations

import io
import json
import sys
import types

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import mmcl
from mmcl.config import ModelSection, TowerSection
from mmcl.data.dataset import ImageTextDataset
from mmcl.embedder import DualEncoderEmbedder, embed_images
from mmcl.errors import ConfigError, DataError, MissingDependencyError, ShapeError
from mmcl.models.dual_encoder import build_dual_encoder
from mmcl.models.saving import save_pretrained

TEXTS = ["a red circle", "two", "one big blue square next to three small green circles", "a dog", "red red red", "a"]


def _model(**text):
    torch.manual_seed(0)
    section = ModelSection(
        image=TowerSection(options={"num_hidden_layers": 1}), text=TowerSection(**text), embedding_dim=16
    )
    return build_dual_encoder(section, captions=TEXTS)


@pytest.fixture(scope="module")
def embedder():
    return DualEncoderEmbedder(_model(), device="cpu")


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (3, 40 + 9 * n, 80 - 7 * n), generator=generator, dtype=torch.uint8) for n in range(7)
    ]


def _png(image: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_rows_do_not_depend_on_the_batch(embedder, images, batch_size):
    for modality, items in (("image", images), ("text", TEXTS)):
        rows = embedder.embed(items, modality, batch_size=batch_size)
        alone = torch.cat([embedder.embed([item], modality) for item in items])
        torch.testing.assert_close(rows, alone, atol=1e-6, rtol=0)
        assert rows.shape == (len(items), 16)
        assert (rows.dtype, rows.device.type) == (torch.float32, "cpu")
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(items)))
        backwards = embedder.embed(items[::-1], modality, batch_size=batch_size)
        torch.testing.assert_close(backwards.flip(0), rows, atol=1e-6, rtol=0)
        assert not torch.allclose(backwards, rows, atol=1e-3), "order is kept, so the other order differs"


def test_rows_do_not_depend_on_the_batch_under_mean_pooling(images):
    embedder = DualEncoderEmbedder(_model(pooling="mean"), device="cpu")
    together = embedder.encode_text(TEXTS)
    torch.testing.assert_close(together, embedder.encode_text(TEXTS, batch_size=1), atol=1e-6, rtol=0)


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


def test_wrong_items(embedder, images, tmp_path):
    for items in ("a red circle", b"bytes", tmp_path, Image.new("RGB", (8, 8)), (text for text in TEXTS)):
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


class _Images:
    def __init__(self, images, broken):
        self.images, self.broken = images, broken

    def __len__(self):
        return len(self.images)

    def read(self, row):
        if row in self.broken:
            raise DataError(f"image {row} is damaged")
        return self.images[row]

    def describe(self, row):
        return f"image {row}"


def test_images_of_a_data_set_skip_what_cannot_be_read(embedder, images):
    table = pa.table({"texts": [["a"]] * 7})
    dataset = ImageTextDataset(_Images(images, {1, 4, 5}), table, name="broken")
    for batch_size in (1, 2, 64):
        rows, numbers, skipped = embed_images(embedder, dataset, batch_size=batch_size)
        assert numbers.tolist() == [0, 2, 3, 6]
        assert [row.row for row in skipped] == [1, 4, 5]
        assert (skipped[0].source, skipped[0].reason) == ("image 1", "image 1 is damaged")
        expected = embedder.encode_image([images[n] for n in (0, 2, 3, 6)])
        torch.testing.assert_close(rows, expected, atol=1e-6, rtol=0)
    nothing = ImageTextDataset(_Images(images, set(range(7))), table, name="broken")
    rows, numbers, skipped = embed_images(embedder, nothing)
    assert (rows.shape, numbers.shape, len(skipped)) == ((0, 16), (0,), 7)


# -- load ----------------------------------------------------------------------------------------------------------


def test_runs_and_models(tmp_path, images):
    model = _model().eval()
    save_pretrained(model, tmp_path / "run" / "model")
    expected = DualEncoderEmbedder(model, device="cpu").encode_image(images)
    for reference in (tmp_path / "run", tmp_path / "run" / "model", str(tmp_path / "run")):
        loaded = mmcl.load(reference, device="cpu")
        assert torch.equal(loaded.encode_image(images), expected)
        assert loaded.modalities == {"image", "text"}
        assert loaded.logit_scale == pytest.approx(1 / 0.07)
        assert loaded.embedding_dim == 16


def test_vectors(tmp_path):
    image, text = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    np.savez(tmp_path / "v.npz", image=image, text=text, image_id=np.array(["a", "b", "c"]))
    loaded = mmcl.load(f"vectors:{tmp_path / 'v.npz'}")
    rows = loaded.encode_image(["c", "a"])
    np.testing.assert_allclose(rows.numpy(), (image / np.linalg.norm(image, axis=1, keepdims=True))[[2, 0]], atol=1e-6)
    assert loaded.encode_text(["1"]).shape == (1, 4)
    assert loaded.encode_text([]).shape == (0, 4)
    with pytest.raises(DataError, match="no image vector for 'd'"):
        loaded.encode_image(["a", "d"])
    with pytest.raises(DataError, match="there is no file of vectors"):
        mmcl.load(f"vectors:{tmp_path / 'none.npz'}")


def test_sentence_transformers_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mmcl\[sentence-transformers\]'"):
        mmcl.load("sentence-transformers:some/model")


class _SentenceTransformer:
    """As much of sentence-transformers as is called: the length of a text, or the mean colour of an image."""

    def __init__(self, name, device=None):
        if name == "broken":
            raise OSError("no such model\nand a second line")
        self.takes = {"image": name == "with-images"}

    def supports(self, modality):
        return self.takes[modality]

    def encode(self, items, *, batch_size=32, convert_to_tensor=False, show_progress_bar=True):
        assert not show_progress_bar
        rows = [[len(x), 1.0] if isinstance(x, str) else np.asarray(x)[..., :2].mean((0, 1)) for x in items]
        return torch.tensor(np.array(rows), dtype=torch.float64)


def test_sentence_transformers(monkeypatch, images):
    library = types.SimpleNamespace(SentenceTransformer=_SentenceTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    text = mmcl.load("sentence-transformers:some/model")
    assert (text.modalities, text.embedding_dim) == ({"text"}, 2)
    expected = torch.nn.functional.normalize(torch.tensor([[12.0, 1.0], [3.0, 1.0]]), dim=-1)
    torch.testing.assert_close(text.encode_text(TEXTS[:2]), expected)
    assert text.encode_text([]).shape == (0, 2)
    with pytest.raises(ConfigError, match="modality is 'image'; this model embeds text"):
        text.encode_image(images)
    both = mmcl.load("sentence-transformers:with-images").encode_image(images)
    torch.testing.assert_close(both.norm(dim=1), torch.ones(7))
    with pytest.raises(ConfigError, match=r"'sentence-transformers:broken' cannot be loaded \(no such model\)"):
        mmcl.load("sentence-transformers:broken")


@pytest.fixture
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("runs/nothing", "there is no model folder 'runs/nothing'"),
        ("./nothing", "there is no model folder './nothing'"),
        ("/no/such/folder", "there is no model folder '/no/such/folder'"),
        ("nobody/nothing", "no folder 'nobody/nothing', and the Hub cannot be reached"),
        ("nothing", "there is no such folder, and no model of that id could be fetched"),
        ("tiny", "is a tower, not a model"),
        ("timm:test_vit", "is a tower, not a model"),
        ("open_clip:no-such-arch", "open_clip has no architecture"),
        ("open_clip:/no/folder", "no such folder"),
        ("package:not_installed_weights/model", "is not installed"),
        ("", "there is no model folder ''"),
    ],
)
def test_references_that_lead_nowhere(offline, reference, says):
    with pytest.raises(ConfigError, match=says) as caught:
        mmcl.load(reference)
    assert "\n" not in str(caught.value)


def test_folders_without_a_model(offline, tmp_path):
    with pytest.raises(ConfigError, match=r"neither an mmcl model \(mmcl.json\) nor a transformers one"):
        mmcl.load(tmp_path)
    (tmp_path / "config.yaml").write_text("data: {}")
    with pytest.raises(ConfigError, match="holds a run that has not saved a model yet"):
        mmcl.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match="is a bert model: it has not both an image and a text tower"):
        mmcl.load(tmp_path)
    file = tmp_path / "a.txt"
    file.write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        mmcl.load(file)


def test_without_a_network_the_message_is_the_same(monkeypatch):
    """Not told to be offline, but unable to connect; a transformers model fetched before is still found."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("cannot connect")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(ConfigError, match="the Hub cannot be reached"):  # told to be offline: nothing is asked
        mmcl.load("nobody/nothing")
    asked = []

    def model_info(self, name, **kwargs):
        asked.append(name)
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(ConfigError, match="no model of that id could be fetched .no route to host"):
        mmcl.load("nobody/nothing")
    assert asked == ["nobody/nothing"]  # once, not again for every file
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
