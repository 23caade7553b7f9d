"""The ``transformers`` format: plain transformers opens the folder and gives the model's own embeddings."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import six_models
import tiny_folders
import tiny_open_clip
import tiny_siglip
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from mmcl.config import HeadSection, ModelSection, TowerSection
from mmcl.embedder import DualEncoderEmbedder, load
from mmcl.errors import ConfigError
from mmcl.hub.formats import ExportOptions, find_format
from mmcl.hub.formats.as_transformers.open_clip_tokens import special_tokens
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.encoder import Encoder
from mmcl.models.heads import IdentityHead, LinearHead, MlpHead
from mmcl.models.opening.dual_sources import dual_encoder_from_open_clip, dual_encoder_from_transformers
from mmcl.models.saving import save_pretrained
from mmcl.models.towers.open_clip_tower import OpenClipTower
from mmcl.models.towers.text_preprocessing import OpenClipText
from mmcl.models.towers.transformers_loading import quiet_transformers

FORMAT = find_format("transformers")
# name -> the class that opens it, or what its obstacle says.
FITS = {
    "bert_vit": "VisionTextDualEncoderModel",
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "open_clip": "CLIPModel",
}
OBSTACLES = {
    "minilm_cnn": "the image tower is timm's test_efficientnet, not one of transformers'",
    "xlm_r_dinov2": "the text tower is pooled by 'mean', not by its own pooler",
}
IMAGES = six_models.make_images()
SQUARES = six_models.make_images(3, size=(32, 32))
CAPTIONS = six_models.CAPTIONS


def _write(model: DualEncoder, folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return list(FORMAT.write(model, folder, ExportOptions()))


@pytest.fixture(scope="module")
def written(
    trained: Callable[[str], DualEncoder], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[DualEncoder, Path, list[str]]]:
    """``written("clip")``: the model, its folder, and the notes."""
    made: dict[str, tuple[DualEncoder, Path, list[str]]] = {}

    def make(name: str) -> tuple[DualEncoder, Path, list[str]]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / "out"
            made[name] = (trained(name), folder, _write(trained(name), folder))
        return made[name]

    return make


@pytest.fixture(scope="module")
def open_clip_siglip(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    """A SigLIP of open_clip's, of timm's vision transformer."""
    return dual_encoder_from_open_clip(str(tiny_siglip.save_folder(tmp_path_factory.mktemp("siglip"))), None)


def _close(found: Tensor, wanted: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, wanted, atol=atol, rtol=0)
    assert not torch.allclose(found, wanted.roll(1, 0), atol=1e-4)


def _check(model: DualEncoder, folder: Path, captions: list[str] = CAPTIONS, *, and_back: bool = True) -> Any:
    """Opened by transformers, and read back by mmcl, a folder gives the model's embeddings."""
    source, opened = DualEncoderEmbedder(model, device="cpu"), FORMAT.open(folder, ExportOptions())[""]
    pixels = source.image_inputs(IMAGES)["pixel_values"]
    _close(opened.embed_pixels(pixels), source.encode_image(IMAGES))
    _close(opened.embed_texts(captions), source.encode_text(captions))
    if not and_back:
        return opened
    again = load(FORMAT.reference(folder), device="cpu")
    _close(again.encode_text(captions), source.encode_text(captions))
    _close(again.encode_image(SQUARES), source.encode_image(SQUARES))
    assert again.logit_scale == pytest.approx(source.logit_scale, rel=1e-6)
    return opened


@pytest.mark.parametrize("name", FITS)
def test_transformers_gives_the_same_embeddings(name: str, written: Any) -> None:
    model, folder, notes = written(name)
    assert FORMAT.obstacle(model) is None
    opened = _check(model, folder)
    assert type(opened.model).__name__ == FITS[name]
    assert notes[0] == f"transformers opens the folder as a {FITS[name]}."
    pictures = [to_pil_image(image) for image in SQUARES]
    _close(opened.embed_images(pictures), DualEncoderEmbedder(model, device="cpu").encode_image(SQUARES))
    assert opened.embed_texts([]).shape == (0, model.embedding_dim)
    assert opened.embed_images([]).shape == (0, model.embedding_dim)


@pytest.mark.parametrize("name", FITS)
def test_as_a_user_writes_it(name: str, written: Any) -> None:
    import transformers

    model, folder, _ = written(name)
    with quiet_transformers(), torch.no_grad():
        theirs = getattr(transformers, FITS[name]).from_pretrained(folder).eval()
        processor = transformers.AutoProcessor.from_pretrained(folder)
        padding = "max_length" if name == "siglip" else True
        inputs = processor(
            images=[to_pil_image(image) for image in SQUARES], text=CAPTIONS, padding=padding, return_tensors="pt",
            truncation=True,
        )  # fmt: skip
        found = theirs(**inputs)
    source = DualEncoderEmbedder(model, device="cpu")
    logits = source.logit_scale * source.encode_image(SQUARES) @ source.encode_text(CAPTIONS).T
    if model.logit_bias is not None:
        logits = logits + model.logit_bias.detach()
    torch.testing.assert_close(found.logits_per_image, logits, atol=1e-4, rtol=1e-5)
    assert (logits - logits.roll(1, 0)).abs().max() > 1e-3


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_does_not_fit_says_what(name: str, trained: Any) -> None:
    assert FORMAT.obstacle(trained(name)) == OBSTACLES[name]


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_another_model_differs(name: str, written: Any) -> None:
    model, folder, _ = written(name)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    with pytest.raises(AssertionError):
        _check(other, folder)


@pytest.mark.parametrize("name", FITS)
def test_a_folder_is_whole_and_of_no_machine(name: str, written: Any) -> None:
    _, folder, _ = written(name)
    assert {path.name for path in folder.iterdir()} == {*FORMAT.needs, "tokenizer.json"}
    for file in folder.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert str(folder.parent.parent) not in text
        assert "/tmp" not in text
        assert "is_local" not in text
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_scale_and_bias_of_a_siglip(trained: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(trained("siglip"))
    with torch.no_grad():
        model.logit_bias.fill_(-7.25)
        model.log_logit_scale.fill_(math.log(23.0))
    notes = _write(model, tmp_path / "out")
    opened = FORMAT.open(tmp_path / "out", ExportOptions())[""]
    assert opened.model.logit_bias.item() == -7.25
    assert opened.model.logit_scale.exp().item() == pytest.approx(23.0)
    again = load(tmp_path / "out", device="cpu")
    assert again.model.logit_bias.item() == -7.25
    assert again.logit_scale == pytest.approx(23.0)
    assert any("padded to 16 tokens" in note for note in notes)
    assert any("pads to 64 tokens whatever a SigLIP reads" in note for note in notes)


def test_a_bias_that_a_class_does_not_have(trained: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(trained("clip"))
    model.logit_bias = torch.nn.Parameter(torch.tensor([-3.5]))
    assert any(note.startswith("A CLIPModel has no logit_bias: the model's (-3.5)") for note in _write(model, tmp_path))
    model = copy.deepcopy(trained("siglip"))
    model.logit_bias = None
    assert any("has a logit_bias and the model has none" in note for note in _write(model, tmp_path / "siglip"))
    assert load(tmp_path / "siglip", device="cpu").model.logit_bias.item() == 0


def _probabilities(folder: Path, labels: list[str]) -> list[float]:
    from transformers import pipeline

    with quiet_transformers():
        classify = pipeline("zero-shot-image-classification", model=str(folder))
        answers = classify(to_pil_image(SQUARES[0]), candidate_labels=labels, hypothesis_template="{}")
    by_label = {answer["label"]: answer["score"] for answer in answers}
    return [by_label[label] for label in labels]


def test_the_zero_shot_pipeline(written: Any, open_clip_siglip: DualEncoder, tmp_path: Path) -> None:
    labels = CAPTIONS[:3]
    _write(open_clip_siglip, tmp_path / "siglip")
    for model, folder in (written("clip")[:2], (open_clip_siglip, tmp_path / "siglip")):
        source = DualEncoderEmbedder(model, device="cpu")
        logits = (source.logit_scale * source.encode_image(SQUARES[:1]) @ source.encode_text(labels).T)[0]
        bias = model.logit_bias
        wanted = logits.softmax(-1) if bias is None else (logits + bias.detach()).sigmoid()
        assert _probabilities(folder, labels) == pytest.approx(wanted.tolist(), rel=1e-4)
        assert wanted.tolist() != pytest.approx(wanted.flip(0).tolist(), rel=1e-3)


def test_a_siglip_of_open_clip(open_clip_siglip: DualEncoder, tmp_path: Path) -> None:
    notes = _write(open_clip_siglip, tmp_path / "out")
    captions = [*CAPTIONS, "A, RED: circle! &amp; star", "“a blue_square”", "circle " * 90, ""]
    opened = _check(open_clip_siglip, tmp_path / "out", captions)
    assert type(opened.model).__name__ == "SiglipModel"
    assert opened.model.logit_bias.item() == open_clip_siglip.logit_bias.item()
    assert opened.model.config.text_config.hidden_act == "gelu_pytorch_tanh"
    assert opened.model.config.vision_config.hidden_act == "gelu"
    assert not any("64 tokens whatever" in note for note in notes)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tokenizer_mode": "clips"}, "open_clip changes the tokens of its tokenizer"),
        ({"strip_sep_token": True}, "open_clip changes the tokens of its tokenizer"),
        ({"tokenizer": None}, "its tokenizer, a NoneType, is none that is kept in one tokenizer.json"),
        ({"clean_fn": str.upper}, "cleans captions in a way that is not open_clip's own"),
    ],
)
def test_tokenizers_that_cannot_be_written(values: dict[str, Any], said: str, open_clip_siglip: DualEncoder) -> None:
    preprocessing = open_clip_siglip.text.tower.preprocessing
    changed = copy.copy(preprocessing.tokenizer)
    vars(changed).update(values)
    with pytest.raises(ConfigError, match=said):
        special_tokens(OpenClipText(changed, max_length=64, trim=False))
    with pytest.raises(ConfigError, match="open_clip's str is no tokenizer that transformers can be given"):
        special_tokens(OpenClipText("a tokenizer", max_length=64, trim=False))


# What open_clip's cleaning changes and a tokenizer.json can follow.
SAME_TOKENS = [
    *CAPTIONS, "A Red, APPLE!", "it's a dog's; they're I'M 5000", "Tom &amp; Jerry", "a &lt;b&gt; &quot;q&quot; &#39;x",
    "&amp;lt; &amp;amp;quot;", "caf&eacute; &mdash; &hellip;&nbsp;&#8217;", "“curly” ‘quotes’ don’t", "ﬁne ﬂag",
    "Crème brûlée e\u0301", "  tabs\tand\nlines \u00a0 x\u3000y ", "", "a" * 90, "word " * 60, "foo_bar 🏳️‍🌈 😀",
    "<end_of", "-- a (b) [c] {d} #e @f $5 50%",
]  # fmt: skip
# What it cannot.
OTHER_TOKENS = ["naïve â€” mojibake", "ＦＵＬＬ ｗｉｄｔｈ", "ΣΑΣ ΟΔΟΣ", "&Sigma; &rarr;", "this &amp that"]


def test_tokens_of_open_clip(written: Any) -> None:
    model, folder, notes = written("open_clip")
    own = model.text.tower.preprocessing
    opened = FORMAT.open(folder, ExportOptions())[""]
    theirs = opened.tokenizer
    for caption in SAME_TOKENS:
        wanted = own([caption])["input_ids"][0].tolist()
        assert theirs(caption, truncation=True)["input_ids"] == wanted, caption
    for caption in OTHER_TOKENS:
        assert theirs(caption, truncation=True)["input_ids"] != own([caption])["input_ids"][0].tolist(), caption
    assert any("only ftfy mends" in note and "Greek" in note for note in notes)
    assert theirs.decode(theirs("A red, circle!")["input_ids"], skip_special_tokens=True) == "a red , circle !"
    # Padding is the end token where open_clip's is 0: the first end token is the one that is pooled at.
    batch = theirs(SAME_TOKENS, padding=True, truncation=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    wanted = DualEncoderEmbedder(model, device="cpu").encode_text(SAME_TOKENS)
    _close(opened.embed_texts(SAME_TOKENS), wanted)


def test_a_plain_clip_tokenizer_does_not_clean() -> None:
    """Why the folder's tokenizer is not transformers' CLIPTokenizer, which loses the replacements when it is read."""
    import open_clip
    from transformers import CLIPTokenizer

    source = open_clip.SimpleTokenizer(context_length=20)
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocab = {names.get(token, token): number for token, number in source.encoder.items()}
    plain = CLIPTokenizer(vocab=vocab, merges=list(source.bpe_ranks), model_max_length=20)

    def differs(caption: str) -> bool:
        ids = source([caption])[0]
        return plain(caption, truncation=True)["input_ids"] != ids[: int(ids.argmax()) + 1].tolist()

    assert [caption for caption in CAPTIONS if differs(caption)] == []
    assert all(differs(caption) for caption in ("Tom &amp; Jerry", "don’t", "ﬁne"))


@pytest.fixture
def variant(trained: Any) -> Callable[..., DualEncoder]:
    """variant(text_cfg={...}): a small open_clip model of another build, made in memory."""

    def make(*, tokenizer: dict[str, Any] | None = None, **changes: Any) -> DualEncoder:
        import open_clip
        from open_clip.model import CustomTextCLIP

        config = {**tiny_open_clip.CONFIG}
        for key, value in changes.items():
            config[key] = config[key] | value if isinstance(value, dict) else value
        full, own = CustomTextCLIP(**config).eval(), trained("open_clip")
        with torch.no_grad():
            for parameter in full.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        simple = open_clip.SimpleTokenizer(**tokenizer) if tokenizer else own.text.tower.preprocessing.tokenizer
        texts = OpenClipText(simple, max_length=20, trim=False)
        towers = (
            OpenClipTower(full.visual, "image", own.image.tower.preprocessing, name="tiny", config=config),
            OpenClipTower(full.text, "text", texts, name="tiny", config=config),
        )
        return DualEncoder(*(Encoder(tower, IdentityHead()) for tower in towers), embedding_dim=24).eval()

    return make


@pytest.mark.parametrize(
    "changes",
    [
        {"quick_gelu": True},
        {
            "text_cfg": {"pool_type": "eos", "eos_id": 49407, "mlp_ratio": 3.0},
            "vision_cfg": {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}},
        },
    ],
    ids=["quick_gelu", "eos"],
)
def test_variants_of_open_clip(changes: dict[str, Any], variant: Any, tmp_path: Path) -> None:
    model = variant(**changes)
    assert FORMAT.obstacle(model) is None
    _write(model, tmp_path)
    opened = _check(model, tmp_path, and_back=False)
    acts = (opened.model.config.vision_config.hidden_act, opened.model.config.text_config.hidden_act)
    assert acts == (("quick_gelu", "quick_gelu") if "quick_gelu" in changes else ("gelu_pytorch_tanh", "gelu"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vision_cfg": {"layers": [1, 1, 1, 1], "width": 8}}, "the image tower is open_clip's ModifiedResNet"),
        ({"vision_cfg": {"pool_type": "avg"}}, "the image tower, open_clip's, pools its tokens by 'avg'"),
        ({"vision_cfg": {"no_ln_pre": True}}, "has no norm before its blocks"),
        ({"vision_cfg": {"ls_init_value": 0.1}}, r"scales its layers \(ls_init_value\)"),
        ({"vision_cfg": {"attentional_pool": True, "attn_pooler_heads": 2}}, "pools by attention"),
        ({"vision_cfg": {"image_size": [32, 40]}}, r"reads \(32, 40\) pixels in patches of \(8, 8\), no squares"),
        ({"text_cfg": {"qk_norm": True}}, "the text tower, open_clip's, has blocks of a kind of its own"),
        ({"text_cfg": {"pool_type": "last"}}, "the text tower, open_clip's, pools its tokens by 'last'"),
        ({"text_cfg": {"pool_type": "eos", "eos_id": 2}}, "ends in token 2"),
        ({"text_cfg": {"proj_bias": True}}, r"projects with a bias \(proj_bias\)"),
        ({"text_cfg": {"no_causal_mask": True}}, "sees later tokens, and pools by 'argmax'"),
        ({"text_cfg": {"embed_cls": True}}, "has a class token"),
        ({"tokenizer": {"clean": "whitespace"}}, "the tokenizer keeps capitals"),
        ({"tokenizer": {"reduction_mask": "simple"}}, "shortens captions by a reduction_mask"),
        ({"tokenizer": {"additional_special_tokens": ["<x>"]}}, "special tokens besides the start and the end"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:40],
)
def test_open_clip_that_has_no_class(changes: dict[str, Any], said: str, variant: Any) -> None:
    assert re.search(said, FORMAT.obstacle(variant(**changes)) or "")


def test_heads_that_are_not_linear(trained: Any) -> None:
    model = copy.deepcopy(trained("clip"))
    width = model.text.tower.feature_dim
    model.text.head = MlpHead(width, model.embedding_dim, hidden_dims=[16])
    assert FORMAT.obstacle(model) == "the text head is a MlpHead, not a linear one without bias"
    model.text.head = LinearHead(width, model.embedding_dim, bias=True)
    assert "the text head is linear with a bias" in FORMAT.obstacle(model)
    siglip = copy.deepcopy(trained("siglip"))
    siglip.image.head = LinearHead(siglip.image.tower.feature_dim, siglip.embedding_dim)
    assert FORMAT.obstacle(siglip) == "the image head is a projection, for which a SiglipModel has no place"


def test_heads_behind_towers_that_project_already(trained: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(trained("open_clip"))
    for encoder in (model.image, model.text):
        encoder.head = LinearHead(encoder.tower.feature_dim, 16)
    model.embedding_dim = 16
    model.text.tower.preprocessing.max_length = 8  # where the tower could read 20
    notes = _write(model, tmp_path / "two")
    assert sum("written as one matrix" in note for note in notes) == 2
    opened = _check(model, tmp_path / "two", [*CAPTIONS, "a red circle beside a blue square and a green star"])
    assert opened.model.config.projection_dim == 16
    assert opened.tokenizer.model_max_length == 8
    assert opened.model.config.text_config.max_position_embeddings == 20
    bare = copy.deepcopy(trained("clip"))
    bare.image.head, bare.text.head, bare.embedding_dim = IdentityHead(), IdentityHead(), 32
    _write(bare, tmp_path / "none")
    projection = _check(bare, tmp_path / "none").model.visual_projection.weight
    assert torch.equal(projection, torch.eye(32))


def test_towers_of_two_libraries(trained: Any, tmp_path: Path) -> None:
    bert, clip = copy.deepcopy(trained("bert_vit")), copy.deepcopy(trained("open_clip"))
    bert.image = clip.image
    _write(bert, tmp_path)
    opened = _check(bert, tmp_path)
    assert type(opened.model).__name__ == "VisionTextDualEncoderModel"
    assert opened.model.config.vision_config.model_type == "clip_vision_model"


_VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
           "intermediate_size": 48}  # fmt: skip
_TEXT = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ChineseCLIP", {"max_position_embeddings": 34}),
        ("AltCLIP", {"max_position_embeddings": 34, "pad_token_id": 0, "project_dim": 32}),
        ("MetaClip2", {"max_position_embeddings": 24, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}),
    ],
)
def test_relatives_of_clip_keep_their_class(name: str, text: dict[str, Any], tmp_path: Path) -> None:
    import transformers

    config = getattr(transformers, f"{name}Config")(vision_config=_VISION, text_config=_TEXT | text, projection_dim=24)
    (tmp_path / "in").mkdir()
    with quiet_transformers():
        getattr(transformers, f"{name}Model")(config).save_pretrained(str(tmp_path / "in"))
        tiny_folders.save_processor(tmp_path / "in", "clip")
        tokenizer = tiny_folders.word_tokenizer()
        tokenizer.model_max_length = 16
        tokenizer.save_pretrained(str(tmp_path / "in"))
    model = dual_encoder_from_transformers(str(tmp_path / "in"))
    _write(model, tmp_path / "out")
    assert type(_check(model, tmp_path / "out").model).__name__ == f"{name}Model"


def test_a_siglip_tower_in_another_pair(trained: Any, tmp_path: Path) -> None:
    (tmp_path / "siglip").mkdir()
    (tmp_path / "bert").mkdir()
    siglip = tiny_folders.save_dual_model(tmp_path / "siglip", "siglip")
    bert = tiny_folders.save_text_model(tmp_path / "bert", "bert")
    head = HeadSection(name="linear")
    towers = {
        "image": TowerSection(name=str(siglip), head=head),
        "text": TowerSection(name=str(bert), pooling="pooler", head=head),
    }
    model = build_dual_encoder(ModelSection(**towers, embedding_dim=24)).eval()
    _write(model, tmp_path / "out")
    assert type(_check(model, tmp_path / "out").model).__name__ == "VisionTextDualEncoderModel"
    towers = {"image": TowerSection(name=str(siglip), head=head), "text": TowerSection(name=str(siglip), head=head)}
    other = build_dual_encoder(ModelSection(**towers, embedding_dim=32))
    assert FORMAT.obstacle(other) == "the image head is a projection, for which a SiglipModel has no place"


@pytest.mark.parametrize(
    ("settings", "exact"),
    [
        ({"size": (32, 32)}, True),
        ({"size": (32, 32), "resize_to": 36}, True),
        ({"size": (32, 32), "resize_to": 33, "interpolation": "bilinear"}, True),
        ({"size": (24, 36), "resize_to": (30, 41)}, True),
        ({"size": (32, 32), "interpolation": "nearest-exact"}, True),
        ({"size": (32, 32), "resize_to": 32, "crop_rounding": "even"}, False),
    ],
)
def test_pixels_are_those_of_mmcl(settings: dict[str, Any], exact: bool, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    from mmcl.hub.formats.as_transformers.format import _image_notes
    from mmcl.models.towers.preprocessing import ImagePreprocessing

    own = ImagePreprocessing(mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28), **settings)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(own.image_processor_config()))
    theirs = AutoImageProcessor.from_pretrained(tmp_path)
    shapes = [(40, 56), (33, 33), (71, 36), (32, 32), (35, 32), (32, 37), (39, 97), (123, 57), (20, 21), (1, 1)]
    moved = []
    for shape in shapes:
        image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
        wanted = own([image])["pixel_values"]
        found = theirs(images=[to_pil_image(image)], return_tensors="pt")["pixel_values"]
        if not torch.allclose(found, wanted, atol=1e-6):
            moved.append(shape)
            cut = torch.allclose(found[..., 1:, :], wanted[..., :-1, :], atol=1e-6)
            assert cut or torch.allclose(found[..., 1:], wanted[..., :-1], atol=1e-6), "one pixel, and no more"
    assert moved == ([] if exact else [(71, 36), (35, 32), (39, 97)])
    assert bool(list(_image_notes(own))) == (not exact)


def test_beside_an_mmcl_model(trained: Any, tmp_path: Path) -> None:
    both = ExportOptions(combined=True)
    save_pretrained(trained("bert_vit"), tmp_path / "bert_vit")
    before = {path.name: path.read_bytes() for path in (tmp_path / "bert_vit").iterdir()}
    notes = FORMAT.write(trained("bert_vit"), tmp_path / "bert_vit", both)
    assert notes[0] == "The mmcl model's own files are a VisionTextDualEncoderModel's; nothing was added."
    assert "cut at 32 tokens" in notes[1]
    assert {path.name: path.read_bytes() for path in (tmp_path / "bert_vit").iterdir()} == before
    opened = FORMAT.open(tmp_path / "bert_vit", both)[""]
    _close(opened.embed_texts(CAPTIONS), DualEncoderEmbedder(trained("bert_vit"), device="cpu").encode_text(CAPTIONS))
    # What was trained with fewer tokens than its tokenizer gives.
    short = copy.deepcopy(trained("bert_vit"))
    short.text.tower.preprocessing.max_length = 4
    save_pretrained(short, tmp_path / "short")
    assert "cut at 4 tokens" in FORMAT.write(short, tmp_path / "short", both)[1]
    wanted = DualEncoderEmbedder(short, device="cpu").encode_text(CAPTIONS)
    for options in (both, ExportOptions()):  # the tokenizer's own files say it too
        torch.testing.assert_close(FORMAT.open(tmp_path / "short", options)[""].embed_texts(CAPTIONS), wanted)
    # As models saved by other means have it: then the note alone says it.
    tiny_folders.edit_json(tmp_path / "short" / "tokenizer_config.json", model_max_length=32)
    torch.testing.assert_close(FORMAT.open(tmp_path / "short", both)[""].embed_texts(CAPTIONS), wanted)
    assert not torch.allclose(FORMAT.open(tmp_path / "short", ExportOptions())[""].embed_texts(CAPTIONS), wanted)
    save_pretrained(trained("siglip"), tmp_path / "siglip")
    with pytest.raises(
        ConfigError, match=r"cannot be put beside this mmcl model.*model\.safetensors.* a folder of its"
    ):
        FORMAT.write(trained("siglip"), tmp_path / "siglip", both)
    assert load(tmp_path / "siglip", device="cpu").embedding_dim == 32
