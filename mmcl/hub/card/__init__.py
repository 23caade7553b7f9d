"""Model cards: written from a run with what was measured, and checked."""

from mmcl.hub.card.checks import check_model_card
from mmcl.hub.card.words import ModelCardWords
from mmcl.hub.card.writing import write_card

__all__ = ["ModelCardWords", "check_model_card", "write_card"]
