"""Data sets written to disk: as shards, Parquet or a folder, in parallel, resumable, checked."""

from mmcl.data.writing.dataset import write_dataset

__all__ = ["write_dataset"]
