"""Which settings of a recipe are best, on validation."""
