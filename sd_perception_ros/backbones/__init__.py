"""Pre-trained diffusion models behind three maps: encode, step, decode."""

UNET_CHANNELS = (32, 48, 96, 160, 192)  # of the levels of our small denoiser, fine to coarse
