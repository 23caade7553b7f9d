"""What gradient caching costs: mmcl's micro-batches and sentence-transformers' cached loss, on the same encoder."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial

import torch
from measuring import Row, Settings, compared, say, times, unmeasured
from peak_memory import PeakError, peak_memory
from torch import Tensor, nn
from torch.nn import functional as F

from mmcl.batch import Batch, Embeddings
from mmcl.losses import info_nce
from mmcl.training.grad_cache import MicroBatches
from mmcl.training.gradients import WholeBatch

BATCH, MICRO, TOKENS, VOCABULARY = 4096, 64, 12, 1000
WIDTH, LAYERS, HEADS = 128, 2, 2
SCALE = 20.0
PEER = "CachedMultipleNegativesRankingLoss (sentence-transformers)"


class Tower(nn.Module):
    """A small BERT with random weights and dropout as BERT has it: token ids to unit rows, the mean over tokens.

    Takes and returns a dict of features, as modules of sentence-transformers do.
    """

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        torch.manual_seed(0)
        self.bert = BertModel(
            BertConfig(
                vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                intermediate_size=4 * WIDTH, max_position_embeddings=TOKENS,
            ),
            add_pooling_layer=False,
        )  # fmt: skip

    def forward(self, features: dict[str, Tensor], **_: object) -> dict[str, Tensor]:
        """(b, t) ids and mask -> the features with ``sentence_embedding`` (b, d)."""
        mask = features["attention_mask"]
        states = self.bert(input_ids=features["input_ids"], attention_mask=mask).last_hidden_state
        means = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return {**features, "sentence_embedding": F.normalize(means, dim=1)}


def columns(rows: int) -> list[dict[str, Tensor]]:
    """Token ids and mask of two columns of sentences, all of one length: nobody gains by padding less."""
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, VOCABULARY, (rows, TOKENS), generator=draw) for _ in range(2)]
    return [{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in ids]


class PairObjective(nn.Module):
    """An objective of ``mmcl.training``: one tower for both columns, and InfoNCE."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.model = tower
        self.register_buffer("scale", torch.tensor(SCALE))

    def forward(self, batch: Batch) -> Embeddings:
        """``Batch`` -> ``Embeddings``."""
        image, text = (self.model(side)["sentence_embedding"] for side in (batch.image, batch.text))
        return Embeddings(image=image, text=text, group_ids=batch.group_ids, logit_scale=self.scale)

    def loss(self, embeddings: Embeddings) -> dict[str, Tensor]:
        """``Embeddings`` -> the loss."""
        return {"loss": info_nce(embeddings.image, embeddings.text, embeddings.logit_scale)}


def mmcl_step(tower: Tower, rows: int, *, micro: int | None) -> Callable[[], Tensor]:
    """A call that leaves gradients in the tower and returns the loss; ``micro`` rows at once, None: all."""
    from accelerate import Accelerator

    first, second = columns(rows)
    numbers = torch.arange(rows)
    batch = Batch(image=first, text=second, group_ids=numbers, rows=numbers)
    objective, accelerator = PairObjective(tower), Accelerator(cpu=True)
    if micro is None:
        gradients = WholeBatch(objective, accelerator)
    else:
        gradients = MicroBatches(objective, accelerator, size=micro, share=rows)
    gradients.prepare(list(tower.parameters()))

    def call() -> Tensor:
        tower.zero_grad(set_to_none=True)
        return gradients(batch, [rows])["loss"]

    return call


def sentence_transformers_step(tower: Tower, rows: int, *, micro: int | None) -> Callable[[], Tensor]:
    """The same with sentence-transformers' losses: symmetric, products of unit rows (not normalised once more)."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import dot_score

    try:
        from sentence_transformers.sentence_transformer import losses
    except ImportError:  # before version 6
        from sentence_transformers import losses

    model = SentenceTransformer(modules=[tower], device="cpu").train()
    options = {
        "scale": SCALE,
        "similarity_fct": dot_score,
        "directions": ("query_to_doc", "doc_to_query"),
        "partition_mode": "per_direction",
    }
    if micro is None:
        loss = losses.MultipleNegativesRankingLoss(model, **options)
    else:
        loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=micro, **options)
    features = columns(rows)

    def call() -> Tensor:
        tower.zero_grad(set_to_none=True)
        value = loss([dict(column) for column in features], None)
        value.backward()
        return value.detach()

    return call


STEPS = {"mmcl": mmcl_step, "peer": sentence_transformers_step}


def one_step(settings: Settings, *, whose: str, rows: int, micro: int | None) -> Callable[[], object]:
    """What a fresh process measures: one step, after one of a few rows."""
    tower = Tower().train()
    STEPS[whose](tower, 2, micro=None if micro is None else 1)()
    tower.zero_grad(set_to_none=True)
    return STEPS[whose](tower, rows, micro=micro)


def gradient_caching(settings: Settings) -> Iterator[Row]:
    """Time and memory of a batch in micro-batches, over those of the same batch at once."""
    rows, micro = (settings.sizes[-1], 16) if settings.quick else (BATCH, MICRO)
    what = f"gradient caching, B = {rows} in {micro}s"
    say(f"{what} ...")
    if not settings.wants("sentence_transformers"):
        whose, why = ["mmcl"], "not asked for"
    elif importlib.util.find_spec("sentence_transformers") is None:
        whose, why = ["mmcl"], "not installed"
    else:
        whose, why = list(STEPS), ""
    tower = Tower().train()
    variants = [(name, size) for name in whose for size in (None, micro)]
    for name, _ in variants:
        STEPS[name](tower, min(rows, 4 * micro), micro=micro)()  # what is imported and set up by the first call
    calls = {f"{name} {size}": STEPS[name](tower, rows, micro=size) for name, size in variants}
    seconds = {name: min(each) for name, each in times(calls, rounds=settings.repeats or 3).items()}
    peaks = {}
    for name, size in () if settings.quick else variants:
        try:
            peaks[f"{name} {size}"] = peak_memory(
                "gradient_caching", "one_step", settings, whose=name, rows=rows, micro=size
            )
        except PeakError as error:
            say(f"{what}: memory of {name}: {error}")
    yield from _rows(what, seconds, peaks, micro, why, bounded=rows >= BATCH)


def _rows(
    what: str, seconds: dict[str, float], peaks: dict[str, int], micro: int, why: str, *, bounded: bool
) -> Iterator[Row]:
    figures = [
        ("time over the plain step's", "x", lambda whose: seconds[f"{whose} {micro}"] / seconds[f"{whose} None"]),
        ("plain step, time", "s", lambda whose: seconds[f"{whose} None"]),
        ("cached step, time", "s", lambda whose: seconds[f"{whose} {micro}"]),
        ("plain step, peak memory", "bytes", lambda whose: peaks[f"{whose} None"]),
        ("cached step, peak memory", "bytes", lambda whose: peaks[f"{whose} {micro}"]),
    ]
    row = partial(compared, "gradient_caching")
    for name, unit, figure in figures:
        try:
            mine = figure("mmcl")
        except KeyError:
            why_not = "failed" if bounded else "not measured in a trial"
            yield unmeasured("gradient_caching", f"{what}: {name}", PEER, why_not, unit=unit)
            continue
        if why or (unit == "bytes" and len(peaks) < 4):
            yield unmeasured("gradient_caching", f"{what}: {name}", PEER, why or "failed", ours=mine, unit=unit)
        else:
            bound = 1.0 if bounded and unit == "x" else None
            yield row(f"{what}: {name}", mine, PEER, figure("peer"), unit=unit, at_most=bound)
