"""Small transformers models with random weights, saved as folders the way the Hub holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

_SENTENCE = "a red blue green circle square photo of the big small one two three next to above on grey field"
WORDS = _SENTENCE.split()
CAPTIONS = ["a red circle", "a photo of one big blue square next to three small green circle", "two", "the grey field"]

_TEXT = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_VISION = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
_STAGES = {"image_size": 32, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
_ROBERTA = _TEXT | {"max_position_embeddings": 34, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}

# name -> (config class, values)
TEXT_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", _TEXT | {"max_position_embeddings": 32}),
    "roberta": ("RobertaConfig", _ROBERTA),
    "xlm_roberta": ("XLMRobertaConfig", _ROBERTA),
    "mpnet": ("MPNetConfig", _ROBERTA),
    "distilbert": (
        "DistilBertConfig",
        {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 32},
    ),
    "modernbert": ("ModernBertConfig", _TEXT | {"max_position_embeddings": 32, "pad_token_id": 1}),
    "deberta": ("DebertaV2Config", _TEXT | {"max_position_embeddings": 32, "pad_token_id": 1}),
    "electra": ("ElectraConfig", _TEXT | {"max_position_embeddings": 32, "embedding_size": 32}),
    "gpt2": ("GPT2Config", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}),
    "t5": ("T5Config", {"vocab_size": 64, "d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 2, "d_kv": 16}),
}
VISION_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTConfig", _VISION),
    "deit": ("DeiTConfig", _VISION),
    "dinov2": ("Dinov2Config", _VISION),
    "dinov2_registers": ("Dinov2WithRegistersConfig", _VISION | {"num_register_tokens": 3}),
    "siglip_vision": ("SiglipVisionConfig", _VISION),
    "clip_vision": ("CLIPVisionConfig", _VISION),
    "convnext": ("ConvNextConfig", _STAGES),
    "convnextv2": ("ConvNextV2Config", _STAGES),
    "resnet": (
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "layer_type": "basic"},
    ),
    "swin": (
        "SwinConfig",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 8,
            "depths": [1, 1, 2],
            "num_heads": [1, 2, 4],
            "window_size": 4,
        },
    ),
    "beit": ("BeitConfig", _VISION),
    "dinov3": ("DINOv3ViTConfig", _VISION | {"num_register_tokens": 2}),
    "vit_mae": ("ViTMAEConfig", _VISION | {"mask_ratio": 0.0}),
}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
    "clip": ("CLIPImageProcessor", {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}),
    "siglip": ("SiglipImageProcessor", {"size": {"height": 32, "width": 32}}),
    "dinov2": ("BitImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32},
                                     "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 0.875}),
    "convnext_384": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
}  # fmt: skip


def word_tokenizer(kind: str = "bert") -> Any:
    """A tokenizer of whole words with BERT's or RoBERTa's special tokens and template."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if kind == "bert" else ["<s>", "<pad>", "</s>", "<unk>"]
    pad, unknown, begin, end = (names[i] for i in ((0, 1, 2, 3) if kind == "bert" else (1, 3, 0, 2)))
    vocabulary = {token: number for number, token in enumerate([*names, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, cls_token=begin, sep_token=end, eos_token=end,
        bos_token=begin, model_max_length=32,
    )  # fmt: skip


def _config(entry: tuple[str, dict[str, Any]]) -> Any:
    import transformers

    return getattr(transformers, entry[0])(**entry[1])


def save_processor(folder: Path, kind: str) -> Any:
    """Write transformers' own image processor, and return it."""
    import transformers

    name, values = PROCESSORS[kind]
    processor = getattr(transformers, name)(**values)
    processor.save_pretrained(str(folder))
    return processor


def save_text_model(folder: Path, name: str) -> Path:
    """A text model with its tokenizer."""
    from transformers import AutoModel

    torch.manual_seed(1)
    AutoModel.from_config(_config(TEXT_MODELS[name])).save_pretrained(str(folder))
    word_tokenizer("roberta" if name in ("roberta", "xlm_roberta", "mpnet") else "bert").save_pretrained(str(folder))
    return folder


def save_vision_model(folder: Path, name: str) -> Path:
    """A vision model with an image processor."""
    from transformers import AutoModel

    torch.manual_seed(2)
    AutoModel.from_config(_config(VISION_MODELS[name])).save_pretrained(str(folder))
    processor = {"dinov2": "dinov2", "dinov2_registers": "dinov2", "siglip_vision": "siglip", "convnext": "convnext"}
    save_processor(folder, processor.get(name, "clip" if "clip" in name else "vit"))
    return folder


def save_dual_model(folder: Path, family: str) -> Path:
    """A CLIP, SigLIP or VisionTextDualEncoder with tokenizer and image processor."""
    import transformers

    torch.manual_seed(3)
    vision, text = dict(_VISION), _TEXT | {"max_position_embeddings": 24}
    if family == "clip":
        text |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
        config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)
        model = transformers.CLIPModel(config)
    elif family == "siglip":
        text |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 16}
        config = transformers.SiglipConfig(vision_config=vision, text_config=text)
        model = transformers.SiglipModel(config)
    else:
        vision_config, text_config = _config(VISION_MODELS["vit"]), _config(TEXT_MODELS["bert"])
        make = transformers.VisionTextDualEncoderConfig.from_vision_text_configs
        model = transformers.VisionTextDualEncoderModel(make(vision_config, text_config, projection_dim=24))
    model.save_pretrained(str(folder))
    save_processor(folder, "siglip" if family == "siglip" else "clip")
    tokenizer = word_tokenizer()
    if family == "siglip":
        tokenizer.model_max_length = 16
    tokenizer.save_pretrained(str(folder))
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
