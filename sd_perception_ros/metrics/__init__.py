"""Metrics of the field, on numpy arrays, one file for each kind of prediction."""
