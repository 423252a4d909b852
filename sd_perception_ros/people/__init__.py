"""Top-down human pose: boxes around people, a crop of each, and joints in the image."""
