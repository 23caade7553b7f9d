"""Random changes to training images and captions, each drawn from the row's own seed."""
