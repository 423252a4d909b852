"""The demo: both nodes on bundled images, and the files that it writes."""
