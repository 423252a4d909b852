"""Pinhole geometry on numpy arrays: points, laser scans, occupancy grids and 3D keypoints."""
