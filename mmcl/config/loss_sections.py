"""The loss, and what a row is compared with: the rows of its batch, and negatives beside them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mmcl.config.section import Section


class LossSection(Section):
    """The loss, what it takes for a positive, and how it weighs negatives."""

    name: Literal["info_nce", "sigmoid", "dcl", "nt_xent", "triplet", "barlow_twins", "vicreg"] = Field(
        "info_nce", description="info_nce: CLIP's symmetric loss; sigmoid: SigLIP's; others: see mmcl.losses"
    )
    members: tuple[LossSection, ...] = Field(
        (), strict=False, description="a section like this for each of model.*.head.members; none: this one for all"
    )
    logit_scale: float | None = Field(
        None, gt=0, description="of one of loss.members: the fixed scale of its logits; null: the model's, which learns"
    )
    positives: Literal["group", "pair"] = Field(
        "group",
        description="group: rows of one group (or with equal captions) are positives, to triplet no negatives; pair: "
        "the own pair alone, which is all that dcl, nt_xent, barlow_twins and vicreg know",
    )
    text_structure: float = Field(
        0.0,
        ge=0,
        description="weight of a term that keeps the cosines between captions which the text tower gives "
        "(arXiv:1907.09682, 2506.16895); 0: none",
    )
    image_structure: float = Field(0.0, ge=0, description="the same between images")
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
    def _members_have_the_options(self) -> LossSection:
        if not self.members:
            return self
        if self.logit_scale is not None:
            raise ValueError("loss.logit_scale is of one of loss.members; the scale of all is model.logit_scale")
        shared = ("members", "positives", *STRUCTURE)  # what all members have in common stands above them
        given = [key for key in self.model_fields_set if key not in shared and not self._is_default(key)]
        if given:
            raise ValueError(f"loss.{given[0]} is given beside loss.members; give it to each member that is to have it")
        for place, member in enumerate(self.members):
            wrong = [
                key for key in ("members", "positives", "hardness_schedule", *STRUCTURE) if not member._is_default(key)
            ]
            if wrong:
                raise ValueError(f"loss.members[{place}].{wrong[0]}: a member has none of its own; leave it out")
        return self

    def _is_default(self, key: str) -> bool:
        return getattr(self, key) == type(self).model_fields[key].default

    @model_validator(mode="after")
    def _knows_its_options(self) -> LossSection:
        for option in dict.fromkeys(option for options in LOSS_OPTIONS.values() for option in options):
            if self._is_default(option) or option in LOSS_OPTIONS[self.name]:
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
    def names(self) -> tuple[str, ...]:
        """The losses that are asked for: the members', or the one of all."""
        return tuple(member.name for member in self.members) or (self.name,)

    @property
    def options(self) -> dict[str, Any]:
        """What the named loss is called with, beside embeddings and groups; an option that is off is left out."""
        values = {option: getattr(self, option) for option in LOSS_OPTIONS[self.name]}
        return {option: value for option, value in values.items() if value != type(self).model_fields[option].default}


STRUCTURE = ("text_structure", "image_structure")
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


class BatchesSection(Section):
    """Which rows meet in a batch."""

    name: Literal["random", "unique_groups", "clusters", "balanced", "blocks"] = Field(
        "random",
        description="random; unique_groups: no group or caption twice in a batch; clusters: neighbours meet; balanced: "
        "classes_per_batch classes with samples_per_class rows each; blocks: rows of few row groups or shards meet",
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
    blocks_at_once: int | None = Field(
        None, ge=1, description="blocks: row groups or shards in use at once; null: what the buffer holds, at most 32"
    )


# batches.name -> the other keys of the section that it takes.
BATCHES_KEYS: dict[str, tuple[str, ...]] = {
    "random": (),
    "unique_groups": (),
    "clusters": ("model", "modality", "clusters", "clusters_per_batch"),
    "balanced": ("column", "classes_per_batch", "samples_per_class"),
    "blocks": ("blocks_at_once",),
}
