"""The training: how long, in what arithmetic, at what rates; when it is judged and kept, and where it writes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mmcl.config.forgetting_sections import BeforeData, WiseFtSection
from mmcl.config.section import Section


class FeatureCacheSection(Section):
    """Whether and where the features of frozen towers are kept."""

    enabled: bool = Field(True, description="compute the features of frozen towers once and keep them on disk")
    dir: str | None = Field(None, description="folder; default $MMCL_CACHE or ~/.cache/mmcl")
    views: int = Field(1, ge=1, description="augmented views kept of each training image when data.augment is on")
    batch_size: int = Field(64, ge=1, description="items a forward pass of a frozen tower")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of the frozen towers; auto: fp32 unless train.precision is bf16"
    )


class EmaSection(Section):
    """The moving average of the weights."""

    enabled: bool = Field(False, description="judge and save a moving average of the weights")
    decay: float = Field(0.999, gt=0, lt=1, description="of the moving average of the weights, per step")


class WeightAverageSection(Section):
    """The plain mean of the weights over the end of the run."""

    enabled: bool = Field(False, description="judge and save the mean of the weights (arXiv:1803.05407, 2209.14981)")
    from_share: float = Field(0.75, ge=0, lt=1, description="share of all steps after which each step's weights count")


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
    feature_mixup: float = Field(
        0.0, ge=0, description="alpha of Beta(alpha, alpha): mixes pairs before the heads (arXiv:1710.09412); 0: none"
    )
    weight_average: WeightAverageSection = WeightAverageSection()
    feature_cache: FeatureCacheSection = FeatureCacheSection()
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl")
    doctor: bool = Field(True, description="watch for the usual faults on the way; changes no weight")

    @field_validator("micro_batch_size", mode="before")
    @classmethod
    def _is_a_number_of_pairs(cls, value: Any) -> Any:
        if value is None or value == "auto" or (type(value) is int and value >= 1):
            return value
        raise ValueError(
            f"train.micro_batch_size is {value!r}; want a number of pairs from 1, auto (what fits), or null (the whole "
            f"batch at once)"
        )

    @model_validator(mode="after")
    def _one_average(self) -> TrainSection:
        if self.ema.enabled and self.weight_average.enabled:
            raise ValueError("train.ema.enabled and train.weight_average.enabled exclude each other; turn one off")
        return self


class OptimizerSection(Section):
    """The optimizer and its learning rate."""

    name: str = Field("adamw", description="adamw, adam, sgd, or any class of torch.optim")
    learning_rate: float = Field(1e-3, gt=0, description="highest rate of the schedule")
    weight_decay: float = Field(0.1, ge=0, description="on matrices; never on biases, norms, embeddings, logit_scale")
    betas: tuple[float, float] | None = Field(None, strict=False, description="of Adam's family")
    momentum: float | None = Field(None, ge=0, description="of sgd")
    sam_rho: float | None = Field(
        None,
        gt=0,
        description="sharpness-aware minimization (arXiv:2010.01412) within this radius, such as 0.05, at "
        "twice the time; null: off",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the optimizer")


class ScheduleSection(Section):
    """How the learning rate changes over the run."""

    name: Literal["cosine", "constant", "linear", "exponential", "step", "plateau"] = Field(
        "cosine", description="how the learning rate falls after the warm-up"
    )
    warmup_steps: int | None = Field(None, ge=0, description="default: warmup_share of all steps")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="share of all steps in which the rate rises from 0")
    thaw_warmup_steps: int | None = Field(
        None, ge=0, description="steps in which the rate of what thaws rises from 0; default: as many as the warm-up"
    )
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
    tasks: tuple[
        Literal["retrieval", "zeroshot", "foils", "multilabel", "probe", "knn", "clusters", "geometry"], ...
    ] = Field(
        ("retrieval", "zeroshot", "foils"),
        strict=False,
        description="those that the data allow are run; probe and knn embed the training split too, each time",
    )
    extra_splits: tuple[str, ...] = Field((), strict=False, description="further splits judged at the end")
    metric: str = Field("retrieval/mean_recall@1", description="what the best checkpoint is best at")
    mode: Literal["max", "min"] = Field("max", description="whether more or less of the metric is better")
    early_stopping: int | None = Field(None, ge=1, description="evaluations without gain before stopping")
    batch_size: int = Field(128, ge=1, description="items a forward pass of an evaluation")
    classes: str | None = Field(None, description="file of zero-shot classes")
    templates: str | list[str] | None = Field(
        None,
        description="zero-shot prompt templates with {}: a list, a file with one a line, or plain, photo, photo80, art",
    )
    max_rows: int | None = Field(5000, ge=2, description="rows of the validation split judged during training")
    before: BeforeData = Field(
        (),
        strict=False,
        description="data that the run is not trained for, judged before the first step and after the last; each DATA, "
        "or {data: DATA, tasks: [retrieval, zeroshot], metric: NAME}; of larger ones max_rows rows are drawn",
    )
    wise_ft: WiseFtSection = WiseFtSection()


class CheckpointSection(Section):
    """How often everything that resume needs is written."""

    every_steps: int | None = Field(None, ge=1, description="steps between checkpoints")
    every_minutes: float | None = Field(15.0, gt=0, description="minutes between checkpoints")
    keep: int = Field(2, ge=1, description="newest checkpoints kept")


class RunSection(Section):
    """Where a training writes, its seed, and who else is told."""

    dir: str | None = Field(None, description="folder this training writes; default runs/RECIPE_NAME")
    seed: int = Field(0, ge=0, description="seeds weights, order, augmentation and dropout")
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = Field("none", description="where metrics also go")
    num_processes: int | None = Field(None, ge=1, description="stop unless this many processes run")
