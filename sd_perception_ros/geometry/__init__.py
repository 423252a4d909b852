"""Pinhole geometry on numpy arrays: points, scans, grids and joints in space."""
