"""Files from the Hub: what is there, what is not, what never comes, and what is said where nothing comes."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants
from push_server import ModelHub

from mmcl.errors import ConfigError
from mmcl.repos import hub_errors
from mmcl.repos.downloading import fetch_file, fetch_snapshot, list_files

FILES = {
    "mmcl.json": b"{}",
    "model.safetensors": b"weights" * 100,
    "pytorch_model.bin": b"\x80\x04pickle",
    "modeling_evil.py": b"raise SystemExit",
    "onnx/image.onnx": b"\x08graph",
    "old/weights.pt": b"\x80\x02",
}
SAFE = ["mmcl.json", "model.safetensors", "onnx/image.onnx"]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_errors, "FIRST_WAIT_SECONDS", 0)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_files_snapshots_and_lists(hub: ModelHub) -> None:
    first = hub.add("owner/model", FILES)
    assert list_files("owner/model") == sorted([*FILES, ".gitattributes"])
    assert fetch_file("owner/model", "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert fetch_file("owner/model", "config.json") is None
    folder = fetch_snapshot("owner/model")
    assert [name for name in names(folder) if name != ".gitattributes"] == SAFE
    assert not hub.asked("GET", "pytorch_model.bin|modeling_evil|weights.pt")
    hub.add("owner/model", {"mmcl.json": b'"new"'})
    assert fetch_file("owner/model", "mmcl.json").read_bytes() == b'"new"'
    assert fetch_file("owner/model", "mmcl.json", revision=first).read_bytes() == b"{}"


def test_only_what_is_wanted(hub: ModelHub) -> None:
    hub.add("owner/model", FILES)
    assert names(fetch_snapshot("owner/model", allow=["onnx/*", "*.bin"])) == ["onnx/image.onnx"]


def test_branches_and_other_caches(hub: ModelHub, tmp_path: Path) -> None:
    hub.add("owner/model", FILES)
    hub.repos["owner/model"].new_branch("next/one", "main")
    assert list_files("owner/model", revision="next/one") == list_files("owner/model")
    folder = fetch_snapshot("owner/model", revision="next/one", cache_dir=tmp_path)
    assert folder.is_relative_to(tmp_path)
    assert fetch_file("owner/model", "mmcl.json", revision="next/one").read_bytes() == b"{}"


def test_pickles_and_paths_out_of_the_repository_are_refused(hub: ModelHub) -> None:
    hub.add("owner/model", FILES)
    asked = len(hub.requests)
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin is a pickle.*ask the repository's owner for model"):
        fetch_file("owner/model", "pytorch_model.bin")
    for name in ("../secret.json", "/etc/passwd", "a/../../b.json", "", "C:\\x.json", "..\\x.json"):
        with pytest.raises(ConfigError, match="leaves the repository"):
            fetch_file("owner/model", name)
    assert len(hub.requests) == asked


def test_a_repository_cannot_write_outside_its_folder(hub: ModelHub) -> None:
    hub.add("owner/evil", {"mmcl.json": b"{}", "../../../../../escaped.json": b"escaped"})
    with pytest.raises(ConfigError, match="cannot read 'owner/evil' on the Hub"):
        fetch_snapshot("owner/evil")
    cache = Path(constants.HF_HUB_CACHE)
    assert [path for path in cache.parents[1].rglob("escaped.json") if not path.is_relative_to(cache)] == []


def test_what_is_said_where_nothing_comes(hub: ModelHub) -> None:
    for number, read in enumerate([lambda *a, **k: fetch_file(*a, "mmcl.json", **k), fetch_snapshot, list_files]):
        closed = f"owner/closed{number}"
        hub.add(closed, FILES, private=True)
        with pytest.raises(ConfigError, match="'owner/none'.*there is none of this name that you may see"):
            read("owner/none")
        with pytest.raises(ConfigError, match="no such branch, tag or commit"):
            read(closed, revision="none")
        with pytest.raises(ConfigError, match="is no id of the Hub's; want owner/name"):
            read("a b")
        with pytest.raises(ConfigError, match=r"for a private one log in \(hf auth login"):
            read(closed, token=False)
        with pytest.raises(ConfigError, match="it is not known who you are"):
            read(closed, token="hf_" + "z" * 34)
        assert read(closed)


def test_a_busy_hub_is_asked_again_and_a_dead_one_said(hub: ModelHub) -> None:
    hub.add("owner/model", FILES)
    hub.fail("GET", "/revision/|/api/models/owner/model$", 503, times=2)
    assert fetch_snapshot("owner/model").is_dir()
    hub.fail("GET", "/tree/|/revision/|/api/models/owner/model$", 503, times=1000)
    with pytest.raises(ConfigError, match=r"the Hub answers with an error of its own \(503\)"):
        list_files("owner/model")
    hub.faults.clear()
    hub.fail("GET", "/lfs/", "cut", times=1)
    assert fetch_file("owner/model", "model.safetensors", force_download=True).read_bytes() == b"weights" * 100


def test_offline_what_was_fetched_before_is_there(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("owner/model", FILES)
    folder = fetch_snapshot("owner/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert fetch_snapshot("owner/model") == folder
    assert fetch_file("owner/model", "mmcl.json") == folder / "mmcl.json"
    assert fetch_file("owner/model", "config.json") is None
    assert list_files("owner/model") == names(folder)
    for read in (lambda name: fetch_file(name, "mmcl.json"), fetch_snapshot, list_files):
        with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE is set.*hf download owner/other"):
            read("owner/other")
    assert len(hub.requests) == asked


def test_without_a_hub_what_was_fetched_before_is_there(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("owner/model", FILES)
    folder = fetch_snapshot("owner/model")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    assert fetch_snapshot("owner/model") == folder
    with pytest.raises(ConfigError, match="the connection broke, or could not be made"):
        fetch_snapshot("owner/other")
