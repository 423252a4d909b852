"""One image, one pass, many tasks: a diffusion backbone as a camera's depth and normals."""

__version__ = '0.1.0'
