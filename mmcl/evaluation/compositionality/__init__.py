"""The right caption against captions nearly like it."""
