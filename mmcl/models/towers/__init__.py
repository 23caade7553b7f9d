"""Encoders of transformers, timm and open_clip behind one face, and what they want their inputs to look like."""
