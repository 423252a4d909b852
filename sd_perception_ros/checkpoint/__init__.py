"""Checkpoints: their file, their weights, and loading both as a model."""
