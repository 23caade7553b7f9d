"""The recipe: one YAML file as typed, strict, frozen models. Every default stands here, once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmcl.errors import ConfigError
from mmcl.logs import get_logger

log = get_logger(__name__)


class Section(BaseModel):
    """A part of a recipe: unknown keys and wrong types are errors, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RunSection(Section):
    """Where a training writes, its seed, and who else is told."""

    dir: str | None = Field(None, description="folder this training writes; default runs/RECIPE_NAME")
    seed: int = Field(0, ge=0, description="seeds weights, order, augmentation and dropout")
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = Field("none", description="where metrics also go")
    num_processes: int | None = Field(None, ge=1, description="stop unless this many processes run")


class ColumnsSection(Section):
    """What the data call mmcl's columns; a dot reaches into a struct, such as ``text: i18n.de``."""

    image: str | None = Field(None, description="the data's name for: image; default image, file_name, path ...")
    text: str | None = Field(
        None, description="the data's name for: caption, or list of captions; default text, caption"
    )
    label: str | None = Field(None, description="the data's name for: class, for zero-shot")
    group: str | None = Field(None, description="the data's name for: what belongs together; same group = positive")
    domain: str | None = Field(None, description="the data's name for: where a row comes from, such as photo or sketch")
    tags: str | None = Field(None, description="the data's name for: list of keywords")
    negatives: str | None = Field(None, description="the data's name for: list of wrong captions")
    id: str | None = Field(None, description="the data's name for: what messages call a row")
    split: str | None = Field(None, description="the data's name for: the split a row is in")


class SplitSection(Section):
    """Which splits are trained on, judged during training, and judged at the end."""

    train: str = Field("train", description="split to train on")
    validation: str | None = Field("validation", description="split judged during training; null: none")
    test: str | None = Field("test", description="split judged once, with the best model; null: none")


class AugmentSection(Section):
    """Random changes to training images (torchvision v2); all off by default. Captions: see ``data.captions``."""

    crop_scale: tuple[float, float] | None = Field(
        None, strict=False, description="share of the image's area a random resized crop keeps, such as [0.5, 1.0]"
    )
    crop_ratio: tuple[float, float] = Field(
        (0.75, 1.3333333), strict=False, description="narrowest and widest crop, as width / height"
    )
    flip: float = Field(0.0, ge=0, le=1, description="probability of a horizontal flip")
    color_jitter: float = Field(0.0, ge=0, le=1, description="strength (SimCLR's s, arXiv:2002.05709 app. A)")
    color_jitter_probability: float = Field(0.8, ge=0, le=1, description="probability of colour jitter, where it is on")
    grayscale: float = Field(0.0, ge=0, le=1, description="probability of dropping colour")
    blur: float = Field(0.0, ge=0, le=1, description="probability of a Gaussian blur")
    erase: float = Field(0.0, ge=0, le=1, description="probability of erasing a rectangle (arXiv:1708.04896)")

    @property
    def active(self) -> bool:
        """Whether any augmentation is on."""
        chances = (self.flip, self.color_jitter, self.grayscale, self.blur, self.erase)
        return self.crop_scale is not None or any(chance > 0 for chance in chances)


class CaptionsSection(Section):
    """Which of a row's captions a step uses, and what is appended to it."""

    sample: Literal["random", "first"] = Field("random", description="which of several captions a step uses")
    tags_probability: float = Field(0.0, ge=0, le=1, description="chance that the row's tags are appended")


class DataSection(Section):
    """What is learnt from: the data, their splits and columns, and how images and captions are varied."""

    path: str = Field(description="DATA: folder, table, shards, Hub id, or shapes[?train=N&seed=N]")
    images: str | None = Field(None, description="folder the image paths of a table are relative to")
    negatives: str | None = Field(None, description="file of mmcl data mine: wrong captions and images of the rows")
    split: SplitSection = SplitSection()
    columns: ColumnsSection = ColumnsSection()
    augment: AugmentSection = AugmentSection()
    captions: CaptionsSection = CaptionsSection()
    bucket_by_length: bool = Field(False, description="batch captions of similar length together")
    workers: int | Literal["auto"] = Field("auto", description="reader processes; auto: 0 on CPU, up to 8 with a GPU")
    holdout_share: float = Field(
        0.05, gt=0, lt=1, description="share of the training groups held out where the data have no validation split"
    )
    max_rows: int | None = Field(None, ge=4, description="rows used of each split, drawn by run.seed; null: all")
    max_skipped_share: float = Field(0.1, ge=0, le=1, description="stop when more rows than this are unusable")


class HeadSection(Section):
    """What maps a tower's features to embeddings."""

    name: Literal["linear", "mlp", "none"] = Field(
        "linear", description="map from features to embeddings; none: the tower's features are the embeddings"
    )
    hidden_dims: tuple[int, ...] = Field(
        (1024,), strict=False, description="mlp: widths between features and embeddings"
    )
    input_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the features")
    dropout: float = Field(0.0, ge=0, lt=1, description="mlp: dropout on hidden layers")
    norm: Literal["none", "layer", "batch"] = Field("none", description="mlp: norm after each hidden layer")
    activation: Literal["gelu", "relu", "silu"] = Field("gelu", description="mlp: after each hidden layer")
    bias: bool = Field(False, description="linear: whether it has a bias (CLIP's has none)")


class TowerSection(Section):
    """One encoder: its name, how it is pooled, what of it is frozen and how fast it learns."""

    name: str = Field("tiny", description="transformers id or folder, timm:NAME, open_clip:ARCH[/PRETRAINED], or tiny")
    pretrained: bool = Field(True, description="false: random weights from the tower's config")
    pooling: Literal["auto", "cls", "mean", "max", "pooler", "attention"] = Field(
        "auto", description="features from tokens; auto: what the tower was trained with"
    )
    head: HeadSection = HeadSection()
    freeze: bool | int = Field(False, description="true: the whole tower; n: its embeddings and first n blocks")
    freeze_until_epoch: float | None = Field(None, gt=0, description="train what is frozen from this epoch on")
    learning_rate: float | None = Field(None, gt=0, description="of this tower; default optimizer.learning_rate")
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the learning rate per block downwards")
    max_length: int | None = Field(None, ge=4, description="text: tokens kept; default what the tower was trained with")
    image_size: int | None = Field(None, ge=8, description="image: pixels; default what the tower was trained with")
    resize: Literal["crop", "squash"] | None = Field(
        None, description="image: cut the middle out, or keep all and squash; default what the tower was trained with"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="config values of a random or tiny tower")


class ModelSection(Section):
    """Two towers, the size of their common space, and the factor from scores to logits."""

    image: TowerSection = TowerSection()
    text: TowerSection = TowerSection()
    embedding_dim: int = Field(256, ge=2, description="size of the shared space")
    logit_scale: float = Field(1 / 0.07, gt=0, description="start of the learnable scale (CLIP, arXiv:2103.00020 2.5)")
    logit_scale_max: float = Field(100.0, gt=0, description="the scale is kept below (CLIP, arXiv:2103.00020 2.5)")
    logit_scale_learnable: bool = Field(True, description="false: the scale stays where it starts")
    logit_bias: float | None = Field(None, description="start of a learnable bias (SigLIP: -10); null: no bias")


class LossSection(Section):
    """The loss, what it takes for a positive, and how it weighs negatives."""

    name: Literal["info_nce", "sigmoid", "dcl", "nt_xent", "triplet", "barlow_twins", "vicreg"] = Field(
        "info_nce", description="info_nce: CLIP's symmetric loss; sigmoid: SigLIP's; others: see mmcl.losses"
    )
    positives: Literal["group", "pair"] = Field(
        "group",
        description="group: rows of one group (or with equal captions) are positives, to triplet no negatives; pair: "
        "the own pair alone, which is all that dcl, nt_xent, barlow_twins and vicreg know",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all candidates")
    false_negative_margin: float | None = Field(
        None, ge=-2, le=2, description="negatives that score above the positive plus this are left out; null: none"
    )
    hardness: float = Field(
        0.0, ge=0, description="weight negatives by exp(hardness * logit), mean 1 (arXiv:2010.04592); 0: all the same"
    )
    hardness_schedule: Literal["constant", "linear", "loss"] = Field(
        "constant", description="how hardness grows from 0: linear: with the steps; loss: as the loss leaves chance"
    )
    tau_plus: float = Field(
        0.0, ge=0, lt=1, description="share of negatives taken to be positives, and corrected for (arXiv:2007.00224)"
    )
    mining: Literal["none", "hardest", "semi_hard", "margin"] = Field(
        "none", description="which negatives count: all; the hardest, the semi-hard or the near ones of each row"
    )
    mining_margin: float = Field(0.2, ge=0, le=2, description="semi_hard, margin: scores this far below the positive")
    mining_count: int = Field(1, ge=1, description="hardest: negatives of each row")
    matryoshka_dims: tuple[int, ...] = Field(
        (), strict=False, description="lengths of prefixes that must work alone (arXiv:2205.13147); the whole one too"
    )
    tile_size: int | None = Field(None, ge=1, description="logits held at once are this number squared; null: chosen")
    sigma: float | None = Field(None, gt=0, description="dcl: weight positives by their scores / sigma; null: all 1")
    margin: float = Field(0.2, ge=0, description="triplet: how much nearer the positive must be, in units of distance")
    distance: Literal["cosine", "euclidean", "manhattan", "squared_euclidean"] = Field(
        "euclidean", description="triplet: between embeddings"
    )
    redundancy_weight: float = Field(5e-3, ge=0, description="barlow_twins: of correlations between dimensions")
    invariance: float = Field(25.0, ge=0, description="vicreg: weight of the distance within pairs")
    variance: float = Field(25.0, ge=0, description="vicreg: weight of dimensions that vary too little")
    covariance: float = Field(1.0, ge=0, description="vicreg: weight of covariances between dimensions")

    @model_validator(mode="after")
    def _knows_its_options(self) -> LossSection:
        for option in dict.fromkeys(option for options in LOSS_OPTIONS.values() for option in options):
            if getattr(self, option) == type(self).model_fields[option].default or option in LOSS_OPTIONS[self.name]:
                continue
            knowing = ", ".join(name for name, options in LOSS_OPTIONS.items() if option in options)
            raise ValueError(f"loss.{option} is not known to loss.name={self.name}; it is to {knowing}")
        if self.name == "triplet" and self.mining == "margin":
            raise ValueError("loss.mining=margin is not known to loss.name=triplet; want none, hardest or semi_hard")
        if self.hardness_schedule != "constant" and self.hardness == 0:
            raise ValueError(f"loss.hardness_schedule={self.hardness_schedule} needs loss.hardness, which it grows to")
        if self.hardness_schedule == "loss" and self.mining != "none":
            raise ValueError(
                f"loss.hardness_schedule=loss measures the loss by its value at chance, and with loss.mining="
                f"{self.mining} there is none; want linear or constant"
            )
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What the named loss is called with, beside embeddings and groups; an option that is off is left out."""
        values = {option: getattr(self, option) for option in LOSS_OPTIONS[self.name]}
        return {option: value for option, value in values.items() if value != type(self).model_fields[option].default}


_CHOICE = ("false_negative_margin", "mining", "mining_margin", "mining_count", "matryoshka_dims", "tile_size")
# Loss -> the keys of this section that it takes, under the same names; an option of another loss is an error.
LOSS_OPTIONS: dict[str, tuple[str, ...]] = {
    "info_nce": ("label_smoothing", "hardness", "tau_plus", *_CHOICE),
    "sigmoid": ("label_smoothing", "hardness", "tau_plus", *_CHOICE),
    "dcl": ("sigma", "tile_size"),
    "nt_xent": ("tile_size",),
    "triplet": ("mining", "margin", "distance"),
    "barlow_twins": ("redundancy_weight",),
    "vicreg": ("invariance", "variance", "covariance"),
}
# The losses that take negatives beside the rows of the batch: hard ones, and a queue.
LOSSES_WITH_NEGATIVES = ("info_nce", "sigmoid")


# What a sigmoid loss starts from where the recipe does not say (Zhai et al. 2023, arXiv:2303.15343, section 3.2).
SIGLIP_START = {"logit_scale": 10.0, "logit_bias": -10.0}


class NegativesSection(Section):
    """Negatives beside the other rows of a batch; all off by default."""

    captions_per_row: int = Field(
        0, ge=0, description="captions of a row's column negatives that a step adds (arXiv:2210.01936); 0: none"
    )
    images_per_row: int = Field(0, ge=0, description="images of a row's column negative_rows that a step adds; 0: none")
    queue_size: int = Field(
        0, ge=0, description="pairs of earlier steps kept as negatives of both sides (MoCo, arXiv:1911.05722); 0: none"
    )
    queue_momentum: float = Field(
        0.995, ge=0, lt=1, description="of the moving average that embeds for the queue (ALBEF, arXiv:2107.07651)"
    )


class FeatureCacheSection(Section):
    """Whether and where the features of frozen towers are kept."""

    enabled: bool = Field(True, description="compute the features of frozen towers once and keep them on disk")
    dir: str | None = Field(None, description="folder; default $MMCL_CACHE or ~/.cache/mmcl")
    views: int = Field(1, ge=1, description="augmented views kept of each training image when data.augment is on")
    batch_size: int = Field(64, ge=1, description="items a forward pass of a frozen tower")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of the frozen towers; auto: fp32 unless train.precision is bf16"
    )


class BatchesSection(Section):
    """Which rows meet in a batch."""

    name: Literal["random", "unique_groups", "clusters", "balanced"] = Field(
        "random",
        description="random; unique_groups: no group or caption twice in a batch; clusters: neighbours meet; balanced: "
        "classes_per_batch classes with samples_per_class rows each",
    )
    model: str | None = Field(None, description="clusters: MODEL whose embeddings of the rows are clustered")
    modality: Literal["image", "text"] = Field("image", description="clusters: what of a row is embedded")
    clusters: int | None = Field(None, ge=2, description="clusters: how many; null: one for every four batches")
    clusters_per_batch: int = Field(1, ge=1, description="clusters: of how many a batch is made; more: easier")
    column: Literal["label", "group", "domain"] = Field("label", description="balanced: the column with the class")
    classes_per_batch: int | None = Field(
        None, ge=2, description="balanced: P; null: train.batch_size / samples_per_class"
    )
    samples_per_class: int = Field(4, ge=1, description="balanced: K; P x K is train.batch_size")


# batches.name -> the other keys of the section that it takes.
_BATCHES_KEYS: dict[str, tuple[str, ...]] = {
    "random": (),
    "unique_groups": (),
    "clusters": ("model", "modality", "clusters", "clusters_per_batch"),
    "balanced": ("column", "classes_per_batch", "samples_per_class"),
}


class EmaSection(Section):
    """The moving average of the weights."""

    enabled: bool = Field(False, description="judge and save a moving average of the weights")
    decay: float = Field(0.999, gt=0, lt=1, description="of the moving average of the weights, per step")


class TrainSection(Section):
    """How long and in what batches and arithmetic is trained."""

    batch_size: int = Field(128, ge=2, description="pairs a step, over all processes")
    micro_batch_size: int | Literal["auto"] | None = Field(
        None, description="most pairs a forward pass of one process; auto: what fits; null: its whole share"
    )
    epochs: float = Field(10.0, gt=0, description="passes over the training split; may be a fraction")
    max_steps: int | None = Field(None, ge=1, description="overrides epochs")
    max_minutes: float | None = Field(None, gt=0, description="stop cleanly after this time")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="arithmetic of the towers; the loss is fp32")
    max_grad_norm: float | None = Field(1.0, gt=0, description="gradients are clipped to this norm; null: never")
    gradient_checkpointing: bool = Field(False, description="less memory for more time: recompute activations")
    compile: bool = Field(False, description="torch.compile the towers")
    ema: EmaSection = EmaSection()
    feature_cache: FeatureCacheSection = FeatureCacheSection()
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")

    @field_validator("micro_batch_size", mode="before")
    @classmethod
    def _is_a_number_of_pairs(cls, value: Any) -> Any:
        if value is None or value == "auto" or (type(value) is int and value >= 1):
            return value
        raise ValueError(
            f"train.micro_batch_size is {value!r}; want a number of pairs from 1, auto (what fits), or null (the whole "
            f"batch at once)"
        )


class OptimizerSection(Section):
    """The optimizer and its learning rate."""

    name: str = Field("adamw", description="adamw, adam, sgd, or any class of torch.optim")
    learning_rate: float = Field(1e-3, gt=0, description="highest rate of the schedule")
    weight_decay: float = Field(0.1, ge=0, description="on matrices; never on biases, norms, embeddings, logit_scale")
    betas: tuple[float, float] | None = Field(None, strict=False, description="of Adam's family")
    momentum: float | None = Field(None, ge=0, description="of sgd")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the optimizer")


class ScheduleSection(Section):
    """How the learning rate changes over the run."""

    name: Literal["cosine", "constant", "linear", "exponential", "step", "plateau"] = Field(
        "cosine", description="how the learning rate falls after the warm-up"
    )
    warmup_steps: int | None = Field(None, ge=0, description="default: warmup_share of all steps")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="share of all steps in which the rate rises from 0")
    min_factor: float = Field(0.0, ge=0, le=1, description="share of the learning rate kept at the end")
    gamma: float = Field(0.1, gt=0, lt=1, description="exponential: factor over the whole run; step, plateau: per drop")
    milestones: tuple[float, ...] = Field((0.5, 0.75), strict=False, description="step: drops, as shares of the run")
    patience: int = Field(2, ge=0, description="plateau: evaluations without gain before a drop")


class EvaluateSection(Section):
    """When the model is judged, by what, and which model is the best."""

    every_steps: int | None = Field(None, ge=1, description="steps between evaluations")
    every_epochs: float | None = Field(
        None, gt=0, description="epochs between evaluations; default: 1 when every_steps is not given"
    )
    at_end: bool = Field(True, description="judge the test split with the best model")
    tasks: tuple[Literal["retrieval", "zeroshot", "foils"], ...] = Field(
        ("retrieval", "zeroshot", "foils"), strict=False, description="those that the data allow are run"
    )
    extra_splits: tuple[str, ...] = Field((), strict=False, description="further splits judged at the end")
    metric: str = Field("retrieval/mean_recall@1", description="what the best checkpoint is best at")
    mode: Literal["max", "min"] = Field("max", description="whether more or less of the metric is better")
    early_stopping: int | None = Field(None, ge=1, description="evaluations without gain before stopping")
    batch_size: int = Field(128, ge=1, description="items a forward pass of an evaluation")
    classes: str | None = Field(None, description="file of zero-shot classes")
    templates: str | list[str] | None = Field(
        None, description="zero-shot prompt templates with {}: a list, or a file with one a line"
    )
    max_rows: int | None = Field(5000, ge=2, description="rows of the validation split judged during training")


class CheckpointSection(Section):
    """How often everything that resume needs is written."""

    every_steps: int | None = Field(None, ge=1, description="steps between checkpoints")
    every_minutes: float | None = Field(15.0, gt=0, description="minutes between checkpoints")
    keep: int = Field(2, ge=1, description="newest checkpoints kept")


class Recipe(Section):
    """A whole recipe. ``Recipe.model_json_schema()`` lists every key with its type, default and meaning."""

    name: str = Field("run", description="the recipe's name; names the run folder")
    data: DataSection
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    negatives: NegativesSection = NegativesSection()
    batches: BatchesSection = BatchesSection()
    train: TrainSection = TrainSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    evaluate: EvaluateSection = EvaluateSection()
    checkpoint: CheckpointSection = CheckpointSection()
    run: RunSection = RunSection()
    smoke: dict[str, Any] = Field(default_factory=dict, description="key: value overrides that --smoke applies")

    @model_validator(mode="before")
    @classmethod
    def _sigmoid_starts_where_siglip_does(cls, tree: Any) -> Any:
        loss, model = (tree.get("loss"), tree.get("model") or {}) if isinstance(tree, dict) else (None, None)
        if not (isinstance(loss, dict) and loss.get("name") == "sigmoid" and isinstance(model, dict)):
            return tree
        start = {key: value for key, value in SIGLIP_START.items() if key not in model}
        if start:
            values = ", ".join(f"model.{key}={value:g}" for key, value in start.items())
            log.info("loss.name=sigmoid starts from %s, as SigLIP does (arXiv:2303.15343)", values)
        return {**tree, "model": {**start, **model}}

    @model_validator(mode="after")
    def _negatives_fit_the_loss(self) -> Recipe:
        counts = ("captions_per_row", "images_per_row", "queue_size")
        used = next((key for key in counts if getattr(self.negatives, key) > 0), None)
        if used is None:
            return self
        if self.loss.name not in LOSSES_WITH_NEGATIVES:
            knowing = ", ".join(LOSSES_WITH_NEGATIVES)
            raise ValueError(f"negatives.{used} is not known to loss.name={self.loss.name}; it is to {knowing}")
        if self.loss.positives != "group":
            raise ValueError(
                f"negatives.{used} needs loss.positives=group: a negative that belongs to a row is known by its group"
            )
        return self

    @model_validator(mode="after")
    def _sigmoid_needs_a_bias(self) -> Recipe:
        if self.loss.name == "sigmoid" and self.model.logit_bias is None:
            raise ValueError("loss.name=sigmoid needs a number for model.logit_bias; leave it out for SigLIP's -10")
        return self

    @model_validator(mode="after")
    def _freeze_until_needs_freeze(self) -> Recipe:
        for side in ("image", "text"):
            tower = getattr(self.model, side)
            if tower.freeze_until_epoch is not None and tower.freeze is False:
                raise ValueError(
                    f"model.{side}.freeze_until_epoch needs model.{side}.freeze: true or a number of blocks"
                )
        return self

    @model_validator(mode="after")
    def _batches_can_be_made(self) -> Recipe:
        section = self.batches
        for name, keys in _BATCHES_KEYS.items():
            defaults = {key: BatchesSection.model_fields[key].default for key in keys}
            given = [key for key in keys if getattr(section, key) != defaults[key]]
            if name != section.name and given:
                raise ValueError(f"batches.{given[0]} goes with batches.name={name}; batches.name is {section.name}")
        if self.data.bucket_by_length and section.name != "random":
            raise ValueError(f"data.bucket_by_length goes with batches.name=random; batches.name is {section.name}")
        if section.name == "clusters" and section.model is None:
            raise ValueError("batches.name=clusters needs batches.model, the MODEL whose embeddings are clustered")
        if section.name == "clusters" and section.clusters_per_batch > self.train.batch_size:
            raise ValueError(
                f"batches.clusters_per_batch is {section.clusters_per_batch}, more than train.batch_size "
                f"({self.train.batch_size})"
            )
        if section.name == "balanced":
            self._check_balanced()
        return self

    def _check_balanced(self) -> None:
        size, each = self.train.batch_size, self.batches.samples_per_class
        classes = self.batches.classes_per_batch or size // each
        if classes * each != size or classes < 2:
            raise ValueError(
                f"batches.name=balanced: batches.classes_per_batch ({classes}) x batches.samples_per_class ({each}) is "
                f"not train.batch_size ({size}), or of less than two classes"
            )

    @property
    def run_dir(self) -> Path:
        """The folder this run writes."""
        return Path(self.run.dir or f"runs/{self.name}")


class _RecipeLoader(yaml.SafeLoader):
    """YAML as people write it: 1e-3 is a number (YAML 1.1 reads a string), a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                problem = f"the key {key!r} is no name"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if key in seen:
                problem = f"the key {key!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, *, source: str) -> Any:
    """YAML to Python values, with the file and line in the error.

    Raises:
        ConfigError: the text is not valid YAML.
    """
    try:
        return yaml.load(text, Loader=_RecipeLoader)  # a SafeLoader: builds plain values only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}, line {mark.line + 1}" if mark else source
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error


def known_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a recipe, sections and leaves: ``data``, ``data.path``, ``data.split.train`` ..."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from known_keys(field.annotation, f"{prefix}{name}.")


def describe_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every leaf key with its default, as YAML, and its meaning; a key that every recipe needs has no default."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from describe_keys(field.annotation, f"{prefix}{name}.")
        else:
            default = "" if field.is_required() else _as_yaml(field.get_default(call_default_factory=True))
            yield prefix + name, default, field.description or ""


def _as_yaml(value: Any) -> str:
    """A default as a recipe would write it: null, true, [0.5, 0.75], 1e-3."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def nearest_key(key: str) -> str | None:
    """The known key most like an unknown one; None where nothing is near."""
    keys = list(known_keys())
    parent, _, leaf = key.rpartition(".")
    same_leaf = [k for k in keys if k.rpartition(".")[2] == leaf]
    if same_leaf and not parent:  # a key without its section
        return same_leaf[0]
    siblings = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == parent}
    if near := difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6):
        return siblings[near[0]]
    if near := difflib.get_close_matches(key, keys, n=1, cutoff=0.6):
        return near[0]
    return same_leaf[0] if same_leaf else None


def _set(tree: dict[str, Any], key: str, value: Any, *, source: str) -> None:
    *parents, leaf = key.split(".")
    for depth, name in enumerate(parents):
        child = tree.setdefault(name, {})
        if child is None:
            child = tree[name] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{source}: {'.'.join(parents[: depth + 1])} is {child!r}, so {key} cannot be set in it")
        tree = child
    tree[leaf] = value


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set ``key=value`` pairs in a recipe's tree, in order; values are YAML.

    Raises:
        ConfigError: a pair has no ``=``.
    """
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"override {override!r}: want key=value, such as train.batch_size=64")
        _set(tree, key.strip(), parse_yaml(text, source=f"override {override!r}"), source=f"override {override!r}")


def _explain(error: ValidationError, source: str) -> str:
    lines = []
    for problem in error.errors():
        union_free = [
            str(part) for part in problem["loc"] if not re.search(r"[\[\](]|^(bool|int|str|float)$", str(part))
        ]
        key = ".".join(union_free)
        if problem["type"] == "extra_forbidden":
            near = nearest_key(key)
            lines.append(f"unknown key {key!r}" + (f"; did you mean {near!r}?" if near else ""))
        elif problem["type"] == "missing":
            lines.append(f"missing key {key!r}; every recipe needs it")
        elif problem["type"] == "value_error":
            lines.append(str(problem["ctx"]["error"]))
        else:
            lines.append(f"{key} is {problem['input']!r} ({type(problem['input']).__name__}): {problem['msg'].lower()}")
    return f"{source}: " + "; ".join(dict.fromkeys(lines))


def recipe_from_tree(tree: Any, *, source: str) -> Recipe:
    """A checked recipe from nested dictionaries.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type, a value out of range, a missing key.
    """
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: a recipe is a mapping of sections, found {type(tree).__name__}")
    sections = {name for name, field in Recipe.model_fields.items() if isinstance(field.annotation, type)}
    tree = {key: ({} if value is None and key in sections else value) for key, value in tree.items()}
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, source)) from error


def recipe_folders() -> list[Path]:
    """Where recipes that ship with mmcl are: the source checkout's folder, or the wheel's."""
    package = Path(__file__).parent
    return [f for f in (package.parent / "recipes" / "configs", package / "recipes" / "configs") if f.is_dir()]


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that ships with mmcl."""
    return {path.stem: path for folder in reversed(recipe_folders()) for path in sorted(folder.rglob("*.yaml"))}


def find_recipe(reference: str | Path) -> Path:
    """The file of a recipe: a path, or the name of a recipe that ships with mmcl.

    Raises:
        ConfigError: neither; names the nearest.
    """
    path = Path(reference)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(reference) in shipped:
        return shipped[str(reference)]
    near = difflib.get_close_matches(path.stem, shipped, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"no recipe {str(reference)!r}: it is neither a file nor one of {', '.join(sorted(shipped))}{hint}"
    )


def load_recipe(reference: str | Path, overrides: Sequence[str] = (), *, smoke: bool = False) -> Recipe:
    """Read, override and check a recipe.

    Args:
        reference: a YAML file, or the name of a shipped recipe.
        overrides: ``key=value`` pairs, applied in order; values are YAML.
        smoke: apply the recipe's ``smoke`` overrides (a few steps), before ``overrides``.

    Raises:
        ConfigError: no such recipe; not YAML; an unknown key, a wrong type, a value out of range.

    Example:
        >>> load_recipe("quickstart", ["train.batch_size=64"]).train.batch_size
        64
    """
    path = find_recipe(reference)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no recipe can be read from it ({error})") from error
    tree = parse_yaml(text, source=str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections, found {type(tree).__name__}")
    tree.setdefault("name", path.stem)
    if smoke:
        folder = (tree.get("run") or {}).get("dir") or f"runs/{tree['name']}"
        _set(tree, "run.dir", _unused_folder(f"{folder}-smoke"), source=str(path))
        for key, value in {**SMOKE, **(tree.get("smoke") or {})}.items():
            _set(tree, key, value, source=f"{path}: smoke")
    apply_overrides(tree, overrides)
    return recipe_from_tree(tree, source=str(path))


def _unused_folder(folder: str) -> str:
    """The folder itself, or the first of folder-2, folder-3 ... that holds no run: a smoke test can be repeated."""
    number, candidate = 1, folder
    while (Path(candidate) / "config.yaml").exists():
        number += 1
        candidate = f"{folder}-{number}"
    return candidate


# What --smoke changes in every recipe; a recipe's own ``smoke`` section adds to it.
SMOKE: dict[str, Any] = {
    "data.max_rows": 64,
    "train.max_steps": 4,
    "train.batch_size": 16,
    "train.log_every": 1,
    "evaluate.every_epochs": None,
    "evaluate.every_steps": 4,
    "evaluate.max_rows": 64,
}
