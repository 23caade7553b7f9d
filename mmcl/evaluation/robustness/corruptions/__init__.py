"""Image corruptions in the manner of ImageNet-C: fifteen kinds, five severities each, drawn from a seed."""

from mmcl.evaluation.robustness.corruptions.apply import CORRUPTIONS, SEVERITIES, corrupt

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt"]
