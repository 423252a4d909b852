"""Heads: from the outputs of the denoiser to the raw output of a task."""

HEADS = ('decoder', 'light', 'dpt')  # their names in checkpoint.yaml
