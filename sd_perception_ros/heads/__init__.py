"""Heads: from the outputs of the denoiser to the raw output of a task."""

NEW_HEADS = ('decoder', 'light', 'dpt')  # those that `train` can make
HEADS = (*NEW_HEADS, 'deconv')  # their names in checkpoint.yaml
