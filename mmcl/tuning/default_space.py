"""What is searched where nobody says: the few settings that matter, around what the recipe has."""

from __future__ import annotations

from collections.abc import Callable

from mmcl.config import LossSection, Recipe, TowerSection
from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.tuning.settings import Setting, as_yaml, write_number

log = get_logger(__name__)

SCALES = (5.0, 60.0)  # starts of the logit scale, temperatures 1/5 to 1/60
LEAST_MATRYOSHKA = 64  # embeddings of fewer values are not worth cutting


def default_space(recipe: Recipe, *, rows: int, has_tags: bool, towers_train: bool) -> tuple[Setting, ...]:
    """The settings that are searched by default.

    Ranges lie around the recipe's own values, which they contain: the recipe as it was asked is one of the points.

    Args:
        recipe: as it was asked.
        rows: of the training split; a batch is at most half of it.
        has_tags: whether the data have tags.
        towers_train: whether towers train, in all trials or in those of a second stage, which takes up the best
            settings of the first; batches are then not made larger, for memory.

    Returns:
        At least the learning rate and the length of the training.
    """
    space = [
        _around("optimizer.learning_rate", recipe.optimizer.learning_rate, 8, 4),
        _weight_decay(recipe.optimizer.weight_decay),
        _batch_size(recipe.train.batch_size, most=recipe.train.batch_size if towers_train else rows // 2),
        _length(recipe),
    ]
    for side in ("image", "text"):
        space += _head(side, getattr(recipe.model, side))
    if not recipe.loss.members:  # they have options of their own, one by one
        prefixes = recipe.model.embedding_dim if recipe.model.image.head.members == 1 else 0
        space += _loss(recipe.loss, prefixes)
    if recipe.train.feature_mixup > 0:
        space.append(Setting("train.feature_mixup", 0.0, max(1.0, recipe.train.feature_mixup)))
    if recipe.loss.name in ("info_nce", "sigmoid") and recipe.model.init_from is None:
        start = recipe.model.logit_scale
        low, high = min(SCALES[0], start), min(max(SCALES[1], start), recipe.model.logit_scale_max)
        if low < high and recipe.model.logit_scale_learnable:
            space.append(Setting("model.logit_scale", low, high, log=True))
    if has_tags:
        space.append(Setting("data.captions.tags_probability", 0.0, 1.0))
    return tuple(setting for setting in space if setting is not None)


def fitting(space: tuple[Setting, ...], make: Callable[[dict[str, str]], Recipe]) -> tuple[Setting, ...]:
    """The settings of which every end makes a recipe; one that contradicts another key of the recipe is left out.

    Args:
        space: some settings.
        make: recipe keys to YAML -> the recipe with them.
    """
    kept = []
    for setting in space:
        try:
            for value in setting.ends():
                make({setting.key: value})
        except ConfigError as error:
            log.info("%s is not searched: %s", setting.key, error)
        else:
            kept.append(setting)
    return tuple(kept)


def _around(key: str, value: float, down: float, up: float) -> Setting:
    """From a part of the recipe's value to a multiple; ends are rounded outwards enough to keep the value inside."""
    return Setting(key, float(write_number(value / down)), float(write_number(value * up)), log=True)


def _weight_decay(value: float) -> Setting:
    if value == 0:
        return Setting("optimizer.weight_decay", 0.0, 0.3)
    return _around("optimizer.weight_decay", value, 30, 6)


def _batch_size(size: int, *, most: int) -> Setting | None:
    sizes = sorted({half for half in (size // 4, size // 2, size, 2 * size) if half == size or 16 <= half <= most})
    return Setting("train.batch_size", choices=tuple(map(str, sizes))) if len(sizes) > 1 else None


def _length(recipe: Recipe) -> Setting:
    if recipe.train.max_steps is not None:
        steps = recipe.train.max_steps
        return Setting("train.max_steps", max(1, steps // 2), max(2, 2 * steps), log=True, whole=True)
    return _around("train.epochs", recipe.train.epochs, 2, 2)


def _head(side: str, tower: TowerSection) -> list[Setting]:
    head, prefix = tower.head, f"model.{side}.head"
    if head.name == "none":
        return []
    found = [Setting(f"{prefix}.input_dropout", 0.0, max(0.8, head.input_dropout))]
    if head.name == "mlp" and len(head.hidden_dims) == 1:
        (width,) = head.hidden_dims
        widths = (max(8, width // 2), width, 2 * width)
        found.append(Setting(f"{prefix}.hidden_dims", choices=tuple(f"[{w}]" for w in dict.fromkeys(widths))))
    return found


def _loss(loss: LossSection, embedding_dim: int) -> list[Setting]:
    if loss.name not in ("info_nce", "sigmoid"):
        return []
    found = [Setting("loss.label_smoothing", 0.0, max(0.3, loss.label_smoothing))]
    found.append(Setting("loss.name", choices=("info_nce", "sigmoid")))
    if embedding_dim >= LEAST_MATRYOSHKA:
        own = as_yaml(loss.matryoshka_dims)
        prefixes = f"[{embedding_dim // 4}, {embedding_dim // 2}]"
        found.append(Setting("loss.matryoshka_dims", choices=tuple(dict.fromkeys((own, "[]", prefixes)))))
    return found
