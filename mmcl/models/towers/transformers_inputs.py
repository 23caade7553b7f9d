"""The preprocessing of transformers' models, read from the files that lie beside their weights."""

from __future__ import annotations

from typing import Any

from mmcl.errors import ConfigError
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.models.towers.text_preprocessing import TextPreprocessing
from mmcl.models.towers.transformers_loading import load_tokenizer, read_json

# These count positions from the padding index + 1.
_OFFSET_POSITIONS = ("roberta", "camembert", "mpnet", "xmod", "longformer", "data2vec-text", "ibert")


def image_preprocessing(name: str, config: Any, *, pretrained: bool, size: int | None) -> ImagePreprocessing:
    """The preprocessing of a vision model, from its ``preprocessor_config.json`` or ``processor_config.json``.

    Raises:
        ConfigError: a pretrained model without one: guessing mean and size would quietly ruin its features.
    """
    found = read_json(name, "preprocessor_config.json") or read_json(name, "processor_config.json") or {}
    found = found.get("image_processor", found)
    if "image_processor_type" in found or "size" in found or "feature_extractor_type" in found:
        preprocessing = ImagePreprocessing.from_image_processor(found, source=name)
        return preprocessing.with_size(size) if size else preprocessing
    edge = size or getattr(config, "image_size", None)
    if pretrained or edge is None:
        raise ConfigError(
            f"{name!r} has no preprocessor_config.json, which says the size, mean and standard deviation that its "
            f"images need; add the file, or use pretrained: false with model.image.image_size"
        )
    return ImagePreprocessing((edge, edge) if isinstance(edge, int) else edge)


def text_preprocessing(name: str, config: Any, *, max_length: int | None) -> TextPreprocessing:
    """The tokenizer of a text model, with its maximum length.

    Raises:
        ConfigError: no tokenizer, or more tokens asked for than the model reads.
    """
    tokenizer = load_tokenizer(name)
    sentence = read_json(name, "sentence_bert_config.json") or {}
    positions = getattr(config, "max_position_embeddings", None)
    if positions and any(part in config.model_type for part in _OFFSET_POSITIONS):
        positions -= (config.pad_token_id or 0) + 1
    limits = [sentence.get("max_seq_length"), tokenizer.model_max_length, positions]
    longest = min((int(limit) for limit in limits if limit and limit < 10**6), default=512)
    siglip = config.model_type.startswith("siglip")  # trained on fixed-length text without a mask
    if max_length is not None and (max_length > longest or (siglip and max_length != longest)):
        reads = "exactly" if siglip else "at most"
        raise ConfigError(f"model.text.max_length is {max_length}; {name!r} reads {reads} {longest} tokens")
    return TextPreprocessing(
        tokenizer,
        max_length=max_length or longest,
        padding="max_length" if siglip else "longest",
        use_mask=not siglip,
    )
