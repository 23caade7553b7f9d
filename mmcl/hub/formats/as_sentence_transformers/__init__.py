"""The `sentence-transformers` format: one module, or a router of two routes."""
