"""The model: two towers, their heads, and the factor from scores to logits."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from mmcl.config.section import Section

# What model.init_from decides of a tower, and of both together, unless the recipe says otherwise.
DECIDED_OF_TOWERS = ("name", "pretrained", "pooling", "max_length", "image_size", "resize", "options")
DECIDED_OF_MODEL = ("embedding_dim", "logit_scale", "logit_scale_max", "logit_scale_learnable", "logit_bias")


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
    members: int = Field(
        1, ge=1, description="heads side by side, each for its share of model.embedding_dim; scores are their mean"
    )
    input_norm: Literal["none", "batch"] = Field(
        "none", description="batch: features are centred and divided by their deviation first"
    )

    @model_validator(mode="after")
    def _members_are_heads(self) -> HeadSection:
        if self.name == "none" and (self.members > 1 or self.input_norm != "none"):
            raise ValueError("head.name is none: there is no head to have head.members or head.input_norm")
        return self


class LoraSection(Section):
    """Low-rank adapters beside the layers of a tower whose own weights stay as they are (arXiv:2106.09685)."""

    rank: int = Field(0, ge=0, description="rank of the adapters, such as 8; 0: none. They need mmcl's extra lora")
    alpha: int | None = Field(None, ge=1, description="adapters count alpha / rank; null: the rank, that is 1")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on what goes into an adapter")
    targets: list[str] | None = Field(
        None, description="names or name endings of layers; null: all linear layers and 1x1 convolutions of the blocks"
    )
    blocks: int | None = Field(None, ge=1, description="only the last n blocks; null: all")
    norms: bool = Field(False, description="train the tower's norms as well")


class TowerSection(Section):
    """One encoder: its name, how it is pooled, what of it is frozen and how fast it learns."""

    name: str = Field(
        "tiny", description="transformers id or folder, timm:NAME, open_clip:ARCH[/PRETRAINED], an mmcl model, or tiny"
    )
    pretrained: bool = Field(True, description="false: random weights from the tower's config")
    pooling: Literal["auto", "cls", "mean", "max", "pooler", "attention", "grid", "stages"] = Field(
        "auto",
        description="features from tokens; auto: what the tower was trained with; grid: what is where counts; stages: "
        "a convolutional tower's last three stages too",
    )
    head: HeadSection = HeadSection()
    freeze: bool | int | Literal["biases"] = Field(
        False, description="true: the whole tower; n: its embeddings and first n blocks; biases: all but the biases"
    )
    freeze_until_epoch: float | None = Field(None, gt=0, description="train what is frozen from this epoch on")
    lora: LoraSection = LoraSection()
    keep_statistics: bool | None = Field(
        None,
        description="batch norms keep their running statistics while the tower trains; default: where heads learnt "
        "on them (freeze_until_epoch, model.init_from), and where biases or adapters alone train",
    )
    learning_rate: float | None = Field(None, gt=0, description="of this tower; default optimizer.learning_rate")
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the learning rate per block downwards")
    max_length: int | None = Field(None, ge=4, description="text: tokens kept; default what the tower was trained with")
    image_size: int | None = Field(None, ge=8, description="image: pixels; default what the tower was trained with")
    resize: Literal["crop", "squash"] | None = Field(
        None, description="image: cut the middle out, or keep all and squash; default what the tower was trained with"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="config values of a random or tiny tower")


class ModelSection(Section):
    """Two towers, the size of their common space, and the factor from scores to logits.

    With ``init_from`` all of that comes from another model, and is left out where the section is written: what a
    recipe says of it stays to be told from what it leaves to the model.
    """

    init_from: str | None = Field(
        None, description="MODEL whose towers, heads, scale and bias training starts from; its towers need no name then"
    )
    image: TowerSection = TowerSection()
    text: TowerSection = TowerSection()
    embedding_dim: int = Field(256, ge=2, description="size of the shared space, all members of the heads together")
    logit_scale: float = Field(1 / 0.07, gt=0, description="start of the learnable scale (CLIP, arXiv:2103.00020 2.5)")
    logit_scale_max: float = Field(100.0, gt=0, description="the scale is kept below (CLIP, arXiv:2103.00020 2.5)")
    logit_scale_learnable: bool = Field(True, description="false: the scale stays where it starts")
    logit_bias: float | None = Field(None, description="start of a learnable bias (SigLIP: -10); null: no bias")

    def says(self, key: str) -> bool:
        """Whether the recipe gave this key a value, the default or another: ``"embedding_dim"``, ``"image.head"``."""
        side, _, leaf = key.rpartition(".")
        return leaf in (getattr(self, side) if side else self).model_fields_set

    @model_validator(mode="after")
    def _adapters_fit(self) -> ModelSection:
        for side in ("image", "text"):
            tower: TowerSection = getattr(self, side)
            key, fields = f"model.{side}", LoraSection.model_fields
            given = [name for name in fields if getattr(tower.lora, name) != fields[name].default]
            if tower.lora.rank == 0:
                if given:
                    raise ValueError(f"{key}.lora.{given[0]} is given without {key}.lora.rank; set a rank, such as 8")
                continue
            if type(tower.freeze) is not bool:
                raise ValueError(
                    f"{key}.freeze is {tower.freeze} beside {key}.lora: adapters leave all other weights frozen; leave "
                    f"freeze out, and adapt the last blocks alone with {key}.lora.blocks"
                )
            if tower.freeze and tower.freeze_until_epoch is None:
                raise ValueError(
                    f"{key}.freeze is true beside {key}.lora: the adapters would never train; leave freeze out, or say "
                    f"with {key}.freeze_until_epoch from when on they do"
                )
            if tower.lora.targets == []:
                raise ValueError(f"{key}.lora.targets is empty; name layers, or leave it out for all")
        return self

    @model_validator(mode="after")
    def _init_from_decides(self) -> ModelSection:
        if self.init_from is None:
            return self
        if not self.init_from:
            raise ValueError("model.init_from is empty; want a MODEL (a run, a folder, a Hub id), or null")
        for side in ("image", "text"):
            for key in DECIDED_OF_TOWERS:
                value = getattr(getattr(self, side), key)
                # A value that is the default asks for nothing: recipes written out in full hold them all.
                if value != TowerSection.model_fields[key].get_default(call_default_factory=True):
                    raise ValueError(
                        f"model.{side}.{key} is {value!r}, but model.init_from={self.init_from} brings its own towers; "
                        f"leave model.{side}.{key} out, or put model={{init_from: {self.init_from}}} in the place of "
                        f"the recipe's whole model section"
                    )
        return self

    @model_serializer(mode="wrap")
    def _without_what_init_from_decides(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = handler(self)
        if self.init_from is None:
            return values
        unsaid = [key for key in DECIDED_OF_MODEL if not self.says(key)]
        written = {key: value for key, value in values.items() if key not in unsaid}
        for side in ("image", "text"):
            unsaid = [key for key in (*DECIDED_OF_TOWERS, "head") if not self.says(f"{side}.{key}")]
            written[side] = {key: value for key, value in written[side].items() if key not in unsaid}
        return written
