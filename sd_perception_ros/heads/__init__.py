"""Readouts from the denoiser to a task's raw output."""
