"""Data sets: pictures and what is true about them."""
