"""Which towers can be written in which format: the README's table is what this finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import six_models
import torch

import mmcl
from mmcl.embedder import DualEncoderEmbedder
from mmcl.hub.exporting import export, obstacles
from mmcl.hub.formats import FORMATS, ExportOptions

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install '.[test]'")
pytest.importorskip("sentence_transformers", reason="needs sentence-transformers: pip install '.[test]'")

TOLERANCE = {"onnx": 1e-4}
TEXTS = [*six_models.CAPTIONS, "A red CIRCLE, two photos", "red " * 60]


def rendered(found: dict[str, dict[str, str | None]]) -> str:
    """The table, and below it what stands in the way."""
    lines = [f"| | {' | '.join(FORMATS)} |", f"|---{'|---' * len(FORMATS)}|"]
    reasons: list[str] = []
    for name, title in six_models.MODELS.items():
        cells = []
        for why in found[name].values():
            if why is not None and why not in reasons:
                reasons.append(why)
            cells.append("yes" if why is None else f"no ({reasons.index(why) + 1})")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    told = [f"{number}. {why}" for number, why in enumerate(reasons, start=1)]
    return "\n".join([*lines, "", *told]).rstrip()


def test_the_readmes_table_is_what_is_found(trained, checkout: Path) -> None:
    found = {name: obstacles(trained(name)) for name in six_models.MODELS}
    table = rendered(found)
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    start, end = readme.index("<!-- formats -->\n") + len("<!-- formats -->\n"), readme.index("\n<!-- end formats -->")
    assert readme[start:end] == table, f"the README's table should be:\n{table}"
    assert all(found[name]["onnx"] is None for name in found)


@pytest.mark.parametrize("name", six_models.MODELS)
def test_what_the_table_promises(trained, name: str, tmp_path: Path) -> None:
    model = trained(name)
    source = DualEncoderEmbedder(model, device="cpu")
    resize_to = model.image.tower.preprocessing.resize_to
    # Of the size that is cut from, so that nobody resizes: Pillow and torchvision round differently.
    size = (resize_to, resize_to) if isinstance(resize_to, int) else resize_to
    images, texts = six_models.make_images(3, size=size), TEXTS
    wanted = source.encode_image(images), source.encode_text(texts)
    for kind, why in obstacles(model).items():
        if why is not None:
            continue
        out = tmp_path / kind
        report = export(model, kind, out, samples=4, options=ExportOptions(int8=False))
        again = mmcl.load(report.reference)
        found = again.encode_image(images), again.encode_text(texts)
        for ours, theirs in zip(wanted, found):
            assert torch.allclose(ours, theirs, rtol=0, atol=TOLERANCE.get(kind, 1e-5)), kind
            assert not torch.allclose(ours, theirs.flip(0), rtol=0, atol=1e-3), kind  # a control
        told = [path for path in out.rglob("*.json") if str(tmp_path) in path.read_text(encoding="utf-8")]
        assert told == [], "a path of this machine"
        assert not [path for path in out.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl"}]
