"""One commit, whatever breaks on the way: what is called done is there, and a second try sends what is missing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from push_server import ModelHub
from safetensors.numpy import save

from mmcl.errors import ConfigError
from mmcl.repos import hub_errors, uploading
from mmcl.repos.manifest import MANIFEST
from mmcl.repos.planning import plan_upload
from mmcl.repos.uploading import upload

CARD = "---\nlicense: mit\ntags:\n- clip\n---\n# A model\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two large files, one of them above what is sent together, and three small ones."""
    import numpy as np

    made = tmp_path / "model"
    (made / "onnx").mkdir(parents=True)
    (made / "README.md").write_text(CARD)
    (made / "config.json").write_text('{"model_type": "clip"}')
    (made / "vocab.txt").write_text("red\ngreen\n")
    (made / "model.safetensors").write_bytes(save({"weight": np.arange(3000, dtype=np.float32)}))
    (made / "onnx" / "image.onnx").write_bytes(b"\x08\x0a" + bytes(5000))
    return made


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_errors, "FIRST_WAIT_SECONDS", 0)
    monkeypatch.setattr(uploading, "FIRST_WAIT_SECONDS", 0)
    monkeypatch.setattr(uploading, "SMALL_BYTES", 6000)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def own(hub: ModelHub, revision: str = "main") -> dict[str, bytes]:
    """What lies in the repository beside what the Hub and the push put there themselves."""
    found = hub.files("owner/model", revision)
    return {path: content for path, content in found.items() if path not in (".gitattributes", MANIFEST)}


def test_all_files_in_one_commit(hub: ModelHub, folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    plan = plan_upload(folder)
    pushed = upload(plan, "owner/model", message="First", progress=lambda *what: told.append(what))
    assert own(hub) == contents(folder)
    commits = hub.commits("owner/model")
    assert [commit.message for commit in commits] == ["initial commit", "First"]
    assert pushed.commit == commits[-1].sha
    assert pushed.url.endswith(pushed.commit)
    assert pushed.pr_url is None
    assert told[0] == ("creating", 0, 1)
    assert ("sending", plan.size, plan.size) in told
    assert told[-1] == ("checking", 1, 1)
    listed = json.loads(hub.files("owner/model")[MANIFEST])["files"]
    assert listed.keys() == contents(folder).keys()


def test_the_same_again_makes_no_commit_and_sends_nothing(hub: ModelHub, folder: Path) -> None:
    first = upload(plan_upload(folder), "owner/model")
    sent = len(hub.asked("PUT", "/lfs/"))
    again = upload(plan_upload(folder), "owner/model")
    assert (first.changed, again.changed) == (True, False)
    assert again.commit == first.commit
    assert len(hub.commits("owner/model")) == 2
    assert len(hub.asked("PUT", "/lfs/")) == sent == 2
    (folder / "config.json").write_text("{}")  # the control: a change does make one
    assert upload(plan_upload(folder), "owner/model").commit != first.commit
    assert own(hub)["config.json"] == b"{}"


def test_what_an_earlier_push_put_there_goes_with_the_next(hub: ModelHub, folder: Path) -> None:
    (folder / "old.json").write_text('"old"')
    (folder / "edited.json").write_text('"mine"')
    upload(plan_upload(folder), "owner/model")
    hub.add("owner/model", {"edited.json": b'"theirs"', "by_hand.md": b"words"})
    for name in ("old.json", "edited.json"):
        (folder / name).unlink()
    pushed = upload(plan_upload(folder), "owner/model")
    assert pushed.deleted == ("old.json",)
    assert own(hub) == contents(folder) | {"edited.json": b'"theirs"', "by_hand.md": b"words"}
    assert len(hub.commits("owner/model")) == 4


def test_a_manifest_that_is_not_ours_deletes_nothing(hub: ModelHub, folder: Path) -> None:
    hub.add("owner/model", {MANIFEST: b'{"files": {"keep.md": 3}}', "keep.md": b"words"})
    assert upload(plan_upload(folder), "owner/model").deleted == ()
    assert own(hub)["keep.md"] == b"words"


def test_a_branch_is_made_and_main_stays(hub: ModelHub, folder: Path) -> None:
    upload(plan_upload(folder), "owner/model", revision="next/one")
    assert own(hub, "next/one") == contents(folder)
    assert own(hub) == {}
    upload(plan_upload(folder), "owner/model", revision="next/one")
    assert len(hub.commits("owner/model", "next/one")) == 2  # where it started, and the push


def test_a_pull_request_changes_no_branch(hub: ModelHub, folder: Path) -> None:
    hub.add("owner/model", {"config.json": b"[]"})
    pushed = upload(plan_upload(folder), "owner/model", create_pr=True)
    assert pushed.pr_url == f"{hub.endpoint}/owner/model/discussions/1"
    assert own(hub, "refs/pr/1") == contents(folder)
    assert own(hub) == {"config.json": b"[]"}


def test_private(hub: ModelHub, folder: Path) -> None:
    upload(plan_upload(folder), "owner/model", private=True)
    assert hub.repos["owner/model"].private
    upload(plan_upload(folder), "owner/model", private=True)
    upload(plan_upload(folder), "owner/open")
    with pytest.raises(ConfigError, match="is there already and is public.*nothing was sent"):
        upload(plan_upload(folder), "owner/open", private=True)


@pytest.mark.parametrize(
    ("method", "pattern", "status"),
    [
        ("POST", "/api/repos/create", 503),
        ("POST", "/api/validate-yaml", 500),
        ("POST", "/preupload/", 500),
        ("POST", r"\.git/info/lfs", "cut"),
        ("PUT", "/lfs/", "cut"),
        ("PUT", "/lfs/", 500),
        ("PUT", "/lfs/", "cut after"),
        ("POST", "/commit/main", 500),
        ("POST", "/commit/main", "cut"),
        ("POST", "/commit/main", "cut after"),
        ("POST", "/commit/main", 409),
        ("POST", "/commit/main", 412),
        ("GET", "/tree/", 502),
        ("GET", "/revision/main", "cut"),
    ],
)
def test_a_fault_that_passes_is_waited_out(
    hub: ModelHub, folder: Path, method: str, pattern: str, status: int | str
) -> None:
    hub.fail(method, pattern, status, times=2 if status != "cut after" else 1)
    pushed = upload(plan_upload(folder), "owner/model")
    assert own(hub) == contents(folder)
    assert len(hub.commits("owner/model")) == 2
    assert (pushed.commit, pushed.changed) == (hub.commits("owner/model")[-1].sha, True)
    assert hub.faults[0].times == 0  # the fault was met


@pytest.mark.parametrize("status", ["cut", 500, 503])
def test_a_lasting_fault_is_no_success_and_the_next_try_sends_what_is_missing(
    hub: ModelHub, folder: Path, status: int | str
) -> None:
    sizes = {path: len(content) for path, content in contents(folder).items()}
    graph = plan_upload(folder)
    # Everything that is small goes first; the large file alone fails.
    large = next(file for file in graph.files if file.path == "model.safetensors")
    from mmcl.repos.manifest import digest_file

    hub.fail("PUT", digest_file(large).sha256, status, times=1000)
    with pytest.raises(ConfigError, match="nothing was committed; the same command again sends what is missing alone"):
        upload(graph, "owner/model")
    assert own(hub) == {}
    assert len(hub.commits("owner/model")) == 1
    hub.faults.clear()
    sent = len(hub.asked("PUT", "/lfs/"))
    upload(plan_upload(folder), "owner/model")
    assert hub.asked("PUT", "/lfs/")[sent:] == [f"/lfs/{digest_file(large).sha256}"]
    assert {path: len(content) for path, content in own(hub).items()} == sizes
    assert len(hub.commits("owner/model")) == 2


def test_a_lost_answer_opens_one_pull_request(hub: ModelHub, folder: Path) -> None:
    hub.add("owner/model", {"config.json": b"[]"})
    hub.fail("POST", "/commit/main", "cut after")
    pushed = upload(plan_upload(folder), "owner/model", create_pr=True)
    assert [name for name in hub.repos["owner/model"].branches if "pr" in name] == ["refs/pr/1"]
    assert pushed.pr_url == f"{hub.endpoint}/owner/model/discussions/1"
    assert pushed.commit == hub.commits("owner/model", "refs/pr/1")[-1].sha


def test_somebody_elses_commit_in_between_is_kept(hub: ModelHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    once = iter([True])
    real = HfApi.create_commit

    def late(self: HfApi, *arguments: object, **named: object) -> object:
        if next(once, False):
            hub.add("owner/model", {"theirs.md": b"theirs", "config.json": b"0"})
        return real(self, *arguments, **named)

    monkeypatch.setattr(HfApi, "create_commit", late)
    upload(plan_upload(folder), "owner/model")
    assert own(hub) == contents(folder) | {"theirs.md": b"theirs"}
    assert [commit.message for commit in hub.commits("owner/model")] == ["initial commit", "planted", "Push model"]


@pytest.mark.parametrize(
    ("method", "pattern", "status", "sentence"),
    [
        ("POST", "/api/repos/create", 403, "use a token with write access to 'owner'.*have it created and join it"),
        ("POST", "/commit/main", 403, "cannot commit .*use a token with write access"),
        ("POST", "/api/repos/create", 401, "log in .hf auth login, or set HF_TOKEN"),
        ("POST", "/preupload/", 404, "404"),
        ("POST", "/commit/main", 418, "the Hub answers 418: planted fault"),
    ],
)
def test_what_no_waiting_mends_ends_at_once(
    hub: ModelHub, folder: Path, method: str, pattern: str, status: int, sentence: str
) -> None:
    hub.fail(method, pattern, status, times=1000)
    with pytest.raises(ConfigError, match=sentence) as raised:
        upload(plan_upload(folder), "owner/model")
    assert "\n" not in str(raised.value)
    assert len(hub.asked(method, pattern)) == 1
    assert "owner/model" not in hub.repos or own(hub) == {}


def test_who_may_not_write(hub: ModelHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="use a token with write access to 'owner'"):
        upload(plan_upload(folder), "owner/model", token=hub.read_token)
    with pytest.raises(ConfigError, match="write access to 'stranger'"):
        upload(plan_upload(folder), "stranger/model")
    upload(plan_upload(folder), "team/model")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="hf auth login"):
        upload(plan_upload(folder), "owner/model")
    assert hub.repos.keys() == {"team/model"}


def test_offline_nothing_is_tried(hub: ModelHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set; unset it where there is a network"):
        upload(plan_upload(folder), "owner/model")
    assert hub.requests == []


def test_conflicts_without_end(hub: ModelHub, folder: Path) -> None:
    hub.fail("POST", "/commit/main", 412, times=1000)
    with pytest.raises(ConfigError, match="others commit to it at the same time"):
        upload(plan_upload(folder), "owner/model")
    assert own(hub) == {}


def test_files_that_arrive_otherwise_are_no_success(
    hub: ModelHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hub_repositories import Commit

    real = Commit.about
    monkeypatch.setattr(Commit, "about", lambda self, path: real(self, path) | {"size": 1})
    with pytest.raises(ConfigError, match=r"the commit \w{8} was made, but .* is not there as it was sent"):
        upload(plan_upload(folder), "owner/model")


def test_bad_cards_ids_and_plans_send_nothing(hub: ModelHub, folder: Path) -> None:
    for name in ("model", "a/b/c", "own er/x", "owner/", ""):
        with pytest.raises(ConfigError, match="owner/name"):
            upload(plan_upload(folder), name)
    (folder / "README.md").write_text("---\nlicense: 7\n---\n")
    with pytest.raises(ConfigError, match=r"the Hub refuses the model card .*license.*nothing was sent"):
        upload(plan_upload(folder), "owner/model")
    assert hub.asked("PUT", "/lfs/") == []
    (folder / "weights.pt").write_bytes(b"\x80\x04.")
    asked = len(hub.requests)
    with pytest.raises(ConfigError, match="1 file may not go to the Hub"):
        upload(plan_upload(folder), "owner/other")
    assert len(hub.requests) == asked


@pytest.mark.parametrize("bad", ["hf_" + "z" * 34, "hf_" + "z" * 34 + "\n"])
def test_the_token_is_in_no_message_log_or_body(
    hub: ModelHub, folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], bad: str
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("huggingface_hub").setLevel(logging.DEBUG)
    with pytest.raises(ConfigError) as raised:
        upload(plan_upload(folder), "owner/model", token=bad)
    hub.fail("PUT", "/lfs/", 500)
    hub.fail("POST", "/commit/", "cut")
    upload(plan_upload(folder), "owner/model")
    assert bad.strip() not in str(raised.value)
    said = caplog.text + "".join(capfd.readouterr())
    for token in (bad.strip(), hub.token):
        assert token not in said
        assert not any(token.encode() in body for body in hub.bodies)
        assert not any(token in path for _, path, _ in hub.requests)
    assert any(hub.token in headers.get("authorization", "") for _, _, headers in hub.requests)  # the control


def test_progress_can_stop_it_and_nothing_is_committed(hub: ModelHub, folder: Path) -> None:
    def stop_at(what: str) -> Callable[[str, int, int], None]:
        def progress(now: str, done: int, total: int) -> None:
            if now == what:
                raise KeyboardInterrupt

        return progress

    for what in (uploading.CREATING, uploading.SENDING, uploading.COMMITTING):
        with pytest.raises(KeyboardInterrupt):
            upload(plan_upload(folder), "owner/model", progress=stop_at(what))
    assert own(hub) == {}
    upload(plan_upload(folder), "owner/model")
    assert own(hub) == contents(folder)
