"""What a repository shall hold, put together from runs and models; the source stays as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from made_runs import contents, make_run

from mmcl.errors import ConfigError
from mmcl.hub.staging import StageOptions, stage
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.saving import save_pretrained

PLAIN = StageOptions(repo_id="owner/model", gallery=False, baselines=())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, trained: Callable[[str], DualEncoder]) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "made", trained("bert_vit"))


def test_a_run_becomes_a_repository(run: Path, tmp_path: Path) -> None:
    before = contents(run)
    staged = stage(run, tmp_path / "out", options=PLAIN)
    found = contents(staged.folder)
    assert staged.kind == "run"
    assert {"README.md", "recipe.yaml", "evaluation.json", "mmcl.json", "config.json", "model.safetensors",
            "preprocessor_config.json", "tokenizer.json"} <= found.keys()  # fmt: skip
    assert not any(name.startswith(("checkpoints", "metrics", "config.yaml")) for name in found)
    assert found["model.safetensors"] == before["model/model.safetensors"]
    assert staged.formats == ("transformers",)
    assert "library_name: mmcl" in found["README.md"].decode()
    assert contents(run) == before


def test_local_paths_become_names(run: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    source = Path(shutil.copytree(run, tmp_path / "copy" / "made", symlinks=True))
    staged = stage(source, tmp_path / "out", options=PLAIN)
    assert "recipe.yaml" in staged.made_portable
    recipe = yaml.safe_load((staged.folder / "recipe.yaml").read_text())
    assert recipe["data"]["path"] == "emoji"
    assert recipe["model"]["text"]["name"] == "bert"
    for name, content in contents(staged.folder).items():
        assert str(tmp_path).encode() not in content, name
        assert b"/home/someone" not in content, name
        assert str(run.parents[1]).encode() not in content, name
    assert b"/home/someone" in (source / "config.yaml").read_bytes()  # the control


def test_unfinished_runs_are_refused_unless_told(trained: Callable[[str], DualEncoder], tmp_path: Path) -> None:
    model, told = trained("bert_vit"), StageOptions(allow_unfinished=True)
    going = make_run(tmp_path / "going", model, finished=False)
    with pytest.raises(ConfigError, match=r"has not ended \(step 10\).*--resume.*--allow-unfinished"):
        stage(going, tmp_path / "a", options=PLAIN)
    unjudged = make_run(tmp_path / "unjudged", model, judged=False)
    with pytest.raises(ConfigError, match="test split 'test' and evaluation.json is missing"):
        stage(unjudged, tmp_path / "b", options=PLAIN)
    lost = make_run(tmp_path / "lost", model)
    shutil.rmtree(lost / "checkpoints")
    with pytest.raises(ConfigError, match=r"no checkpoints/last/progress\.json says that the run has ended"):
        stage(lost, tmp_path / "c", options=PLAIN)
    for number, folder in enumerate((going, unjudged, lost)):
        (folder / "README.md").write_text("# Mine\n")  # a card takes longer to write
        assert (stage(folder, tmp_path / f"told{number}", options=told).folder / "mmcl.json").is_file()
    no_test = make_run(tmp_path / "no_test", model, judged=False, data={"path": "shapes", "split": {"test": None}})
    (no_test / "README.md").write_text("# Mine\n")
    assert stage(no_test, tmp_path / "d", options=PLAIN).kind == "run"
    shutil.rmtree(going / "model")
    with pytest.raises(ConfigError, match="has not saved a model yet"):
        stage(going, tmp_path / "e", options=told)


def test_no_model_no_folder_and_damaged_files(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        stage(tmp_path / "none", tmp_path / "out", options=PLAIN)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"neither a run \(config\.yaml\) nor a model"):
        stage(tmp_path / "empty", tmp_path / "out", options=PLAIN)
    broken = Path(shutil.copytree(run, tmp_path / "broken", symlinks=True))
    (broken / "checkpoints/last/progress.json").write_text("{")
    with pytest.raises(ConfigError, match=r"progress\.json cannot be read"):
        stage(broken, tmp_path / "out", options=PLAIN)


def test_a_persons_card_stays_unless_told(run: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(run, tmp_path / "made", symlinks=True))
    (source / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (source / "assets").mkdir()
    (source / "assets" / "mine.svg").write_text("<svg/>")
    staged = stage(source, tmp_path / "out", options=PLAIN)
    assert (staged.folder / "README.md").read_text().endswith("# Mine\n")
    assert (staged.folder / "assets" / "mine.svg").is_file()
    assert any("as it is" in note for note in staged.notes)
    told = StageOptions(repo_id="owner/model", gallery=False, baselines=(), new_card=True)
    assert "# Mine" not in (stage(source, tmp_path / "new", options=told).folder / "README.md").read_text()
    assert (source / "README.md").read_text().endswith("# Mine\n")


def test_model_folders_and_links_out_of_them(trained: Callable[[str], DualEncoder], tmp_path: Path) -> None:
    from mmcl.repos.planning import plan_upload

    folder = save_pretrained(trained("minilm_cnn"), tmp_path / "model")
    (folder / ".DS_Store").write_text("x")
    (tmp_path / "secret.md").write_text("elsewhere")
    (folder / "linked.md").symlink_to(tmp_path / "secret.md")
    staged = stage(folder, tmp_path / "out", options=PLAIN)
    assert staged.kind == "model"
    assert not (staged.folder / ".DS_Store").exists()
    assert [fault.path for fault in plan_upload(staged.folder).refused] == ["linked.md"]


def test_further_formats_lie_beside_the_model_which_stays(
    run: Path, trained: Callable[[str], DualEncoder], tmp_path: Path
) -> None:
    before = contents(run)
    told = StageOptions(repo_id="owner/model", gallery=False, baselines=(), formats=("sentence-transformers",))
    staged = stage(run, tmp_path / "out", options=told)
    assert staged.formats == ("transformers", "sentence-transformers")
    found = contents(staged.folder)
    assert "modules.json" in found
    for name in ("model.safetensors", "tokenizer.json", "preprocessor_config.json", "config.json"):
        assert found[name] == before[f"model/{name}"]
    report = json.loads(found["export_report.json"])
    assert report["sentence-transformers"]["differences"][""]["texts"] < 1e-5
    assert contents(run) == before
    with pytest.raises(ConfigError, match=r"--format open_clip cannot hold this model: .*leave it out"):
        stage(run, tmp_path / "unfit", options=StageOptions(formats=("onnx", "open_clip")))
    assert not (tmp_path / "unfit" / "onnx").exists()
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        stage(run, tmp_path / "bad", options=StageOptions(formats=("onxn",)))
