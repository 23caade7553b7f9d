"""`save_pretrained`, `from_pretrained` and `push_to_hub` by the conventions of huggingface_hub's mixin."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
import tiny_folders
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from torch import Tensor

import mmcl
from mmcl.config import ModelSection, TowerSection
from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.saving import save_pretrained

sys.path.append(str(Path(__file__).parents[1] / "repos"))

from push_server import ModelHub, hub

__all__ = ["hub"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    folder = tmp_path_factory.mktemp("towers")
    (folder / "vit").mkdir()
    (folder / "bert").mkdir()
    image = TowerSection(name=str(tiny_folders.save_vision_model(folder / "vit", "vit")))
    text = TowerSection(name=str(tiny_folders.save_text_model(folder / "bert", "bert")))
    return build_dual_encoder(ModelSection(image=image, text=text, embedding_dim=24)).eval()


@torch.no_grad()
def embed(model: DualEncoder) -> Tensor:
    return model.encode_text(**model.text.tower.preprocessing(tiny_folders.CAPTIONS))


def test_the_arguments_are_the_mixins() -> None:
    for name in ("save_pretrained", "from_pretrained", "push_to_hub"):
        theirs = inspect.signature(getattr(ModelHubMixin, name)).parameters
        ours = inspect.signature(getattr(DualEncoder, name)).parameters
        assert ours.keys() <= theirs.keys(), name
        for parameter in ours:
            assert ours[parameter].kind == theirs[parameter].kind, (name, parameter)


def test_mmcl_names_the_class() -> None:
    assert mmcl.DualEncoder is DualEncoder


def test_folders(model: DualEncoder, tmp_path: Path) -> None:
    assert model.save_pretrained(tmp_path / "saved") is None
    back = mmcl.DualEncoder.from_pretrained(tmp_path / "saved")
    assert not back.training
    assert torch.equal(embed(back), embed(model))
    assert torch.equal(embed(DualEncoder.from_pretrained(str(tmp_path / "saved"), local_files_only=True)), embed(model))
    with torch.no_grad():
        back.text.head.projection.weight.mul_(-1)
    assert not torch.allclose(embed(back), embed(model))  # the control
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be written"):
        model.save_pretrained(tmp_path / "file" / "below")
    with pytest.raises(ConfigError, match="no model folder|there is no"):
        DualEncoder.from_pretrained(tmp_path / "none")


def test_a_model_goes_to_the_hub_with_a_short_card(hub: ModelHub, model: DualEncoder, tmp_path: Path) -> None:
    url = model.push_to_hub("owner/model", commit_message="Mine", private=True)
    assert url == f"{hub.endpoint}/owner/model/commit/{hub.commits('owner/model')[-1].sha}"
    assert [commit.message for commit in hub.commits("owner/model")] == ["initial commit", "Mine"]
    assert hub.repos["owner/model"].private
    card = ModelCard(hub.files("owner/model")["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("mmcl", "zero-shot-image-classification")
    assert "mmcl" in card.data.tags
    assert 'mmcl.load("owner/model")' in card.text
    assert not any(b"/towers" in content for content in hub.files("owner/model").values())  # where it was built from
    back = DualEncoder.from_pretrained("owner/model", cache_dir=tmp_path / "cache")
    assert torch.allclose(embed(back), embed(model), atol=1e-5)
    assert (tmp_path / "cache" / "models--owner--model").is_dir()
    with pytest.raises(ConfigError, match="token|log in"):
        DualEncoder.from_pretrained("owner/model", token=False)


def test_branches_pull_requests_and_names_of_ones_own(hub: ModelHub, model: DualEncoder, tmp_path: Path) -> None:
    model.push_to_hub("named", branch="trial")
    assert hub.files("owner/named").keys() == {".gitattributes"}
    back = DualEncoder.from_pretrained("owner/named", revision="trial", force_download=True)
    assert torch.allclose(embed(back), embed(model), atol=1e-5)
    model.push_to_hub("owner/named", create_pr=True)
    assert "mmcl.json" in hub.files("owner/named", "refs/pr/1")
    url = model.save_pretrained(tmp_path / "saved", push_to_hub=True, commit_message="By its folder")
    assert "/owner/saved/commit/" in url
    assert model.save_pretrained(tmp_path / "saved", repo_id="team/theirs", push_to_hub=True)
    assert hub.repos.keys() == {"owner/named", "owner/saved", "team/theirs"}


def test_a_card_that_somebody_wrote_stays(hub: ModelHub, model: DualEncoder) -> None:
    written = b"---\nlicense: mit\n---\n# By hand\n"
    hub.add("owner/model", {"README.md": written})
    model.push_to_hub("owner/model")
    assert hub.files("owner/model")["README.md"] == written
    model.push_to_hub("owner/other")
    short = hub.files("owner/other")["README.md"]
    model.push_to_hub("owner/other", commit_message="again")
    assert hub.files("owner/other")["README.md"] == short
    assert len(hub.commits("owner/other")) == 2  # nothing had changed
    hub.add("owner/other", {"README.md": written})
    model.push_to_hub("owner/other")
    assert hub.files("owner/other")["README.md"] == written


def test_what_was_fetched_before_is_there_without_the_hub(
    hub: ModelHub, model: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    model.push_to_hub("owner/model")
    with pytest.raises(ConfigError, match="owner/model"):
        DualEncoder.from_pretrained("owner/model", local_files_only=True)
    DualEncoder.from_pretrained("owner/model", force_download=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    for more in ({}, {"local_files_only": True}):
        assert torch.allclose(embed(DualEncoder.from_pretrained("owner/model", **more)), embed(model), atol=1e-5)
    assert len(hub.requests) == asked


def test_who_may_not(hub: ModelHub, model: DualEncoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="write access to 'stranger'"):
        model.push_to_hub("stranger/model")
    with pytest.raises(ConfigError, match="it is not known who you are"):
        model.push_to_hub("model", token="hf_" + "z" * 34)
    with pytest.raises(TypeError, match="braanch"):
        model.save_pretrained(tmp_path / "x", push_to_hub=True, braanch="b")
    assert hub.repos == {}
    save_pretrained(model, tmp_path / "y")
