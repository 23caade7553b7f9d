"""Names to objects: the only place where the names in a recipe, a suite or a call become code."""

from mmcl.builders.auditing import audit_data
from mmcl.builders.batches import BATCHES
from mmcl.builders.evaluation import EVALUATORS, build_evaluator, build_evaluators, evaluate, run_evaluators
from mmcl.builders.mining import mine_negatives
from mmcl.builders.objective import CHANCE_LOSSES, LOSSES, OBJECTIVES, build_objective
from mmcl.builders.training import TrainingRun, train

__all__ = [
    "BATCHES",
    "CHANCE_LOSSES",
    "EVALUATORS",
    "LOSSES",
    "OBJECTIVES",
    "TrainingRun",
    "audit_data",
    "build_evaluator",
    "build_evaluators",
    "build_objective",
    "evaluate",
    "mine_negatives",
    "run_evaluators",
    "train",
]
