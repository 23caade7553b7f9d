"""`Encoder`: one side of a dual encoder — tower, pooling, head — and how it is built from a recipe's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mmcl.config import HeadSection, TowerSection
from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.heads import IdentityHead, LinearHead, MemberHeads, MlpHead
from mmcl.models.opening.references import TowerReference, parse_tower
from mmcl.models.pooling import build_pooling, pool_tokens
from mmcl.models.towers.tower import Tower, TowerOutput

log = get_logger(__name__)


class Encoder(nn.Module):
    """Tower -> pooling -> head -> unit rows.

    Args:
        tower: the encoder.
        pooling: one of ``tower.poolings``, or ``"auto"``.
        head: features (b, f) to (b, d).

    Raises:
        ConfigError: the tower has no such pooling.
    """

    def __init__(self, tower: Tower, head: nn.Module, *, pooling: str = "auto") -> None:
        super().__init__()
        pooling = tower.default_pooling if pooling == "auto" else pooling
        if pooling not in tower.poolings:
            raise ConfigError(
                f"model.{tower.modality}.pooling is {pooling!r}; {tower.spec['name']!r} allows "
                f"{', '.join(tower.poolings)}"
            )
        self.tower, self.head, self.pooling = tower, head, pooling
        self.learned_pooling = build_pooling(pooling, tower)
        self.keeps_statistics = False  # set by apply_freezing
        self.lora_config: Any = None  # set by attach_lora

    @property
    def modality(self) -> str:
        """``"image"`` or ``"text"``."""
        return self.tower.modality

    @property
    def has_fixed_features(self) -> bool:
        """Whether features never change in training: the tower is frozen, and pooling has no weights."""
        return self.learned_pooling is None and not any(p.requires_grad for p in self.tower.parameters())

    def features(self, **inputs: Tensor) -> Tensor:
        """Tower inputs -> (b, f), before the head."""
        return self.pool(self.tower(**inputs))

    def pool(self, output: TowerOutput) -> Tensor:
        """What the tower made of a batch -> (b, f)."""
        if self.pooling in ("pooler", "stages"):
            return output.pooled
        if self.learned_pooling is not None:
            return self.learned_pooling(output.tokens, output.mask)
        return pool_tokens(output.tokens, output.mask, self.pooling)

    def forward(self, features: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Tower inputs, or ``features`` (b, f) computed before -> embeddings (b, d), unit rows, float32."""
        if features is None:
            features = self.features(**inputs)
        return F.normalize(self.head(features).float(), dim=-1)

    def train(self, mode: bool = True) -> Encoder:
        """A tower that is frozen whole stays in evaluation mode: its dropout and batch statistics do not move.

        Where ``keeps_statistics`` is true, batch statistics alone do not; else those of frozen batch norms do not,
        which are those of blocks that are frozen.
        """
        super().train(mode)
        if self.has_fixed_features:
            self.tower.eval()
            return self
        for part in self.tower.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and (self.keeps_statistics or _is_frozen(part)):
                part.eval()
        return self


def _is_frozen(part: nn.Module) -> bool:
    weights = [*part.parameters(recurse=False)]
    return bool(weights) and not any(weight.requires_grad for weight in weights)


def _tiny(reference: TowerReference, section: TowerSection, modality: str, captions: Iterable[str]) -> Tower:
    from mmcl.models.towers.tiny_tower import build_tiny_image_tower, build_tiny_text_tower

    if modality == "image":
        return build_tiny_image_tower(size=section.image_size, options=section.options)
    return build_tiny_text_tower(captions=captions, max_length=section.max_length, options=section.options)


def _timm(reference: TowerReference, section: TowerSection, modality: str, captions: Iterable[str]) -> Tower:
    from mmcl.models.towers.timm_tower import build_timm_tower

    if modality == "text":
        raise ConfigError(f"model.text.name is {section.name!r}: timm has image models only")
    return build_timm_tower(
        reference.name,
        checkpoint=reference.checkpoint,
        pretrained=section.pretrained,
        size=section.image_size,
        options=section.options,
    )


def _open_clip(reference: TowerReference, section: TowerSection, modality: str, captions: Iterable[str]) -> Tower:
    from mmcl.models.opening.locating import locate
    from mmcl.models.opening.security import no_questions
    from mmcl.models.towers.open_clip_tower import build_open_clip_tower

    if section.options:
        raise ConfigError(f"model.{modality}.options: open_clip towers take none, got {', '.join(section.options)}")
    located = locate(section.name)  # a folder or repository is looked through before any of it is read
    with no_questions():
        tower = build_open_clip_tower(
            reference.name if located.folder is None else str(located.folder),
            modality,
            checkpoint=reference.checkpoint,
            pretrained=section.pretrained,
            max_length=section.max_length,
            size=section.image_size,
        )
    tower.spec["name"] = reference.name
    return tower


def _transformers(reference: TowerReference, section: TowerSection, modality: str, captions: Iterable[str]) -> Tower:
    from mmcl.models.towers.mmcl_tower import build_mmcl_tower, find_mmcl_model
    from mmcl.models.towers.transformers_tower import build_transformers_tower

    folder = find_mmcl_model(reference.name)
    if folder is not None:
        return build_mmcl_tower(folder, section, modality)
    return build_transformers_tower(
        reference.name,
        modality,
        pretrained=section.pretrained,
        size=section.image_size,
        max_length=section.max_length,
        options=section.options,
    )


# Family of a tower's name -> how it is built.
ENCODERS: dict[str, Callable[[TowerReference, TowerSection, str, Iterable[str]], Tower]] = {
    "tiny": _tiny,
    "timm": _timm,
    "open_clip": _open_clip,
    "transformers": _transformers,
}


def build_tower(section: TowerSection, modality: str, *, captions: Iterable[str] = ()) -> Tower:
    """Build the tower that a recipe names.

    Args:
        section: ``model.image`` or ``model.text``.
        modality: ``"image"`` or ``"text"``.
        captions: where a tiny text tower takes its vocabulary from.

    Raises:
        ConfigError: the name cannot be resolved, see the tower families; or a key is of the other modality's towers.
    """
    for key, of in (("image_size", "image"), ("resize", "image"), ("max_length", "text")):
        if of != modality and getattr(section, key) is not None:
            raise ConfigError(f"model.{modality}.{key} is {getattr(section, key)!r}; only {of} towers have one")
    reference = parse_tower(section.name)
    return ENCODERS[reference.family](reference, section, modality, captions)


def build_head(section: HeadSection, tower: Tower, embedding_dim: int) -> nn.Module:
    """Build the head that a recipe asks for; a plain linear head starts from the tower's pretrained projection.

    Raises:
        ConfigError: ``none`` where features and embeddings differ in size; members that do not divide the embeddings.
    """
    if section.members == 1 and section.input_norm == "none":
        return _one_head(section, tower, embedding_dim)
    if embedding_dim % section.members:
        raise ConfigError(
            f"model.embedding_dim is {embedding_dim}, which model.{tower.modality}.head.members={section.members} do "
            f"not divide; set model.embedding_dim={section.members * max(1, round(embedding_dim / section.members))}"
        )
    members = [_one_head(section, tower, embedding_dim // section.members) for _ in range(section.members)]
    return MemberHeads(members, tower.feature_dim, input_norm=section.input_norm)


def _one_head(section: HeadSection, tower: Tower, embedding_dim: int) -> nn.Module:
    if section.name == "none":
        if tower.feature_dim != embedding_dim:
            raise ConfigError(
                f"model.{tower.modality}.head.name is none, but its features have {tower.feature_dim} values and "
                f"model.embedding_dim is {embedding_dim}; set model.embedding_dim={tower.feature_dim} or use linear"
            )
        return IdentityHead()
    if section.name == "mlp":
        return MlpHead(
            tower.feature_dim,
            embedding_dim,
            hidden_dims=section.hidden_dims,
            input_dropout=section.input_dropout,
            dropout=section.dropout,
            norm=section.norm,
            activation=section.activation,
        )
    head = LinearHead(tower.feature_dim, embedding_dim, bias=section.bias, input_dropout=section.input_dropout)
    if tower.projection is not None and tower.projection.shape == head.projection.weight.shape:
        log.info("%s head starts from the pretrained projection of %s", tower.modality, tower.spec["name"])
        head.projection.weight.data.copy_(tower.projection)
    return head


def build_encoder(section: TowerSection, modality: str, embedding_dim: int, **captions: Any) -> Encoder:
    """Tower, pooling and head of one side of a recipe."""
    tower = build_tower(section, modality, **captions)
    tower.choose_pooling(section.pooling)
    if section.resize is not None:
        tower.preprocessing = tower.preprocessing.with_resize(section.resize)
    return Encoder(tower, build_head(section.head, tower, embedding_dim), pooling=section.pooling)
