from __future__ import annotations

import logging

import pytest
import tiny_open_clip
import torch
from tiny_folders import CAPTIONS
from torch.nn.functional import normalize

from mmcl.config import TowerSection
from mmcl.errors import ConfigError
from mmcl.models.encoder import build_tower
from mmcl.models.opening.dual_sources import dual_encoder_from_open_clip
from mmcl.models.towers.open_clip_tower import build_open_clip_half, create_open_clip
from mmcl.models.towers.tower import tower_parts


@pytest.fixture(scope="module", autouse=True)
def _registered(tmp_path_factory):
    tiny_open_clip.register(tmp_path_factory.mktemp("open_clip"))


@pytest.mark.parametrize("arch", ["tiny-clip", "tiny-resnet", "tiny-coca"])
def test_embeddings_are_open_clips(arch, images):
    model = create_open_clip(arch, None).eval()
    towers = {modality: build_open_clip_half(model, arch, modality).eval() for modality in ("image", "text")}
    with torch.no_grad():
        pixels = towers["image"].preprocessing(images)
        own = normalize(model.encode_image(pixels["pixel_values"]), dim=-1)
        torch.testing.assert_close(normalize(towers["image"](**pixels).pooled, dim=-1), own)
        ids = towers["text"].preprocessing.tokenizer(CAPTIONS, context_length=20)
        own = normalize(model.encode_text(ids), dim=-1)
        found = normalize(towers["text"](**towers["text"].preprocessing(CAPTIONS)).pooled, dim=-1)
        torch.testing.assert_close(found, own, atol=1e-6, rtol=0)
        assert not torch.allclose(found[:1], own[1:2], atol=1e-3)


def test_trimmed_tokens_give_the_same_features():
    tower = build_tower(TowerSection(name="open_clip:tiny-clip", pretrained=False), "text").eval()
    full = tower.preprocessing.tokenizer(CAPTIONS, context_length=20)
    trimmed = tower.preprocessing(CAPTIONS)["input_ids"]
    assert trimmed.shape[1] < full.shape[1] == 20
    with torch.no_grad():
        torch.testing.assert_close(tower(input_ids=trimmed).pooled, tower(input_ids=full).pooled, atol=5e-6, rtol=0)
        shorter = trimmed[:, :-1]  # one token too few cuts the longest caption's end
        assert not torch.allclose(tower(input_ids=shorter).pooled, tower(input_ids=full).pooled, atol=1e-3)


@pytest.mark.parametrize("arch", ["tiny-bidirectional", "tiny-last", "tiny-coca"])
def test_towers_that_read_the_padding_keep_it(arch):
    tower = build_tower(TowerSection(name=f"open_clip:{arch}", pretrained=False), "text").eval()
    ids = tower.preprocessing(CAPTIONS)["input_ids"]
    assert ids.shape == (4, 20)
    if arch == "tiny-last":
        return  # open_clip itself does not read shorter tokens
    with torch.no_grad():
        cut = ids[:1, : int((ids[0] != 0).sum())]
        assert not torch.allclose(tower(input_ids=cut).pooled, tower(input_ids=ids[:1]).pooled, atol=1e-3)


def test_a_token_of_number_0_is_no_padding():
    tower = build_tower(TowerSection(name="open_clip:tiny-clip", pretrained=False), "text").eval()
    full = tower.preprocessing.tokenizer(["a!$b"], context_length=20)
    length = int((full[0] != 0).nonzero().max()) + 1
    assert 0 in full[0, :length].tolist()  # or this shows nothing
    inputs = tower.preprocessing(["a!$b"])
    assert inputs["input_ids"].tolist() == full[:, :length].tolist()
    assert tower.preprocessing.lengths(["a!$b"]) == [length]


def test_captions_are_tokenised_once_for_batches_of_any_rows():
    tower = build_tower(TowerSection(name="open_clip:tiny-clip", pretrained=False), "text")
    tokens = tower.preprocessing.tokens(CAPTIONS)
    for rows in ([2, 0], [1], [3, 3, 1]):
        expected = tower.preprocessing([CAPTIONS[row] for row in rows])
        assert tokens.batch(rows)["input_ids"].tolist() == expected["input_ids"].tolist()
    assert tokens.batch([0])["input_ids"].shape != tokens.batch([0, 1, 2, 3])["input_ids"].shape


def test_lengths_and_max_length():
    tower = build_tower(TowerSection(name="open_clip:tiny-clip", pretrained=False, max_length=10), "text")
    assert tower.preprocessing(["a red circle " * 9])["input_ids"].shape == (1, 10)
    assert tower.preprocessing.lengths(["a", "a red circle"]) == [3, 5]
    assert tower.preprocessing.lengths([]) == []
    with pytest.raises(ConfigError, match="max_length is 21.*at most 20"):
        build_tower(TowerSection(name="open_clip:tiny-clip", pretrained=False, max_length=21), "text")
    with pytest.raises(ConfigError, match="max_length is 10.*exactly 20"):
        build_tower(TowerSection(name="open_clip:tiny-last", pretrained=False, max_length=10), "text")


def test_parts_and_image_size(images):
    for arch, blocks in (("tiny-clip", 2), ("tiny-resnet", 4)):
        tower = build_tower(TowerSection(name=f"open_clip:{arch}", pretrained=False, image_size=64), "image")
        parts = tower_parts(tower)
        assert len(parts.blocks) == blocks
        found = [id(p) for group in (parts.stem, *parts.blocks, parts.neck) for p in group]
        assert sorted(found) == sorted(id(p) for p in tower.parameters())
        assert tower(**tower.preprocessing(images)).pooled.shape == (4, 24)
        assert tower.preprocessing.size == (64, 64)
    text = tower_parts(build_tower(TowerSection(name="open_clip:tiny-clip", pretrained=False), "text"))
    assert len(text.blocks) == 2
    assert any(p.shape == (32, 24) for p in text.neck), "the projection comes last, though registered first"


def test_folder(tmp_path, images):
    own = tiny_open_clip.save_folder(tmp_path, "tiny-clip")
    model = dual_encoder_from_open_clip(str(tmp_path), None)
    pixels = model.image.tower.preprocessing(images)
    with torch.no_grad():
        expected = normalize(own.encode_image(pixels["pixel_values"]), dim=-1)
        torch.testing.assert_close(model.encode_image(**pixels), expected)
    assert model.image.tower.preprocessing.mean == (0.2, 0.3, 0.4)
    section = TowerSection(name=f"open_clip:{tmp_path}")
    torch.testing.assert_close(build_tower(section, "image").model.proj, own.visual.proj)
    random = build_tower(TowerSection(name=f"open_clip:{tmp_path}", pretrained=False), "image")
    assert not torch.allclose(random.model.proj, own.visual.proj)


def test_logging_is_left_alone(capfd):
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    build_tower(TowerSection(name="open_clip:tiny-clip", pretrained=False), "text")
    with pytest.raises(ConfigError):
        create_open_clip("tiny-clip", "no-such-tag")
    assert (root.level, root.handlers) == before
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_errors(tmp_path):
    with pytest.raises(ConfigError, match="has no architecture 'tiny-klip'.*tiny-"):
        create_open_clip("tiny-klip", None)
    with pytest.raises(
        ConfigError, match="names no weights: want open_clip:tiny-clip/PRETRAINED, or pretrained: false"
    ):
        build_tower(TowerSection(name="open_clip:tiny-clip"), "text")
    with pytest.raises(ConfigError, match="tiny-clip/nothing cannot be built or loaded"):
        build_tower(TowerSection(name="open_clip:tiny-clip/nothing"), "text")
    with pytest.raises(ConfigError, match="takes? none, got width"):
        build_tower(TowerSection(name="open_clip:tiny-clip", pretrained=False, options={"width": 3}), "text")
    with pytest.raises(ConfigError, match="has no open_clip_config.json"):
        create_open_clip(str(tmp_path), None)
    wrong = tmp_path / "wrong.pt"
    torch.save({"x": torch.ones(3)}, wrong)
    with pytest.raises(ConfigError, match="cannot be built or loaded"):
        build_tower(TowerSection(name=f"open_clip:tiny-clip/{wrong}"), "text")
    with pytest.raises(ConfigError, match="no such folder"):
        build_tower(TowerSection(name="open_clip:/no/such/folder"), "text")
