"""The camera node, which publishes image files and videos, and a recorder of the outputs."""
