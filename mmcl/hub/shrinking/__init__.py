"""Smaller models and smaller embeddings, and what they cost."""
