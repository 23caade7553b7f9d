"""Results for people: tables for the terminal, pages for the browser."""

from mmcl.evaluation.report.page import Page
from mmcl.evaluation.report.terminal import render_confusion, render_table

__all__ = ["Page", "render_confusion", "render_table"]
