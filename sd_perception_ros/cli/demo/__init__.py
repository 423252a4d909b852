"""The demo: camera and perception on bundled pictures, and the pictures that it writes."""
