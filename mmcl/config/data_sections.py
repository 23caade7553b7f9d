"""The data: where they lie, their splits and columns, and how images and captions are varied."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmcl.config.augment_sections import AugmentSection, CaptionsSection
from mmcl.config.section import Section


class ColumnsSection(Section):
    """What the data call mmcl's columns; a dot reaches into a struct, such as ``text: i18n.de``."""

    image: str | None = Field(None, description="the data's name for: image; default image, file_name, path ...")
    text: str | None = Field(
        None, description="the data's name for: caption, or list of captions; default text, caption"
    )
    label: str | None = Field(None, description="the data's name for: class, for zero-shot")
    group: str | None = Field(None, description="the data's name for: what belongs together; same group = positive")
    domain: str | None = Field(None, description="the data's name for: where a row comes from, such as photo or sketch")
    tags: str | None = Field(None, description="the data's name for: list of keywords")
    negatives: str | None = Field(None, description="the data's name for: list of wrong captions")
    id: str | None = Field(None, description="the data's name for: what messages call a row")
    split: str | None = Field(None, description="the data's name for: the split a row is in")


class SplitSection(Section):
    """Which splits are trained on, judged during training, and judged at the end."""

    train: str = Field("train", description="split to train on")
    validation: str | None = Field("validation", description="split judged during training; null: none")
    test: str | None = Field("test", description="split judged once, with the best model; null: none")


class DataSection(Section):
    """What is learnt from: the data, their splits and columns, and how images and captions are varied."""

    path: str = Field(description="DATA: folder, table, shards, Hub id, mixture.yaml, or shapes[?train=N&seed=N]")
    images: str | None = Field(None, description="folder the image paths of a table are relative to")
    negatives: str | None = Field(None, description="file of mmcl data mine: wrong captions and images of the rows")
    split: SplitSection = SplitSection()
    columns: ColumnsSection = ColumnsSection()
    augment: AugmentSection = AugmentSection()
    captions: CaptionsSection = CaptionsSection()
    bucket_by_length: bool = Field(False, description="batch captions of similar length together")
    decode: Literal["exact", "scaled"] = Field(
        "exact", description="scaled: training JPEGs are decoded no larger than their crop needs; not quite the pixels"
    )
    workers: int | Literal["auto"] = Field("auto", description="reader processes; auto: 0 on CPU, up to 8 with a GPU")
    prefetch: int = Field(2, ge=1, description="batches that each reader process reads ahead")
    cache_tokens: bool | Literal["auto"] = Field(
        "auto", description="tokenise each caption once, into files; auto: where captions come twice or more"
    )
    holdout_share: float = Field(
        0.05, gt=0, lt=1, description="share of the training groups held out where the data have no validation split"
    )
    max_rows: int | None = Field(None, ge=4, description="rows used of each split, drawn by run.seed; null: all")
    max_skipped_share: float = Field(0.1, ge=0, le=1, description="stop when more rows than this are unusable")
