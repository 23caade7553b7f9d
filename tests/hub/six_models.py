"""Six kinds of dual encoder that people train, small and with a few steps of training behind them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from mmcl.config import HeadSection, ModelSection, TowerSection
from mmcl.losses.info_nce import info_nce
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.opening.dual_sources import dual_encoder_from_open_clip, dual_encoder_from_transformers
from mmcl.models.towers.transformers_loading import quiet_transformers

sys.path.append(str(Path(__file__).parents[1] / "models"))

import tiny_folders
import tiny_open_clip

CAPTIONS = tiny_folders.CAPTIONS
# What the README's table calls them.
MODELS = {
    "bert_vit": "BERT + ViT",
    "minilm_cnn": "MiniLM (mean pooling) + timm CNN",
    "xlm_r_dinov2": "XLM-R + DINOv2",
    "clip": "CLIP, fine-tuned",
    "siglip": "SigLIP, fine-tuned",
    "open_clip": "open_clip, fine-tuned",
}


def make_images(count: int = 4, *, size: tuple[int, int] | None = None) -> list[Tensor]:
    """Smooth colour images of several shapes, or all of one size; uint8 (3, h, w)."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        height, width = size or [(40, 56), (33, 33), (71, 36), (32, 32)][number % 4]
        coarse = torch.rand(1, 3, 5, 6, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
        made.append((smooth[0] * 255).round().to(torch.uint8))
    return made


def build_model(name: str, folder: Path) -> DualEncoder:
    """One of ``MODELS``; files that it is built from are written below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return fine_tune(_BUILDERS[name](folder))


def fine_tune(model: DualEncoder) -> DualEncoder:
    """Two steps of InfoNCE, so that weights are nobody's checkpoint any more."""
    images = model.image.tower.preprocessing(make_images())
    texts = model.text.tower.preprocessing(CAPTIONS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(2):
        loss = info_nce(model.encode_image(**images), model.encode_text(**texts), model.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def _towers(image: TowerSection, text: TowerSection) -> DualEncoder:
    return build_dual_encoder(ModelSection(image=image, text=text, embedding_dim=24))


def _bert_vit(folder: Path) -> DualEncoder:
    (folder / "vit").mkdir()
    (folder / "bert").mkdir()
    vit = tiny_folders.save_vision_model(folder / "vit", "vit")
    bert = tiny_folders.save_text_model(folder / "bert", "bert")
    return _towers(TowerSection(name=str(vit)), TowerSection(name=str(bert)))


def _minilm_cnn(folder: Path) -> DualEncoder:
    (folder / "minilm" / "1_Pooling").mkdir(parents=True)
    bert = tiny_folders.save_text_model(folder / "minilm", "bert")
    (bert / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    image = TowerSection(name="timm:test_efficientnet", pretrained=False, image_size=64, head=HeadSection(bias=True))
    return _towers(image, TowerSection(name=str(bert)))


def _xlm_r_dinov2(folder: Path) -> DualEncoder:
    (folder / "dinov2").mkdir()
    (folder / "xlm_r").mkdir()
    dino = tiny_folders.save_vision_model(folder / "dinov2", "dinov2")
    xlm_r = tiny_folders.save_text_model(folder / "xlm_r", "xlm_roberta")
    return _towers(TowerSection(name=str(dino)), TowerSection(name=str(xlm_r), pooling="mean"))


def _dual(folder: Path, family: str) -> DualEncoder:
    (folder / family).mkdir()
    return dual_encoder_from_transformers(str(tiny_folders.save_dual_model(folder / family, family)))


def _open_clip(folder: Path) -> DualEncoder:
    (folder / "architectures").mkdir()
    (folder / "open_clip").mkdir()
    tiny_open_clip.register(folder / "architectures")
    tiny_open_clip.save_folder(folder / "open_clip", "tiny-clip")
    return dual_encoder_from_open_clip(str(folder / "open_clip"), None)


_BUILDERS = {
    "bert_vit": _bert_vit,
    "minilm_cnn": _minilm_cnn,
    "xlm_r_dinov2": _xlm_r_dinov2,
    "clip": lambda folder: _dual(folder, "clip"),
    "siglip": lambda folder: _dual(folder, "siglip"),
    "open_clip": _open_clip,
}
