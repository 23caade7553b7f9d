"""The `transformers` format: which class holds the towers, and their weights under its names."""
