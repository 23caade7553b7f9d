"""How a model is used, as code that runs: in mmcl, transformers, open_clip, sentence-transformers and ONNX."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mmcl.hub.card.facts import ModelFacts

# Shown where the card has no picture of its own.
CAPTIONS = ("a red square", "a photo of a dog", "a map of a city")


@dataclass(frozen=True)
class Example:
    """What the snippets are shown on.

    Attributes:
        file: a picture in the repository, such as ``assets/example.webp``; None: a red square is drawn.
        captions: at least one.
    """

    file: str | None = None
    captions: tuple[str, ...] = CAPTIONS


@dataclass(frozen=True)
class Snippet:
    """Code for one library.

    Attributes:
        title: heading.
        needs: what has to be installed, as pip takes it.
        code: Python; it leaves cosines in ``scores``, (1, captions).
        note: a sentence under it.
    """

    title: str
    needs: str
    code: str
    note: str = ""


def make_snippets(facts: ModelFacts, *, repo_id: str, formats: Sequence[str], example: Example) -> list[Snippet]:
    """The snippets of everything that opens the repository.

    Args:
        facts: of the model; where plain transformers opens its folder there is a snippet for it.
        repo_id: ``owner/name``.
        formats: that lie in the repository beside mmcl's own.
        example: a picture and captions.
    """
    snippets = [_mmcl(repo_id, example)]
    if facts.obstacle is None or "transformers" in formats:
        snippets.append(_transformers(facts, repo_id, example))
    for name, make in (("open_clip", _open_clip), ("sentence-transformers", _sentence_transformers), ("onnx", _onnx)):
        if name in formats:
            snippets.append(make(repo_id, example))
    return snippets


def snippet_markdown(snippets: Sequence[Snippet], example: Example) -> str:
    """The snippets under headings of the third level, below the picture that they read."""
    blocks = [f"The picture that the code reads:\n\n![{example.captions[0]}]({example.file})"] if example.file else []
    for snippet in snippets:
        needs = f"`pip install {snippet.needs}`" if snippet.needs else ""
        blocks += [f"### {snippet.title}", needs, f"```python\n{snippet.code}```", snippet.note]
    return "\n\n".join(block for block in blocks if block)


def _start(repo_id: str, example: Example, imports: Sequence[str]) -> str:
    """Imports (``MODULE`` or ``MODULE NAMES``), the picture and the captions."""
    modules = sorted(name for name in imports if " " not in name)
    named = {home: names for home, _, names in (name.partition(" ") for name in imports) if names}
    named["PIL"] = "Image"
    picture = 'Image.new("RGB", (224, 224), "red")'
    if example.file is not None:
        named["huggingface_hub"] = ", ".join(filter(None, ["hf_hub_download", named.get("huggingface_hub")]))
        picture = f'Image.open(hf_hub_download("{repo_id}", "{example.file}")).convert("RGB")'
    captions = ", ".join(json.dumps(caption, ensure_ascii=False) for caption in example.captions)
    lines = [
        *(f"import {module}" for module in modules),
        *(f"from {home} import {names}" for home, names in sorted(named.items(), key=lambda pair: pair[0].lower())),
        "",
        '# Yours: Image.open("picture.jpg").convert("RGB")',
        f"image = {picture}",
        f"captions = [{captions}]",
        "",
    ]
    return "\n".join(lines)


def _mmcl(repo_id: str, example: Example) -> Snippet:
    code = f"""{_start(repo_id, example, ["mmcl"])}
model = mmcl.load("{repo_id}")
scores = model.encode_image([image]) @ model.encode_text(captions).T  # cosines, (1, {len(example.captions)})
for caption, share in zip(captions, (model.logit_scale * scores).softmax(-1)[0].tolist()):
    print(f"{{share:.3f}} {{caption}}")
"""
    return Snippet("mmcl", "", code, "`encode_image` takes paths, PIL images, arrays and tensors.")


def _transformers(facts: ModelFacts, repo_id: str, example: Example) -> Snippet:
    imports = ["torch", "transformers AutoImageProcessor, AutoModel, AutoTokenizer"]
    padding = json.dumps(facts.padding) if facts.padding == "max_length" else "True"
    length = f", max_length={facts.max_length}" if facts.max_length else ""
    code = f"""{_start(repo_id, example, imports)}
model = AutoModel.from_pretrained("{repo_id}").eval()
tokenizer = AutoTokenizer.from_pretrained("{repo_id}")
processor = AutoImageProcessor.from_pretrained("{repo_id}")
texts = tokenizer(captions, padding={padding}, truncation=True{length}, return_tensors="pt")
with torch.no_grad():
    output = model(**texts, **processor(image, return_tensors="pt"))
scores = output.image_embeds @ output.text_embeds.T
print(scores)
"""
    return Snippet("transformers", "transformers torch torchvision pillow", code)


def _open_clip(repo_id: str, example: Example) -> Snippet:
    code = f"""{_start(repo_id, example, ["open_clip", "torch"])}
model, preprocess = open_clip.create_model_from_pretrained("hf-hub:{repo_id}")
tokenizer = open_clip.get_tokenizer("hf-hub:{repo_id}")
model.eval()
with torch.no_grad():
    pictures = model.encode_image(preprocess(image)[None], normalize=True)
    texts = model.encode_text(tokenizer(captions), normalize=True)
scores = pictures @ texts.T
print(scores)
"""
    return Snippet("open_clip", "open_clip_torch", code)


def _sentence_transformers(repo_id: str, example: Example) -> Snippet:
    imports = ["sentence_transformers SentenceTransformer"]
    code = f"""{_start(repo_id, example, imports)}
model = SentenceTransformer("{repo_id}")
scores = model.encode([image]) @ model.encode(captions).T
print(scores)
"""
    return Snippet("sentence-transformers", "sentence-transformers pillow", code)


def _onnx(repo_id: str, example: Example) -> Snippet:
    code = f"""{_start(repo_id, example, ["mmcl.hub OnnxEmbedder"])}
model = OnnxEmbedder.from_pretrained("{repo_id}")  # precision="int8": smaller and quicker, a little less exact
scores = model.encode_image([image]) @ model.encode_text(captions).T
print(scores)
"""
    note = "Neither torch nor transformers is needed; the graphs in `onnx/` run in any ONNX runtime."
    return Snippet("ONNX, without torch", "", code, note)
