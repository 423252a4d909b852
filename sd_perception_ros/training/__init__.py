"""Fine-tuning, pre-training, and the loop that both share."""
