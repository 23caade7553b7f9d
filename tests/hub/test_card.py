"""Model cards of real runs: every metric is there, the Hub reads them, the code in them runs, nothing private is in."""

from __future__ import annotations

import json
import re
import shutil
import sys
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path

import card_runs
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "repos"))

from push_server import hub

import mmcl
from mmcl.errors import ConfigError, MissingDependencyError
from mmcl.hub.card import ModelCardWords, check_model_card, write_card
from mmcl.hub.card.checks import open_questions
from mmcl.hub.card.model_index import evaluation_from_results
from mmcl.hub.exporting import export
from mmcl.hub.staging import StageOptions, stage
from mmcl.models.saving import save_pretrained

__all__ = ["hub"]

WORDS = ModelCardWords(title="Small", license="apache-2.0", languages=("en",), tags=("shapes",))


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMCL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, _cache: None) -> Path:
    return card_runs.train_run(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run's card and its pictures."""
    made = tmp_path_factory.mktemp("card")
    text = write_card(run, made / "assets", words=WORDS, repo_id="owner/small")
    (made / "README.md").write_text(text, encoding="utf-8")
    return made


@pytest.fixture
def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def quick(source: Path, out: Path, **options: object) -> str:
    """A card without what takes time."""
    chosen = {"words": WORDS, "repo_id": "owner/small", "gallery": False, "baselines": (), **options}
    return write_card(source, out / "assets", **chosen)


def numbers(evaluation: dict) -> dict:
    return {split: {name: value for name, value in metrics.items() if value is not None}
            for split, metrics in evaluation.items()}  # fmt: skip


def faults_of(text: str, **options: object) -> list[str]:
    found = check_model_card(text, **options)
    return [str(fault) for fault in found if fault not in open_questions(found)]


# -- front matter ------------------------------------------------------------------------------------------------


def test_nothing_is_wrong_but_the_questions(card: str, folder: Path) -> None:
    found = check_model_card(card, folder=folder)
    assert found == open_questions(found)
    assert len(found) == 3  # what it is for, what it is not for, whom to cite
    assert len(open_questions(check_model_card(card.replace("**Please answer:**", "Answer:")))) == 0


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("license: apache-2.0", "license: apache2.0", "license: 'apache2.0' is no licence of the Hub; did you mean"),
        ("library_name: mmcl\n", "", "library_name: is missing from the front matter"),
        ("language: [en]", "language: [english]", "language: 'english' is no ISO 639-1 code"),
        ("pipeline_tag: zero-shot-image-classification", "pipeline_tag: clip", "pipeline_tag: 'clip' is no task"),
        ("tags: [mmcl,", "datasets: [/data/emoji]\ntags: [mmcl,", "datasets: '/data/emoji' is no id of the Hub"),
        ("name: retrieval/i2t_recall@1\n", "name: retrieval/i2t_recall@1\n      value: .nan\n", "want a finite number"),
        ("- name: owner/small", "- title: owner/small", "model-index: want a list of name and results"),
        ("## Results", "## Figures", "Results: the section is missing"),
        ("assets/gallery.webp", "assets/other.webp", "link: assets/other.webp leads to no file"),
        ("# Small\n", "# Small\nfrom /home/someone/data/emoji\n", "text: holds a path of one machine"),
        ("# Small\n", f"# Small\n{card_runs.TOKEN}\n", "text: holds a Hugging Face token"),
    ],
)
def test_what_is_wrong_is_told(card: str, folder: Path, old: str, new: str, fault: str) -> None:
    assert old in card
    assert any(fault in found for found in faults_of(card.replace(old, new, 1), folder=folder))


def test_every_metric_and_interval_is_in_the_model_index(card: str, run: Path) -> None:
    wanted = numbers(json.loads((run / "evaluation.json").read_text()))
    read = ModelCard(card)
    assert set(wanted) == {"test", "test_seen"}
    assert len(wanted["test"]) > 60
    assert evaluation_from_results(read.data.eval_results) == wanted
    # What huggingface_hub writes again is the same again.
    assert evaluation_from_results(ModelCard(f"---\n{read.data.to_yaml()}\n---\n").data.eval_results) == wanted
    wanted["test"]["retrieval/i2t_recall@1"] += 1e-9
    assert evaluation_from_results(read.data.eval_results) != wanted


def test_the_front_matter_says_what_the_hub_sorts_by(card: str) -> None:
    data = ModelCard(card).data.to_dict()
    assert data["library_name"] == "mmcl"
    assert data["pipeline_tag"] == "zero-shot-image-classification"
    assert {"mmcl", "contrastive-learning", "image-text-retrieval", "transformers", "shapes"} <= set(data["tags"])
    assert data["metrics"] == ["accuracy", "f1", "precision", "recall", "roc_auc"]
    assert "datasets" not in data  # drawn by code, not on the Hub
    assert "base_model" not in data  # random weights
    tasks = {(result["task"]["type"], result["dataset"]["split"]) for result in data["model-index"][0]["results"]}
    assert {
        ("zero-shot-image-classification", "test"),
        ("image-to-text", "test_seen"),
        ("text-to-image", "test"),
    } <= tasks


def test_the_hub_validates_it(card: str, hub) -> None:
    ModelCard(card).validate()
    assert hub.asked("POST", "validate-yaml")
    with pytest.raises(ValueError, match="must be an array of strings"):
        ModelCard(re.sub(r"(?m)^tags: .*$", "tags: [1, 2]", card)).validate()


# -- the text ----------------------------------------------------------------------------------------------------


def test_figures_stand_with_intervals_chance_and_baselines(card: str, run: Path) -> None:
    metrics = json.loads((run / "evaluation.json").read_text())["test"]
    low, high = metrics["retrieval/t2i_recall@5_ci95"]
    shown = f"| {100 * metrics['retrieval/t2i_recall@5']:.1f} % | {100 * low:.1f} % – {100 * high:.1f} % |"
    assert f"| text → image R@5 {shown}" in card
    header = next(line for line in card.splitlines() if line.startswith("| figure | this model"))
    assert header == "| figure | this model | chance | largest class | random weights | raw pixels, linear |"
    top1 = next(line for line in card.splitlines() if line.startswith("| zero-shot top-1 | **"))
    assert top1.count("%") == 5
    assert f"{100 * metrics['zeroshot/majority']:.1f} %" in top1


def test_training_hardware_and_limits_are_told(card: str) -> None:
    for words in (
        "recipe `small`, on shapes?train=96", "| batch | 16 pairs |", "| length | 6 steps", "| device |",
        "| peak memory |",
        "mmcl eval retrieval owner/small 'shapes?train=96&validation=24&test=24&test_seen=24&image_size=32:test'",
        "Captions it was judged on are in: en (guessed from the captions)", "prompt templates the worst alone scores",
        "(assets/data_card_shapes.md)", "the model of step", "arXiv:2103.00020",
    ):  # fmt: skip
        assert words in card, words
    assert "not noted by this run" not in card


def test_pictures_are_small_and_drawn(folder: Path, card: str) -> None:
    with Image.open(folder / "assets" / "gallery.webp") as gallery:
        assert gallery.format == "WEBP"
        colours = {colour for _, colour in gallery.convert("RGB").quantize(64).convert("RGB").getcolors(1 << 20)}
    assert any(red > 150 and green < 90 for red, green, _ in colours)  # a wrong answer's frame
    assert (folder / "assets" / "gallery.webp").stat().st_size < 300_000
    for name in ("loss.svg", "validation.svg"):
        assert xml.etree.ElementTree.parse(folder / "assets" / name).getroot().tag.endswith("svg")
        assert f"](assets/{name})" in card
    assert (folder / "assets" / "data_card_shapes.md").read_text().startswith("---\npretty_name: Shapes")


def test_without_matplotlib_it_says_how_to_get_curves(run: Path, tmp_path: Path, monkeypatch) -> None:
    def missing(module: str, *, extra: str) -> None:
        raise MissingDependencyError(f"{module} is not installed")

    monkeypatch.setattr("mmcl.pages.figures.require", missing)
    text = quick(run, tmp_path)
    assert "pip install 'mmcl[report]'" in text
    assert faults_of(text) == []
    assert not (tmp_path / "assets" / "loss.svg").exists()


def test_other_models_stand_beside_it(run: Path, tmp_path: Path) -> None:
    text = quick(run, tmp_path, baselines=("start", str(run / "model")))
    header = next(line for line in text.splitlines() if line.startswith("| figure | this model"))
    assert header == "| figure | this model | chance | largest class | before training | model |"
    row = next(line for line in text.splitlines() if line.startswith("| text → image R@5 | **"))
    own, *_, same = re.findall(r"[\d.]+ %", row)
    assert own == same
    metrics = json.loads((run / "evaluation.json").read_text())["test"]
    assert own == f"{100 * metrics['retrieval/t2i_recall@5']:.1f} %"


# -- what is not known is not told -------------------------------------------------------------------------------


def test_nothing_private_stands_in_it(run: Path, tmp_path: Path) -> None:
    pairs = card_runs.write_pairs(tmp_path / "someone" / "pairs")
    options = {"password": "hunter22", "token": card_runs.TOKEN}
    source = card_runs.changed(
        run, tmp_path / "someone" / "run", name=f"run {card_runs.TOKEN}", data={"path": str(pairs)},
        model={"image": {"name": "/home/someone/vit"}, "text": {"name": "../models/bert"}},
        optimizer={"name": f"adamw {card_runs.TOKEN}", "learning_rate": 1e-3, "options": options},
    )  # fmt: skip
    evaluation = json.loads((source / "evaluation.json").read_text())
    evaluation["test"]["retrieval/num_images"] = 12.0
    (source / "evaluation.json").write_text(json.dumps(evaluation))
    text = quick(source, tmp_path, gallery=True)
    assert "on **pairs**" in text
    assert "| tower | vit | bert |" in text
    assert "of these domains: drawn 12" in text
    assert "are in: en (as the data say)" in text
    for private in ("someone", "/home", "hunter22", "Secret", str(tmp_path)):
        assert private not in text, private
    assert faults_of(text, folder=tmp_path) == []
    assert (tmp_path / "assets" / "gallery.webp").is_file()
    assert "data_card_" not in text  # these are a person's own data


def test_a_model_without_a_run(run: Path, tmp_path: Path) -> None:
    text = quick(run / "model", tmp_path, words=ModelCardWords(), gallery=True, repo_id=None)
    data = ModelCard(text).data.to_dict()
    assert "model-index" not in data
    assert data["license"] == "unknown"
    assert "No evaluation lies beside this model." in text
    assert "Nothing of the training lies beside this model" in text
    assert "Under which licence is the model given away?" in text
    assert faults_of(text) == ["line 2: language: is missing from the front matter"]
    assert 'mmcl.load("owner/name")' in text


def test_data_that_are_not_here_are_told(run: Path, tmp_path: Path) -> None:
    source = card_runs.changed(run, tmp_path / "run", data={"path": "/home/someone/far/emoji"})
    text = quick(source, tmp_path, gallery=True, baselines=("random weights",))
    assert "The data (emoji) are not on the machine that wrote this card." in text
    assert "Random weights and raw pixels were not judged." in text
    assert faults_of(text) == []
    with pytest.raises(ConfigError, match="--baseline start wants the data of the run"):
        quick(source, tmp_path, baselines=("start",))


def test_other_data_in_their_place_are_not_taken_for_them(run: Path, tmp_path: Path) -> None:
    pairs = card_runs.write_pairs(tmp_path / "pairs")
    source = card_runs.changed(run, tmp_path / "run", data={"path": str(pairs)})
    text = quick(source, tmp_path, gallery=True, baselines=("random weights",))
    assert "The data (pairs) on this machine are others than were judged: 12 rows, not 24." in text
    assert "random weights |" not in text
    assert not (tmp_path / "assets" / "gallery.webp").exists()


def test_a_file_of_classes_that_is_gone_costs_baselines_alone(run: Path, tmp_path: Path) -> None:
    source = card_runs.changed(run, tmp_path / "run", evaluate={"classes": str(tmp_path / "gone.txt")})
    text = quick(source, tmp_path, baselines=("raw pixels, linear",))
    assert "Random weights and raw pixels could not be judged: " in text
    assert faults_of(text) == []


def test_a_run_that_has_not_ended_says_so(run: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(run, tmp_path / "run", symlinks=True))
    progress = source / "checkpoints" / "last" / "progress.json"
    assert "**The run is not finished**" not in quick(source, tmp_path)
    progress.write_text(json.dumps({**json.loads(progress.read_text()), "finished": False}))
    assert "**The run is not finished**" in quick(source, tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "evaluation.json").write_text("{"), r"evaluation\.json is no JSON"),
        (lambda run: (run / "evaluation.json").write_text('{"test": 3}'), "'test' holds no metrics"),
        (lambda run: shutil.rmtree(run / "model"), "its run has not saved a model yet"),
        (lambda run: shutil.rmtree(run), "there is no such folder"),
    ],
)
def test_damaged_runs_are_refused(run: Path, tmp_path: Path, damage, message: str) -> None:
    source = Path(shutil.copytree(run, tmp_path / "run", symlinks=True))
    damage(source)
    with pytest.raises(ConfigError, match=message):
        quick(source, tmp_path)


# -- the code in it ----------------------------------------------------------------------------------------------


def execute(text: str) -> dict[str, torch.Tensor]:
    """Heading -> the scores that each Python block of a card leaves, run as it stands."""
    found = {}
    for heading, code in re.findall(r"^### ([^\n]+)\n(?:(?!^#).)*?```python\n(.*?)```", text, re.DOTALL | re.MULTILINE):
        names: dict[str, object] = {}
        exec(compile(code, heading, "exec"), names)
        found[heading] = torch.as_tensor(names["scores"]).detach().float()
        found[f"{heading} captions"] = names["captions"]
        found[f"{heading} image"] = names["image"]
    assert text.count("```python") == len(found) // 3
    return found


def check_snippets(text: str, model: Path, titles: set[str]) -> None:
    found = execute(text)
    assert {heading for heading in found if not heading.endswith((" captions", " image"))} == titles
    embedder = mmcl.load(model)
    captions, image = found["mmcl captions"], found["mmcl image"]
    wanted = embedder.encode_image([image]) @ embedder.encode_text(captions).T
    other = embedder.encode_image([image]) @ embedder.encode_text([*captions[1:], "something else"]).T
    for title in titles:
        # Libraries resize with Pillow, mmcl with torchvision: pixels may be 1 of 255 apart.
        torch.testing.assert_close(found[title], wanted, atol=5e-3, rtol=0, msg=title)
    torch.testing.assert_close(found["mmcl"], wanted, atol=1e-5, rtol=0)
    assert not torch.allclose(wanted, other, atol=5e-3)


def test_every_snippet_of_a_pushed_run_runs(run: Path, tmp_path: Path, hub, capsys) -> None:
    options = StageOptions("owner/small", ("sentence-transformers", "onnx"), words=WORDS, baselines=())
    staged = stage(run, tmp_path / "staged", options=options)
    hub.add("owner/small", staged.folder)
    text = (staged.folder / "README.md").read_text(encoding="utf-8")
    assert "[recipe.yaml](recipe.yaml)" in text
    assert faults_of(text, folder=staged.folder) == []
    check_snippets(text, run / "model", {"mmcl", "transformers", "sentence-transformers", "ONNX, without torch"})


@pytest.mark.parametrize(("kind", "format_"), [("open_clip", "open_clip"), ("clip", "transformers")])
def test_snippets_of_other_families_run(trained, kind: str, format_: str, tmp_path: Path, hub, capsys) -> None:
    save_pretrained(trained(kind), tmp_path / "model")
    options = StageOptions(f"owner/{kind}", (format_,), words=WORDS)
    staged = stage(tmp_path / "model", tmp_path / "staged", options=options)
    hub.add(f"owner/{kind}", staged.folder)
    text = (staged.folder / "README.md").read_text(encoding="utf-8")
    check_snippets(text, tmp_path / "model", {"mmcl", format_})


def test_an_exported_folder_has_a_card_too(trained, tmp_path: Path, hub, capsys) -> None:
    export(trained("siglip"), "transformers", tmp_path / "exported")
    staged = stage(tmp_path / "exported", tmp_path / "staged", options=StageOptions("owner/siglip", words=WORDS))
    hub.add("owner/siglip", staged.folder)
    text = (staged.folder / "README.md").read_text(encoding="utf-8")
    assert 'padding="max_length"' in text  # as SigLIP reads captions
    check_snippets(text, tmp_path / "exported", {"mmcl", "transformers"})


def test_recipes_survive_what_this_version_does_not_know(run: Path, tmp_path: Path) -> None:
    source = card_runs.changed(run, tmp_path / "run", train={"from_the_future": 1})
    text = quick(source, tmp_path, gallery=True)
    assert "written for another version of mmcl" in text
    assert yaml.safe_load(text.split("---\n")[1])["model-index"]
    assert faults_of(text) == []
