"""The Hub of the tests, driven by huggingface_hub itself."""

from __future__ import annotations

import filecmp
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from push_server import ModelHub

FILES = {"config.json": b"{}", "sub/notes.md": b"words", "model.safetensors": bytes(range(256)) * 40}


def _folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(content)
    return tmp_path / "source"


def test_a_folder_goes_there_and_back(hub: ModelHub, tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    huggingface_hub.create_repo("owner/model")
    pushed = huggingface_hub.upload_folder(repo_id="owner/model", folder_path=folder)
    assert pushed.oid == hub.commits("owner/model")[-1].sha
    assert {name: content for name, content in hub.files("owner/model").items() if name in FILES} == FILES
    assert len(hub.commits("owner/model")) == 2
    fetched = huggingface_hub.snapshot_download("owner/model")
    assert filecmp.cmpfiles(folder, fetched, FILES, shallow=False)[0] == list(FILES)
    assert hub.asked("PUT", "/lfs/") == hub.asked("GET", "/lfs/")
    with pytest.raises(HfHubHTTPError, match="409"):
        huggingface_hub.create_repo("owner/model")
    assert huggingface_hub.create_repo("owner/model", exist_ok=True).repo_id == "owner/model"


def test_listing_branches_and_pull_requests(hub: ModelHub) -> None:
    first = hub.add("owner/model", FILES)
    api = huggingface_hub.HfApi()
    assert sorted(api.list_repo_files("owner/model")) == sorted([*FILES, ".gitattributes"])
    assert {entry.path for entry in api.list_repo_tree("owner/model")} == {
        "config.json", "model.safetensors", "sub", ".gitattributes",
    }  # fmt: skip
    api.create_branch("owner/model", branch="next")
    change = [CommitOperationAdd("config.json", b"[]"), CommitOperationDelete("sub/notes.md")]
    api.create_commit("owner/model", change, commit_message="change", revision="next", parent_commit=first)
    assert "sub/notes.md" not in hub.files("owner/model", "next")
    assert hub.files("owner/model")["config.json"] == b"{}"
    again = [CommitOperationAdd("config.json", b"1")]
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("owner/model", again, commit_message="late", revision="next", parent_commit=first)
    asked = api.create_commit("owner/model", [CommitOperationAdd("a.md", b"a")], commit_message="ask", create_pr=True)
    assert asked.pr_revision == "refs/pr/1"
    assert hub.files("owner/model", "refs/pr/1")["a.md"] == b"a"
    assert huggingface_hub.hf_hub_download("owner/model", "a.md", revision="refs/pr/1").endswith("a.md")


def test_what_is_not_there_is_told_apart(hub: ModelHub) -> None:
    hub.add("owner/model", FILES)
    hub.add("owner/secret", FILES, private=True)
    with pytest.raises(RepositoryNotFoundError):
        huggingface_hub.hf_hub_download("owner/none", "config.json")
    with pytest.raises(EntryNotFoundError):
        huggingface_hub.hf_hub_download("owner/model", "none.json")
    with pytest.raises(RevisionNotFoundError):
        huggingface_hub.snapshot_download("owner/model", revision="none")
    with pytest.raises(RepositoryNotFoundError):
        huggingface_hub.model_info("owner/secret", token=False)
    assert huggingface_hub.model_info("owner/secret").private
    with pytest.raises(HfHubHTTPError, match="403"):
        huggingface_hub.create_repo("stranger/model")
    with pytest.raises(HfHubHTTPError, match="403"):
        huggingface_hub.create_repo("owner/new", token=hub.read_token)


def test_planted_faults(hub: ModelHub) -> None:
    hub.add("owner/model", FILES)
    hub.fail("GET", "revision", 500)
    with pytest.raises(HfHubHTTPError, match="500"):
        huggingface_hub.model_info("owner/model", revision="main")
    assert huggingface_hub.model_info("owner/model", revision="main").sha
    hub.fail("GET", "/lfs/", "cut")
    fetched = huggingface_hub.hf_hub_download("owner/model", "model.safetensors")
    assert Path(fetched).read_bytes() == FILES["model.safetensors"]
    assert len(hub.asked("GET", "/lfs/")) == 2
    change = [CommitOperationAdd("b.safetensors", b"b" * 5000)]
    hub.fail("PUT", "/lfs/", "cut")
    huggingface_hub.create_commit("owner/model", change, commit_message="once more")
    assert len(hub.asked("PUT", "/lfs/")) == 2
    assert hub.files("owner/model")["b.safetensors"] == b"b" * 5000
