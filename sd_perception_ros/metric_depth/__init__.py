"""Metric depth from relative depth: references, robust fit, scale filter, and the estimator."""
