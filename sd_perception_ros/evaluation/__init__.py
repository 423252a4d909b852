"""How good a checkpoint is: protocols of data sets, and the comparison of two checkpoints."""
