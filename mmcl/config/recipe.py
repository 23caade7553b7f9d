"""The whole recipe: its sections, and what of one section must fit another."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import Field, field_validator, model_validator

from mmcl.config.data_sections import DataSection
from mmcl.config.loss_sections import (
    BATCHES_KEYS,
    LOSSES_WITH_NEGATIVES,
    BatchesSection,
    LossSection,
    NegativesSection,
)
from mmcl.config.model_sections import ModelSection
from mmcl.config.noise_sections import METHODS_WITH_EMA, NoiseSection
from mmcl.config.section import Section
from mmcl.config.train_sections import (
    CheckpointSection,
    EvaluateSection,
    OptimizerSection,
    RunSection,
    ScheduleSection,
    TrainSection,
)
from mmcl.logs import get_logger

log = get_logger(__name__)

# What a sigmoid loss starts from where the recipe does not say (Zhai et al. 2023, arXiv:2303.15343, section 3.2).
SIGLIP_START = {"logit_scale": 10.0, "logit_bias": -10.0}


class Recipe(Section):
    """A whole recipe. ``Recipe.model_json_schema()`` lists every key with its type, default and meaning."""

    name: str = Field("run", description="the recipe's name; names the run folder")
    recipe: str | None = Field(
        None, description="auto: what the recipe leaves out is chosen for the data and the machine; null: the defaults"
    )
    data: DataSection
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    negatives: NegativesSection = NegativesSection()
    batches: BatchesSection = BatchesSection()
    noise: NoiseSection = NoiseSection()
    train: TrainSection = TrainSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    evaluate: EvaluateSection = EvaluateSection()
    checkpoint: CheckpointSection = CheckpointSection()
    run: RunSection = RunSection()
    smoke: dict[str, Any] = Field(default_factory=dict, description="key: value overrides that --smoke applies")

    @field_validator("recipe")
    @classmethod
    def _is_auto(cls, value: str | None) -> str | None:
        if value in (None, "auto"):
            return value
        raise ValueError(
            f"recipe is {value!r}; want auto (what is left out is chosen), or no such key; a recipe that ships is "
            f"trained by its name: mmcl train {value}"
        )

    @model_validator(mode="before")
    @classmethod
    def _sigmoid_starts_where_siglip_does(cls, tree: Any) -> Any:
        loss, model = (tree.get("loss"), tree.get("model") or {}) if isinstance(tree, dict) else (None, None)
        if not (isinstance(loss, dict) and _has_sigmoid(loss) and isinstance(model, dict)):
            return tree
        if model.get("init_from") is not None:
            return tree  # that model's own scale and bias; where it has no bias, SigLIP's start is taken then
        start = {key: value for key, value in SIGLIP_START.items() if key not in model}
        if start:
            values = ", ".join(f"model.{key}={value:g}" for key, value in start.items())
            log.info("the sigmoid loss starts from %s, as SigLIP does (arXiv:2303.15343)", values)
        return {**tree, "model": {**start, **model}}

    @model_validator(mode="after")
    def _negatives_fit_the_loss(self) -> Recipe:
        counts = ("captions_per_row", "images_per_row", "queue_size")
        used = next((key for key in counts if getattr(self.negatives, key) > 0), None)
        if used is None:
            return self
        unknowing = [name for name in self.loss.names if name not in LOSSES_WITH_NEGATIVES]
        if unknowing:
            knowing = ", ".join(LOSSES_WITH_NEGATIVES)
            raise ValueError(f"negatives.{used} is not known to loss.name={unknowing[0]}; it is to {knowing}")
        if self.loss.positives != "group":
            raise ValueError(
                f"negatives.{used} needs loss.positives=group: a negative that belongs to a row is known by its group"
            )
        return self

    @model_validator(mode="after")
    def _noise_and_mixup_fit(self) -> Recipe:
        method, alpha, knowing = self.noise.method, self.train.feature_mixup, ", ".join(LOSSES_WITH_NEGATIVES)
        for key, used in ((f"noise.method={method}", method != "none"), ("train.feature_mixup", alpha > 0)):
            if used and self.loss.name not in LOSSES_WITH_NEGATIVES:
                raise ValueError(f"{key} is not known to loss.name={self.loss.name}; it is to {knowing}")
        if method == "none":
            methods = ", ".join(name for name in get_args(NoiseSection.model_fields["method"].annotation)[1:])
            given = next(
                (key for key, field in NoiseSection.model_fields.items() if getattr(self.noise, key) != field.default),
                None,
            )
            if given is not None:
                raise ValueError(f"noise.{given} goes with a noise.method; want one of {methods}")
        if alpha > 0 and method not in ("none", *METHODS_WITH_EMA, "cross_fit"):
            raise ValueError(
                f"train.feature_mixup={alpha:g} mixes pairs, and noise.method={method} judges each alone, by its "
                f"loss in training; take noise.method=cross_fit or ema_agreement, or leave one out"
            )
        counts = ("captions_per_row", "images_per_row", "queue_size")
        beside = next((key for key in counts if getattr(self.negatives, key) > 0), None)
        if alpha > 0 and beside is not None:
            raise ValueError(
                f"train.feature_mixup={alpha:g} leaves a batch's rows with two groups each, which negatives.{beside} "
                f"knows nothing of; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _sigmoid_needs_a_bias(self) -> Recipe:
        left_to_the_model = self.model.init_from is not None and not self.model.says("logit_bias")
        if "sigmoid" in self.loss.names and self.model.logit_bias is None and not left_to_the_model:
            raise ValueError("loss.name=sigmoid needs a number for model.logit_bias; leave it out for SigLIP's -10")
        return self

    @model_validator(mode="after")
    def _members_agree(self) -> Recipe:
        image, text, losses = self.model.image.head.members, self.model.text.head.members, len(self.loss.members)
        said = self.model.init_from is None or (self.model.says("image.head") and self.model.says("text.head"))
        if said and (image != text or losses not in (0, image)):
            raise ValueError(
                f"model.image.head.members is {image}, model.text.head.members {text}"
                + (f" and loss.members has {losses}" if losses else "")
                + "; each member is a pair of heads with a loss of its own: want one number"
            )
        return self

    @model_validator(mode="after")
    def _a_scale_of_its_own_is_a_members(self) -> Recipe:
        if self.loss.logit_scale is not None:
            raise ValueError(
                f"loss.logit_scale={self.loss.logit_scale:g} is for one of loss.members; for the model's scale set "
                f"model.logit_scale={self.loss.logit_scale:g} and model.logit_scale_learnable=false"
            )
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
        for name, keys in BATCHES_KEYS.items():
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


def _has_sigmoid(loss: dict[str, Any]) -> bool:
    members = [member for member in loss.get("members") or () if isinstance(member, dict)]
    return "sigmoid" in (loss.get("name"), *(member.get("name") for member in members))
