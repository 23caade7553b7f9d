"""Results for people: tables for the terminal, pages for the browser."""

from mmcl.evaluation.report.class_tables import render_baselines, render_classes
from mmcl.evaluation.report.comparison_tables import render_comparison, render_forgetting, render_languages
from mmcl.evaluation.report.gallery import retrieval_page
from mmcl.evaluation.report.robustness_table import render_robustness
from mmcl.evaluation.report.terminal import render_confusion, render_table
from mmcl.evaluation.report.zero_shot_page import multi_label_page, zero_shot_page
from mmcl.pages.page import Page

__all__ = [
    "Page",
    "multi_label_page",
    "render_baselines",
    "render_classes",
    "render_comparison",
    "render_confusion",
    "render_forgetting",
    "render_languages",
    "render_robustness",
    "render_table",
    "retrieval_page",
    "zero_shot_page",
]
