"""The ``transformers`` format: a folder that plain transformers opens, in the class that fits the towers best."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import ConfigError
from mmcl.hub.formats.as_transformers.dual_classes import VISION_TEXT, DualPlan, plan_dual
from mmcl.hub.formats.as_transformers.open_clip_tokens import CLEANING_NOTE, transformers_tokenizer
from mmcl.hub.formats.format import ExportOptions, Format
from mmcl.hub.formats.weight_names.fitting import UnfitError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.saving import DESCRIPTION
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.models.towers.transformers_loading import parse_json, quiet_transformers

if TYPE_CHECKING:
    from PIL.Image import Image

_TOKENIZER_CONFIG = "tokenizer_config.json"
# What transformers writes of how it was asked for a tokenizer.
_OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")
_BATCH = 32
# What transformers' zero-shot pipeline pads captions of a SigLIP to, whatever the model reads.
_PIPELINE_TOKENS = 64


def _obstacle(model: DualEncoder) -> str | None:
    try:
        plan_dual(model)
    except UnfitError as error:
        return str(error)
    return None


def _write(model: DualEncoder, folder: Path, options: ExportOptions) -> list[str]:
    if options.combined:
        return _check_combined(folder)
    plan = plan_dual(model)
    with quiet_transformers():
        plan.empty.save_pretrained(str(folder), state_dict=plan.state(model))
    processor = model.image.tower.preprocessing.image_processor_config()
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2), encoding="utf-8")
    _write_tokenizer(model, plan, folder)
    return [*_notes(model, plan), *_image_notes(model.image.tower.preprocessing)]


def _check_combined(folder: Path) -> list[str]:
    """A folder that holds an mmcl model holds one of transformers' already, or has no place for its files.

    Raises:
        ConfigError: the latter.
    """
    if (folder / DESCRIPTION).is_file() and parse_json(folder / DESCRIPTION)["layout"] == "vision_text_dual_encoder":
        length = _length_beside(folder)
        return [
            f"The mmcl model's own files are a {VISION_TEXT}'s; nothing was added.",
            f"Captions must be cut at {length} tokens: tokenizer(captions, truncation=True, max_length={length}).",
        ]
    raise ConfigError(
        "--format transformers cannot be put beside this mmcl model, as both would need the file model.safetensors; "
        "write it into a folder of its own (mmcl export --format transformers -o OUT) and push that to another "
        "repository"
    )


def _length_beside(folder: Path) -> int:
    """How many tokens of a caption the mmcl model in a folder reads; its tokenizer may say another number."""
    return parse_json(folder / DESCRIPTION)["text"]["preprocessing"]["max_length"]


def _write_tokenizer(model: DualEncoder, plan: DualPlan, folder: Path) -> None:
    preprocessing = model.text.tower.preprocessing
    if plan.text.is_converted:
        transformers_tokenizer(preprocessing).save_pretrained(str(folder))
        names, uses_mask = ["input_ids", "attention_mask"], plan.text.kind.startswith("clip")
    else:
        preprocessing.save(folder)
        names, uses_mask = preprocessing.tokenizer.model_input_names, preprocessing.use_mask
    takes = inspect.signature(type(plan.empty.text_model).forward).parameters
    file = folder / _TOKENIZER_CONFIG
    values = {name: value for name, value in parse_json(file).items() if name not in _OF_THIS_MACHINE} | {
        "model_max_length": preprocessing.max_length,
        # A mask that the model was trained without changes its embeddings.
        "model_input_names": [name for name in names if name in takes and (uses_mask or name != "attention_mask")],
    }
    if plan.text.is_converted or values.get("tokenizer_class") == "TokenizersBackend":
        # Read as the file says; earlier versions of transformers know this name of the class alone.
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")


def _notes(model: DualEncoder, plan: DualPlan) -> Iterator[str]:
    yield f"transformers opens the folder as a {plan.class_name}."
    parameters = dict(plan.empty.named_parameters())
    if plan.class_name == VISION_TEXT:
        yield f"transformers' zero-shot-image-classification pipeline takes no {VISION_TEXT}; call the model itself."
    if model.logit_bias is not None and "logit_bias" not in parameters:
        yield (
            f"A {plan.class_name} has no logit_bias: the model's ({model.logit_bias.item():.4g}) is left out, which "
            f"changes no embedding, ranking or softmax, but every sigmoid of its logits."
        )
    if model.logit_bias is None and "logit_bias" in parameters:
        yield f"A {plan.class_name} has a logit_bias and the model has none: it is written as 0."
    for half in (plan.image, plan.text):
        if half.own_projection is not None and half.head is not None:
            yield f"The {half.modality} tower's projection and the head behind it are written as one matrix."
    if _pads_to_full_length(plan.text.kind):
        length = model.text.tower.preprocessing.max_length
        yield f'Captions must be padded to {length} tokens: tokenizer(captions, padding="max_length", truncation=True).'
        if length != _PIPELINE_TOKENS and plan.class_name == "SiglipModel":
            yield (
                f"transformers' zero-shot-image-classification pipeline pads to {_PIPELINE_TOKENS} tokens whatever a "
                f"SigLIP reads, so it does not give this model's probabilities."
            )
    if plan.text.is_converted:
        yield CLEANING_NOTE


def _image_notes(preprocessing: ImagePreprocessing) -> Iterator[str]:
    to = preprocessing.resize_to
    if isinstance(to, int) and (preprocessing.crop_rounding == "even" or to < max(preprocessing.size)):
        yield (
            "transformers' image processors cut the middle of about one picture in four a pixel further up or left "
            "than the model was trained with, which moves its embedding a little."
        )


def _pads_to_full_length(kind: str) -> bool:
    """Whether a text tower sees the padding: SigLIP's reads captions of one length, without a mask."""
    return kind.startswith("siglip")


class TransformersModel:
    """A dual model as a user of plain transformers opens it: see ``Opened``.

    Args:
        folder: with config, weights, image processor and tokenizer.
        max_length: tokens kept of a caption; None: what the tokenizer and the model say.
    """

    def __init__(self, folder: Path, *, max_length: int | None = None) -> None:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        name = str(folder)
        with quiet_transformers():
            self.model = AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False).eval()
            self.image_processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
            self.tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        text = self.model.config.text_config
        positions = getattr(text, "max_position_embeddings", None) or self.tokenizer.model_max_length
        self.max_length = max_length or min(self.tokenizer.model_max_length, positions)
        self.padding = "max_length" if _pads_to_full_length(text.model_type) else "longest"
        dims = (getattr(self.model.config, "projection_dim", None), getattr(text, "projection_size", None))
        self.embedding_dim = next(dim for dim in dims if dim is not None)

    def embed_pixels(self, pixel_values: Tensor) -> Tensor:
        """See ``Opened``."""
        return self._run(len(pixel_values), lambda rows: self._image(pixel_values=pixel_values[rows]))

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """See ``Opened``."""
        return self._run(len(images), lambda rows: self._image(**self.pixels(images[rows])))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """See ``Opened``."""
        return self._run(len(texts), lambda rows: self._text(**self.tokens(texts[rows])))

    def pixels(self, images: Sequence[Image]) -> Any:
        """Pictures as the model's keyword inputs."""
        return self.image_processor(images=list(images), return_tensors="pt")

    def tokens(self, texts: Sequence[str]) -> Any:
        """Captions as the model's keyword inputs."""
        return self.tokenizer(
            list(texts), padding=self.padding, truncation=True, max_length=self.max_length, return_tensors="pt"
        )

    def _image(self, **inputs: Any) -> Any:
        return self.model.get_image_features(**inputs)

    def _text(self, **inputs: Any) -> Any:
        return self.model.get_text_features(**inputs)

    @torch.no_grad()
    def _run(self, count: int, encode: Callable[[slice], Any]) -> Tensor:
        parts = [torch.empty(0, self.embedding_dim)]
        for start in range(0, count, _BATCH):
            features = encode(slice(start, start + _BATCH))
            # A tensor before version 5.
            parts.append(features if isinstance(features, Tensor) else features.pooler_output)
        return F.normalize(torch.cat(parts).float(), dim=-1)


def _open(folder: Path, options: ExportOptions) -> Mapping[str, TransformersModel]:
    return {"": TransformersModel(folder, max_length=_length_beside(folder) if options.combined else None)}


FORMAT = Format(
    name="transformers",
    obstacle=_obstacle,
    write=_write,
    open=_open,
    tolerances={"": 1e-5},
    reference=str,
    needs=("config.json", "model.safetensors", "preprocessor_config.json", _TOKENIZER_CONFIG),
)
