"""Evaluation: how well an embedder's images and texts find one another, classify, and tell near misses apart."""

from mmcl.evaluation.evaluator import Evaluator, Metrics
from mmcl.evaluation.foils import FoilEvaluator
from mmcl.evaluation.prompts import DEFAULT_TEMPLATES, load_classes, load_prompts, load_templates
from mmcl.evaluation.ranking import Ranks, positive_ranks
from mmcl.evaluation.report import render_table
from mmcl.evaluation.retrieval import RetrievalEvaluator
from mmcl.evaluation.zero_shot import ZeroShotEvaluator, ZeroShotPrediction

__all__ = [
    "DEFAULT_TEMPLATES",
    "Evaluator",
    "FoilEvaluator",
    "Metrics",
    "Ranks",
    "RetrievalEvaluator",
    "ZeroShotEvaluator",
    "ZeroShotPrediction",
    "load_classes",
    "load_prompts",
    "load_templates",
    "positive_ranks",
    "render_table",
]
