"""Top-down poses: boxes around people, a crop of each, and the joints back on the picture."""
