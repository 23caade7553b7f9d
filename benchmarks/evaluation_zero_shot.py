"""Zero-shot classifiers of 1,000 classes x 80 templates, beside their peers on the same text tower."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import evaluation_peers as peers
import torch
from evaluation_peers import BUILDER, BUILDER_BY_CLASS, CLIP_BENCHMARK_BUILDER, Peer, Tower
from measuring import Row, Settings, bounded, compared, say, times_and_results, unmeasured


@dataclass(frozen=True)
class Trial:
    """A text tower, and what is made with it.

    Attributes:
        name: as the table has it.
        text: open_clip's ``text_cfg``.
        classes: how many of the 1,000, evenly spread.
        others: the peers.
        rounds: of timings.
        at_most: what mmcl's time over ``build_zero_shot_classifier``'s must be.
    """

    name: str
    text: dict[str, Any]
    classes: int
    others: tuple[Peer, ...]
    rounds: int = 1
    at_most: float | None = None


def _text(width: int, layers: int) -> dict[str, Any]:
    return {"context_length": 77, "vocab_size": 49408, "width": width, "heads": width // 64, "layers": layers}


ALL_PEERS = (BUILDER, BUILDER_BY_CLASS, CLIP_BENCHMARK_BUILDER)
# A tower as large as CLIP's takes hours for all 80,000 prompts on a CPU core: some classes are enough for a ratio,
# which the longer batches of all of them would only improve (they are nearer to equal length).
TRIALS = (
    Trial("4 layers of 256", _text(256, 4), 1000, (BUILDER,), at_most=1 / 8),
    Trial("4 layers of 256", _text(256, 4), 50, ALL_PEERS, rounds=2),
    Trial("ViT-B-32's text tower", _text(512, 12), 5, ALL_PEERS, rounds=2, at_most=1 / 8),
)
QUICK = (Trial("1 layer of 64", _text(64, 1), 2, ALL_PEERS),)
EQUAL = 1e-6


@contextlib.contextmanager
def tower(text: dict[str, Any]) -> Iterator[Tower]:
    """One text tower with random weights in open_clip and in mmcl, by way of a folder as open_clip reads it."""
    import open_clip
    from safetensors.torch import save_file

    import mmcl

    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16}  # nobody looks
    config = {"embed_dim": text["width"], "vision_cfg": vision, "text_cfg": text}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "mmcl-benchmark"
        folder.mkdir()
        (folder / "mmcl-benchmark.json").write_text(json.dumps(config), encoding="utf-8")
        open_clip.add_model_config(folder / "mmcl-benchmark.json")
        torch.manual_seed(0)
        logging.disable(logging.WARNING)  # it warns that the weights are random
        try:
            theirs = open_clip.create_model("mmcl-benchmark", force_custom_text=True).eval()
        finally:
            logging.disable(logging.NOTSET)
        content = {"model_cfg": config, "preprocess_cfg": {}}
        (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
        save_file(
            {key: value.contiguous() for key, value in theirs.state_dict().items()},
            folder / "open_clip_model.safetensors",
        )
        embedder = mmcl.load(f"open_clip:{folder}", device="cpu")
    yield Tower(theirs, open_clip.get_tokenizer("mmcl-benchmark"), embedder)


def zero_shot(settings: Settings) -> Iterator[Row]:
    """Time of making the classifier, and the largest difference of its weights."""
    names, templates = peers.imagenet()
    for trial in QUICK if settings.quick else TRIALS:
        if not any(settings.wants(peer.package) for peer in trial.others):
            continue
        some = names[:: len(names) // trial.classes][: trial.classes]
        what = f"classifier of {len(some):,} classes x {len(templates)} templates, {trial.name}"
        say(f"{what} ...")
        with tower(trial.text) as both:
            yield from _compared(what, both, some, trial, settings)


def _compared(what: str, both: Tower, names: list[str], trial: Trial, settings: Settings) -> Iterator[Row]:
    others = [peer for peer in trial.others if settings.wants(peer.package)]
    present = [peer for peer in others if not peer.missing()]
    everyone = {"mmcl": peers.mmcl_classifier} | {peer.name: peer.call for peer in present}
    for call in everyone.values():
        call(both, names[:1])  # a first call that does not count
    calls = {name: partial(call, both, names) for name, call in everyone.items()}
    seconds, found = times_and_results(calls, rounds=settings.repeats or trial.rounds)
    best = {name: min(each) for name, each in seconds.items()}
    for peer in present:
        bound = None if settings.quick or peer is not BUILDER else trial.at_most
        yield compared(
            "zero_shot", f"{what}: time", best["mmcl"], peer.name, best[peer.name], unit="s", at_most=bound,
            prompts=len(names) * len(peers.imagenet()[1]), ours_all=seconds["mmcl"], theirs_all=seconds[peer.name],
        )  # fmt: skip
    for peer in present:
        gap = float((found["mmcl"] - found[peer.name]).abs().max())
        apart = torch.nn.functional.pdist(found["mmcl"][:100])
        yield bounded(
            "zero_shot", f"{what}: difference of the weights", gap, peer.name, unit="error", at_most=EQUAL,
            least_distance_of_two_classes=float(apart[apart > 0].min()),
        )  # fmt: skip
    for peer in others:
        if peer.missing():
            yield unmeasured("zero_shot", f"{what}: time", peer.name, peer.missing(), ours=best["mmcl"], unit="s")
