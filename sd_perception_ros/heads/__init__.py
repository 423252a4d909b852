"""Readouts from the denoiser to a task's raw output."""

HEADS = ('decoder', 'light', 'dpt')  # their names in checkpoint.yaml
