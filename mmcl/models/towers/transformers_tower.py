"""Towers from Hugging Face transformers: any vision model, any text model with hidden states."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.models.pooling import pool_tokens
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.models.towers.text_preprocessing import TextPreprocessing
from mmcl.models.towers.tower import Tower, TowerOutput
from mmcl.models.towers.transformers_inputs import image_preprocessing, text_preprocessing
from mmcl.models.towers.transformers_loading import (
    build_module,
    dual_half,
    encoder_half,
    first_line,
    is_dual,
    load_config,
    load_pretrained,
    read_json,
)


class TransformersTower(Tower):
    """A transformers encoder. What it gives is found by running it once, on one item.

    Args:
        model: the module, as ``AutoModel`` gives it.
        modality: ``"image"`` or ``"text"``.
        preprocessing: see ``Tower``.
        name: what it was asked for as.
        config: what ``build_module`` builds the same module from; default the module's own.
        default_pooling: see ``Tower``; where the tower has no such pooling, mean (text) or cls or mean (image).
        projection: see ``Tower``.

    Attributes:
        pools_flat: whether the module's own ``pooler_output`` is (b, f) as it comes, ready for a projection.

    Raises:
        ConfigError: the module does not take the input that its preprocessing makes, or gives no hidden states.
    """

    def __init__(
        self,
        model: Any,
        modality: str,
        preprocessing: ImagePreprocessing | TextPreprocessing,
        *,
        name: str,
        config: dict[str, Any] | None = None,
        default_pooling: str = "pooler",
        projection: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.modality, self.model, self.preprocessing = modality, model, preprocessing
        self.projection = projection
        self.spec = {"family": "transformers", "name": name, "config": config or model.config.to_dict()}
        self.resizes_positions = modality == "image" and _needs_resized_positions(model, preprocessing)
        names = {n.rpartition(".")[2] for n, _ in model.named_parameters()}
        if modality == "text":
            self.num_prefix_tokens, has_cls = 0, preprocessing.starts_with_cls
        else:
            has_cls = bool(names & {"cls_token", "class_embedding"})
            registers = getattr(model.config, "num_register_tokens", 0) or 0
            self.num_prefix_tokens = has_cls + registers + ("distillation_token" in names)
        tokens, pooled = self._try_out()
        self.pools_flat = pooled is not None and pooled.ndim == 2
        own_dim = None if pooled is None else pooled.flatten(1).shape[1]
        # SigLIP 2's text tower may project inside its pooler; then only its own pooling fits its size.
        of_tokens = ("cls", "mean", "max", "attention") if own_dim in (None, tokens.shape[-1]) else ()
        if of_tokens and modality == "image" and tokens.ndim == 3:
            of_tokens = (*of_tokens, "grid")
        self.feature_dim = own_dim or tokens.shape[-1]
        self.poolings = (
            *(pooling for pooling in of_tokens if pooling != "cls" or has_cls),
            *(("pooler",) if pooled is not None else ()),
        )
        fallback = "cls" if modality == "image" and has_cls else "mean"
        self.default_pooling = default_pooling if default_pooling in self.poolings else fallback

    def _try_out(self) -> tuple[Tensor, Tensor | None]:
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                output = self._run(self.example())
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise ConfigError(
                f"{self.spec['name']!r}: a {type(self.model).__name__} does not take mmcl's "
                f"{self.modality} input ({type(error).__name__}: {first_line(error)})"
            ) from error
        finally:
            self.model.train(training)
        tokens = getattr(output, "last_hidden_state", None)
        if tokens is None:
            raise ConfigError(f"{self.spec['name']!r}: a {type(self.model).__name__} gives no hidden states")
        return _flat(tokens), getattr(output, "pooler_output", None)

    def _run(self, inputs: dict[str, Tensor]) -> Any:
        options = {"interpolate_pos_encoding": True} if self.resizes_positions else {}
        return self.model(**inputs, **options, return_dict=True)

    def forward(self, **inputs: Tensor) -> TowerOutput:
        """Keyword inputs of the transformers model -> tokens, their mask and the model's own pooled output."""
        output = self._run(inputs)
        tokens, pooled = _flat(output.last_hidden_state), getattr(output, "pooler_output", None)
        if pooled is not None and pooled.ndim > 2:
            pooled = pooled.flatten(1)
        if self.modality == "text" and "attention_mask" in inputs:
            mask = inputs["attention_mask"].bool()
        else:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
            mask[:, : self.num_prefix_tokens] = False  # class and register tokens are no patches
        return TowerOutput(tokens, mask, pooled)


def _flat(tokens: Tensor) -> Tensor:
    """Convolutional features (b, f, h, w) as tokens (b, t, f)."""
    return tokens.flatten(2).transpose(1, 2) if tokens.ndim == 4 else tokens


def _needs_resized_positions(model: Any, preprocessing: ImagePreprocessing) -> bool:
    """Whether images differ in size from those the model's position embeddings were made for."""
    size = getattr(model.config, "image_size", None)
    size = (size, size) if isinstance(size, int) else size
    takes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return size is not None and tuple(size) != preprocessing.size and takes


@torch.no_grad()
def shared_space_pooling(full: Any, tower: TransformersTower, projection: torch.nn.Module | None) -> str:
    """The pooling of a dual model's tower that leads, through its projection, to what the model itself gives.

    CLIP and SigLIP project their pooler's output, Chinese-CLIP and ALIGN the class token of their text towers.

    Raises:
        ConfigError: none does.
    """
    inputs = tower.example()
    options = {"interpolate_pos_encoding": True} if tower.resizes_positions else {}
    full.eval()
    wanted = getattr(full, f"get_{tower.modality}_features")(**inputs, **options)
    wanted = wanted if isinstance(wanted, Tensor) else wanted.pooler_output
    output = tower(**inputs)
    tolerance = 1e-4 * wanted.abs().max().item()
    for pooling in ("pooler", "cls", "mean"):
        if pooling in tower.poolings:
            features = output.pooled if pooling == "pooler" else pool_tokens(output.tokens, output.mask, pooling)
            found = features if projection is None else projection(features)
            if found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-4, atol=tolerance):
                return pooling
    raise ConfigError(
        f"{tower.spec['name']!r}: mmcl cannot follow how a {type(full).__name__} makes {tower.modality} embeddings"
    )


def _default_pooling(name: str, modality: str, missing: frozenset[str]) -> str:
    """What the tower was trained with: a sentence-transformers folder says so; else its pooler if that was trained."""
    modes = read_json(name, "1_Pooling/config.json") if modality == "text" else None
    if modes is not None:
        for pooling, key in (("mean", "mean_tokens"), ("cls", "cls_token"), ("max", "max_tokens")):
            if modes.get(f"pooling_mode_{key}") or modes.get("pooling_mode") == pooling:
                return pooling
    if any("pooler" in key for key in missing):
        return "mean" if modality == "text" else "cls"
    return "pooler"


def build_transformers_tower(
    name: str, modality: str, *, pretrained: bool, size: int | None, max_length: int | None, options: dict[str, Any]
) -> TransformersTower:
    """A tower from a transformers id or folder.

    Args:
        name: id or folder; of a dual model (CLIP, SigLIP ...) the matching half is taken, its projection with it.
        modality: ``"image"`` or ``"text"``.
        pretrained: false builds random weights from the config.
        size, max_length: override the tower's own input size (image) or number of tokens (text).
        options: config values that differ from the tower's own.

    Raises:
        ConfigError: no such model or tokenizer, an unknown option, or no preprocessing to be found.
    """
    whole = load_config(name)
    config = whole
    if is_dual(whole):
        config = whole.vision_config if modality == "image" else whole.text_config
    for key, value in options.items():
        if not hasattr(config, key):
            raise ConfigError(f"model.{modality}.options.{key}: {type(config).__name__} has no such value")
        setattr(config, key, value)
    if modality == "image":
        preprocessing: Any = image_preprocessing(name, config, pretrained=pretrained, size=size)
        if not pretrained and isinstance(getattr(config, "image_size", None), int):
            config.image_size = preprocessing.size[0]
    else:
        preprocessing = text_preprocessing(name, config, max_length=max_length)
    recorded = config.to_dict()
    if not pretrained:
        return TransformersTower(build_module(config), modality, preprocessing, name=name, config=recorded)
    full, missing = load_pretrained(name, config=whole)
    if not is_dual(whole):
        pooling = _default_pooling(name, modality, missing)
        return TransformersTower(
            encoder_half(full), modality, preprocessing, name=name, config=recorded, default_pooling=pooling
        )
    return tower_of_dual(full, modality, preprocessing, name=name, config=recorded)


def projection_of_dual(full: Any, modality: str) -> torch.nn.Linear | None:
    """The linear map behind one half of a dual model; None where its features lie in the shared space already."""
    return getattr(full, "visual_projection" if modality == "image" else "text_projection", None)


def tower_of_dual(
    full: Any, modality: str, preprocessing: Any, *, name: str, config: dict[str, Any]
) -> TransformersTower:
    """One half of a dual model as a tower, pooled as the model pools it, with the projection that comes after.

    Raises:
        ConfigError: the model has no such half, or embeds in a way mmcl cannot follow.
    """
    half = dual_half(full, modality, name=name)
    tower = TransformersTower(half, modality, preprocessing, name=name, config=config)
    layer = projection_of_dual(full, modality)
    tower.default_pooling = shared_space_pooling(full, tower, layer)
    if layer is not None and layer.bias is None:
        tower.projection = layer.weight.detach().clone()
    return tower
