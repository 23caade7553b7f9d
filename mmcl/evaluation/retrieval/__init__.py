"""Retrieval: images find captions and captions images, within one modality, by folds, by language."""
