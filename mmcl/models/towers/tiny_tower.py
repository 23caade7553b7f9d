"""The tower called `tiny`: a small ViT or BERT from a config, its vocabulary the data's own words. No download."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from mmcl.errors import ConfigError
from mmcl.models.towers.convolutional_stem import OPTION, build_with_stem
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.models.towers.text_preprocessing import TextPreprocessing
from mmcl.models.towers.transformers_tower import TransformersTower

MAX_WORDS = 8192

# Both are narrow, so weights start wider than the 0.02 of full-size models: at width 128 that would leave the class
# token, which every score is read from, nearly the same for all inputs, and training at chance for a hundred steps.
TINY_VIT = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "patch_size": 16,
    "image_size": 64,
    "initializer_range": 0.08,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    OPTION: False,
}
TINY_BERT = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 128,
    "initializer_range": 0.08,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    OPTION: False,
}


def word_tokenizer(captions: Iterable[str]) -> Any:
    """A WordPiece tokenizer whose vocabulary is the captions' words and characters.

    Frequent words are whole tokens; any other word is spelled from characters, so that text the captions never held
    can still be read. The same captions give the same vocabulary: words by falling count, then by spelling.

    Args:
        captions: the training captions; none gives a vocabulary of ASCII characters.

    Returns:
        A ``transformers.PreTrainedTokenizerFast``.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(re.findall(r"\w+|[^\w\s]", caption.lower()))
    characters = sorted(set("".join(counts)) | set("abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'-"))
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))][:MAX_WORDS]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*special, *words, *characters, *(f"##{c}" for c in characters)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=TINY_BERT["max_position_embeddings"],
    )


def _configure(config_class: Any, defaults: dict[str, Any], options: dict[str, Any], modality: str) -> Any:
    known = config_class(**defaults)
    for key in options:
        if not hasattr(known, key):
            raise ConfigError(f"model.{modality}.options.{key}: {config_class.__name__} has no such value")
    return config_class(**{**defaults, **options})  # built anew: a config derives values from others (a pooler's size)


def build_tiny_image_tower(*, size: int | None, options: dict[str, Any]) -> TransformersTower:
    """A ViT of width 128 for 64 × 64 pixels (``TINY_VIT``), random weights.

    With ``options: {convolutional_stem: true}`` its patches come from a ``ConvolutionalStem``: it learns faster from
    scratch, and plain transformers cannot hold it.

    Raises:
        ConfigError: an option that neither ``ViTConfig`` nor ``TINY_VIT`` has.
    """
    from transformers import ViTConfig

    config = _configure(ViTConfig, TINY_VIT | ({"image_size": size} if size else {}), options, "image")
    preprocessing = ImagePreprocessing((config.image_size, config.image_size))
    return TransformersTower(build_with_stem(config), "image", preprocessing, name="tiny")


def build_tiny_text_tower(
    *, captions: Iterable[str], max_length: int | None, options: dict[str, Any]
) -> TransformersTower:
    """A 2-layer BERT of width 128 (``TINY_BERT``), random weights, its vocabulary made from ``captions``.

    With ``options: {convolutional_stem: true}`` words are joined with their neighbours first
    (``TextConvolutionalStem``): it learns what belongs to what several times faster, and plain transformers cannot hold
    it.

    Raises:
        ConfigError: an option that ``BertConfig`` does not have; more tokens asked for than it has positions.
    """
    from transformers import BertConfig

    tokenizer = word_tokenizer(captions)
    config = _configure(BertConfig, TINY_BERT | {"vocab_size": len(tokenizer)}, options, "text")
    limit = config.max_position_embeddings
    if (max_length or 0) > limit:
        raise ConfigError(
            f"model.text.max_length is {max_length}; the tiny tower reads at most {limit} tokens; raise "
            f"model.text.options.max_position_embeddings"
        )
    preprocessing = TextPreprocessing(tokenizer, max_length=max_length or min(64, limit))
    return TransformersTower(build_with_stem(config), "text", preprocessing, name="tiny")
