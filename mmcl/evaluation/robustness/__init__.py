"""What corrupted images, changed captions and attacks cost a model."""
