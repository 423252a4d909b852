"""What a checkpoint is: its file, its weights, and how both become a model."""
