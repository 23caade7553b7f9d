"""The model: two towers, their heads, and the factor from scores to logits."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mmcl.config.section import Section


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
    pooling: Literal["auto", "cls", "mean", "max", "pooler", "attention", "grid"] = Field(
        "auto", description="features from tokens; auto: what the tower was trained with; grid: what is where counts"
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
