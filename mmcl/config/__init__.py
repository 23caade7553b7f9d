"""The recipe: one YAML file as typed, strict, frozen models. Every default stands here, once."""

from mmcl.config.augment_presets import AUGMENT_PRESETS
from mmcl.config.augment_sections import (
    AugmentSection,
    CaptionsSection,
    LocalCropsSection,
    RandAugmentSection,
    SecondViewSection,
)
from mmcl.config.data_sections import ColumnsSection, DataSection, SplitSection
from mmcl.config.keys import describe_keys, known_keys, nearest_key
from mmcl.config.loss_sections import (
    LOSS_OPTIONS,
    LOSSES_WITH_NEGATIVES,
    STRUCTURE,
    BatchesSection,
    LossSection,
    NegativesSection,
)
from mmcl.config.model_sections import HeadSection, LoraSection, ModelSection, TowerSection
from mmcl.config.noise_sections import NoiseSection
from mmcl.config.reading import (
    SMOKE,
    apply_overrides,
    find_recipe,
    load_recipe,
    parse_yaml,
    recipe_folders,
    recipe_from_tree,
    shipped_recipes,
)
from mmcl.config.recipe import SIGLIP_START, Recipe
from mmcl.config.section import Section
from mmcl.config.train_sections import (
    CheckpointSection,
    EmaSection,
    EvaluateSection,
    FeatureCacheSection,
    OptimizerSection,
    RunSection,
    ScheduleSection,
    TrainSection,
    WeightAverageSection,
)

__all__ = [
    "AUGMENT_PRESETS",
    "LOSSES_WITH_NEGATIVES",
    "LOSS_OPTIONS",
    "SIGLIP_START",
    "SMOKE",
    "STRUCTURE",
    "AugmentSection",
    "BatchesSection",
    "CaptionsSection",
    "CheckpointSection",
    "ColumnsSection",
    "DataSection",
    "EmaSection",
    "EvaluateSection",
    "FeatureCacheSection",
    "HeadSection",
    "LocalCropsSection",
    "LoraSection",
    "LossSection",
    "ModelSection",
    "NegativesSection",
    "NoiseSection",
    "OptimizerSection",
    "RandAugmentSection",
    "Recipe",
    "RunSection",
    "ScheduleSection",
    "SecondViewSection",
    "Section",
    "SplitSection",
    "TowerSection",
    "TrainSection",
    "WeightAverageSection",
    "apply_overrides",
    "describe_keys",
    "find_recipe",
    "known_keys",
    "load_recipe",
    "nearest_key",
    "parse_yaml",
    "recipe_folders",
    "recipe_from_tree",
    "shipped_recipes",
]
