from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import six_models
import torch
from huggingface_hub import HfApi
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "repos"))

from push_server import ModelHub, hub

import mmcl
from mmcl.config import ModelSection, TowerSection
from mmcl.embedder.dual_encoder_embedder import DualEncoderEmbedder
from mmcl.errors import ConfigError
from mmcl.hub.formats import ExportOptions
from mmcl.hub.formats.as_open_clip.format import FORMAT
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.encoder import build_encoder, build_tower
from mmcl.models.opening.opening import open_dual_encoder
from mmcl.models.saving import from_pretrained, save_pretrained
from mmcl.models.towers.open_clip_folder import CONFIG, opened_alone, own_text_config

__all__ = ["hub"]

CAPTIONS = [*six_models.CAPTIONS, "A RED Circle", "a photo of the grey field " * 9, "one &amp; two", "circle", ""]
Trained = Callable[[str], DualEncoder]


def embeddings(embedder: DualEncoderEmbedder, texts: list[str]) -> tuple[Tensor, Tensor]:
    return embedder.encode_image(six_models.make_images()), embedder.encode_text(texts)


@pytest.mark.parametrize("name", ["minilm_cnn", "xlm_r_dinov2", "clip", "siglip", "open_clip"])
def test_mmcl_reads_the_folder_back(name: str, trained: Trained, tmp_path: Path) -> None:
    model = trained(name)
    FORMAT.write(model, tmp_path / "out", ExportOptions(repo_id="owner/model"))
    plain = FORMAT.open(tmp_path / "out", ExportOptions())[""]
    back = mmcl.load(f"open_clip:{tmp_path / 'out'}", device="cpu")
    source = DualEncoderEmbedder(model, device="cpu")
    mended = [plain.reads_as(caption) for caption in CAPTIONS]
    for found, wanted in zip(embeddings(back, CAPTIONS), embeddings(source, mended)):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        assert (found.flip(0) - wanted).abs().max() > 1e-3  # control
    torch.testing.assert_close(back.encode_text(CAPTIONS), plain.embed_texts(CAPTIONS), rtol=0, atol=1e-5)
    assert back.logit_scale == pytest.approx(source.logit_scale, rel=1e-6)
    # Captions take no more tokens than they have, and one alone embeds as among others.
    tokens = back.model.text.tower.preprocessing(["a red circle"])["input_ids"]
    assert tokens.shape == (1, 16 if name == "siglip" else 5)  # SigLIP reads the padding too
    torch.testing.assert_close(back.encode_text(CAPTIONS[:1]), back.encode_text(CAPTIONS)[:1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["minilm_cnn", "clip", "siglip"])
def test_what_was_read_is_saved_and_exported_again(name: str, trained: Trained, tmp_path: Path) -> None:
    FORMAT.write(trained(name), tmp_path / "first", ExportOptions(repo_id="owner/model"))
    read = open_dual_encoder(f"open_clip:{tmp_path / 'first'}")
    save_pretrained(read, tmp_path / "saved")
    (tmp_path / "first").rename(tmp_path / "gone")  # a saved model needs nothing of where it came from
    again = from_pretrained(tmp_path / "saved")
    wanted = embeddings(DualEncoderEmbedder(read, device="cpu"), CAPTIONS)
    for found, first in zip(embeddings(DualEncoderEmbedder(again, device="cpu"), CAPTIONS), wanted):
        torch.testing.assert_close(found, first, rtol=0, atol=1e-6)
    assert FORMAT.obstacle(again) is None
    FORMAT.write(again, tmp_path / "second", ExportOptions(repo_id="owner/model"))
    for file in (CONFIG, "config.json"):
        first, second = (tmp_path / folder / file for folder in ("gone", "second"))
        assert first.is_file() == second.is_file()
        if first.is_file():
            assert json.loads(first.read_text()) == json.loads(second.read_text())


def test_a_shorter_text_is_exact_for_towers_that_mask(trained: Trained, tmp_path: Path) -> None:
    FORMAT.write(trained("xlm_r_dinov2"), tmp_path, ExportOptions())
    tower = build_tower(TowerSection(name=f"open_clip:{tmp_path}", max_length=8), "text").eval()
    inputs = tower.preprocessing(CAPTIONS)
    assert inputs["input_ids"].shape[1] == 8
    wide = torch.nn.functional.pad(inputs["input_ids"], (0, 9), value=1)
    with torch.no_grad():
        torch.testing.assert_close(tower(**inputs).pooled, tower(input_ids=wide).pooled, rtol=0, atol=1e-6)
        other = torch.nn.functional.pad(inputs["input_ids"], (0, 9), value=5)  # control: no padding
        assert (tower(input_ids=other).pooled - tower(**inputs).pooled).abs().max() > 1e-3


def test_a_tower_starts_a_new_model(trained: Trained, tmp_path: Path) -> None:
    FORMAT.write(trained("minilm_cnn"), tmp_path, ExportOptions())
    name = f"open_clip:{tmp_path}"
    made = build_dual_encoder(ModelSection(image=TowerSection(name=name), text=TowerSection(name=name))).eval()
    source = DualEncoderEmbedder(trained("minilm_cnn"), device="cpu")
    features = made.text.features(**made.text.tower.preprocessing(["a red circle"]))
    found = torch.nn.functional.normalize(features, dim=-1)
    torch.testing.assert_close(found, source.encode_text(["a red circle"]), rtol=0, atol=1e-5)


def test_where_the_text_towers_config_is_found(tmp_path: Path) -> None:
    assert own_text_config(tmp_path) is None
    (tmp_path / "mmcl.json").write_text(json.dumps({"text": {"tower": {"family": "timm", "config": {}}}}))
    assert own_text_config(tmp_path) is None
    tower = {"family": "transformers", "config": {"model_type": "bert"}}
    (tmp_path / "mmcl.json").write_text(json.dumps({"text": {"tower": tower}}))
    assert own_text_config(tmp_path) == {"model_type": "bert"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "text_config": {"model_type": "roberta"}}))
    assert own_text_config(tmp_path) == {"model_type": "roberta"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))
    assert own_text_config(tmp_path) == {"model_type": "xlm-roberta"}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        own_text_config(tmp_path)


def test_the_folder_itself_is_not_touched(trained: Trained, tmp_path: Path) -> None:
    FORMAT.write(trained("minilm_cnn"), tmp_path, ExportOptions())
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with opened_alone(tmp_path) as alone:
        assert alone != tmp_path
        named = json.loads((alone / CONFIG).read_text())["model_cfg"]["text_cfg"]["hf_model_name"]
        assert Path(named).is_relative_to(alone)
    assert not alone.exists()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def _both_described(trained: Trained) -> DualEncoder:
    """Both towers in one ``config.json``: timm with an option, and BERT."""
    image = TowerSection(name="timm:test_vit", pretrained=False, image_size=64)
    encoder = build_encoder(image, "image", 24)
    return DualEncoder(encoder, trained("minilm_cnn").text, embedding_dim=24).eval()


@pytest.mark.parametrize("name", ["clip", "minilm_cnn", "siglip", "both"])
def test_through_the_hub(name: str, trained: Trained, hub: ModelHub, tmp_path: Path) -> None:
    repo = f"owner/{name}"
    model = _both_described(trained) if name == "both" else trained(name)
    FORMAT.write(model, tmp_path / "out", ExportOptions(repo_id=repo))
    api = HfApi()
    api.create_repo(repo)
    api.upload_folder(repo_id=repo, folder_path=tmp_path / "out")
    assert set(FORMAT.needs) <= set(hub.files(repo))
    found, transform = open_clip.create_model_from_pretrained(f"hf-hub:{repo}")
    tokenizer = open_clip.get_tokenizer(f"hf-hub:{repo}")
    found.eval()
    source = DualEncoderEmbedder(model, device="cpu")
    texts = [caption for caption in CAPTIONS if "&" not in caption]
    pixels = model.image.tower.preprocessing(six_models.make_images())["pixel_values"]
    with torch.no_grad():
        of_images = found.encode_image(pixels, normalize=True)
        of_texts = found.encode_text(tokenizer(texts), normalize=True)
    for ours, wanted in zip((of_images, of_texts), embeddings(source, texts)):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5)
        assert (ours.flip(0) - wanted).abs().max() > 1e-3  # control
    assert transform.transforms[-1].mean == list(model.image.tower.preprocessing.mean)


def test_a_preprocessing_that_is_not_mmcls_is_named(trained: Trained, tmp_path: Path) -> None:
    FORMAT.write(trained("open_clip"), tmp_path, ExportOptions())
    config = json.loads((tmp_path / CONFIG).read_text())
    config["mmcl"] = {"image_preprocessing": {"pixels": 3}}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="image_preprocessing is not mmcl's"):
        open_dual_encoder(f"open_clip:{tmp_path}")
    del config["mmcl"]  # another's folder: what open_clip says is what there is
    (tmp_path / CONFIG).write_text(json.dumps(config))
    assert open_dual_encoder(f"open_clip:{tmp_path}").image.tower.preprocessing.resize_to == 32
