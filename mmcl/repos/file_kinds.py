"""Kinds of files in a repository of a model, by their names: what goes there and what never does."""

from __future__ import annotations

# Pickles run code when they are read; safetensors holds the same weights and does not.
PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".mar", ".dill")
# What snapshots leave out: pickles, code, and weights of frameworks that mmcl does not run.
NEVER_FETCHED = (*(f"*{suffix}" for suffix in PICKLE_SUFFIXES), "*.py", "*.h5", "*.msgpack", "*.ot", "*.gguf")

DATA_SUFFIXES = (
    ".parquet", ".arrow", ".csv", ".tsv", ".jsonl", ".ndjson", ".tar", ".zip", ".gz", ".tgz", ".xz", ".7z",
    ".npy", ".npz", ".lmdb", ".sqlite", ".db", ".feather", ".h5", ".hdf5", ".tfrecord",
)  # fmt: skip
IMAGE_SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".svg", ".ico")
ASSET_SUFFIXES = (".svg", ".png", ".webp", ".jpg", ".jpeg")
TEXT_SUFFIXES = (".json", ".md", ".yaml", ".yml", ".txt", ".jinja")
TEXT_NAMES = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "CITATION.cff")
TOKENIZER_NAMES = ("spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "tokenizer.model", "spm.model")
WEIGHT_SUFFIXES = (".safetensors",)
GRAPH_SUFFIXES = (".onnx", ".onnx.data", ".onnx_data")

# Left by systems and tools in any folder; nobody means to publish them.
JUNK = frozenset(
    {".DS_Store", "Thumbs.db", "desktop.ini", "__pycache__", ".git", ".gitattributes", ".cache", ".ipynb_checkpoints"}
)


def is_pickle_name(path: str) -> bool:
    """Whether a file's name is one that pickles have."""
    return path.lower().endswith(PICKLE_SUFFIXES)


def is_junk(path: str) -> bool:
    """Whether a file or a folder above it is what systems and tools leave behind."""
    return not JUNK.isdisjoint(path.split("/"))


def kind_of(path: str) -> str:
    """``text``, ``tokenizer``, ``weights``, ``graph``, ``asset``, ``pickle``, ``data``, ``image`` or ``unknown``.

    Args:
        path: a path in a repository, with ``/``.
    """
    name = path.rpartition("/")[2]
    low = name.lower()
    if name in TOKENIZER_NAMES:
        return "tokenizer"
    if name in TEXT_NAMES:
        return "text"
    for kind, suffixes in (
        ("weights", WEIGHT_SUFFIXES),
        ("graph", GRAPH_SUFFIXES),
        ("pickle", PICKLE_SUFFIXES),
        ("data", DATA_SUFFIXES),
        ("text", TEXT_SUFFIXES),
    ):
        if low.endswith(suffixes):
            return kind
    if low.endswith(IMAGE_SUFFIXES):
        return "asset" if path.startswith("assets/") and low.endswith(ASSET_SUFFIXES) else "image"
    return "unknown"
