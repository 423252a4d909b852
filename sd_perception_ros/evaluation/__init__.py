"""Evaluation of checkpoints: metrics, protocols of benchmarks, comparison of two checkpoints."""
