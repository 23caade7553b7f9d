"""Data cards: Hugging Face data-set cards with figures measured from the data, and what a valid one must have."""

from mmcl.data.cards.checks import Fault, check_card
from mmcl.data.cards.writing import CardWords, update_card, write_card

__all__ = ["CardWords", "Fault", "check_card", "update_card", "write_card"]
