"""Exported models run without torch. Importing it loads neither torch nor onnxruntime."""
