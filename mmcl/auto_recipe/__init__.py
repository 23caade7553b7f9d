"""`recipe: auto`: a recipe chosen from the data and the machine, and the paragraph that says why."""

from mmcl.auto_recipe.choice import Choice
from mmcl.auto_recipe.resolving import early_precision, resolve_recipe, resumed_recipe

__all__ = ["Choice", "early_precision", "resolve_recipe", "resumed_recipe"]
