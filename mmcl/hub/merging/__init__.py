"""Merging models of one architecture: WiSE-FT between two, soups of several, LoRA adapters into their model."""

from mmcl.hub.merging.batch_statistics import reestimate_batch_norm
from mmcl.hub.merging.choosing import Choice, choose
from mmcl.hub.merging.lora import merge_lora
from mmcl.hub.merging.matching import check_mergeable
from mmcl.hub.merging.page import sweep_page
from mmcl.hub.merging.record import MergeRecord, write_merged
from mmcl.hub.merging.soups import Soup, judged_soup, mix
from mmcl.hub.merging.sources import open_source
from mmcl.hub.merging.state_averages import average_models
from mmcl.hub.merging.wise_ft import Sweep, SweepPoint, interpolate, sweep

__all__ = [
    "Choice",
    "MergeRecord",
    "Soup",
    "Sweep",
    "SweepPoint",
    "average_models",
    "check_mergeable",
    "choose",
    "interpolate",
    "judged_soup",
    "merge_lora",
    "mix",
    "open_source",
    "reestimate_batch_norm",
    "sweep",
    "sweep_page",
    "write_merged",
]
