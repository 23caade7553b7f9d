"""Names that mean the same on every machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mmcl.repos.portable import make_portable, portable_text


@pytest.mark.parametrize(
    ("text", "portable"),
    [
        ("/home/someone/data/emoji", "emoji"),
        ("/home/someone/data/emoji:test", "emoji:test"),
        ("/home/some one/my data", "my data"),
        ("~/models/x", "x"),
        ("../shared/data", "data"),
        ("./local/folder/", "folder"),
        ("C:\\Users\\someone\\model", "model"),
        ("timm:vit?checkpoint=/home/someone/x.pth", "timm:vit?checkpoint=x.pth"),
        ("open_clip:/home/someone/clip", "open_clip:clip"),
        ("vectors:/home/someone/x.npz", "vectors:x.npz"),
        ("read /home/someone/a.txt, then ~/b/c.txt", "read a.txt, then c.txt"),
        ("file:///home/someone/x", "file://x"),
    ],
)
def test_paths_become_names(text: str, portable: str) -> None:
    assert portable_text(text) == portable


@pytest.mark.parametrize(
    "text",
    ["owner/name", "package:some_package/model/x.pth", "https://example.org/a/b", "shapes?train=96&seed=1", "and/or",
     "/", "</s>", "a photo of a {}", "runs/emoji", "", "hf-hub:owner/name", "3/4", "open_clip:ViT-B-32/laion2b"],
)  # fmt: skip
def test_other_texts_stay(text: str) -> None:
    assert portable_text(text) == text


def test_configs_of_a_folder_are_replaced_and_what_they_were_linked_to_stays(tmp_path: Path) -> None:
    source, folder = tmp_path / "source.json", tmp_path / "folder"
    folder.mkdir()
    source.write_text(json.dumps({"_name_or_path": "/home/someone/bert", "n": 1}))
    os.link(source, folder / "config.json")
    (folder / "tokenizer.json").write_text('{"vocab": {"/home/someone": 1}, "x": "/home/someone/x"}')
    (folder / "recipe.yaml").write_text("data:\n  path: /home/someone/emoji\n")
    (folder / "plain.json").write_text('{ "kept":  "as it is" }')
    (folder / "broken.json").write_text("{")
    assert make_portable(folder) == ["config.json", "recipe.yaml"]
    assert json.loads((folder / "config.json").read_text()) == {"_name_or_path": "bert", "n": 1}
    assert "/home/someone" in source.read_text()
    assert (folder / "recipe.yaml").read_text() == "data:\n  path: emoji\n"
    assert (folder / "plain.json").read_text() == '{ "kept":  "as it is" }'
    assert make_portable(folder) == []
