"""Small trainings with a fault planted in each, and healthy ones: what `doctor.py` examines."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
TRAIN, VALIDATION, PIXELS = 480, 120, 32
TOWER = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 96}

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
FORMS = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "moon")

# The recipe that every run changes in one thing: towers with convolutional stems, which learn in a hundred steps.
BASE: dict[str, Any] = {
    "model": {
        "embedding_dim": 32,
        "image": {"image_size": PIXELS, "pooling": "grid", "options": {**TOWER, "convolutional_stem": True}},
        "text": {"pooling": "mean", "options": {**TOWER, "convolutional_stem": True}},
    },
    "train": {"batch_size": 64, "max_steps": 120, "log_every": 5},
    "optimizer": {"learning_rate": 2e-3},
    "evaluate": {"tasks": ["retrieval"], "every_steps": 40, "at_end": False},
}


@contextmanager
def nothing() -> Iterator[None]:
    """No patch."""
    yield


@contextmanager
def reads(change: Callable[[], object]) -> Iterator[None]:
    """Within it, something happens before every image is read."""
    from mmcl.data.images.files import FileImages

    own = FileImages.read

    def read(self: Any, row: int) -> Any:
        change()
        return own(self, row)

    FileImages.read = read
    try:
        yield
    finally:
        FileImages.read = own


def sleepy() -> Any:
    """Every image takes 8 ms longer to read."""
    return reads(lambda: time.sleep(0.008))


def deadly() -> Any:
    """A reader process is killed when it has read 200 images."""
    parent, count = os.getpid(), [0]

    def maybe_die() -> None:
        count[0] += 1
        if os.getpid() != parent and count[0] == 200:
            os.kill(os.getpid(), signal.SIGKILL)

    return reads(maybe_die)


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        name: what is planted.
        wanted: causes that are right to name first; empty: a healthy run.
        overrides: of the recipe.
        rows: changes the rows of the table.
        patch: what is different while it is trained and examined.
        towers: makes files beside it, and returns further overrides.
        columns: of the table.
        after: does something to the run folder behind the training.
        recipe: by its name, of runs that start from one that is shipped; empty: the one of all.
    """

    name: str
    wanted: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    rows: Callable[[Rows, random.Random], Rows] = lambda rows, rng: rows
    patch: Callable[[], Any] = nothing
    towers: Callable[[Path, Rows], list[str]] = lambda folder, rows: []
    columns: tuple[str, ...] = ("image", "text", "split")
    after: Callable[[Path], None] = lambda run: None
    recipe: str = ""


def draw_rows(folder: Path, seed: int) -> Rows:
    """Drawn scenes as PNG files, and the rows of a table of them."""
    from torchvision.io import write_png

    from mmcl.data import load

    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows: Rows = []
    for split, number in (("train", TRAIN), ("validation", VALIDATION)):
        drawn = load(f"shapes?train={TRAIN}&validation={VALIDATION}&test=4&image_size={PIXELS}&seed={seed}:{split}")
        for row in range(number):
            name = f"{split}_{row:05d}.png"
            write_png(drawn.images.read(row), str(folder / "images" / name))
            texts = drawn.texts(row)
            things = [word for word in texts[0].split() if word in COLOURS or word.startswith(FORMS)]
            kind = next(form for word in things for form in FORMS if word.startswith(form))
            colour = next(word for word in things if word in COLOURS)
            extra = {"all": texts, "kind": kind, "colour": colour, "things": things, "description": texts[0]}
            rows.append({"image": name, "text": texts[0], "split": split, **extra})
    return rows


def write_table(path: Path, rows: Rows, *, columns: tuple[str, ...]) -> Path:
    """The rows as JSON lines, with these columns."""
    path.write_text("".join(json.dumps({name: row[name] for name in columns}) + "\n" for row in rows))
    return path


# -- what is done to rows ----------------------------------------------------------------------------------------


def shuffled(share: float) -> Callable[[Rows, random.Random], Rows]:
    """A share of the captions of every split change places."""

    def change(rows: Rows, rng: random.Random) -> Rows:
        changed = [dict(row) for row in rows]
        for split in ("train", "validation"):
            places = [number for number, row in enumerate(rows) if row["split"] == split]
            moved = rng.sample(places, round(share * len(places)))
            for to, source in zip(moved, moved[1:] + moved[:1]):
                changed[to]["text"] = rows[source]["text"]
        return changed

    return change


def captioned(caption: Callable[[dict[str, Any], int, random.Random], Any]) -> Callable[[Rows, random.Random], Rows]:
    """Other captions."""
    return lambda rows, rng: [{**row, "text": caption(row, number, rng)} for number, row in enumerate(rows)]


def one_image(rows: Rows, rng: random.Random) -> Rows:
    """Every row has a file of its own; see ``copies``."""
    return [{**row, "image": f"same_{number:05d}.png"} for number, row in enumerate(rows)]


def copies(folder: Path, rows: Rows) -> list[str]:
    """Files with one and the same picture, where ``one_image`` names them."""
    images = folder.parent / "images"
    for row in rows:
        shutil.copyfile(images / "train_00000.png", images / row["image"])
    return []


def named(rows: Rows, rng: random.Random) -> Rows:
    """A column with the pictures' file names."""
    return [{**row, "name": row["image"]} for row in rows]


def leaking(rows: Rows, rng: random.Random) -> Rows:
    """The validation rows are training rows."""
    train = [row for row in rows if row["split"] == "train"]
    return [*train, *({**row, "split": "validation"} for row in rng.sample(train, VALIDATION))]


def few(number: int) -> Callable[[Rows, random.Random], Rows]:
    """The first rows of the training split alone."""
    return lambda rows, rng: [row for row in rows if row["split"] != "train"] + rows[:number]


def grouped(rows: Rows, rng: random.Random) -> Rows:
    """Captions that name colour and form alone: many rows share one, and none has a group."""
    return [{**row, "text": " ".join(row["things"][:2])} for row in rows]


# -- towers with something wrong -----------------------------------------------------------------------------------


def vision_tower(folder: Path, *, mean: float, std: float) -> list[str]:
    """A ViT with random weights, whose files say how pixels are normalised."""
    from transformers import ViTConfig, ViTModel

    target = folder / "vit"
    ViTModel(ViTConfig(**TOWER, image_size=PIXELS, patch_size=8, initializer_range=0.08)).save_pretrained(target)
    size = {"height": PIXELS, "width": PIXELS}
    config = {"image_processor_type": "ViTImageProcessor", "size": size, "image_mean": 3 * [mean]}
    (target / "preprocessor_config.json").write_text(json.dumps({**config, "image_std": 3 * [std], "resample": 3}))
    return [f"model.image={{name: {target}}}"]


def text_tower(folder: Path, captions: list[str], *, vocabulary: int | None = None, nan: bool = False) -> list[str]:
    """A BERT with random weights, whose tokenizer was made from some captions."""
    import torch
    from transformers import BertConfig, BertModel

    from mmcl.models.towers.tiny_tower import word_tokenizer

    target, tokenizer = folder / "bert", word_tokenizer(captions)
    model = BertModel(BertConfig(**TOWER, vocab_size=vocabulary or len(tokenizer), initializer_range=0.08))
    if nan:
        with torch.no_grad():
            model.encoder.layer[0].intermediate.dense.weight[0, 0] = torch.nan
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return [f"model.text={{name: {target}, pooling: mean}}"]


def _texts(rows: Rows) -> list[str]:
    return [row["text"] for row in rows]


STRANGE = ["Der Hund läuft über die Wiese", "Eine Katze schläft auf dem Dach", "Kinder spielen vor dem Haus"]
GENERIC = ("a picture", "an image of something", "a drawing", "a nice scene")

PLANTED: tuple[Case, ...] = (
    Case("pairs shuffled", ("pairs_shuffled",), rows=shuffled(1.0)),
    Case("30 % of the captions shuffled", ("pairs_partly_shuffled",), rows=shuffled(0.3)),
    Case("learning rate x 100", ("learning_rate_too_high",), ("optimizer.learning_rate=0.2",)),
    Case("learning rate / 1000", ("learning_rate_too_low",), ("optimizer.learning_rate=2e-6",)),
    Case("pixels not scaled", ("wrong_normalization",), towers=lambda f, r: vision_tower(f, mean=0.0, std=1 / 255)),
    Case(
        "mean and std of another kind", ("wrong_normalization",), towers=lambda f, r: vision_tower(f, mean=0.9, std=0.1)
    ),
    Case(
        "everything frozen",
        ("nothing_trains",),
        (
            "model.image.freeze=true",
            "model.text.freeze=true",
            "model.image.head={name: none}",
            "model.text.head={name: none}",
            "model.image.pooling=cls",
            "model.embedding_dim=48",
        ),
    ),
    Case("one caption for all", ("captions_do_not_vary",), rows=captioned(lambda row, n, rng: "a picture")),
    Case("four captions by lot", ("captions_do_not_vary",), rows=captioned(lambda row, n, rng: rng.choice(GENERIC))),
    Case("one image for all", ("images_do_not_vary",), rows=one_image, towers=copies),
    Case("tokenizer of another language", ("tokenizer_mismatch",), towers=lambda f, r: text_tower(f, STRANGE)),
    Case(
        "token ids beyond the table",
        ("tokenizer_mismatch",),
        towers=lambda f, r: text_tower(f, _texts(r), vocabulary=40),
    ),
    Case(
        "scale fixed at 1",
        ("temperature_fixed",),
        ("model.logit_scale=1", "model.logit_scale_learnable=false"),
    ),
    Case("scale begins at its ceiling", ("temperature_at_clamp", "temperature_fixed"), ("model.logit_scale=100",)),
    Case("repeated captions as negatives", ("false_negatives",), ("loss.positives=pair",), rows=grouped),
    Case("a reader that sleeps", ("slow_loader",), patch=sleepy),
    Case("NaN in a weight", ("not_a_number",), towers=lambda f, r: text_tower(f, _texts(r), nan=True)),
    Case("reader process killed", ("dead_workers",), ("data.workers=1",), patch=deadly),
    Case("validation rows among the training rows", ("split_leak",), rows=leaking),
    Case("48 rows, 300 steps", ("overfitting",), ("train.max_steps=300", "train.batch_size=24"), rows=few(48)),
    Case(
        "a loss that lets embeddings collapse",
        ("constant_embeddings", "dimensional_collapse"),
        ("loss.name=vicreg", "loss.variance=0", "loss.covariance=0"),
    ),
    Case(
        "a head of two dimensions",
        ("dimensional_collapse",),
        ("model.text.head={name: mlp, hidden_dims: [2], input_dropout: 0}", "train.max_steps=240"),
    ),
    Case("captions cut to 4 tokens", ("captions_cut",), ("model.text.max_length=4",)),
    Case("warm-up longer than the run", ("learning_rate_too_low",), ("schedule.warmup_steps=100000",)),
    Case("batches of 2", ("batch_too_small",), ("train.batch_size=2",)),
    Case(
        "file names for captions",
        ("captions_are_no_texts",),
        ("data.columns.text=name",),
        rows=named,
        columns=("image", "name", "split"),
    ),
    Case(
        "class names for captions",
        ("captions_are_no_texts",),
        ("data.columns.text=kind",),
        columns=("image", "kind", "description", "split"),
    ),
)

HEALTHY: tuple[Case, ...] = (
    Case("InfoNCE"),
    Case("sigmoid", overrides=("loss.name=sigmoid",)),
    Case("batches of 16", overrides=("train.batch_size=16", "train.max_steps=200")),
    Case("batches of 240", overrides=("train.batch_size=240", "train.max_steps=80")),
    Case("triplet", overrides=("loss.name=triplet",)),
    Case(
        "several captions a row",
        overrides=("data.captions.sample=random", "data.columns.text=all"),
        columns=("image", "all", "split"),
    ),
    # Colours: 480 rows are too few to learn the forms, and a run that learns its rows by heart is not healthy.
    Case("class names alone", overrides=("data.columns.text=colour",), columns=("image", "colour", "split")),
    Case("a moving average of the weights", overrides=("train.ema={enabled: true, decay: 0.95}",)),
    Case("micro-batches, constant rate", overrides=("train.micro_batch_size=32", "schedule.name=constant")),
    Case(
        "image tower frozen", overrides=("model.image.freeze=true", "model.image.head={name: mlp, hidden_dims: [64]}")
    ),
)
