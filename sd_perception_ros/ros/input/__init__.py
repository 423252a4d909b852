"""Inputs of the perception node: cameras, reference sensors, transforms."""
