"""`mmcl recipes`: what ships, to be listed, read and copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcl.config import Recipe, describe_keys, find_recipe, load_recipe, shipped_recipes


def test_list_names_every_recipe(invoke) -> None:
    done = invoke("recipes")
    assert done.code == 0
    assert len(shipped_recipes()) == 16
    assert all(name in done.out for name in shipped_recipes())
    assert "Drawn scenes" in done.out  # its own words, not its launch command


def test_show_prints_the_file(invoke) -> None:
    assert invoke("recipes", "show", "quickstart").out == find_recipe("quickstart").read_text(encoding="utf-8")


def test_card_prints_the_data_card(invoke, checkout: Path) -> None:
    assert invoke("recipes", "card", "emoji").out == (checkout / "data_cards" / "emoji.md").read_text(encoding="utf-8")


def test_a_recipe_without_a_card_says_so(invoke, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("data: {path: shapes}\n")
    done = invoke("recipes", "card", str(tmp_path / "own.yaml"))
    assert done.code == 2
    assert "no data card" in done.err


def test_copy_writes_a_recipe_that_runs_by_its_path(invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("recipes", "copy", "quickstart").code == 0
    assert invoke("recipes", "copy", "quickstart", "mine.yaml").code == 0
    assert load_recipe(tmp_path / "quickstart.yaml") == load_recipe("quickstart")
    (tmp_path / "mine.yaml").write_text("data: {path: mine}\n")
    done = invoke("recipes", "copy", "quickstart", "mine.yaml")
    assert done.code == 2
    assert "exists" in done.err
    assert load_recipe("mine.yaml").data.path == "mine"  # untouched
    assert invoke("recipes", "copy", "quickstart", "mine.yaml", "--force").code == 0
    assert load_recipe("mine.yaml").data.path == "shapes"


def test_copy_to_nowhere_says_so(invoke, tmp_path: Path) -> None:
    done = invoke("recipes", "copy", "quickstart", str(tmp_path / "none" / "x.yaml"))
    assert done.code == 2
    assert "cannot be written" in done.err


@pytest.mark.parametrize("command", ["show", "copy", "card"])
def test_an_unknown_name_names_the_nearest(command: str, invoke) -> None:
    done = invoke("recipes", command, "flickr")
    assert done.code == 2
    assert "did you mean 'flickr30k'" in done.err


def test_keys_lists_every_key_whole(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = invoke("recipes", "keys").out.splitlines()
    for key, default, _ in describe_keys(Recipe):
        assert (f"{key}: {default}" if default else f"{key}  (every recipe needs it)") in lines
