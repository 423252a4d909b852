"""Run a model: device, number format, CUDA graphs, and the runtimes beside torch."""
