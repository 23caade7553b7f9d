"""Pushed to a Hub, a folder in the ``transformers`` format comes back in transformers and in mmcl by its name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import six_models
import torch
from torchvision.transforms.v2.functional import to_pil_image

from mmcl.embedder import DualEncoderEmbedder, load
from mmcl.hub.formats import ExportOptions, find_format
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.towers.transformers_loading import quiet_transformers

sys.path.append(str(Path(__file__).parents[1] / "repos"))

from push_server import hub

__all__ = ["hub"]

CLASSES = {
    "bert_vit": "VisionTextDualEncoderModel",
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "open_clip": "CLIPModel",
}
SQUARES = six_models.make_images(3, size=(32, 32))
CAPTIONS = six_models.CAPTIONS


@pytest.fixture
def pushed(hub: Any, trained: Callable[[str], DualEncoder], tmp_path: Path) -> Callable[[str], DualEncoder]:
    """``pushed("clip")``: the model, whose export lies in the repository ``owner/clip``."""
    from huggingface_hub import HfApi

    def push(name: str) -> DualEncoder:
        kind, repo_id = find_format("transformers"), f"owner/{name}"
        (tmp_path / name).mkdir()
        kind.write(trained(name), tmp_path / name, ExportOptions(repo_id=repo_id))
        HfApi().create_repo(repo_id)
        HfApi().upload_folder(repo_id=repo_id, folder_path=tmp_path / name)
        assert {*kind.needs} <= {*hub.files(repo_id)}
        return trained(name)

    return push


@pytest.mark.parametrize("name", CLASSES)
def test_transformers_and_mmcl_open_it_by_name(name: str, pushed: Any) -> None:
    import transformers

    source, repo_id = DualEncoderEmbedder(pushed(name), device="cpu"), f"owner/{name}"
    with quiet_transformers():
        theirs = getattr(transformers, CLASSES[name]).from_pretrained(repo_id).eval()
        processor = transformers.AutoProcessor.from_pretrained(repo_id)
    inputs = processor(
        images=[to_pil_image(image) for image in SQUARES],
        text=CAPTIONS,
        padding="max_length" if name == "siglip" else True,
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        found = theirs(**inputs)
    mine = load(repo_id, device="cpu")
    for wanted, theirs_embeddings, again in (
        (source.encode_image(SQUARES), found.image_embeds, mine.encode_image(SQUARES)),
        (source.encode_text(CAPTIONS), found.text_embeds, mine.encode_text(CAPTIONS)),
    ):
        for embeddings in (torch.nn.functional.normalize(theirs_embeddings, dim=-1), again):
            torch.testing.assert_close(embeddings, wanted, atol=1e-5, rtol=0)
            assert not torch.allclose(embeddings, wanted.roll(1, 0), atol=1e-4)


def test_the_pipeline_by_name(pushed: Any) -> None:
    from transformers import pipeline

    source = DualEncoderEmbedder(pushed("clip"), device="cpu")
    with quiet_transformers():
        classify = pipeline("zero-shot-image-classification", model="owner/clip")
        answers = classify(to_pil_image(SQUARES[0]), candidate_labels=CAPTIONS[:3], hypothesis_template="{}")
    scores = source.logit_scale * source.encode_image(SQUARES[:1]) @ source.encode_text(CAPTIONS[:3]).T
    wanted = dict(zip(CAPTIONS, scores[0].softmax(-1).tolist()))
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(wanted, rel=1e-4)
    assert len(set(wanted.values())) == 3
