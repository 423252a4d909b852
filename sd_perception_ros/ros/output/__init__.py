"""From predictions to topics."""
