"""A run to the Hub and back, into mmcl and the libraries that people deploy with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_runs import contents, make_run
from six_models import CAPTIONS, make_images
from torch import Tensor

import mmcl
from mmcl.errors import ConfigError
from mmcl.hub import push
from mmcl.hub.staging import StageOptions
from mmcl.models.dual_encoder import DualEncoder
from mmcl.repos import hub_errors, uploading

sys.path.append(str(Path(__file__).parents[1] / "repos"))

from push_server import ModelHub, hub

__all__ = ["hub"]

CARD = "---\nlibrary_name: mmcl\nlicense: mit\n---\n# Mine\n"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hub_errors, uploading):
        monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, trained: Callable[[str], DualEncoder]) -> Path:
    """A run with a card of its own, which is quicker than one that is written."""
    made = make_run(tmp_path_factory.mktemp("runs") / "made", trained("bert_vit"))
    (made / "README.md").write_text(CARD)
    return made


@torch.no_grad()
def embeddings(model: DualEncoder) -> tuple[Tensor, Tensor]:
    model = model.eval()
    images = model.encode_image(**model.image.tower.preprocessing(make_images()))
    return images, model.encode_text(**model.text.tower.preprocessing(CAPTIONS))


def largest_difference(first: DualEncoder, second: DualEncoder) -> float:
    return max((a - b).abs().max().item() for a, b in zip(embeddings(first), embeddings(second)))


def test_there_and_back(hub: ModelHub, trained: Callable[[str], DualEncoder], tmp_path: Path) -> None:
    model = trained("bert_vit")
    folder = make_run(tmp_path / "made", model)
    options = StageOptions(gallery=False, baselines=())
    formats = ("sentence-transformers",)
    report = push(folder, "owner/model", options=options, formats=formats, message="A run")
    commits = hub.commits("owner/model")
    assert [commit.message for commit in commits] == ["initial commit", "A run"]
    assert report.pushed.commit == commits[-1].sha
    lying = hub.files("owner/model")
    assert lying.keys() - {".gitattributes", "mmcl_push.json"} == report.files.keys()
    assert {"README.md", "recipe.yaml", "evaluation.json", "mmcl.json", "config.json", "modules.json"} <= lying.keys()
    assert not any(str(tmp_path).encode() in content for content in lying.values())

    from mmcl.repos.downloading import list_files

    assert list_files("owner/model") == sorted(lying)
    back = DualEncoder.from_pretrained("owner/model")
    assert largest_difference(back, model) < 1e-5
    assert largest_difference(trained("xlm_r_dinov2"), model) > 0.01  # the control

    images, texts = embeddings(model)
    from transformers import AutoModel, AutoTokenizer

    plain = AutoModel.from_pretrained("owner/model").eval()
    tokens = AutoTokenizer.from_pretrained("owner/model")(CAPTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = plain.get_text_features(**tokens).pooler_output
        seen = plain.get_image_features(**model.image.tower.preprocessing(make_images())).pooler_output
    assert torch.allclose(torch.nn.functional.normalize(found, dim=-1), texts, atol=1e-5)
    assert torch.allclose(torch.nn.functional.normalize(seen, dim=-1), images, atol=1e-5)

    sentence_transformers = pytest.importorskip("sentence_transformers")
    other = sentence_transformers.SentenceTransformer("owner/model", device="cpu")
    assert torch.allclose(torch.from_numpy(other.encode(CAPTIONS)), texts, atol=1e-5)


def test_open_clip_opens_what_was_pushed(hub: ModelHub, trained: Callable[[str], DualEncoder], tmp_path: Path) -> None:
    import open_clip

    model = trained("open_clip")
    folder = make_run(tmp_path / "made", model)
    (folder / "README.md").write_text(CARD)
    push(folder, "owner/clip", formats=("open_clip",))
    opened = open_clip.create_model("hf-hub:owner/clip", device="cpu").eval()
    tokens = open_clip.get_tokenizer("hf-hub:owner/clip")(CAPTIONS)
    images, texts = embeddings(model)
    with torch.no_grad():
        found = opened.encode_text(tokens, normalize=True)
        pixels = model.image.tower.preprocessing(make_images())["pixel_values"]
        seen = opened.encode_image(pixels, normalize=True)
    assert torch.allclose(found, texts, atol=1e-5)
    assert torch.allclose(seen, images, atol=1e-5)
    assert not torch.allclose(found.roll(1, 0), texts, atol=1e-2)  # the control
    assert largest_difference(DualEncoder.from_pretrained("owner/clip"), model) < 1e-5


@pytest.mark.parametrize(
    ("method", "pattern", "status"),
    [("PUT", "/lfs/", "cut"), ("POST", "/commit/", 500), ("POST", "/commit/", 409), ("POST", "/commit/", "cut after")],
)
def test_faults_that_pass(hub: ModelHub, run: Path, method: str, pattern: str, status: int | str) -> None:
    hub.fail(method, pattern, status)
    report = push(run, "owner/model")
    assert hub.commits("owner/model")[-1].sha == report.pushed.commit
    assert len(hub.commits("owner/model")) == 2
    assert hub.files("owner/model")["model.safetensors"] == contents(run)["model/model.safetensors"]


@pytest.mark.parametrize(
    ("method", "pattern", "status", "sentence"),
    [
        ("PUT", "/lfs/", "cut", "the connection broke.*check the network and try again"),
        ("PUT", "/lfs/", 500, r"an error of its own \(500\)"),
        ("POST", "/commit/", 403, "use a token with write access"),
        ("POST", "/commit/", 409, "others commit to it at the same time"),
    ],
)
def test_faults_that_last_are_no_success_and_the_next_push_is(
    hub: ModelHub, run: Path, method: str, pattern: str, status: int | str, sentence: str
) -> None:
    hub.fail(method, pattern, status, times=1000)
    with pytest.raises(ConfigError, match=sentence):
        push(run, "owner/model")
    assert hub.files("owner/model").keys() == {".gitattributes"}
    hub.faults.clear()
    sent = set(hub.store)
    asked = len(hub.asked("PUT", "/lfs/"))
    push(run, "owner/model")
    assert {path.rpartition("/")[2] for path in hub.asked("PUT", "/lfs/")[asked:]} == set(hub.store) - sent
    assert len(hub.commits("owner/model")) == 2


def test_branches_and_pull_requests(hub: ModelHub, run: Path) -> None:
    push(run, "owner/model", revision="trial")
    assert hub.files("owner/model").keys() == {".gitattributes"}
    assert "mmcl.json" in hub.files("owner/model", "trial")
    assert DualEncoder.from_pretrained("owner/model", revision="trial").embedding_dim == 24
    asked = push(run, "owner/model", create_pr=True)
    assert asked.pushed.pr_url.endswith("/owner/model/discussions/1")
    assert "mmcl.json" in hub.files("owner/model", "refs/pr/1")
    assert hub.files("owner/model").keys() == {".gitattributes"}


def test_a_dry_run_asks_nothing(hub: ModelHub, run: Path) -> None:
    report = push(run, "owner/model", dry_run=True)
    assert hub.requests == []
    assert report.pushed is None
    assert report.refused == {}
    assert report.files.keys() == {"README.md", "recipe.yaml", "evaluation.json"} | {
        path.relative_to(run / "model").as_posix() for path in (run / "model").rglob("*") if path.is_file()
    }
    assert report.files["model.safetensors"] == (run / "model" / "model.safetensors").stat().st_size
    assert json.loads(json.dumps(report.to_dict()))["pushed"] is None


def test_a_token_that_is_not_valid_is_told_before_anything_is_made(
    hub: ModelHub, trained: Callable[[str], DualEncoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "made", trained("bert_vit"))
    monkeypatch.setattr("mmcl.hub.pushing.stage", lambda *arguments, **options: pytest.fail("work done for nothing"))
    with pytest.raises(ConfigError, match="it is not known who you are"):
        push(run, "owner/model", token="hf_" + "x" * 34)


def test_what_is_refused_stops_everything(hub: ModelHub, trained: Callable[[str], DualEncoder], tmp_path: Path) -> None:
    run = make_run(tmp_path / "made", trained("bert_vit"))
    secret = "hf_" + "q" * 34
    (run / "README.md").write_text(f"{CARD}Use {secret}\n")
    (run / "model" / "weights.bin").write_bytes(b"\x80\x04.")
    (run / "model" / "photo.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(ConfigError) as raised:
        push(run, "owner/model")
    told = str(raised.value)
    assert str(run) in told
    assert "README.md: a Hugging Face token in line 6" in told
    assert "weights.bin: a pickle" in told
    assert "photo.jpg: a picture outside assets/" in told
    assert secret not in told
    assert [(method, path) for method, path, _ in hub.requests] == [("GET", "/api/whoami-v2")]  # nothing was sent
    dry = push(run, "owner/model", dry_run=True)
    assert dry.refused.keys() == {"README.md", "weights.bin", "photo.jpg"}
    assert secret not in str(dry.to_dict())


def test_unfinished_runs_and_bad_names_end_before_the_hub_is_asked(
    hub: ModelHub, trained: Callable[[str], DualEncoder], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "made", trained("bert_vit"), finished=False)
    (run / "README.md").write_text(CARD)
    with pytest.raises(ConfigError, match="has not ended"):
        push(run, "owner/model")
    with pytest.raises(ConfigError, match="want owner/name"):
        push(run, "model")
    with pytest.raises(ConfigError, match="there is no such folder"):
        push(tmp_path / "none", "owner/model")
    assert hub.requests == []
    assert push(run, "owner/model", options=StageOptions(allow_unfinished=True)).pushed.changed


def test_no_token_anywhere(
    hub: ModelHub, run: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(run)
    report = push(run, "owner/model", token=hub.token)
    assert contents(run) == before
    told = "".join(capfd.readouterr()) + caplog.text + str(report.to_dict())
    assert hub.token not in told
    assert not any(hub.token.encode() in content for content in hub.files("owner/model").values())
    assert not any(hub.token.encode() in body for body in hub.bodies)
    assert any(hub.token in headers.get("authorization", "") for _, _, headers in hub.requests)  # the control


def test_a_second_push_replaces_the_first(
    hub: ModelHub, run: Path, trained: Callable[[str], DualEncoder], tmp_path: Path
) -> None:
    push(run, "owner/model")
    other = make_run(tmp_path / "other", trained("minilm_cnn"))
    (other / "README.md").write_text(CARD)
    report = push(other, "owner/model")
    assert report.pushed.deleted == ("config.json",)  # the first one's; transformers cannot hold the second
    assert largest_difference(DualEncoder.from_pretrained("owner/model"), trained("minilm_cnn")) < 1e-5
    assert mmcl.load("owner/model").embedding_dim == 24
