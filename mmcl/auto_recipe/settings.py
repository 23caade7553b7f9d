"""The settings of each way to train, by the size of the data: the one place where they stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmcl.auto_recipe.data_facts import DataFacts
from mmcl.auto_recipe.starting_points import StartingPoint

TINY_IMAGE: dict[str, Any] = {"name": "tiny", "pooling": "grid", "options": {"convolutional_stem": True}}
TINY_TEXT: dict[str, Any] = {"name": "tiny", "pooling": "mean", "options": {"convolutional_stem": True}}

STEPS_FROM_SCRATCH = 1000  # of 128 pairs: twice what the built-in scenes need to be learnt
LEAST_EPOCHS, MOST_EPOCHS = 2, 60
MEMBERS = 6  # heads in one model on small data
ROWS_FOR_MEMBERS = 20_000
EVALUATIONS = 5  # over a training


@dataclass(frozen=True)
class Setting:
    """One key that was chosen.

    Attributes:
        key: dotted.
        value: as a recipe holds it.
        why: a few words.
    """

    key: str
    value: Any
    why: str


def frozen(facts: DataFacts, point: StartingPoint, *, image_size: int | None) -> list[Setting]:
    """Heads on the kept features of frozen towers: small data, or little time.

    Args:
        facts: of the data.
        point: whose towers are frozen.
        image_size: pixels that features are made at; None: the tower's own.
    """
    rows = facts.rows
    few = rows < 300
    chosen = [
        *_towers(point),
        Setting("model.image.freeze", True, "its features are computed once"),
        Setting("model.text.freeze", True, "its features are computed once"),
    ]
    if image_size is not None and image_size != point.image_size:
        chosen.append(Setting("model.image.image_size", image_size, "larger images would take too much of the time"))
    if point.init_from is not None:
        return [*chosen, *_short(epochs=20, rate=2e-4, rows=rows)]
    dropout = 0.6 if rows < 5_000 else 0.4 if rows < 20_000 else 0.2 if rows < 100_000 else 0.1
    if facts.by_class:
        dropout = min(dropout, 0.2)
    head: dict[str, Any] = {"name": "linear", "input_dropout": dropout}
    if not few:
        head = {"name": "mlp", "hidden_dims": [1024], "input_dropout": dropout, "norm": "layer"}
    why = f"{rows:,} rows" + (", each caption on many images" if facts.by_class else "")
    batch_size = power_of_two(rows / 8, least=16, most=256 if rows < 50_000 else 1024)
    epochs = float(round(np.clip(40 * (5_000 / max(rows, 5_000)) ** 0.4, 8, 40)))
    several = not few and not facts.by_class and rows < ROWS_FOR_MEMBERS
    return [
        *chosen,
        *(Setting(f"model.image.head.{key}", value, why) for key, value in head.items()),
        Setting("model.text.head.name", "linear", "a deeper one learns captions by heart"),
        Setting("model.text.head.input_dropout", dropout, why),
        *(_members(facts, point) if several else _one_head()),
        Setting("train.batch_size", batch_size, "about eight steps an epoch or more"),
        Setting("train.epochs", epochs, f"{rows:,} rows, kept features"),
        Setting("optimizer.learning_rate", 2e-3, "heads alone are trained"),
        Setting("optimizer.weight_decay", 0.1, "small data"),
    ]


def _one_head() -> list[Setting]:
    return [
        Setting("model.embedding_dim", 256, "no smaller space was better on small data"),
        Setting("loss.label_smoothing", 0.1, "captions of small data are near one another"),
    ]


def _members(facts: DataFacts, point: StartingPoint) -> list[Setting]:
    """Several heads in one model, half of them by InfoNCE and half by a soft sigmoid: what won on small data."""
    ranking: dict[str, Any] = {"name": "info_nce", "label_smoothing": 0.1}
    keeping: dict[str, Any] = {"name": "sigmoid", "logit_scale": 10.0}
    why = f"{MEMBERS} heads in one model err differently, which small data show most"
    losses = [dict(ranking) for _ in range(MEMBERS // 2)] + [dict(keeping) for _ in range(MEMBERS - MEMBERS // 2)]
    chosen = [
        Setting("model.embedding_dim", 256 * MEMBERS, f"{MEMBERS} heads of 256"),
        Setting("model.image.head.members", MEMBERS, why),
        Setting("model.text.head.members", MEMBERS, why),
        Setting("model.image.head.input_norm", "batch", "features of several scales"),
        Setting("loss.members", losses, "InfoNCE ranks best, a soft sigmoid keeps what the towers knew"),
        Setting("train.feature_mixup", 0.3, f"{facts.rows:,} rows are soon known by heart"),
    ]
    if (point.image or "").startswith("timm:") and point.scalable:
        chosen.append(Setting("model.image.pooling", "stages", "colour and texture, which the last stage gives up"))
    return chosen


def unfreeze(facts: DataFacts, point: StartingPoint, *, epochs: float) -> list[Setting]:
    """Heads first, then the towers as well, lower layers slower: enough data and time.

    Args:
        facts: of the data.
        point: whose towers are trained.
        epochs: that the time allows.
    """
    chosen = [
        *_towers(point),
        Setting("model.image.layer_decay", 0.75, "what lower layers know is general"),
        Setting("model.text.layer_decay", 0.75, "what lower layers know is general"),
    ]
    if point.init_from is None:
        thaw = max(0.5, round(epochs / 4, 1))
        for side, rate in (("image", 3e-5), ("text", 2e-5)):
            chosen += [
                Setting(f"model.{side}.freeze", True, "new heads first"),
                Setting(f"model.{side}.freeze_until_epoch", thaw, "a quarter of the epochs"),
                Setting(f"model.{side}.learning_rate", rate, "a pretrained tower keeps what it knows"),
            ]
        chosen += [
            Setting("model.embedding_dim", 256, "the towers' features have a few hundred values"),
            Setting("optimizer.learning_rate", 1e-3, "of the heads"),
        ]
    else:
        chosen.append(Setting("optimizer.learning_rate", 2e-5, "a pretrained model keeps what it knows"))
    return [*chosen, *_trained_towers(facts, epochs=epochs)]


def lora(facts: DataFacts, point: StartingPoint, *, epochs: float) -> list[Setting]:
    """Low-rank adapters in both towers: enough time to train them, too few rows for all weights.

    Args:
        facts, point, epochs: as for ``unfreeze``.
    """
    chosen = _towers(point)
    for side in ("image", "text"):
        chosen += [
            Setting(f"model.{side}.lora.rank", 8, f"{facts.rows:,} rows are few for all weights of a tower"),
            Setting(f"model.{side}.learning_rate", 2e-4, "of the adapters"),
        ]
    if point.init_from is None:
        chosen.append(Setting("model.embedding_dim", 256, "the towers' features have a few hundred values"))
    rate = 1e-3 if point.init_from is None else 2e-4
    chosen.append(Setting("optimizer.learning_rate", rate, "of the heads"))
    return [*chosen, *_trained_towers(facts, epochs=epochs)]


def scratch(facts: DataFacts, *, affordable: float) -> list[Setting]:
    """Two tiny towers from random weights: many rows of few words, or no pretrained weights at hand.

    Args:
        facts: of the data.
        affordable: epochs that the time allows.
    """
    batch_size = power_of_two(facts.rows / 8, least=16, most=128)
    wanted = np.clip(STEPS_FROM_SCRATCH * 128 / max(1, facts.rows), LEAST_EPOCHS, MOST_EPOCHS)
    epochs = float(round(max(min(wanted, affordable), min(1.0, affordable), 0.1), 1))
    chosen = [Setting(f"model.image.{key}", value, "nothing is pretrained") for key, value in TINY_IMAGE.items()]
    chosen += [Setting(f"model.text.{key}", value, "nothing is pretrained") for key, value in TINY_TEXT.items()]
    if facts.rows < 10_000:
        chosen.append(Setting("data.augment.crop_scale", [0.7, 1.0], f"{facts.rows:,} images are seen often"))
    if facts.by_class:
        chosen.append(Setting("loss.label_smoothing", 0.1, "each caption is right for many images"))
    return [
        *chosen,
        Setting("model.embedding_dim", 128, "as wide as the towers"),
        Setting("train.batch_size", batch_size, "small towers learn faster from more steps"),
        Setting("train.epochs", epochs, f"about {epochs * facts.rows / batch_size:,.0f} steps"),
        Setting("optimizer.learning_rate", 1.5e-3, "small towers"),
        Setting("optimizer.betas", [0.9, 0.98], "from random weights"),
    ]


def power_of_two(wanted: float, *, least: int, most: int) -> int:
    """The power of two nearest to a number, within bounds.

    Example:
        >>> power_of_two(285, least=16, most=256), power_of_two(3, least=16, most=256)
        (256, 16)
    """
    return int(np.clip(2 ** round(float(np.log2(max(wanted, 1)))), least, most))


def _towers(point: StartingPoint) -> list[Setting]:
    if point.init_from is not None:
        return [Setting("model.init_from", point.init_from, point.title)]
    sides = (("image", point.image), ("text", point.text))
    return [Setting(f"model.{side}.name", name, point.title) for side, name in sides]


def _short(*, epochs: float, rate: float, rows: int) -> list[Setting]:
    return [
        Setting("train.batch_size", power_of_two(rows / 8, least=16, most=256), "about eight steps an epoch or more"),
        Setting("train.epochs", float(epochs), f"{rows:,} rows, kept features"),
        Setting("optimizer.learning_rate", rate, "the heads are trained already"),
    ]


def _trained_towers(facts: DataFacts, *, epochs: float) -> list[Setting]:
    chosen = [
        Setting("train.batch_size", power_of_two(facts.rows / 16, least=32, most=256), "negatives of each pair"),
        Setting("train.micro_batch_size", "auto", "a whole batch may not fit into memory at once"),
        Setting("train.epochs", epochs, "what the time allows, at most ten"),
        Setting("schedule.warmup_share", 0.1, "pretrained weights are not to be shaken"),
        Setting("loss.label_smoothing", 0.1 if facts.rows < 20_000 else 0.0, f"{facts.rows:,} rows"),
        Setting("optimizer.weight_decay", 0.1, "as usual for pretrained towers"),
    ]
    if not facts.by_class:
        chosen.append(Setting("data.augment.crop_scale", [0.8, 1.0], "an image is seen several times"))
    if facts.words_p95 > 2 * facts.words:
        chosen.append(Setting("data.bucket_by_length", True, "captions differ much in length: less padding"))
    return chosen
