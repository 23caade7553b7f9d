"""InfoNCE and the sigmoid loss by loops over pairs, with every option: what the tiled ones are held against."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

DIM = 5


def unit_rows(rows: int, seed: int, dtype: torch.dtype = torch.float32, *, dim: int = DIM) -> Tensor:
    """Random unit rows."""
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=draw, dtype=torch.float64), dim=1).to(dtype)


def _own(given: Tensor | None, row: int) -> Any:
    return None if given is None else given[row]


def _is_positive(i: int, j: int, options: dict[str, Any]) -> bool:
    groups, mask = options.get("group_ids"), options.get("positives")
    return i == j or (groups is not None and bool(groups[i] == groups[j])) or (mask is not None and bool(mask[i, j]))


def _shares_id(i: int, j: int, options: dict[str, Any]) -> bool:
    ids = options.get("exclude_ids")
    if ids is None:
        return False
    ids = ids[:, None] if ids.ndim == 1 else ids
    return bool(({int(a) for a in ids[i]} & {int(b) for b in ids[j]}) - set(range(-9, 0)))


def bag(i: int, queries: Tensor, candidates: Tensor, side: str, scale: Tensor, bias: Tensor, **options: Any) -> dict:
    """Row i's positive logits, negative logits and all of them; ``side`` says what the candidates are."""
    rows = len(candidates)
    transposed = dict(options)
    if side == "image" and options.get("positives") is not None:
        transposed["positives"] = options["positives"].T
    logits = [scale * torch.dot(queries[i], candidates[j]) + bias for j in range(rows)]
    positives = [logits[j] for j in range(rows) if _is_positive(i, j, transposed)]
    negatives = [
        logits[j] for j in range(rows) if not _is_positive(i, j, transposed) and not _shares_id(i, j, transposed)
    ]
    negatives += extras(i, queries, side, scale, bias, **options)
    everything = positives + negatives
    return {"own": logits[i], "positives": positives, "negatives": negatives, "all": everything}


def extras(i: int, queries: Tensor, side: str, scale: Tensor, bias: Tensor, **options: Any) -> list[Tensor]:
    """Row i's logits with the extra negatives that are not of its group."""
    extra, groups, mine = options.get(f"negative_{side}"), options.get(f"negative_{side}_groups"), options["group_ids"]
    if extra is None:
        return []
    return [
        scale * torch.dot(queries[i], extra[j]) + bias
        for j in range(len(extra))
        if groups is None or mine is None or groups[j] != mine[i]
    ]


def chosen(own: Tensor, negatives: list[Tensor], scale: Tensor, **options: Any) -> list[Tensor]:
    """The negatives that the rules let count."""
    margin, mining, width = options["false_negative_margin"], options["mining"], options["mining_margin"]
    scores = {id(z): float(z - own) / float(scale) for z in negatives}
    if margin is not None:
        negatives = [z for z in negatives if scores[id(z)] <= margin]
    if mining in ("semi_hard", "margin"):
        negatives = [z for z in negatives if scores[id(z)] >= -width]
    if mining == "semi_hard":
        negatives = [z for z in negatives if scores[id(z)] <= 0]
    if mining == "hardest":
        negatives = sorted(negatives, key=float)[-options["mining_count"] :]
    return negatives


def negative_weights(negatives: list[Tensor], hardness: float) -> list[float]:
    """exp(hardness z) with mean 1."""
    raw = [math.exp(hardness * float(z)) for z in negatives]
    return [weight * len(raw) / sum(raw) for weight in raw]


DEFAULTS = {
    "group_ids": None,
    "label_smoothing": 0.0,
    "false_negative_margin": None,
    "mining": None,
    "mining_margin": 0.2,
    "mining_count": 1,
    "hardness": 0.0,
    "tau_plus": 0.0,
    "weights": None,
    "matryoshka_dims": (),
}


def _cut(values: Tensor | None, dim: int) -> Tensor | None:
    return None if values is None else F.normalize(values[:, :dim], dim=1)


def _over_sizes(loss: Any, image: Tensor, text: Tensor, options: dict[str, Any]) -> Tensor:
    sizes = {image.shape[1], *options["matryoshka_dims"]}
    names = ("negative_text", "negative_image")
    losses = [
        loss(_cut(image, d), _cut(text, d), {**options, **{n: _cut(options.get(n), d) for n in names}})
        if d < image.shape[1]
        else loss(image, text, options)
        for d in sizes
    ]
    return sum(losses) / len(losses)


def naive_info_nce(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, **options: Any) -> Tensor:
    """``info_nce`` of one process."""

    def loss(image: Tensor, text: Tensor, options: dict[str, Any]) -> Tensor:
        losses = []
        for side, queries, candidates in (("text", image, text), ("image", text, image)):
            for i in range(len(image)):
                found = bag(i, queries, candidates, side, scale, bias, **options)
                row = _row_loss(found, scale, bias, options)
                losses.append(row if options["weights"] is None else options["weights"][i] * row)
        return sum(losses) / len(losses)

    return _over_sizes(loss, image, text, {**DEFAULTS, **options})


def _row_loss(found: dict, scale: Tensor, bias: Tensor, options: dict[str, Any]) -> Tensor:
    negatives = chosen(found["own"], found["negatives"], scale, **options)
    weights = negative_weights(negatives, options["hardness"])
    total = sum(weight * torch.exp(z) for weight, z in zip(weights, negatives))
    positive_sum = sum(torch.exp(z) for z in found["positives"])
    tau = options["tau_plus"]
    if tau and negatives:
        mean = total / len(negatives) - tau * positive_sum / len(found["positives"])
        total = len(negatives) * torch.maximum(mean / (1 - tau), torch.exp(bias - scale))
    log_sum = torch.log(positive_sum + total)
    epsilon = options["label_smoothing"]
    mean_positive = sum(found["positives"]) / len(found["positives"])
    return log_sum - (1 - epsilon) * mean_positive - epsilon * sum(found["all"]) / len(found["all"])


def naive_sigmoid(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, **options: Any) -> Tensor:
    """``sigmoid`` of one process."""

    def cost(z: Tensor, target: int, epsilon: float) -> Tensor:
        yes = 1 - epsilon / 2 if target else epsilon / 2
        return -yes * F.logsigmoid(z) - (1 - yes) * F.logsigmoid(-z)

    def loss(image: Tensor, text: Tensor, options: dict[str, Any]) -> Tensor:
        total, epsilon, tau = 0.0, options["label_smoothing"], options["tau_plus"]
        for i in range(len(image)):
            found = bag(i, image, text, "text", scale, bias, **options)
            mine = chosen(found["own"], found["negatives"], scale, **options)
            mine += chosen(found["own"], extras(i, text, "image", scale, bias, **options), scale, **options)
            weights = negative_weights(mine, options["hardness"])
            wrong = sum(weight * cost(z, 0, epsilon) for weight, z in zip(weights, mine))
            if tau and mine:
                false = sum(cost(z, 0, epsilon) for z in found["positives"]) / len(found["positives"])
                wrong = torch.relu((wrong - tau * len(mine) * false) / (1 - tau))
            row = wrong + sum(cost(z, 1, epsilon) for z in found["positives"])
            total = total + (row if options["weights"] is None else options["weights"][i] * row)
        return total / len(image)

    return _over_sizes(loss, image, text, {**DEFAULTS, **options})
