"""Evaluation: how well an embedder's images and texts find one another, classify, and tell near misses apart."""

from mmcl.evaluation.comparison import Comparison, compare_models
from mmcl.evaluation.compositionality.foils import FoilEvaluator
from mmcl.evaluation.evaluator import Evaluator, Metrics
from mmcl.evaluation.forgetting import Forgetting, measure_forgetting
from mmcl.evaluation.paired import PairedDifference, paired_difference
from mmcl.evaluation.report import render_table
from mmcl.evaluation.representations.clustering import ClusterEvaluator
from mmcl.evaluation.representations.domain_shift import DomainShiftEvaluator
from mmcl.evaluation.representations.geometry import GeometryEvaluator
from mmcl.evaluation.representations.knn import KNNEvaluator
from mmcl.evaluation.representations.linear_fit import LinearClassifier, LinearSweep, fit_linear, sweep_linear
from mmcl.evaluation.representations.linear_probe import LinearProbeEvaluator
from mmcl.evaluation.retrieval.both_ways import rank_both_ways
from mmcl.evaluation.retrieval.evaluator import RetrievalEvaluator
from mmcl.evaluation.retrieval.languages import LanguagesEvaluator, guess_languages
from mmcl.evaluation.retrieval.ranking import Ranks, positive_ranks
from mmcl.evaluation.robustness.attacks import fgsm, pgd
from mmcl.evaluation.robustness.corrupted_data import change_texts, corrupt_images
from mmcl.evaluation.robustness.corruptions import CORRUPTIONS, corrupt
from mmcl.evaluation.robustness.evaluator import RobustnessEvaluator
from mmcl.evaluation.robustness.text_perturbations import TEXT_CHANGES, change_text
from mmcl.evaluation.zero_shot.evaluator import ZeroShotEvaluator, ZeroShotPrediction
from mmcl.evaluation.zero_shot.multi_label import MultiLabelEvaluator, MultiLabelPrediction
from mmcl.evaluation.zero_shot.prompt_sets import TEMPLATE_SETS
from mmcl.evaluation.zero_shot.prompts import DEFAULT_TEMPLATES, load_classes, load_prompts, load_templates

__all__ = [
    "CORRUPTIONS",
    "DEFAULT_TEMPLATES",
    "TEMPLATE_SETS",
    "TEXT_CHANGES",
    "ClusterEvaluator",
    "Comparison",
    "DomainShiftEvaluator",
    "Evaluator",
    "FoilEvaluator",
    "Forgetting",
    "GeometryEvaluator",
    "KNNEvaluator",
    "LanguagesEvaluator",
    "LinearClassifier",
    "LinearProbeEvaluator",
    "LinearSweep",
    "Metrics",
    "MultiLabelEvaluator",
    "MultiLabelPrediction",
    "PairedDifference",
    "Ranks",
    "RetrievalEvaluator",
    "RobustnessEvaluator",
    "ZeroShotEvaluator",
    "ZeroShotPrediction",
    "change_text",
    "change_texts",
    "compare_models",
    "corrupt",
    "corrupt_images",
    "fgsm",
    "fit_linear",
    "guess_languages",
    "load_classes",
    "load_prompts",
    "load_templates",
    "measure_forgetting",
    "paired_difference",
    "pgd",
    "positive_ranks",
    "rank_both_ways",
    "render_table",
    "sweep_linear",
]
