"""What evaluation is compared with: mmcl's own calls and those of other packages, each as its package calls it.

Retrieval calls get a `Gallery` and return the recalls of both directions by name; classifier calls get a `Tower` and
return (classes, d) unit rows.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

KS = (1, 5, 10)
CAPTIONS = 5  # of every image
Recalls = dict[str, float]


@dataclass(frozen=True)
class Gallery:
    """Embeddings of images and of their captions.

    Attributes:
        images: (n, d) float32, unit rows.
        texts: (m, d) float32, unit rows.
        owners: (m,) int64, the image that each caption belongs to.
    """

    images: Tensor
    texts: Tensor
    owners: Tensor

    @property
    def bytes(self) -> int:
        """What the embeddings take."""
        return 4 * (self.images.numel() + self.texts.numel())


def planted(images: int, dim: int, *, signal: float = 3.5, seed: int = 0) -> Gallery:
    """Random images, and captions that are near to their image's embedding, but not always the nearest.

    The cosine of a pair, about ``signal / sqrt(dim)``, is near the largest of some thousand random cosines.
    """
    draw = torch.Generator().manual_seed(seed)
    image = F.normalize(torch.randn(images, dim, generator=draw), dim=1)
    text = torch.randn(images * CAPTIONS, dim, generator=draw)
    for number in range(CAPTIONS):
        text[number::CAPTIONS].add_(image, alpha=signal)
    text /= text.norm(dim=1, keepdim=True)
    return Gallery(image, text, torch.arange(images).repeat_interleave(CAPTIONS))


@dataclass(frozen=True)
class Peer:
    """A call of somebody else's.

    Attributes:
        name: as the table has it.
        package: what is to be installed; "torch" for plain torch.
        call: imports it when called.
    """

    name: str
    package: str
    call: Callable[..., Any]

    def missing(self) -> str:
        """Why it cannot be called; empty where it can."""
        return "" if importlib.util.find_spec(self.package) is not None else "not installed"


# -- retrieval -------------------------------------------------------------------------------------------------------


def mmcl_recalls(gallery: Gallery) -> Recalls:
    """``mmcl.evaluation``: what `RetrievalEvaluator` does with embeddings, as far as recall goes."""
    from mmcl.evaluation.metrics import hit_rate
    from mmcl.evaluation.retrieval.both_ways import rank_both_ways

    ids = torch.arange(len(gallery.images))
    ways = rank_both_ways(gallery.images, gallery.texts, ids, gallery.owners, depth=max(KS))
    return {f"{way} R@{k}": float(hit_rate(ranks, k).mean()) for way, ranks in zip(("i2t", "t2i"), ways) for k in KS}


def clip_benchmark_module() -> Any:
    """CLIP_benchmark's ``metrics/zeroshot_retrieval.py``, from its own file: its package imports much else."""
    package = importlib.util.find_spec("clip_benchmark")
    if package is None:
        raise ModuleNotFoundError("clip_benchmark")
    path = Path(package.submodule_search_locations[0]) / "metrics" / "zeroshot_retrieval.py"
    spec = importlib.util.spec_from_file_location("clip_benchmark_retrieval", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clip_benchmark_recalls(gallery: Gallery) -> Recalls:
    """CLIP_benchmark: its ``batchify`` and ``recall_at_k``, on what its ``evaluate`` gives them.

    All scores and all pairs as matrices, the direction and cut-off one at a time, 64 queries each (its command's
    default batch size), a hit where the recall is above 0.
    """
    module = clip_benchmark_module()
    scores = gallery.texts @ gallery.images.t()
    pairs = torch.zeros_like(scores, dtype=torch.bool)
    pairs[torch.arange(len(scores)), gallery.owners] = True
    found = {}
    for way, x, y in (("i2t", scores.T, pairs.T), ("t2i", scores, pairs)):
        for k in KS:
            recall = module.batchify(module.recall_at_k, x, y, 64, "cpu", k=k)
            found[f"{way} R@{k}"] = float((recall > 0).double().mean())
    return found


def top_k_recalls(gallery: Gallery, *, chunk: int = 1024) -> Recalls:
    """Plain torch, as one would write it by hand: the scores of a chunk of queries, and ``topk`` of them."""
    ids = torch.arange(len(gallery.images))
    ways = {
        "i2t": (gallery.images, gallery.texts, ids, gallery.owners),
        "t2i": (gallery.texts, gallery.images, gallery.owners, ids),
    }
    found = {}
    for way, (queries, others, wanted, groups) in ways.items():
        hits = torch.cat(
            [
                groups[(rows @ others.T).topk(max(KS), dim=1).indices] == want[:, None]
                for rows, want in zip(queries.split(chunk), wanted.split(chunk))
            ]
        )
        found |= {f"{way} R@{k}": float(hits[:, :k].any(1).double().mean()) for k in KS}
    return found


class _Looked:
    """What sentence-transformers' evaluator calls of a model: "texts" are row numbers of given embeddings."""

    def __init__(self, rows: Tensor) -> None:
        self.encode_query = self.encode_document = lambda sentences, **options: rows
        self.similarity_fn_name = "cosine"
        self.similarity = lambda a, b: a @ b.T  # unit rows: normalising them again would cost it time


def sentence_transformers_metrics(gallery: Gallery) -> dict[str, float]:
    """sentence-transformers' ``InformationRetrievalEvaluator`` on given embeddings, once each way."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    numbers = [str(row) for row in range(len(gallery.texts))]
    images = [f"i{row}" for row in range(len(gallery.images))]
    owner = dict(zip(numbers, (images[row] for row in gallery.owners.tolist())))
    captions: dict[str, set[str]] = {name: set() for name in images}
    for number, name in owner.items():
        captions[name].add(number)
    found = {}
    for way, queries, corpus, relevant, rows, others in (
        ("i2t", images, numbers, captions, gallery.images, gallery.texts),
        ("t2i", numbers, images, {number: {name} for number, name in owner.items()}, gallery.texts, gallery.images),
    ):
        evaluator = InformationRetrievalEvaluator(
            dict(zip(queries, queries)), dict(zip(corpus, corpus)), relevant, mrr_at_k=[10], ndcg_at_k=[10],
            accuracy_at_k=list(KS), precision_recall_at_k=list(KS), map_at_k=[10], write_csv=False,
            score_functions={"cosine": lambda a, b: a @ b.T},
        )  # fmt: skip
        scores = evaluator.compute_all_metrics(_Looked(rows), corpus_embeddings=others)["cosine"]
        found |= {f"{way} R@{k}": float(scores["accuracy@k"][k]) for k in KS}
        found |= {f"{way} nDCG@10": float(scores["ndcg@k"][10]), f"{way} mAP@10": float(scores["map@k"][10])}
    return found


CLIP_BENCHMARK = Peer("CLIP_benchmark's recall_at_k", "clip_benchmark", clip_benchmark_recalls)
TOP_K = Peer("plain torch, topk of chunks", "torch", top_k_recalls)
SENTENCE_TRANSFORMERS = Peer(
    "InformationRetrievalEvaluator (sentence-transformers)", "sentence_transformers", sentence_transformers_metrics
)


class GivenEmbedder:
    """An embedder of embeddings that are there already: items are their row numbers.

    Args:
        gallery: the embeddings.
    """

    modalities = frozenset({"image", "text"})
    logit_scale = 100.0

    def __init__(self, gallery: Gallery) -> None:
        self.gallery, self.embedding_dim = gallery, gallery.images.shape[1]

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        """The rows that the items name."""
        rows = torch.from_numpy(np.array(items, dtype=np.int64))
        return (self.gallery.images if modality == "image" else self.gallery.texts)[rows]

    def encode_image(self, images: Sequence[Any], *, batch_size: int = 64) -> Tensor:
        """``embed`` of images."""
        return self.embed(images, "image", batch_size=batch_size)

    def encode_text(self, texts: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """``embed`` of texts."""
        return self.embed(texts, "text", batch_size=batch_size)

    def embed_dataset_images(self, dataset: Any, *, batch_size: int = 64) -> tuple[Tensor, np.ndarray, list[Any]]:
        """All images of a data set that `dataset_of` made."""
        rows = np.arange(len(dataset))
        return self.embed(dataset.column("id"), "image"), rows, []


class _NoImages:
    """An image store without pixels: nothing here reads one."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> Tensor:
        raise NotImplementedError("a benchmark's images have no pixels")

    def describe(self, row: int) -> str:
        return f"image {self.rows[row]}"

    def select(self, rows: np.ndarray) -> _NoImages:
        return _NoImages(self.rows[rows])

    def fingerprint(self) -> str:
        return str(len(self.rows))


def dataset_of(gallery: Gallery) -> Any:
    """A data set whose images and captions are row numbers of a gallery, for `GivenEmbedder`."""

    captions: list[list[str]] = [[] for _ in gallery.images]
    for row, owner in enumerate(gallery.owners.tolist()):
        captions[owner].append(str(row))
    return dataset_with(texts=captions)


def dataset_with(**columns: list[Any]) -> Any:
    """A data set of images without pixels, with an ``id`` each and these columns."""
    import pyarrow as pa

    from mmcl.data.dataset import SCHEMA, ImageTextDataset

    count = len(next(iter(columns.values())))
    columns = {"id": [str(row) for row in range(count)], **columns}
    arrays = {name: pa.array(values, SCHEMA.get(name)) for name, values in columns.items()}
    return ImageTextDataset(_NoImages(range(count)), pa.table(arrays), name="benchmark:test")


# -- zero-shot classifiers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tower:
    """One text tower with random weights, as both packages hold it.

    Attributes:
        theirs: open_clip's model.
        tokenizer: open_clip's.
        embedder: mmcl's, of the same weights.
    """

    theirs: Any
    tokenizer: Any
    embedder: Any


def imagenet() -> tuple[list[str], list[Callable[[str], str]]]:
    """open_clip's names of ImageNet's 1,000 classes (two of them twice), and OpenAI's 80 templates."""
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    return list(IMAGENET_CLASSNAMES), list(OPENAI_IMAGENET_TEMPLATES)


def mmcl_classifier(tower: Tower, names: Sequence[str]) -> Tensor:
    """mmcl: `ZeroShotEvaluator.class_weights`."""
    from mmcl.evaluation import ZeroShotEvaluator

    classes = {f"{number:04d}": name for number, name in enumerate(names)}
    templates = [template("{}") for template in imagenet()[1]]
    dataset = dataset_with(texts=[["a"]], label=["0000"])
    return ZeroShotEvaluator(dataset, classes=classes, templates=templates).class_weights(tower.embedder)


def open_clip_classifier(tower: Tower, names: Sequence[str], *, together: int | None = None) -> Tensor:
    """open_clip: ``build_zero_shot_classifier``; ``together`` classes at a time, its default being 10."""
    from open_clip import build_zero_shot_classifier

    more = {} if together is None else {"num_classes_per_batch": together}
    return build_zero_shot_classifier(tower.theirs, tower.tokenizer, names, imagenet()[1], **more).T


def clip_benchmark_classifier(tower: Tower, names: Sequence[str]) -> Tensor:
    """CLIP_benchmark: ``zero_shot_classifier``, in float32 too. Its templates name the class ``{c}``."""
    from clip_benchmark.metrics.zeroshot_classification import zero_shot_classifier

    templates = [template("{c}") for template in imagenet()[1]]
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
        return zero_shot_classifier(tower.theirs, tower.tokenizer, names, templates, "cpu", amp=False).T


def open_clip_one_class(tower: Tower, names: Sequence[str]) -> Tensor:
    """open_clip's builder, one class (80 prompts) a forward pass."""
    return open_clip_classifier(tower, names, together=1)


BUILDER = Peer("build_zero_shot_classifier (open_clip)", "open_clip", open_clip_classifier)
BUILDER_BY_CLASS = Peer("the same, one class a batch", "open_clip", open_clip_one_class)
CLIP_BENCHMARK_BUILDER = Peer("zero_shot_classifier (CLIP_benchmark)", "clip_benchmark", clip_benchmark_classifier)
