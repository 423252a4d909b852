"""Pre-trained diffusion models behind three maps: encode, step, decode."""
