"""`mmcl merge`: sweeps, soups and adapters on small drawn models, and what is refused before any work."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from mmcl.config import ModelSection
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.saving import from_pretrained, save_pretrained

SCENES = "shapes?train=16&validation=24&test=24"
VALIDATION, TEST = f"{SCENES}:validation", f"{SCENES}:test"
METRIC = "retrieval/mean_recall@1"


def nudged(model: DualEncoder, seed: int) -> DualEncoder:
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for weight in (twin.image.head.projection.weight, twin.text.head.projection.weight):
        weight.data.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return twin


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Four models of one architecture, and one of another."""
    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        captions = ["a large solid red circle", "two small blue squares"]
        base = build_dual_encoder(ModelSection(embedding_dim=8), captions=captions).eval()
        other = build_dual_encoder(ModelSection(embedding_dim=12), captions=captions)
    models = {"a": base, "b": nudged(base, 1), "c": nudged(base, 2), "other": other}
    return {name: str(save_pretrained(model, folder / name)) for name, model in models.items()}


def opened(folder: Path | str) -> dict[str, torch.Tensor]:
    return from_pretrained(folder).state_dict()


# -- interpolate ---------------------------------------------------------------------------------------------------


def test_a_sweep_is_shown_chosen_and_written(invoke, folders: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, page, file = tmp_path / "merged", tmp_path / "sweep.html", tmp_path / "sweep.json"
    done = invoke(
        "merge", "interpolate", folders["a"], folders["b"], "--data", VALIDATION, "--on", TEST, "--steps", "3",
        "-o", str(out), "--report", str(page), "--json", str(file), "--keep", "0",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(file.read_text())
    names = [*found["metric"]]
    assert [point["alpha"] for point in found["points"]] == [0, 0.5, 1]
    values = [point["metrics"][names[0]][METRIC] for point in found["points"]]
    best = found["points"][values.index(max(values))]
    assert found["chosen"]["alpha"] == found["alpha"] == best["alpha"]
    record = json.loads((out / "merge.json").read_text())
    assert (record["kind"], record["sources"]) == ("wise_ft", [folders["a"], folders["b"]])
    assert record["metrics"] == best["metrics"]
    wanted = (1 - record["alpha"]) * opened(folders["a"])["log_logit_scale"]
    wanted += record["alpha"] * opened(folders["b"])["log_logit_scale"]
    assert torch.allclose(opened(out)["log_logit_scale"], wanted)
    assert "chosen: alpha" in done.out
    assert f"{100 * values[1]:.2f} %" in done.out
    assert "alpha is chosen on test data" in done.err
    html = page.read_text()
    assert html.count("<svg") == 2
    assert "The image tower and the text tower are the same in all models, and run once." in " ".join(html.split())

    alone = invoke("eval", "retrieval", str(out), VALIDATION, "--json", str(tmp_path / "alone.json"))
    assert alone.code == 0, alone.err
    assert json.loads((tmp_path / "alone.json").read_text())[METRIC] == pytest.approx(max(values))


def test_other_metrics_alphas_and_rules(invoke, folders: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    done = invoke(
        "merge", "interpolate", folders["a"], folders["b"], "--data", VALIDATION, "--on", f"{SCENES}:train",
        "--on-metric", "zeroshot/top1", "--alphas", "0.5,1.5", "--rule", "mean", "--json", str(file), "--no-cache",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(file.read_text())
    assert [*found["metric"].values()] == [METRIC, "zeroshot/top1"]
    assert [point["alpha"] for point in found["points"]] == [0, 0.5, 1, 1.5]
    assert found["chosen"]["rule"] == "mean"
    assert "out" not in found
    assert "alpha 1.5: outside [0, 1]" in done.err
    assert "test data" not in done.err


def test_one_alpha_is_written_without_data(invoke, folders: dict[str, str], tmp_path: Path) -> None:
    out, head = tmp_path / "merged", "image.head.projection.weight"
    done = invoke("merge", "interpolate", folders["a"], folders["b"], "--alpha", "0.25", "-o", str(out))
    assert done.code == 0, done.err
    wanted = 0.75 * opened(folders["a"])[head] + 0.25 * opened(folders["b"])[head]
    assert torch.allclose(opened(out)[head], wanted, atol=1e-7)
    assert json.loads((out / "merge.json").read_text())["alpha"] == 0.25
    again = ["merge", "interpolate", folders["a"], folders["b"], "--alpha", "1", "-o", str(out)]
    done = invoke(*again)
    assert done.code == 2
    assert "the folder is not empty" in done.err
    assert torch.allclose(opened(out)[head], wanted, atol=1e-7)
    assert invoke(*again, "--force").code == 0
    assert torch.equal(opened(out)[head], opened(folders["b"])[head])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give --data DATA"),
        (["--alpha", "0.5"], "give -o FOLDER"),
        (["--alpha", "0.5", "--steps", "3", "-o", "x"], "need --data"),
        (["--alpha", "0.5", "--data", VALIDATION], "to judge it, give --alphas 0.5"),
        (["--data", VALIDATION, "--alphas", "0,1", "--steps", "3"], "give one of them"),
        (["--data", VALIDATION, "--alphas", "0,half"], "want numbers between commas"),
        (["--data", VALIDATION, "--keep", "98", "--on", TEST], "keep is 98.0; want a share"),
        (["--data", VALIDATION, "--rule", "mean"], "none are judged"),
        (["--data", VALIDATION, "--on", VALIDATION], "is named twice, or is --data"),
        (["--data", VALIDATION, "--metric", "mean_recall@1"], "want TASK/NAME"),
        (["--data", VALIDATION, "--metric", "retreival/x"], "did you mean 'retrieval'?"),
        (["--data", VALIDATION, "--metric", "retrieval/mean_recall@2"], "did you mean 'retrieval/"),
        (["--data", VALIDATION, "--json", "none/x.json"], "there is no folder"),
        (["--data", VALIDATION, "--batch-norm", VALIDATION], "no batch norm"),
    ],
)
def test_usage_of_interpolate(invoke, folders: dict[str, str], options: list[str], said: str) -> None:
    done = invoke("merge", "interpolate", folders["a"], folders["b"], *options)
    assert done.code == 2, done.out
    assert said in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_data_that_lack_what_a_metric_needs_are_named(invoke, folders: dict[str, str], tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "plain.jsonl").write_text('{"file_name": "0.png", "text": "black"}\n')
    plain = ["--on", str(tmp_path / "plain.jsonl"), "--on-metric", "zeroshot/top1"]
    done = invoke("merge", "interpolate", folders["a"], folders["b"], "--data", VALIDATION, *plain)
    assert done.code == 2
    assert "has no column label, which zeroshot/top1 needs" in " ".join(done.err.split())


def test_models_that_do_not_fit_are_named(invoke, folders: dict[str, str], tmp_path: Path) -> None:
    for data in (["--alpha", "0.5"], ["--data", VALIDATION]):
        done = invoke("merge", "interpolate", folders["a"], folders["other"], *data, "-o", str(tmp_path / "out"))
        assert done.code == 2
        assert "embedding_dim is 8" in " ".join(done.err.split())
    assert not (tmp_path / "out").exists()
    done = invoke("merge", "interpolate", folders["a"], "none/of/this", "--alpha", "0.5", "-o", str(tmp_path / "out"))
    assert done.code == 2
    assert "there is no model folder 'none/of/this'" in done.err
    done = invoke("merge", "interpolate", folders["a"], folders["b"], "--alpha", "0.5", "-o", folders["b"], "--force")
    assert done.code == 2
    assert "it is the source" in done.err


# -- soup ----------------------------------------------------------------------------------------------------------


def test_a_greedy_soup(invoke, folders: dict[str, str], tmp_path: Path) -> None:
    out, file = tmp_path / "soup", tmp_path / "soup.json"
    models = [folders[name] for name in "abc"]
    done = invoke("merge", "soup", *models, "--greedy", "--data", VALIDATION, "-o", str(out), "--json", str(file))
    assert done.code == 0, done.err
    found = json.loads(file.read_text())
    judged = found["judged"]
    singles = [judged["singles"][model][METRIC] for model in models]
    assert judged["greedy"][METRIC] >= max(singles)
    assert judged["steps"][0]["value"] == max(singles)
    assert sum(found["weights"]) == pytest.approx(1)
    record = json.loads((out / "merge.json").read_text())
    assert (record["kind"], record["method"], record["sources"]) == ("soup", "greedy", models)
    assert "uniform soup" in done.out
    assert "greedy soup of" in done.out
    head = "image.head.projection.weight"
    wanted = sum(weight * opened(model)[head] for weight, model in zip(found["weights"], models))
    assert torch.allclose(opened(out)[head], wanted, atol=1e-6)


def test_soups_of_all(invoke, folders: dict[str, str], tmp_path: Path) -> None:
    head = "text.head.projection.weight"
    models = [folders[name] for name in "abc"]
    for weights, name in (([1 / 3] * 3, "uniform"), ([0.5, 0.3, 0.2], "weighted")):
        given = ["--weights", ",".join(map(str, weights))] if name == "weighted" else []
        done = invoke("merge", "soup", *models, *given, "-o", str(tmp_path / name))
        assert done.code == 0, done.err
        wanted = sum(weight * opened(model)[head] for weight, model in zip(weights, models))
        assert torch.allclose(opened(tmp_path / name)[head], wanted, atol=1e-6)
    assert json.loads((tmp_path / "weighted" / "merge.json").read_text())["weights"] == [0.5, 0.3, 0.2]
    done = invoke("merge", "soup", *models, "--weights", "0.5,0.3,0.2", "--data", TEST)
    assert done.code == 0, done.err
    assert "weighted soup" in done.out
    assert "is test data" in done.err


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        ("a", ["-o", "x"], "at least two models"),
        ("aab", ["-o", "x"], "is named twice"),
        ("ab", [], "there is nothing to do"),
        ("ab", ["--greedy", "-o", "x"], "--greedy needs --data"),
        ("ab", ["--greedy", "--data", VALIDATION, "--weights", "0.5,0.5"], "takes no --weights"),
        ("ab", ["--weights", "0.5,0.3,0.2", "-o", "x"], "3 weights are given for 2 models"),
        ("ab", ["--weights", "0.5,0.6", "-o", "x"], "sum to 1.1; want 1"),
        ("ab", ["--weights", "half,half", "-o", "x"], "want numbers between commas"),
        ("ab", ["--batch-norm", VALIDATION, "--data", VALIDATION], "a soup that is not judged"),
    ],
)
def test_usage_of_soup(invoke, folders: dict[str, str], names: str, options: list[str], said: str) -> None:
    done = invoke("merge", "soup", *(folders[name] for name in names), *options)
    assert done.code == 2, done.out
    assert said in " ".join(done.err.split())


# -- lora ----------------------------------------------------------------------------------------------------------


def test_adapters_are_merged(invoke, folders: dict[str, str], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = from_pretrained(folders["a"])
    text = copy.deepcopy(model.text.tower.model)
    config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    peft.get_peft_model(text, config).save_pretrained(tmp_path / "adapter")
    out, file = tmp_path / "merged", tmp_path / "lora.json"
    options = ["--text-adapter", str(tmp_path / "adapter"), "-o", str(out), "--json", str(file)]
    done = invoke("merge", "lora", folders["a"], *options)
    assert done.code == 0, done.err
    written, base = opened(out), model.state_dict()
    changed = [name for name in base if not torch.equal(base[name], written[name])]
    assert changed
    assert all("query.weight" in name and name.startswith("text.") for name in changed)
    found = json.loads(file.read_text())
    assert (found["kind"], found["scale"], found["changed_weights"]) == ("lora", 1.0, len(changed))
    assert found["adapters"] == {"text": str(tmp_path / "adapter")}
    assert json.loads((out / "merge.json").read_text())["sources"] == [folders["a"], str(tmp_path / "adapter")]
    assert f"{len(changed)} of {len(base)} weights changed" in done.out

    half = invoke("merge", "lora", folders["a"], *options[:2], "-o", str(tmp_path / "half"), "--scale", "0.5")
    assert half.code == 0, half.err
    middle = (base[changed[0]] + written[changed[0]]) / 2
    assert torch.allclose(opened(tmp_path / "half")[changed[0]], middle, atol=1e-6)
    none = invoke("merge", "lora", folders["a"], *options[:2], "-o", str(tmp_path / "none"), "--scale", "0")
    assert none.code == 0
    assert "change no weight" in none.err


def test_adapters_that_are_refused(invoke, folders: dict[str, str], tmp_path: Path) -> None:
    out = ["-o", str(tmp_path / "out")]
    done = invoke("merge", "lora", folders["a"], *out)
    assert done.code == 2
    assert "give --image-adapter DIR" in done.err
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.bin").write_bytes(b"a pickle")
    done = invoke("merge", "lora", folders["a"], "--text-adapter", str(folder), *out)
    assert done.code == 2
    assert "is a pickle" in " ".join(done.err.split())
    assert not (tmp_path / "out").exists()
