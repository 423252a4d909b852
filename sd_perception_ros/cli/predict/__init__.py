"""Predictions for one's own pictures, videos and recordings."""
