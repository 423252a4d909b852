"""Data sets: images with ground truth."""
