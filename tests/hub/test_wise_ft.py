"""WiSE-FT: averages against naive loops, ends bit for bit, choices by rule, and what may not be merged."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import six_models
import torch
from torch import Tensor, nn

from mmcl.config import HeadSection, ModelSection, TowerSection
from mmcl.embedder import DualEncoderEmbedder, check_embedder
from mmcl.errors import ConfigError
from mmcl.hub.merging import choosing, shared_parts
from mmcl.hub.merging.batch_statistics import batch_norms, reestimate_batch_norm
from mmcl.hub.merging.choosing import choose
from mmcl.hub.merging.matching import check_mergeable
from mmcl.hub.merging.page import sweep_page
from mmcl.hub.merging.record import MergeRecord, write_merged
from mmcl.hub.merging.shared_parts import SharedParts
from mmcl.hub.merging.sources import open_source
from mmcl.hub.merging.state_averages import average_models
from mmcl.hub.merging.wise_ft import Sweep, SweepPoint, interpolate, sweep
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.saving import from_pretrained, save_pretrained

METRIC = "toy/agreement"
Trained = Callable[[str], DualEncoder]


def nudged(model: DualEncoder, *, seed: int = 1, only: str = "") -> DualEncoder:
    """The same model with other weights, as a further training would leave it; ``only`` those of a prefix."""
    generator = torch.Generator().manual_seed(seed)
    twin = copy.deepcopy(model)
    for name, tensor in twin.state_dict().items():
        if name.startswith(only):
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(0.05 * noise.abs() if name.endswith("running_var") else 0.05 * noise)
            else:
                tensor.add_(3)
    return twin


def naive(states: list[dict[str, Tensor]], weights: list[float]) -> dict[str, Tensor]:
    """The oracle: name by name and model by model, in numpy's float64."""
    found = {}
    for name, first in states[0].items():
        total = first
        if first.is_floating_point():
            total = np.zeros(tuple(first.shape))
            for state, weight in zip(states, weights):
                total = total + weight * state[name].numpy().astype(np.float64)
        found[name] = torch.as_tensor(total)
    return found


def apart(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    return max((one[name].double() - two[name].double()).abs().max().item() for name in one if one[name].numel())


def agreement(embedder: DualEncoderEmbedder) -> dict[str, float]:
    """A judge of four pairs; not what anybody measures, but it moves with every weight."""
    scores = embedder.encode_image(six_models.make_images()) @ embedder.encode_text(six_models.CAPTIONS[:4]).T
    return {METRIC: scores.diag().mean().item(), "toy/scale": embedder.logit_scale}


@pytest.fixture(scope="module")
def small() -> DualEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_dual_encoder(ModelSection(embedding_dim=8), captions=six_models.CAPTIONS).eval()


# -- averages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.3, 1.2])
def test_it_is_the_naive_mean(trained: Trained, alpha: float) -> None:
    before = trained("minilm_cnn")
    after = nudged(before)
    found = interpolate(before, after, alpha).state_dict()
    oracle = naive([before.state_dict(), after.state_dict()], [1 - alpha, alpha])
    assert apart(found, oracle) < 1e-6
    assert apart(found, before.state_dict()) > 1e-3  # a control
    assert found["image.tower.model.bn1.running_mean"].tolist() == pytest.approx(
        oracle["image.tower.model.bn1.running_mean"].tolist()
    )
    count = "image.tower.model.bn1.num_batches_tracked"
    assert found[count] == before.state_dict()[count] != after.state_dict()[count]


def test_the_ends_are_the_models_bit_for_bit(trained: Trained) -> None:
    before = trained("minilm_cnn")
    after = nudged(before)
    for alpha, end, other in ((0.0, before, after), (1.0, after, before)):
        found = interpolate(before, after, alpha).state_dict()
        assert all(torch.equal(found[key], value) for key, value in end.state_dict().items())
        assert not all(torch.equal(found[key], value) for key, value in other.state_dict().items())


def test_a_linear_models_features_are_interpolated(small: DualEncoder) -> None:
    # Through a linear head on equal towers, the features of the interpolation are those of the ends, interpolated.
    after = nudged(small, only="image.head.")
    pixels = small.image.tower.preprocessing(six_models.make_images())
    with torch.no_grad():
        features = small.image.features(**pixels)
        ends = [model.image.head(features) for model in (small, after)]
        for alpha in (0.25, 0.75):
            middle = interpolate(small, after, alpha)
            wanted = (1 - alpha) * ends[0] + alpha * ends[1]
            assert torch.allclose(middle.image.head(middle.image.features(**pixels)), wanted, atol=1e-6)
            assert not torch.allclose(ends[0], wanted, atol=1e-4)


def test_the_scale_is_interpolated_in_log_space(small: DualEncoder) -> None:
    before, after = copy.deepcopy(small), copy.deepcopy(small)
    before.log_logit_scale.data.fill_(torch.tensor(4.0).log())
    after.log_logit_scale.data.fill_(torch.tensor(16.0).log())
    assert interpolate(before, after, 0.5).logit_scale.item() == pytest.approx(8.0, rel=1e-6)  # not 10
    far = interpolate(before, after, 3.0)
    assert far.logit_scale.item() == pytest.approx(100, rel=1e-5)  # 256 is over the ceiling


def test_what_is_equal_stays_equal_and_nothing_is_changed(small: DualEncoder) -> None:
    after = nudged(small, only="text.")
    kept = [{name: value.clone() for name, value in model.state_dict().items()} for model in (small, after)]
    found = interpolate(small, after, 0.3)
    assert all(torch.equal(found.state_dict()[name], value) for name, value in kept[0].items() if name[:5] != "text.")
    for model, state in zip((small, after), kept):
        assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert found.image is not small.image
    assert not found.training


def test_half_precision_is_averaged_in_float64() -> None:
    from mmcl.hub.merging.state_averages import StateAverage

    states = [{"w": torch.tensor([value], dtype=torch.float16)} for value in (60000.0, 60000.0, 0.5)]
    average = StateAverage()
    for state in states:
        average.add(state)
    assert average.state()["w"].dtype == torch.float16
    assert average.state()["w"].item() == pytest.approx(40000, rel=1e-3)  # the sum alone is no float16
    twin = average.copy()
    twin.add({"w": torch.zeros(1, dtype=torch.float16)})
    assert twin.state()["w"].item() == pytest.approx(30000, rel=1e-3)
    assert average.state()["w"].item() == pytest.approx(40000, rel=1e-3)


def test_not_finite(small: DualEncoder) -> None:
    broken = nudged(small)
    broken.text.head.projection.weight.data[0, 0] = torch.nan
    with pytest.raises(ConfigError, match=r"the average of text\.head\.projection\.weight is not finite"):
        interpolate(small, broken, 0.5)
    with pytest.raises(ConfigError, match="alpha is nan"):
        interpolate(small, small, float("nan"))


def test_extrapolation_is_warned_of(small: DualEncoder, caplog: pytest.LogCaptureFixture) -> None:
    interpolate(small, small, 1.0)
    assert not caplog.records
    interpolate(small, small, 1.5)
    assert "alpha 1.5: outside [0, 1]" in caplog.text


# -- what may be merged --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["minilm_cnn", "clip", "open_clip"])
def test_a_saved_model_is_merged_with_itself(trained: Trained, name: str, tmp_path: Path) -> None:
    model = trained(name)
    again = from_pretrained(save_pretrained(model, tmp_path))
    check_mergeable(model, again)
    assert apart(interpolate(model, again, 0.5).state_dict(), model.state_dict()) == 0


def _other_dim() -> DualEncoder:
    return build_dual_encoder(ModelSection(embedding_dim=12), captions=six_models.CAPTIONS)


def _other_head() -> DualEncoder:
    image = TowerSection(head=HeadSection(name="mlp", hidden_dims=[8]))
    return build_dual_encoder(ModelSection(embedding_dim=8, image=image), captions=six_models.CAPTIONS)


def _other_vocabulary() -> DualEncoder:
    captions = [caption.replace("red", "rod") for caption in six_models.CAPTIONS]
    assert captions != six_models.CAPTIONS
    return build_dual_encoder(ModelSection(embedding_dim=8), captions=captions)


def _other_bias() -> DualEncoder:
    return build_dual_encoder(ModelSection(embedding_dim=8, logit_bias=-1.0), captions=six_models.CAPTIONS)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (_other_dim, "embedding_dim is 8 in first and 12 in second"),
        (_other_head, "the image head is linear in first and mlp in second"),
        (_other_vocabulary, r"the tokenizer's id of 'r(e|o)d' is (\d+|missing) in first and (missing|\d+) in second"),
        (_other_bias, "a logit_bias is missing in first and there in second"),
    ],
)
def test_what_differs_is_named(small: DualEncoder, build: Callable[[], DualEncoder], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_mergeable(small, build())


def test_other_towers_pooling_pixels_and_shapes_are_named(trained: Trained, small: DualEncoder) -> None:
    with pytest.raises(ConfigError, match="the image tower is transformers CLIPVisionModel in a and transformers Sigl"):
        check_mergeable(_sized(trained("clip"), 8), _sized(trained("siglip"), 8), names=("a", "b"))
    twin = copy.deepcopy(small)
    twin.text.pooling = "cls"
    with pytest.raises(ConfigError, match="the text pooling is .* in first and cls in second"):
        check_mergeable(small, twin)
    twin = copy.deepcopy(small)
    tower = twin.image.tower
    tower.preprocessing = dataclasses.replace(tower.preprocessing, mean=(0.1, 0.2, 0.3))
    with pytest.raises(ConfigError, match=r"the image preprocessing's mean is \[0\.5.*\[0\.1, 0\.2, 0\.3\] in second"):
        check_mergeable(small, twin)
    twin = copy.deepcopy(small)
    twin.image.head.projection = nn.Linear(small.image.tower.feature_dim, 8, bias=True)
    with pytest.raises(ConfigError, match=r"the image head's bias is False in first and True in second"):
        check_mergeable(small, twin)
    twin = copy.deepcopy(small)
    twin.image.tower.model.register_parameter("more", nn.Parameter(torch.zeros(2)))
    with pytest.raises(
        ConfigError, match=r"weight image\.tower\.model\.more is missing in first and \(2,\) torch\.flo"
    ):
        check_mergeable(small, twin)


def _sized(model: DualEncoder, dim: int) -> DualEncoder:
    twin = copy.copy(model)
    twin.embedding_dim = dim
    return twin


def test_dropout_and_names_may_differ(small: DualEncoder) -> None:
    twin = copy.deepcopy(small)
    twin.text.head.dropout.p = 0.5
    twin.text.tower.spec = {**twin.text.tower.spec, "name": "owner/name"}
    twin.text.tower.spec["config"] = {**twin.text.tower.spec["config"], "hidden_dropout_prob": 0.3}
    check_mergeable(small, twin)
    twin.text.tower.spec["config"] = {**twin.text.tower.spec["config"], "layer_norm_eps": 0.3}
    with pytest.raises(ConfigError, match="the text tower's layer_norm_eps"):
        check_mergeable(small, twin)


# -- batch norm ----------------------------------------------------------------------------------------------------


def test_batch_statistics_are_those_of_the_data(trained: Trained) -> None:
    model = interpolate(trained("minilm_cnn"), nudged(trained("minilm_cnn")), 0.5)
    images = six_models.make_images(8, size=(64, 64))
    seen: list[Tensor] = []
    first = batch_norms(model.image)[0]
    before = first.running_mean.clone()
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    reestimate_batch_norm(model, images, batch_size=4)
    hook.remove()
    means = torch.stack([batch.double().mean(dim=(0, 2, 3)) for batch in seen])
    assert len(seen) == 2
    assert torch.allclose(first.running_mean.double(), means.mean(0), atol=1e-5)
    assert not torch.allclose(first.running_mean, before, atol=1e-3)
    assert not any(part.training for part in model.modules())
    assert first.momentum is not None


def test_batch_statistics_want_batch_norms_and_images(small: DualEncoder, trained: Trained) -> None:
    with pytest.raises(ConfigError, match="no batch norm"):
        reestimate_batch_norm(copy.deepcopy(small), six_models.make_images())
    with pytest.raises(ConfigError, match="1 images are given"):
        reestimate_batch_norm(copy.deepcopy(trained("minilm_cnn")), six_models.make_images(1))


# -- the sweep -----------------------------------------------------------------------------------------------------


def test_a_sweep_judges_each_alpha(small: DualEncoder) -> None:
    after = nudged(small)
    told: list[tuple[str, int, int]] = []
    judges, metrics = {"toy": agreement}, {"toy": METRIC}
    found = sweep(small, after, judges, metrics, alphas=[0.5, 0.25, 0.5], progress=lambda *now: told.append(now))
    assert found.alphas == [0, 0.25, 0.5, 1]  # sorted, each once, the ends besides
    assert told[-1] == ("alphas", 4, 4)
    for alpha, value in zip(found.alphas, found.values("toy")):
        alone = agreement(DualEncoderEmbedder(interpolate(small, after, alpha), device="cpu"))
        assert value == pytest.approx(alone[METRIC], abs=1e-6)
    assert len(set(found.values("toy"))) == 4  # a control: alphas differ
    assert json.loads(json.dumps(found.to_dict()))["points"][1]["alpha"] == 0.25


class Counting:
    """Counts what a tower's forward is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
        self.items = 0
        forward = kind.forward

        def count(module: nn.Module, **inputs: Tensor) -> object:
            self.items += len(next(iter(inputs.values())))
            return forward(module, **inputs)

        monkeypatch.setattr(kind, "forward", count)


class Scenes:
    """A judge of a drawn data set, through what evaluators call."""

    def __init__(self) -> None:
        from mmcl import data

        self.dataset = data.load("shapes?train=8&validation=8&test=12:test")

    def __call__(self, embedder: DualEncoderEmbedder) -> dict[str, float]:
        from mmcl.embedder import embed_images

        images, _, _ = embed_images(embedder, self.dataset)
        texts = embedder.encode_text([self.dataset.texts(row)[0] for row in range(len(self.dataset))])
        return {METRIC: (images * texts).sum(1).mean().item()}


@pytest.mark.parametrize(("only", "runs"), [("image.head.", 12), ("text.", 12), ("", 5 * 12)])
def test_equal_towers_run_once(small: DualEncoder, monkeypatch: pytest.MonkeyPatch, only: str, runs: int) -> None:
    after = nudged(small, only=only)
    judges, metrics = {"scenes": Scenes()}, {"scenes": METRIC}
    alphas = [0.25, 0.5, 0.75]
    plain = sweep(small, after, judges, metrics, alphas=alphas, make_embedder=DualEncoderEmbedder)
    counted = Counting(monkeypatch, type(small.image.tower))
    if type(small.image.tower) is type(small.text.tower):  # both sides are counted by one method
        runs = {"image.head.": 2 * 12, "text.": 12 + 5 * 12, "": 2 * 5 * 12}[only]
    found = sweep(small, after, judges, metrics, alphas=alphas)
    assert found.values("scenes") == pytest.approx(plain.values("scenes"), abs=1e-5)
    assert len(set(found.values("scenes"))) == 5
    distinct = len({judges["scenes"].dataset.texts(row)[0] for row in range(12)})
    assert counted.items <= runs
    assert counted.items >= runs - 5 * (12 - distinct)


def test_shared_parts(small: DualEncoder, trained: Trained) -> None:
    assert SharedParts.of([small, nudged(small)]).describe() == ""
    heads = SharedParts.of([small, nudged(small, only="image.head.")])
    assert (heads.sides, heads.towers) == ({"text"}, {"image"})
    assert heads.describe() == "the image tower and the text side are the same in all models, and run once"
    assert SharedParts.of([small, nudged(small, only="image.head.")], precision="fp32").towers == {"image"}
    cnn = trained("minilm_cnn")
    counted = copy.deepcopy(cnn)
    counted.image.tower.model.bn1.num_batches_tracked.add_(1)
    assert "image" in SharedParts.of([cnn, counted]).sides  # no embedding depends on the count
    assert "image" not in SharedParts.of([cnn, counted], refreshed=True).sides
    assert shared_parts.SharedParts(cnn).sides == frozenset()


def test_the_sharing_embedder_keeps_the_contract(small: DualEncoder) -> None:
    after = nudged(small, only="image.head.")
    shared = SharedParts.of([small, after], device="cpu")
    check_embedder(shared(copy.deepcopy(after)))
    found = shared(copy.deepcopy(after)).encode_image(six_models.make_images())
    plain = DualEncoderEmbedder(after, device="cpu").encode_image(six_models.make_images())
    assert torch.allclose(found, plain, atol=1e-6)
    assert not torch.allclose(found, DualEncoderEmbedder(small, device="cpu").encode_image(six_models.make_images()))


def test_a_refreshed_sweep_refreshes_between_the_ends(small: DualEncoder) -> None:
    refreshed: list[float] = []
    sweep(
        small, nudged(small), {"toy": agreement}, {"toy": METRIC}, alphas=[0.5],
        refresh=lambda model: refreshed.append(model.logit_scale.item()),
    )  # fmt: skip
    assert len(refreshed) == 1


def test_a_sweep_that_cannot_be_judged(small: DualEncoder) -> None:
    with pytest.raises(ConfigError, match=r"toy gives no metric 'toy/agreemint'; did you mean 'toy/agreement'"):
        sweep(small, small, {"toy": agreement}, {"toy": "toy/agreemint"})
    with pytest.raises(ConfigError, match="toy: x is nan, no finite number"):
        sweep(small, small, {"toy": lambda _: {"x": float("nan")}}, {"toy": "x"})
    with pytest.raises(ConfigError, match="there is no judge"):
        sweep(small, small, {}, {})
    with pytest.raises(ConfigError, match="judges are of toy and metrics of other"):
        sweep(small, small, {"toy": agreement}, {"other": METRIC})


# -- choosing ------------------------------------------------------------------------------------------------------


def drawn(target: list[float], *others: list[float]) -> Sweep:
    names = ["target", *(f"other{number}" for number in range(len(others)))]
    alphas = [step / (len(target) - 1) for step in range(len(target))]
    points = [
        SweepPoint(alpha, {name: {"m/x": values[row]} for name, values in zip(names, [target, *others])})
        for row, alpha in enumerate(alphas)
    ]
    return Sweep(points, dict.fromkeys(names, "m/x"))


@pytest.mark.parametrize(
    ("others", "options", "alpha"),
    [
        ([[0.50, 0.495, 0.40]], {}, 0.5),  # 0.495 is 99 % of 0.5
        ([[0.50, 0.495, 0.40]], {"keep": 0.995}, 0.0),
        ([[0.50, 0.495, 0.40]], {"keep": 0.5}, 1.0),
        ([[0.50, 0.495, 0.40], [0.9, 0.1, 0.9]], {"keep": 0.5}, 1.0),  # each of the others
        ([[0.50, 0.10, 0.45]], {"rule": "mean"}, 1.0),
        ([[0.50, 0.40, 0.05]], {"rule": "mean"}, 0.5),
        ([], {}, 1.0),
        ([[0.5, 0.0, 0.0]], {"rule": "target"}, 1.0),
    ],
)
def test_the_rules(others: list[list[float]], options: dict, alpha: float) -> None:
    choice = choose(drawn([0.2, 0.5, 0.6], *others), **options)
    assert choice.alpha == alpha
    assert choice.rule == options.get("rule", "keep" if others else "target")
    assert "target" in choice.reason


def test_of_equal_alphas_the_smallest_is_chosen() -> None:
    assert choose(drawn([0.2, 0.6, 0.6, 0.6])).alpha == pytest.approx(1 / 3)


def test_rules_that_cannot_be() -> None:
    plain = drawn([0.2, 0.6])
    with pytest.raises(ConfigError, match="rule is 'best'; want one of keep, mean, target"):
        choose(plain, rule="best")
    with pytest.raises(ConfigError, match="keep is 98; want a share from 0 to 1"):
        choose(plain, keep=98)
    with pytest.raises(ConfigError, match="rule 'mean' weighs the target against other data"):
        choose(plain, rule="mean")
    assert choosing.RULES == ("keep", "mean", "target")


def test_the_page_shows_table_and_plots() -> None:
    pytest.importorskip("matplotlib")
    found = drawn([0.2, 0.5, 0.6], [0.5, 0.499, 0.4])
    html = sweep_page(found, choose(found), title="a to b", notes=("A <note>.",)).html()
    assert html.count("<svg") == 2
    assert "Chosen: alpha 0.5" in html
    assert "A &lt;note&gt;." in html
    assert "49.90 %" in html
    assert sweep_page(drawn([0.2, 0.5]), choose(drawn([0.2, 0.5])), title="t").html().count("<svg") == 1


# -- folders -------------------------------------------------------------------------------------------------------


def test_a_merged_model_is_written_with_its_record(small: DualEncoder, tmp_path: Path) -> None:
    model, out = interpolate(small, nudged(small), 0.5), tmp_path / "merged"
    record = MergeRecord("wise_ft", ["runs/a", "runs/b"], {"alpha": 0.5}, {"toy": {METRIC: 0.25}})
    write_merged(model, out, record)
    assert apart(from_pretrained(out).state_dict(), model.state_dict()) == 0
    written = json.loads((out / "merge.json").read_text())
    assert written["kind"] == "wise_ft"
    assert (written["sources"], written["alpha"], written["metrics"]["toy"][METRIC]) == (
        ["runs/a", "runs/b"],
        0.5,
        0.25,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]  # nothing half-written is left
    with pytest.raises(ConfigError, match="not empty"):
        write_merged(model, out, record)
    (out / "NOTES.md").write_text("mine")
    write_merged(small, out, record, force=True)
    assert apart(from_pretrained(out).state_dict(), small.state_dict()) == 0
    assert (out / "NOTES.md").read_text() == "mine"
    with pytest.raises(ConfigError, match="it is the source"):
        write_merged(model, out, MergeRecord("soup", [str(out)]), force=True)
    with pytest.raises(ConfigError, match="it is a file"):
        write_merged(model, out / "NOTES.md", record)
    with pytest.raises(ConfigError, match="there is no folder"):
        write_merged(model, tmp_path / "none" / "deep", record)


def test_what_fails_while_it_is_written_leaves_nothing(
    small: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmcl.hub.merging import record as module

    def interrupted(model: DualEncoder, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_merged(small, tmp_path / "merged", MergeRecord("lora", ["a"]))
    assert not [*tmp_path.iterdir()]


def test_checkpoints_of_a_run_are_sources(small: DualEncoder, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    run, later = tmp_path / "run", nudged(small)
    save_pretrained(small, run / "model")
    step = run / "checkpoints" / "step_00000002"
    step.mkdir(parents=True)
    weights = {f"model.{name}": value.contiguous() for name, value in later.state_dict().items()}
    save_file({**weights, "queue.rows": torch.zeros(3)}, step / "weights.safetensors")
    (run / "checkpoints" / "last").symlink_to(step.name)
    for reference in (step, run / "checkpoints" / "last"):
        assert apart(open_source(reference).state_dict(), later.state_dict()) == 0
    assert apart(open_source(run).state_dict(), small.state_dict()) == 0
    middle = average_models([open_source(run), open_source(step)])
    assert apart(middle.state_dict(), naive([small.state_dict(), later.state_dict()], [0.5, 0.5])) < 1e-6

    del weights["model.log_logit_scale"]
    save_file(weights, step / "weights.safetensors")
    with pytest.raises(ConfigError, match="log_logit_scale is .1,. there and missing in the checkpoint"):
        open_source(step)
    (step / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"weights\.safetensors cannot be read"):
        open_source(step)
    (run / "model").rename(run / "gone")
    with pytest.raises(ConfigError, match="keep the checkpoint in its run's folder"):
        open_source(step)
