"""Class weights from prompts in chunks, and what classes and prompts may be."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F

from mmcl.errors import DataError, ShapeError
from mmcl.evaluation.zero_shot import text_classifier
from mmcl.evaluation.zero_shot.text_classifier import PromptChunk, class_prompts, class_weights

NAMES = [f"class {index}" for index in range(13)]
TEMPLATES = [f"{index} {{}}" for index in range(7)]


@pytest.fixture
def prompts() -> dict[str, list[str]]:
    """13 classes of 7 prompts; one prompt is shared by all, two classes have the same ones."""
    found = {name: [template.replace("{}", name) for template in TEMPLATES] for name in NAMES}
    found = {name: [*some[:6], "shared"] for name, some in found.items()}
    found["class 12"] = list(found["class 0"])
    return found


@pytest.fixture
def embedder(prompts: dict[str, list[str]], table_embedder: type):
    g = torch.Generator().manual_seed(0)
    distinct = dict.fromkeys(prompt for some in prompts.values() for prompt in some)
    return table_embedder(torch.eye(16), {text: F.normalize(torch.randn(16, generator=g), dim=0) for text in distinct})


def test_chunks_change_nothing_and_each_prompt_is_embedded_once(
    prompts: dict[str, list[str]], embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = class_weights(embedder, prompts, batch_size=64)
    num_distinct = len(embedder.seen_texts)
    assert num_distinct == 12 * 6 + 1
    for row, some in enumerate(prompts.values()):
        mean = torch.stack([embedder.texts[prompt].double() for prompt in some]).mean(0)
        assert torch.allclose(whole[row].double(), mean / mean.norm(), atol=1e-7)
    for size in (1, 5, 72, 73):
        monkeypatch.setattr(text_classifier, "CHUNK_PROMPTS", size)
        embedder.seen_texts.clear()
        assert torch.allclose(class_weights(embedder, prompts, batch_size=64), whole, atol=1e-7)
        assert len(embedder.seen_texts) == len(set(embedder.seen_texts)) == num_distinct
    assert torch.equal(whole[0], whole[12])  # equal prompts tie to the last bit
    assert not torch.equal(whole[0], whole[1])


def test_every_use_of_a_prompt_is_shown_with_its_class_and_place(
    prompts: dict[str, list[str]], embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_classifier, "CHUNK_PROMPTS", 10)
    seen: dict[tuple[int, int], torch.Tensor] = {}

    def watch(chunk: PromptChunk) -> None:
        assert len(chunk.embeddings) <= 10
        for row, owner, slot in zip(chunk.row.tolist(), chunk.owner.tolist(), chunk.slot.tolist()):
            assert (owner, slot) not in seen
            seen[owner, slot] = chunk.embeddings[row]

    class_weights(embedder, prompts, batch_size=64, watch=watch)
    assert len(seen) == 13 * 7
    for owner, some in enumerate(prompts.values()):
        for slot, prompt in enumerate(some):
            assert torch.equal(seen[owner, slot], embedder.texts[prompt])


def test_prompts_that_cancel_are_named(table_embedder: type) -> None:
    axes = torch.eye(3)
    embedder = table_embedder(axes, {"up": axes[0], "down": -axes[0], "left": axes[1]})
    with pytest.raises(ShapeError, match="'b' add up to zero"):
        class_weights(embedder, {"a": ["left", "up"], "b": ["up", "down"]}, batch_size=1)


def test_classes_that_read_alike_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mmcl"):
        found = class_prompts(["sea lion", "sea_lion", "cat"], classes=None, templates=["a {}."], prompts=None)
    assert found.alike == (("sea lion", "sea_lion"),)
    assert "'sea lion' and 'sea_lion' have the same prompts" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="mmcl"):
        other = class_prompts(["sea lion", "cat"], classes=None, templates=["a {}."], prompts=None)
    assert (other.alike, caplog.text) == ((), "")
    whole = {"a": ["x", "y"], "b": ["y", "x"], "c": ["x"]}
    assert class_prompts([], classes=None, templates=None, prompts=whole).alike == (("a", "b"),)


def test_whole_prompts_have_no_templates() -> None:
    found = class_prompts(["a"], classes=None, templates=None, prompts={"a": ["x"], "b": ["y", "z"]})
    assert (found.classes, found.templates) == (("a", "b"), ())
    filled = class_prompts(["b_b"], classes=None, templates=["a {}.", "{}"], prompts=None)
    assert (filled.prompts, filled.templates) == ({"b_b": ["a b b.", "b b"]}, ("a {}.", "{}"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": []}, "at least one class"),
        ({"classes": ["cat", "dog", "cat"]}, "'cat' stands twice"),
        ({"classes": ["cat", " "]}, "label ' ' needs one non-empty name"),
        ({"classes": {"cat": 3}}, "label 'cat' needs one non-empty name, got 3"),
        ({"classes": ["cat"], "prompts": {"cat": ["a"], "catt": ["b"]}}, "for 'catt', which is no class .*'cat'"),
        ({"prompts": {}}, "at least one class"),
        ({"templates": []}, "at least one template"),
        ({"templates": ["a photo"]}, r"lacks \{\}"),
    ],
)
def test_what_cannot_be_a_classifier_is_refused(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        class_prompts(["cat"], **{"classes": None, "templates": None, "prompts": None, **options})
